"""The fleet of the demonstration: the small one with a sun, a battery and a connection to scale, which its controller places and plans.

To scale means: two CPU threads draw some 20 W, so a panel of a hundred watts is a large one here.
"""

from __future__ import annotations

from typing import Final

from league.small_fleet import fleet_text

SPEED: Final = 60.0
"""An hour of sun and carbon in a minute."""
POWER: Final = {
    "frankfurt": "grid_kw_max = 0.2, base_kw = 0.06, pv_kw_peak = 0.16, battery_kwh = 0.05, battery_kw_max = 0.05",
    "lyon": "grid_kw_max = 0.2",
    "london": "grid_kw_max = 0.2",
    "virginia": "grid_kw_max = 0.2",
}
LOOP: Final = """
schedule_every_s = 10
"""


def demo_text(
    *,
    home_copies: int = 2,
    slots: int = 4,
    external: dict[str, str] | None = None,
    placed: tuple[str, ...] = ("frankfurt", "lyon"),
) -> str:
    """The fleet file."""
    text = fleet_text(places=True, slots=slots, external=external, placed=placed)
    for site, power in POWER.items():
        head, mark, rest = text.partition(f'id = "{site}"')
        rest = rest.replace("grid_kw_max = 600", power, 1)
        text = head + mark + rest
    text = text.replace(
        'accelerator = "x86-thread"\ncount = 2', 'accelerator = "rpi5-16"\ncount = 8'
    )
    text = text.replace("usd_per_tonne_co2e = 100", "usd_per_tonne_co2e = 1000")
    text = text.replace("demand_bin_s = 4\n", f"demand_bin_s = 4{LOOP}")
    head, mark, rest = text.partition("[policy]")
    return f"{head}[batch]\nhome_copies = {home_copies}\n{mark}{rest}"
