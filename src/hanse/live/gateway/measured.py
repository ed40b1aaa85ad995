"""What a request took: milliseconds, tokens, Wh, gCO2e, USD, and by which method the Wh are known.

Here: the figures of one finished request and their three written forms. Not here: meters (the agent), predictions (`dispatch`).

Wh are dynamic energy at the meter (chips times PUE); idle power belongs to the site. `estimated`: the engine's CPU power, as
the agent measures it, shared equally by the requests running at each instant. `modelled`: work units of `serving`, prompt
tokens not in the cache and answer tokens, the shared part of a decode step split by the batch. All attempts are charged:
one that was dropped after it was sent counts its whole prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hanse.dispatch.choose import OUT_BATCH, OUT_E2E_MS, OUT_G, OUT_TTFT_MS, OUT_USD, OUT_WH

if TYPE_CHECKING:
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.routing import Routing
    from hanse.live.gateway.sse import Usage

Five = tuple[float, float, float, float, float]
"""(ttft_ms, e2e_ms, wh, g, usd)."""


_9 = 1_000_000_000
METHOD_BYTES = {name: name.encode() for name in ("", "measured", "estimated", "modelled")}


def predicted_line(figures: list[float]) -> bytes:
    """`x-hanse-predicted:` header line; `figures` are columns `OUT_*` of `dispatch.choose`."""
    ttft, e2e = int(figures[OUT_TTFT_MS] * 100.0 + 0.5), int(figures[OUT_E2E_MS] * 100.0 + 0.5)
    wh, g = int(figures[OUT_WH] * 1e9 + 0.5), int(figures[OUT_G] * 1e9 + 0.5)
    usd = int(figures[OUT_USD] * 1e9 + 0.5)
    return (
        b"x-hanse-predicted: ttft_ms=%d.%02d;e2e_ms=%d.%02d;wh=%d.%09d;g=%d.%09d;usd=%d.%09d\r\n"
        % (
            *(ttft // 100, ttft % 100, e2e // 100, e2e % 100),
            *(wh // _9, wh % _9, g // _9, g % _9, usd // _9, usd % _9),
        )
    )


class SiteNote(msgspec.Struct, frozen=True):
    """What the serving site tells the entry site: header of plain answers, comment of streams."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    wh: float = 0.0
    method: str = "modelled"


class Measured:
    """One request's figures."""

    __slots__ = (
        "cached",
        "carbon_g",
        "cost_usd",
        "e2e_ms",
        "energy_wh",
        "method",
        "tokens_in",
        "tokens_out",
        "ttft_ms",
    )

    def __init__(self, usage: Usage | None, tokens_in: int, tokens_out: int) -> None:
        if usage is not None:
            details = usage.prompt_tokens_details
            self.tokens_in = usage.prompt_tokens
            self.tokens_out = usage.completion_tokens
            self.cached = details.cached_tokens or 0 if details is not None else 0
        else:
            self.tokens_in, self.tokens_out, self.cached = tokens_in, tokens_out, 0
        self.ttft_ms = self.e2e_ms = 0.0
        self.energy_wh = self.carbon_g = self.cost_usd = 0.0
        self.method = ""

    def five(self) -> Five:
        return (self.ttft_ms, self.e2e_ms, self.energy_wh, self.carbon_g, self.cost_usd)

    def charge_local(self, attempt: Attempt, routing: Routing) -> None:
        """Wh of an attempt at one of this site's engines."""
        offer, site = attempt.offer, routing.sites[attempt.offer.site_index]
        engine = attempt.counted
        if engine is not None and engine.estimated:
            self.energy_wh += (engine.share_wh - attempt.share_wh) * site.pue
            self.method = "estimated"
            return
        batch = max(1.0, attempt.figures[OUT_BATCH])
        if engine is not None:  # halfway between the batch it joined and the batch it leaves
            batch = max(1.0, min(offer.slots, (batch + engine.running) / 2.0))
        decode_wh = (offer.decode_wh_shared / batch + offer.decode_wh_per_token) * self.tokens_out
        prefill_wh = offer.prefill_wh_per_token * max(0, self.tokens_in - self.cached)
        self.energy_wh += (decode_wh + prefill_wh) * site.pue
        self.method = self.method or "modelled"

    def charge_remote(self, note: SiteNote) -> None:
        """Wh of a forwarded attempt, as its site says."""
        self.tokens_in = note.tokens_in or self.tokens_in
        self.tokens_out = note.tokens_out or self.tokens_out
        self.cached = note.cached
        self.energy_wh += note.wh
        self.method = note.method if note.method in ("measured", "estimated") else "modelled"

    def charge_dropped(self, attempt: Attempt, routing: Routing) -> None:
        """Wh of an attempt that was sent and then dropped or lost: its prompt, if not more."""
        offer, site = attempt.offer, routing.sites[attempt.offer.site_index]
        self.energy_wh += offer.prefill_wh_per_token * self.tokens_in * site.pue
        self.method = self.method or "modelled"

    def price(self, attempt: Attempt, routing: Routing, usd_per_g: float, bytes_moved: int) -> None:
        """Grams and dollars of the Wh, and of the bytes between sites."""
        site = routing.sites[attempt.offer.site_index]
        self.carbon_g = self.energy_wh * site.g_per_wh
        self.cost_usd = (
            self.energy_wh * site.usd_per_wh
            + self.carbon_g * usd_per_g
            + bytes_moved * site.usd_per_byte
        )

    # --- written forms

    def line(self, attempts: int) -> bytes:
        """`x-hanse-measured:` header line."""
        # Whole numbers of hundredths and billionths: a quarter of the cost of printing floats.
        ttft, e2e = int(self.ttft_ms * 100.0 + 0.5), int(self.e2e_ms * 100.0 + 0.5)
        wh, g = int(self.energy_wh * 1e9 + 0.5), int(self.carbon_g * 1e9 + 0.5)
        usd = int(self.cost_usd * 1e9 + 0.5)
        return (
            b"x-hanse-measured: ttft_ms=%d.%02d;e2e_ms=%d.%02d;tokens_in=%d;tokens_out=%d;wh=%d.%09d;"
            b"g=%d.%09d;usd=%d.%09d;method=%b;attempts=%d\r\n"
            % (
                *(ttft // 100, ttft % 100, e2e // 100, e2e % 100, self.tokens_in, self.tokens_out),
                *(wh // _9, wh % _9, g // _9, g % _9, usd // _9, usd % _9),
                *(METHOD_BYTES[self.method], attempts),
            )
        )

    def comment(self, attempts: int) -> bytes:
        """`: hanse {json}` before `[DONE]`."""
        note = {
            "ttft_ms": round(self.ttft_ms, 2),
            "e2e_ms": round(self.e2e_ms, 2),
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "wh": float(f"{self.energy_wh:.4g}"),
            "g": float(f"{self.carbon_g:.4g}"),
            "usd": float(f"{self.cost_usd:.4g}"),
            "method": self.method,
            "attempts": attempts,
        }
        return b": hanse " + msgspec.json.encode(note) + b"\n\n"

    def site_note(self) -> bytes:
        """For the entry site."""
        return msgspec.json.encode(
            SiteNote(
                tokens_in=self.tokens_in,
                tokens_out=self.tokens_out,
                cached=self.cached,
                wh=self.energy_wh,
                method=self.method or "modelled",
            )
        )


_decode_note = msgspec.json.Decoder(SiteNote).decode


def read_site_note(data: bytes | None) -> SiteNote | None:
    """A serving site's note; None for anything else."""
    if not data:
        return None
    try:
        return _decode_note(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
