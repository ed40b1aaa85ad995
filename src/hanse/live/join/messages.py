"""What a joining machine and the hub's door say to each other, and what a renewal looks like on the bus.

JSON over TLS; nothing here is secret but `secret`, which the hub compares by its hash and nobody logs. Not here: doing anything.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from hanse.model.fleet import CountryCode, Id, OtherHub, SiteKind, Value

HELLO: Final = "/v1/hello"
JOIN: Final = "/v1/join"
AUTHORITY: Final = "/v1/authority"
HUB: Final = "/v1/hub"
HUB_NEWS: Final = "/v1/hub/news"
BODY_BYTES_MAX: Final = 256 * 1024
"""A host with a hundred engines is 40 kB."""

Text = Annotated[str, msgspec.Meta(max_length=200)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:-]{1,200}$")]
"""Of a host: a name or an address."""
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class FoundEngine(Value, frozen=True, kw_only=True):
    """One model that a server on a host answers for."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$", max_length=200)]
    """Base URL as the site's own agent reaches it."""
    server: Text
    """What answers: vLLM, SGLang, llama.cpp, Ollama, TGI, or `openai` where it does not tell."""
    served_name: Text
    """What requests must call the model."""
    model: Text
    """Id in the catalogue of AI models, or the one that is nearest by size."""
    model_told: bool = True
    """False: the name is in no catalogue; figures are those of the nearest model until they were measured."""
    precision: Text
    slots: Count
    slots_told: bool = False
    """Whether the server said so itself; else it is a cautious guess."""
    context_tokens: Count
    context_told: bool = False
    continues: bool = False
    """It knows `continue_final_message`: it goes on with an answer that another engine began."""


class FoundChips(Value, frozen=True, kw_only=True):
    """Alike chips of a host."""

    accelerator: Text
    """Id in the catalogue."""
    name: Text
    """As the driver calls it."""
    count: Count
    power_w_max: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    """Of all of them, as the driver limits it; 0: it does not say."""


class Host(Value, frozen=True, kw_only=True):
    """What a machine brings into a league, as it was found and answered."""

    kind: SiteKind
    city: Text
    country: CountryCode
    lat_deg: Annotated[float, msgspec.Meta(ge=-90, le=90)]
    lon_deg: Annotated[float, msgspec.Meta(ge=-180, le=180)]
    operator_hq: CountryCode
    grid_kw_max: Annotated[float, msgspec.Meta(gt=0, le=1e6)]
    host: Name
    """Listening address of its gateway."""
    reached_at: Name
    """Name or address under which others reach that."""
    port: Port
    hop_port: Port
    threads: Count
    chips: tuple[FoundChips, ...] = ()
    meters: tuple[Text, ...] = ()
    """What measures energy there: `NVML`, `RAPL package-0`, ..."""
    engines: tuple[FoundEngine, ...] = ()


class Hello(Value, frozen=True, kw_only=True):
    """First question: does the token hold, and whom shall I measure the way to?"""

    site: Id
    secret: str
    public_sha256: str


class HelloAnswer(Value, frozen=True, kw_only=True):
    """Sites to measure the way to."""

    fleet: Id
    hops: dict[str, str]
    """Site id -> `host:port` of its hop port."""


class JoinRequest(Value, frozen=True, kw_only=True):
    """Second question: take me in."""

    site: Id
    secret: str
    request_pem: str
    """PKCS #10."""
    host: Host
    rtt_ms: dict[str, float] = {}
    """To sites that answered, and to the hub under `hub`; median of several connections."""


class JoinAnswer(Value, frozen=True, kw_only=True):
    """Everything a site starts with; no secret in it."""

    certificate_pem: str
    hub_leaf: str
    """`host:port` that its bus dials."""
    league: bytes
    """`LeagueFile`."""
    revoked: bytes = b""
    """The list in force (DER); empty: there is none yet."""


class HubRequest(Value, frozen=True, kw_only=True):
    """Take me in as a further hub."""

    hub: OtherHub
    secret: str
    request_pem: str
    """PKCS #10."""


class HubNews(Value, frozen=True, kw_only=True):
    """What a further hub starts with, and asks again for until the league has three: nothing of it comes over a bus before."""

    league: bytes
    """`LeagueFile`."""
    register: bytes
    """`ca.Register`: who may sit at a hub's bus."""
    revoked: bytes = b""


class HubAnswer(Value, frozen=True, kw_only=True):
    """The same at first, with a certificate and the one secret that hubs share."""

    certificate_pem: str
    cluster_secret: str
    news: HubNews


class HubWaits(Value, frozen=True, kw_only=True):
    """Asks for news; who knows the hubs' secret is one of them."""

    hub: Id
    cluster_secret: str


class HubRenewal(Value, frozen=True, kw_only=True):
    """A further hub's question on `hanse.hub.renew`: the same key again, proven by a certificate that stands."""

    request_pem: str
    certificate_pem: str


class Refused(Value, frozen=True, kw_only=True):
    """Why not."""

    error: str


class RenewAnswer(Value, frozen=True, kw_only=True):
    """Answer to a signing request on `site.<id>.renew`."""

    certificate_pem: str = ""
    error: str = ""
