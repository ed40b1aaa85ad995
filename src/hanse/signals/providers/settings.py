"""What an operator writes in a feeds file: which provider answers for which zone, how often, with which key.

Here: reading and checking it; keys come from the environment or a file, and are never kept or shown. Not here: asking.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE
from hanse.signals.series import SignalType

Provider = Literal[
    "electricity-maps", "watttime", "uk-carbon-intensity", "entsoe", "open-meteo", "csv"
]
Quantity = Literal[
    "carbon_intensity", "marginal_intensity", "residual_intensity", "price",
    "temp_c", "rh_pct", "cloud_pct", "wind10_ms",
]  # fmt: skip
MEANINGS: Final[dict[Quantity, tuple[str, SignalType]]] = {
    "carbon_intensity": ("gCO2e/kWh", "average_location"),
    "marginal_intensity": ("gCO2e/kWh", "marginal"),
    "residual_intensity": ("gCO2e/kWh", "average_market"),
    "price": ("USD/kWh", "price"),
    "temp_c": ("degC", "weather"),
    "rh_pct": ("%", "weather"),
    "cloud_pct": ("%", "weather"),
    "wind10_ms": ("m/s", "weather"),
}
NEEDS_KEY: Final = ("electricity-maps", "watttime", "entsoe")


class FeedSetting(Value, frozen=True, kw_only=True):
    """One `[[feed]]`."""

    provider: Provider
    zone: str
    """What sites call it: their `grid_zone`, country or `weather_zone`, or a site's id for that site alone."""
    region: str = ""
    """What the provider calls it, where that differs: an EIC code, a region number."""
    quantity: Quantity = "carbon_intensity"
    """For `entsoe` and `csv`; the others say themselves."""
    url: str = ""
    """Another address of the provider, or a table's."""
    path: str = ""
    """A table's file."""
    token_env: str = ""
    """Name of an environment variable that holds the key (`user:password` for watttime)."""
    token_file: str = ""
    lat_deg: Annotated[float, Meta(ge=-90, le=90)] | None = None
    lon_deg: Annotated[float, Meta(ge=-180, le=180)] | None = None
    usd_per_unit: Annotated[float, Meta(gt=0)] | None = None
    """Of a price's currency."""
    add_usd_per_kwh: Annotated[float, Meta(ge=0)] | None = None
    """Network charges, levies and taxes on a kWh, on top of a wholesale price: what is compared between sites is delivered."""
    lifecycle: bool = False
    """Count a British region's mix with lifecycle medians."""
    every_s: Annotated[float, Meta(ge=60)] = 900.0
    """Half of the shortest step of any provider but WattTime; the limits of all free plans allow it."""
    stale_after_s: Annotated[float, Meta(gt=0)] = 7_200.0
    """From when a value is dated until it no longer counts: grids turn within hours, and providers publish an hour late."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.provider} for {self.zone}"

    @property
    def price_note(self) -> str:
        """Of what a price is made; empty where nothing was added."""
        add = self.add_usd_per_kwh
        return "" if add is None else f"wholesale plus {add:g} USD/kWh of network and taxes"

    def secret(self) -> str:
        """The key, read anew each time so that a changed one needs no restart."""
        if self.token_env:
            found = os.environ.get(self.token_env, "")
            where = f"environment variable {self.token_env}"
        else:
            where = f"file {self.token_file}"
            try:
                found = Path(self.token_file).read_text().strip() if self.token_file else ""
            except OSError as error:
                raise ConfigError(where, got=error.strerror or "no file", allowed="a key") from None
        if not found or not found.isprintable():
            raise ConfigError(
                where,
                got="nothing" if not found else "characters that no key has",
                allowed="a key",
                fix=f"set it before the start, for {self.name}",
            )
        return found


class _File(Value, frozen=True, kw_only=True, rename={"feeds": "feed"}):
    feeds: tuple[FeedSetting, ...] = ()


def read_settings(path: Path) -> tuple[FeedSetting, ...]:
    """The feeds of a file, checked."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_File).feeds
    except OSError as error:
        raise ConfigError(
            str(path), got=error.strerror or "no file", allowed="a feeds file"
        ) from None
    except (*UNREADABLE, ValueError) as error:
        raise ConfigError(
            str(path), got=str(error), allowed="[[feed]] tables, see docs/feeds.md"
        ) from None
    for i, one in enumerate(found):
        _check(one, f"{path}: feed[{i}]")
    return found


def _check(one: FeedSetting, where: str) -> None:
    if one.token_env and one.token_file:
        raise ConfigError(where, got="token_env and token_file", allowed="one of them")
    if one.lifecycle and (one.provider != "uk-carbon-intensity" or not one.region):
        raise ConfigError(
            f"{where}.lifecycle",
            got=f"true for {one.provider} {f'in region {one.region}' if one.region else 'without a region'}",
            allowed="uk-carbon-intensity with a region, 1 to 17: the national answer tells no mix",
            fix="name the region that the site draws from, or leave lifecycle out",
        )
    _check_price(one, where)
    if one.provider in NEEDS_KEY and not (one.token_env or one.token_file):
        raise ConfigError(
            where, got=f"{one.provider} without a key", allowed="token_env or token_file"
        )
    if one.provider == "open-meteo" and (one.lat_deg is None or one.lon_deg is None):
        raise ConfigError(where, got="no place", allowed="lat_deg and lon_deg")
    if one.provider == "csv" and bool(one.url) == bool(one.path):
        raise ConfigError(
            where, got="path and url" if one.url else "neither", allowed="path or url"
        )
    if one.provider == "entsoe" and one.quantity not in ("carbon_intensity", "price"):
        raise ConfigError(
            f"{where}.quantity", got=one.quantity, allowed="carbon_intensity or price"
        )
    if one.url and not one.url.startswith(("http://", "https://")):
        raise ConfigError(f"{where}.url", got="another scheme", allowed="http or https")


def _check_price(one: FeedSetting, where: str) -> None:
    wholesale = one.provider == "entsoe" and one.quantity == "price"
    if wholesale == (one.add_usd_per_kwh is not None):
        return
    raise ConfigError(
        f"{where}.add_usd_per_kwh",
        got="nothing" if wholesale else f"{one.add_usd_per_kwh} for {one.provider} {one.quantity}",
        allowed="network charges and taxes in USD/kWh, of entsoe prices and of nothing else",
        fix="take them from the site's bill, 0 where it pays none" if wholesale else "leave it out",
    )
