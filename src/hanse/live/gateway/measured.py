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

from hanse.dispatch.choose import OUT_E2E_MS, OUT_G, OUT_TTFT_MS, OUT_USD, OUT_WH
from hanse.live.gateway.kernels import COUNT_MAX
from hanse.live.gateway.notes import METHODS
from hanse.model.told import UNREADABLE

if TYPE_CHECKING:
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.kernels import Five, Kernels
    from hanse.live.gateway.routing import Routing
    from hanse.live.gateway.sse import Usage

METHOD_INDEX = {name: i for i, name in enumerate(METHODS)}


def predicted_line(kernels: Kernels, figures: list[float]) -> bytes:
    """`x-hanse-predicted:` header line; `figures` are columns `OUT_*` of `dispatch.choose`."""
    f = figures
    five = (f[OUT_TTFT_MS], f[OUT_E2E_MS], f[OUT_WH], f[OUT_G], f[OUT_USD])
    return kernels.view[: kernels.predicted(five, kernels.buffer, 0)].tobytes()


class SiteNote(msgspec.Struct, frozen=True):
    """What the serving site tells the entry site: header of plain answers, comment of streams."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    wh: float = 0.0
    method: str = "modelled"


class Measured(msgspec.Struct, eq=False):
    """One request's figures."""

    tokens_in: int
    tokens_out: int
    cached: int = 0
    ttft_ms: float = 0.0
    e2e_ms: float = 0.0
    energy_wh: float = 0.0
    carbon_g: float = 0.0
    cost_usd: float = 0.0
    method: str = ""
    told: bool = False
    """The engine said how much of the prompt was cached."""

    @classmethod
    def of(cls, usage: Usage | None, tokens_in: int, tokens_out: int) -> Measured:
        """By the engine's word; where it gave none, or one that cannot be true, by what was counted."""
        if usage is None:
            return cls(tokens_in, tokens_out)
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        told, cached = cached is not None, cached or 0
        told_in, told_out = usage.prompt_tokens, usage.completion_tokens
        if not (0 <= told_in <= COUNT_MAX and 0 <= told_out <= COUNT_MAX and cached >= 0):
            return cls(tokens_in, tokens_out)
        return cls(told_in, told_out, cached if cached < told_in else told_in, told=told)

    def found(self, tokens_guessed: int) -> int:
        """Prompt tokens that were cached, in the units in which the prompt was guessed to have so many; -1: the engine did not tell."""
        if not self.told or self.tokens_in <= 0:
            return -1
        return self.cached * tokens_guessed // self.tokens_in

    def five(self) -> Five:
        return (self.ttft_ms, self.e2e_ms, self.energy_wh, self.carbon_g, self.cost_usd)

    def join(self, tokens: int) -> None:
        """An answer in two parts: the prompt once, the completion of both; so many tokens of it were prompt to the second engine."""
        self.tokens_in = max(self.tokens_in - tokens, 0)
        self.tokens_out += tokens
        self.cached = min(self.cached, self.tokens_in)

    def charge_local(self, attempt: Attempt, routing: Routing) -> None:
        """Wh of an attempt at one of this site's engines."""
        engine = attempt.counted
        if engine is not None and engine.estimated:
            pue = routing.sites[attempt.offer.site_index].pue
            self.energy_wh += (engine.share_wh - attempt.share_wh) * pue
            self.method = "estimated"
            return
        self.energy_wh += routing.local_wh(attempt, self.tokens_in, self.cached, self.tokens_out)
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

    def line(self, kernels: Kernels, attempts: int) -> bytes:
        """`x-hanse-measured:` header line."""
        method = METHOD_INDEX[self.method]
        size = kernels.measured(
            self.five(), self.tokens_in, self.tokens_out, method, attempts, kernels.buffer, 0
        )
        return kernels.view[:size].tobytes()

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
    except UNREADABLE:
        return None
