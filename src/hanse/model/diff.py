"""What one fleet file says otherwise than another, as a list of edits that make one of the other.

Here: `fleet_edits`, `with_edits`, `said`. Not here: the text of a file (comments and spelling are the operator's and mean nothing), what
a change brings about (`dispatch`), whether it may be made (`live.fleet_restart`).

Things with a name are compared by it, wherever they stand in the file: `site lyon` with `site lyon`. Order counts where the rest is the
same, since engines get their numbers by it. A list without names, such as countries, is one value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from hanse.model.fleet import Fleet, Value

NAMED_BY: Final[dict[str, tuple[str, ...]]] = {
    "class": ("id",),
    "site": ("id",),
    "pool": ("id",),
    "link": ("a", "b"),
    "service": ("id",),
    "variant": ("id",),
    "tenant": ("id",),
    "key": ("id",),
    "placement": ("service", "variant", "site", "pool"),
    "failure_group": ("id",),
    "facility": ("id",),
    "meter": ("id",),
    "register": ("point",),
    "oid": ("point",),
    "signer": ("kid",),
    "others": ("id",),
}
"""Lists of a fleet file whose items have a name, and the fields that it is made of."""
SECTIONS: Final = (
    "name", "schema", "site", "link", "failure_group", "service", "placement", "tenant", "class", "policy", "weights",
    "slow_loop", "batch", "central", "feeds", "facility", "meter", "hub",
)  # fmt: skip
"""In the order in which a person reads them; whatever is missing here comes last."""
DIGEST: Final = "sha256"
"""A digest of a key is no secret, and 64 letters tell nobody anything: eight are shown."""
SHOWN_LETTERS_MAX: Final = 60

Document = dict[str, Any]
Path = tuple[str, ...]


class Edit(Value, frozen=True, kw_only=True):
    """One difference. `path` names tables, fields and things by their names: `("site", "lyon", "power", "grid_kw_max")`."""

    path: Path
    kind: Literal["add", "remove", "change", "order"]
    """`order`: the named things of a list, all of them, in their new order."""
    old: Any = None
    new: Any = None


def fleet_edits(old: Fleet, new: Fleet) -> tuple[Edit, ...]:
    """What makes `new` of `old`; empty where they are equal."""
    return tuple(_tables(_document(old), _document(new), ()))


def with_edits(old: Fleet, edits: Sequence[Edit]) -> Fleet:
    """The fleet that edits make of the one that they were found from."""
    document = _document(old)
    for edit in edits:
        _apply(document, edit)
    return msgspec.convert(_plain(document), Fleet)


# --- documents: named lists become tables, whose order is that of the list


def _document(fleet: Fleet) -> Document:
    found: Document = _named(msgspec.to_builtins(fleet))
    return found


def _named(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _named(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple) and name in NAMED_BY:
        items: dict[str, Any] = {}
        for item in value:
            stem = " ".join(str(item[field]) for field in NAMED_BY[name])
            key, number = stem, 2
            while key in items:  # two placements of one variant in one pool
                key, number = f"{stem} ({number})", number + 1
            items[key] = _named(item)
        return _Items(items)
    return list(value) if isinstance(value, tuple) else value


class _Items(dict[str, Any]):
    """A named list."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Items):
        return [_plain(item) for item in value.values()]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _tables(old: Document, new: Document, at: Path) -> Iterator[Edit]:
    for key in old:
        if key not in new:
            yield Edit(path=(*at, key), kind="remove", old=_plain(old[key]))
    for key, item in new.items():
        if key not in old:
            yield Edit(path=(*at, key), kind="add", new=_plain(item))
        elif isinstance(item, dict) and isinstance(old[key], dict):
            yield from _tables(old[key], item, (*at, key))
        elif item != old[key]:
            yield Edit(path=(*at, key), kind="change", old=_plain(old[key]), new=_plain(item))
    if isinstance(new, _Items):
        merged = [key for key in old if key in new] + [key for key in new if key not in old]
        if merged != list(new):
            yield Edit(path=at, kind="order", old=list(old), new=list(new))


def _apply(document: Document, edit: Edit) -> None:
    *way, last = edit.path
    table = document
    for step in way:
        table = table[step]
    if edit.kind == "remove":
        del table[last]
    elif edit.kind == "order":
        table[last] = _Items({key: table[last][key] for key in edit.new})
    else:
        table[last] = _named(edit.new, last)


# --- for people


def said(edits: Sequence[Edit]) -> list[str]:
    """Lines that a person reads, the most telling sections first; what belongs to one thing stands under its name."""
    lines: list[str] = []
    last: Path = ()
    for edit in sorted(edits, key=lambda edit: _section(edit.path)):
        head, rest = _split(edit)
        if head != last and rest:
            lines.append(" ".join(head))
        last = head
        lines.append(f"  {_line(edit, rest)}" if rest else _line(edit, head))
    return lines


