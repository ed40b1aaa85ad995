"""A host's facts as text of a fleet file: the first file of a league, and the lines that a joining site adds to one.

Here: text from values, nothing else: no file, no socket, no clock. Not here: finding the facts (`join.probe`), checking the meaning of
what comes out (`model.check`; the controller does before it takes a change).

An operator's file is theirs: comments, order and spelling stay, lines are added behind, and only a site that joins again loses its own
old lines. What was composed is parsed again and compared with what it was to mean, so that a file of unusual shape is refused
rather than bent.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

import msgspec

from hanse.catalogue.cities import distance_km, rtt_ms_floor
from hanse.catalogue.models import ai_models
from hanse.errors import ConfigError
from hanse.live.join.messages import FoundEngine, Host
from hanse.model.fleet import Fleet, OtherHub, Service, Site
from hanse.model.read import parse_fleet, toml_of

MBIT_S_ASSUMED: Final = 100
"""Of a way whose rate nobody measured: what a small business line carries. Requests are kilobytes; only egress is reckoned with it."""
PATH_FACTOR_ASSUMED: Final = 2.0
"""Cable over great circle for a way that nobody measured: the upper end of published ratios (`catalogue.cities`)."""
ACCESS_MS_ASSUMED: Final = 2.0
"""Access networks on both ends of such a way."""
VALID_S: Final = 8 * 86_400
"""A site that is cut off for the promised week goes on serving; law and keys that changed meanwhile reach it when it is back."""
QUALITY: Final = 0.5
"""No score is known to a probe; the middle, until the operator writes one with its source."""

_HEADER = re.compile(r"(?m)^[ \t]*(\[\[?)[ \t]*([A-Za-z0-9_\-.\"' \t]+?)[ \t]*\]\]?[ \t]*(?:#.*)?$")


def first_fleet(
    name: str, site: str, host: Host, *, hub_host: str, leaf_port: int, door_port: int
) -> str:
    """The fleet file of a league of one site, whose machine is the hub too."""
    country = host.country
    head = [
        "# A league of one site, as this machine was found. `hanse check FILE` explains mistakes; `hanse up FILE` starts it;",
        "# `hanse token SITE` lets another machine join. Everything may be edited; nothing has to be.",
        'schema = "hanse-fleet/1"',
        f"name = {_text(name)}",
        "",
        "[policy]",
        f"valid_s = {VALID_S}    # a site that hears nothing of the hub serves for so long (here eight days)",
        "",
        "# Where other machines reach this one to join and to report; TLS on both ports.",
        "[hub]",
        f"host = {_text(hub_host)}",
        f"leaf_port = {leaf_port}",
        f"door_port = {door_port}",
        *([f"advertise = {_text(host.reached_at)}"] if host.reached_at != hub_host else []),
        "",
        "# --- classes of data, and which class of law governs each; a request that names none is of the tenant's first",
        "[[class]]",
        'id = "personal"',
        'law = "personal"',
        "",
        "[[class]]",
        'id = "public"',
        'law = "non_personal"',
        "",
        "# --- who may ask; a key without a digest is made at the first start and kept beside the state, mode 0600",
        "[[tenant]]",
        'id = "own"',
        'classes = ["personal", "public"]',
        "",
        "[[tenant.key]]",
        'id = "own"',
        f"countries = [{_text(country)}]    # countries of origin that this key may speak for",
        "",
    ]
    text = "\n".join([*head, *_site_lines(site, host)])
    text += "\n"
    for group in _groups(host):
        text = _with_engines(text, site, host, group)
    return text


def with_site(text: str, site: str, host: Host, rtt_ms: dict[str, float]) -> str:
    """A fleet file with a site in it that brings what a host has; a site of that name gives way.

    Raises:
        ConfigError: the file is of a shape that cannot be added to.
    """
    before = parse_fleet(text.encode(), source="fleet")
    if any(s.id == site for s in before.sites):
        text = _without(text, site)
    rest = parse_fleet(text.encode(), source="fleet")
    added = ["", *_site_lines(site, host)]
    for other in rest.sites:
        added += ["", *_link_lines(site, host, other, rtt_ms.get(other.id))]
    text = text.rstrip("\n") + "\n" + "\n".join(added) + "\n"
    for group in _groups(host):
        text = _with_engines(text, site, host, group)
    made = parse_fleet(text.encode(), source="fleet")
    _compare(before, made, site)
    return text


def with_hub(text: str, other: OtherHub, cluster_port: int) -> str:
    """A fleet file with a further hub in it; one of that name gives way.

    Args:
        text: The operator's.
        other: The further hub.
        cluster_port: Of the first hub, where the file does not name one.

    Raises:
        ConfigError: the file has no `[hub]`, or is of a shape that cannot be added to.
    """
    before = parse_fleet(text.encode(), source="fleet")
    head = next((end for name, _, end in _headers(text) if name == "hub"), None)
    if head is None:
        raise _misshapen("hub")
    if not before.hub.cluster_port:
        line = f"cluster_port = {cluster_port}    # the other hubs, by TLS"
        text = f"{text[:head]}\n{line}{text[head:]}"
    kept, last = [], 0
    for name, start, end in _blocks(text):
        gone = name == "hub.others" and _fields(text[start:end], name).get("id") == other.id
        kept += [text[last:start], "" if gone else text[start:end]]
        last = end
    text = "".join([*kept, text[last:]]).rstrip("\n") + "\n"
    text += "\n".join(["", f"# --- hub {other.id}, by its token", *_hub_lines(other)]) + "\n"
    made = parse_fleet(text.encode(), source="fleet")
    others = tuple(one for one in before.hub.others if one.id != other.id)
    port = before.hub.cluster_port or cluster_port
    wanted = msgspec.structs.replace(before.hub, cluster_port=port, others=(*others, other))
    if made != msgspec.structs.replace(before, hub=wanted):
        raise _misshapen("hub")
    return text


def _hub_lines(other: OtherHub) -> Iterator[str]:
    yield "[[hub.others]]"
    yield f"id = {_text(other.id)}"
    yield f"host = {_text(other.host)}"
    yield f"leaf_port = {other.leaf_port}"
    yield f"cluster_port = {other.cluster_port}"


def _with_engines(text: str, site: str, host: Host, group: list[FoundEngine]) -> str:
    """The text with a service and variant for a group of engines, where there is none, and their placement."""
    one, services = group[0], _services(text)
    found = _service_for(services, one)
    if found is None:
        lines = ["", *_service_lines(one, _client_names(services))]
        text += "\n".join(lines) + "\n"
    elif _variant_for(found, one) is None:
        lines = ["", *_variant_lines(one, {v.id for v in found.variants})]
        text = _behind_service(text, found.id, "\n".join(lines) + "\n")
    service = _service_for(_services(text), one)
    variant = None if service is None else _variant_for(service, one)
    if service is None or variant is None:
        raise _misshapen("service")
    placed = _placement(site, _pool_id(host, group), group, service.id, variant)
    return text + "\n".join(["", *placed]) + "\n"


def _services(text: str) -> tuple[Service, ...]:
    """Also of a file that has none yet."""
    document = toml_of(text.encode(), source="fleet")
    return msgspec.convert(document.get("service", []), tuple[Service, ...])


def _client_names(services: tuple[Service, ...]) -> set[str]:
    return {name for service in services for name in (service.id, *service.aliases)}


# --- lines -----------------------------------------------------------------------------------------


def _site_lines(site: str, host: Host) -> Iterator[str]:
    yield f"# --- site {site}, as found on its machine"
    yield "[[site]]"
    yield f"id = {_text(site)}"
    yield f"kind = {_text(host.kind)}"
    yield f"city = {_text(host.city)}"
    yield f"country = {_text(host.country)}"
    yield f"lat_deg = {_number(host.lat_deg)}"
    yield f"lon_deg = {_number(host.lon_deg)}"
    yield f"operator_hq = {_text(host.operator_hq)}    # country whose law reaches the operator"
    meters = _comment(", ".join(host.meters) or "no meter that this program can read")
    yield f"power = {{ grid_kw_max = {_number(host.grid_kw_max)} }}    # rated or assumed; energy: {meters}"
    yield "gateway = { " + ", ".join(_gateway(host)) + " }"
    for group in _groups(host):
        accelerator, count = _chips_of(host, group)
        yield ""
        yield f"# {_told(group[0])}"
        yield "[[site.pool]]"
        yield f"id = {_text(_pool_id(host, group))}"
        yield f"accelerator = {_text(accelerator)}"
        yield f"count = {count}"
        yield 'driver = "external"'
        yield f"urls = [{', '.join(_text(one.url) for one in group)}]"
        if group[0].continues:
            yield "continues = true    # with an answer that another engine began: it said so"


def _gateway(host: Host) -> Iterator[str]:
    yield f"host = {_text(host.host)}"
    yield f"port = {host.port}"
    yield f"hop_port = {host.hop_port}"
    if host.reached_at != host.host:
        yield f"advertise = {_text(host.reached_at)}"


def _told(one: FoundEngine) -> str:
    slots = "as it says" if one.slots_told else "guessed with caution"
    context = "as it says" if one.context_told else "guessed with caution"
    name = f"{one.server} serves {one.served_name}"
    model = "" if one.model_told else f"; in no catalogue, reckoned as {one.model} until measured"
    text = f"{name}: {one.slots} at once ({slots}), {one.context_tokens} tokens of KV ({context}){model}"
    return _comment(text)


def _link_lines(site: str, host: Host, other: Site, rtt_ms: float | None) -> Iterator[str]:
    measured = rtt_ms is not None
    if rtt_ms is None:
        km = distance_km(host.lat_deg, host.lon_deg, other.lat_deg, other.lon_deg)
        rtt_ms = rtt_ms_floor(km, path_factor=PATH_FACTOR_ASSUMED) + ACCESS_MS_ASSUMED
    yield "[[link]]"
    yield f"a = {_text(site)}"
    yield f"b = {_text(other.id)}"
    said = "measured when it joined" if measured else "reckoned by distance: it was not reached"
    yield f"rtt_ms = {_number(max(round(rtt_ms, 2), 0.01))}    # {said}"
    yield f"mbit_s = {MBIT_S_ASSUMED}    # assumed"


def _service_lines(one: FoundEngine, taken: Iterable[str]) -> Iterator[str]:
    taken = set(taken)
    service = _free(slug(one.served_name), taken)
    yield "[[service]]"
    yield f"id = {_text(service)}"
    if one.served_name.strip() and one.served_name not in {service, *taken}:
        yield f"aliases = [{_text(one.served_name)}]"
    endpoints = '["embeddings"]' if _embeds(one) else '["chat", "completions"]'
    yield f"endpoints = {endpoints}"
    yield "slo = { ttft_ms = 2000, tpot_ms = 200, deadline_s = 120 }    # what a reader of text hardly notices; yours to set"
    yield ""
    yield from _variant_lines(one, ())


def _variant_lines(one: FoundEngine, taken: Iterable[str]) -> Iterator[str]:
    yield "[[service.variant]]"
    yield f"id = {_text(_free(slug(one.precision), taken))}"
    yield f"model = {_text(one.model)}"
    yield f"precision = {_text(one.precision)}"
    yield f"quality = {QUALITY}"
    yield 'quality_source = "not measured"'
    yield f"served_model = {_text(one.served_name)}"


def _placement(
    site: str, pool: str, group: list[FoundEngine], service: str, variant: str
) -> Iterator[str]:
    yield "[[placement]]"
    yield f"service = {_text(service)}"
    yield f"variant = {_text(variant)}"
    yield f"site = {_text(site)}"
    yield f"pool = {_text(pool)}"
    yield f"replicas = {len(group)}"
    yield f"slots = {group[0].slots}"
    yield f"context_tokens = {group[0].context_tokens}"


# --- what belongs together ---------------------------------------------------------------------------


def _groups(host: Host) -> list[list[FoundEngine]]:
    """Engines that are replicas of one another."""

    def alike(one: FoundEngine) -> tuple[Any, ...]:
        found = one.served_name, one.model, one.precision, one.slots, one.context_tokens
        return *found, one.continues

    return [list(group) for _, group in groupby(sorted(host.engines, key=alike), alike)]


def _pool_id(host: Host, group: list[FoundEngine]) -> str:
    groups = _groups(host)
    stem = slug(group[0].served_name)[:48]
    before = [slug(other[0].served_name)[:48] for other in groups[: groups.index(group)]]
    return stem if stem not in before else f"{stem}-{1 + before.count(stem)}"


def _chips_of(host: Host, group: list[FoundEngine]) -> tuple[str, int]:
    """Chips are shared among engines in equal parts: no server says which of them it is on."""
    groups = _groups(host)
    if not host.chips:
        return "x86-thread", max(host.threads // len(groups), len(group))
    most = max(host.chips, key=lambda chips: chips.count)
    return most.accelerator, max(most.count // len(groups), len(group))


def _service_for(services: tuple[Service, ...], one: FoundEngine) -> Service | None:
    """By a name that clients use, else by what it serves: where another kind of service has the name, its own has another."""
    names = {one.served_name, slug(one.served_name)}
    able = [s for s in services if s.embeds == _embeds(one)]
    named = next((s for s in able if names & {s.id, *s.aliases}), None)
    return named or next((s for s in able if _variant_for(s, one) is not None), None)


def _embeds(one: FoundEngine) -> bool:
    return ai_models()[one.model].kind == "embedding"


def _variant_for(service: Service, one: FoundEngine) -> str | None:
    for variant in service.variants:
        served = variant.served_model or service.id
        if (variant.model, variant.precision, served) == (
            one.model,
            one.precision,
            one.served_name,
        ):
            return variant.id
    return None


def slug(name: str) -> str:
    """A name as an id: without its owner, lower case, hyphens."""
    text = re.sub(r"[^a-z0-9]+", "-", name.rsplit("/", 1)[-1].lower()).strip("-")[:60]
    return text.strip("-") or "model"


def _free(wanted: str, taken: Iterable[str]) -> str:
    known = set(taken)
    names = [wanted, *(f"{wanted[:56].rstrip('-')}-{n}" for n in range(2, 1000))]
    return next(name for name in names if name not in known)


# --- an operator's text --------------------------------------------------------------------------------


def _headers(text: str) -> list[tuple[str, int, int]]:
    """(name of the table, where its header begins and where that line ends) of every table in order."""
    return [(match[2].strip(), match.start(), match.end()) for match in _HEADER.finditer(text)]


def _blocks(text: str) -> list[tuple[str, int, int]]:
    """(name of the table, where its header begins, where the next begins) of every table in order."""
    found = [(name, start) for name, start, _ in _headers(text)]
    ends = [start for _, start in found[1:]] + [len(text)]
    return [(name, start, end) for (name, start), end in zip(found, ends, strict=True)]


def _without(text: str, site: str) -> str:
    """The text without a site, its pools, links and placements."""
    kept, last, inside = [], 0, False
    for name, start, end in _blocks(text):
        top = name.split(".")[0]
        if "." not in name:
            inside = False
        fields = _fields(text[start:end], name)
        gone = (
            (name == "site" and fields.get("id") == site)
            or (top == "site" and inside)
            or (name == "link" and site in (fields.get("a"), fields.get("b")))
            or (name == "placement" and fields.get("site") == site)
        )
        if name == "site" and gone:
            inside = True
        kept.append(text[last:start])
        kept.append("" if gone else text[start:end])
        last = end
    return "".join([*kept, text[last:]])


def _fields(block: str, name: str) -> dict[str, Any]:
    """Fields of one table; none where it cannot be read by itself."""
    try:
        found: Any = tomllib.loads(block)
        for part in name.split("."):
            found = found[part]
            found = found[-1] if isinstance(found, list) else found
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _behind_service(text: str, service: str, added: str) -> str:
    """The text with lines behind the last table of a service, where they belong to it."""
    at, inside = -1, False
    for name, start, end in _blocks(text):
        if name == "service":
            inside = _fields(text[start:end], name).get("id") == service
        elif not name.startswith("service."):
            inside = False
        if inside:
            at = end
    if at < 0:
        raise _misshapen("service")
    return text[:at].rstrip("\n") + "\n" + added + "\n" + text[at:]


def _compare(before: Fleet, made: Fleet, site: str) -> None:
    """Nothing of the others may have changed.

    Raises:
        ConfigError: something has.
    """
    kept = [s for s in made.sites if s.id != site]
    whole = (
        kept == [s for s in before.sites if s.id != site]
        and (made.name, made.classes, made.tenants) == (before.name, before.classes, before.tenants)
        and (made.policy, made.weights, made.slow_loop)
        == (before.policy, before.weights, before.slow_loop)
        and [x for x in made.links if site not in (x.a, x.b)]
        == [x for x in before.links if site not in (x.a, x.b)]
        and [x for x in made.placements if x.site != site]
        == [x for x in before.placements if x.site != site]
        and {s.id for s in before.services} <= {s.id for s in made.services}
        and all(set(old.variants) <= set(new.variants) for old, new in _same(before, made))
    )
    if not whole:
        raise _misshapen("fleet")


def _same(before: Fleet, made: Fleet) -> Iterator[tuple[Service, Service]]:
    known = {service.id: service for service in made.services}
    return ((old, known[old.id]) for old in before.services if old.id in known)


def _misshapen(where: str) -> ConfigError:
    return ConfigError(
        where,
        got="a file of a shape that lines cannot be added to",
        allowed="tables with headers of their own, such as [[site]] and [[service.variant]]",
        fix="write the site into the file by hand",
    )


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are among TOML's; DEL must be escaped too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    """Text of another machine in one line of a comment, which it cannot leave."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _number(value: float) -> str:
    return f"{value:.10g}"