def sections(edits: Sequence[Edit]) -> str:
    """One line for a list of changes: how many of what."""
    counts: dict[str, int] = {}
    for edit in edits:
        head, _ = _split(edit)
        counts[" ".join(head)] = counts.get(" ".join(head), 0) + 1
    return ", ".join(counts) if len(counts) <= SECTIONS_SHOWN else f"{len(counts)} things"


SECTIONS_SHOWN: Final = 4


def _section(path: Path) -> tuple[int, str]:
    name = path[0]
    return (SECTIONS.index(name) if name in SECTIONS else len(SECTIONS)), name


def _split(edit: Edit) -> tuple[Path, Path]:
    """The thing that an edit is about, and the way on inside it."""
    path = edit.path
    if path[0] in NAMED_BY and len(path) > 1:
        whole = len(path) == 2 and edit.kind != "order"
        return path[:2], () if whole else path[2:]
    return path[:1], path[1:]


def _line(edit: Edit, shown: Path) -> str:
    name = _dotted(shown)
    if edit.kind == "order":
        return f"~ order of {name}: {', '.join(edit.new[:6])}{', ...' if len(edit.new) > 6 else ''}"
    if edit.kind == "add":
        return f"+ {name}{_described(edit.path, edit.new)}"
    if edit.kind == "remove":
        return f"- {name}{_described(edit.path, edit.old)}"
    return f"~ {name}: {_change(shown[-1], edit.old, edit.new)}"


def _dotted(path: Path) -> str:
    """`key demo2 countries` becomes `key demo2: countries` and `power grid_kw_max` becomes `power.grid_kw_max`."""
    text = ""
    for at, step in enumerate(path):
        if at == 0:
            text = step
        elif path[at - 1] in NAMED_BY:
            text += f" {step}"
        else:
            text += f".{step}"
    return text


def _change(field: str, old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list) and set(map(str, old)) != set(map(str, new)):
        gone = [f"-{one}" for one in old if one not in new]
        come = [f"+{one}" for one in new if one not in old]
        return _short(" ".join(come + gone))
    return f"{_value(field, old)} -> {_value(field, new)}"


def _value(field: str, value: Any) -> str:
    if value is None:
        return "nothing"
    if value == "":
        return "empty"
    if field == DIGEST:
        return f"{str(value)[:8]}..."
    if isinstance(value, dict):
        inner = (f"{key} {_value(key, item)}" for key, item in value.items() if item is not None)
        return _short("{" + ", ".join(inner) + "}")
    if isinstance(value, list):
        return _short("[" + ", ".join(_value("", item) for item in value) + "]")
    if isinstance(value, bool):
        return str(value).lower()
    return _short(f"{value:g}" if isinstance(value, float) else str(value))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS_MAX else text[: SHOWN_LETTERS_MAX - 3] + "..."


def _described(path: Path, item: Any) -> str:
    """What a thing that comes or goes is, in some words."""
    kind = path[-2] if len(path) > 1 else ""
    describe = DESCRIBED.get(kind)
    if describe is not None and isinstance(item, dict):
        return f": {_short(describe(item))}"
    return f" = {_value(path[-1], item)}"


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


DESCRIBED: Final[dict[str, Callable[[Document], str]]] = {
    "site": lambda x: f"{x['kind']} in {x['city']}, {x['country']}, {_count(x['pool'], 'pool')}",
    "pool": lambda x: f"{x['count']} x {x['accelerator']}, {x['driver']}",
    "link": lambda x: f"{x['rtt_ms']:g} ms, {x['mbit_s']:g} Mbit/s",
    "service": lambda x: f"{_count(x['variant'], 'variant')}, TTFT {x['slo']['ttft_ms']:g} ms",
    "variant": lambda x: f"{x['model']} {x['precision']}, quality {x['quality']:g}",
    "tenant": lambda x: f"{', '.join(x['classes'])}; {_count(x['key'], 'key')}",
    "key": lambda x: f"speaks for {', '.join(x['countries'])}",
    "class": lambda x: f"law {x['law']}, quality from {x['quality_min']:g}",
    "placement": lambda x: f"{x['replicas']} x {x['slots']} slots",
    "failure_group": lambda x: ", ".join(x["sites"]),
    "facility": lambda x: f"{x['driver']} at {x['site']} {x['url']}".rstrip(),
    "meter": lambda x: f"{x['measures']} of {x['site']}, {x['facility']} {x['point']}",
    "register": lambda x: f"{x['quantity']} at {x['address']}",
    "oid": lambda x: f"{x['quantity']} at {x['oid']}",
}
