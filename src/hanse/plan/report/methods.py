"""What every figure of the report rests on: one line each, with formula, source and the groups of assumptions that go into it.

Here: `METHODS`, by key. A figure's head links to its line, the line to rows of the table of assumptions. Not here: the figures.
"""

from __future__ import annotations

from typing import Final

from hanse.model.fleet import Value


class Method(Value, frozen=True, kw_only=True):
    """How a figure comes about."""

    title: str
    text: str
    groups: tuple[str, ...] = ()
    """Of assumptions that go into it."""
    ids: tuple[str, ...] = ()
    """Single assumptions that matter most or alone."""


MONEY: Final = (
    "servers", "chip_price", "building", "land_and_rent", "own_power", "energy", "wan", "people", "law", "risk", "carbon", "cloud",
    "demand", "study",
)  # fmt: skip
GRID: Final = "Energy of each hour of a year by site: IT load, plant, own generation and battery, with the house's balance (docs/energy.md)"

METHODS: Final[dict[str, Method]] = {
    "usd": Method(
        title="Cost per million tokens",
        text="Levelised: present value of all cost over the present value of million tokens delivered within the SLO, over the study's years. "
        "Yearly cost = capital x recovery factor + energy + water + rent + people + upkeep + traffic + law + expected loss + carbon "
        "(Koomey et al. 2008; Barroso, Hölzle, Ranganathan 2018). Real money of the first year. p5, p50, p95: over all draws.",
        groups=MONEY,
    ),
    "npv": Method(
        title="Present value",
        text="Yearly cost, paid at the end of each year, discounted to the start.",
        groups=MONEY,
        ids=("discount_rate",),
    ),
    "group": Method(
        title="Cost by group and item",
        text="Median of draws of the mean of years; so groups need not sum exactly to the median of the whole. Below nothing: earned.",
        groups=MONEY,
    ),
    "win": Method(
        title="Share of draws won",
        text="Figures are drawn by Latin hypercube (McKay, Beckman, Conover 1979), the same draws for all designs; a draw is won by the design "
        "that costs least per delivered token, or emits least (location-based and embodied). Ties are split.",
        groups=MONEY,
    ),
    "location": Method(
        title="Carbon, location-based",
        text="Imported energy by the average of the site's grid, own generation by its life cycle, rented chips by the cloud's average "
        "(GHG Protocol, Scope 2 Guidance, 2015). Never add it to the other two methods.",
        groups=("carbon", "energy"),
        ids=("grid_carbon_decline_per_year", "cloud_grid_g_per_kwh"),
    ),
    "market": Method(
        title="Carbon, market-based",
        text="The same energy with contracts counted (GHG Protocol, Scope 2 Guidance, 2015); rented chips as location-based, since nobody knows a "
        "cloud's contracts. Never add it to the other two methods.",
        groups=("carbon", "energy"),
    ),
    "marginal": Method(
        title="Carbon, marginal",
        text="What the grid emits more because of the load: a question about consequences, not an inventory. Missing where nobody publishes it. "
        "Never add it to the other two methods.",
        groups=("carbon", "energy"),
    ),
    "embodied": Method(
        title="Carbon, embodied",
        text="Making of servers, buildings and batteries, spread over their lives. It stands beside each of the three methods.",
        groups=("carbon", "servers", "building"),
    ),
    "kwh": Method(
        title="Energy per million tokens",
        text="At the meter, cooling and UPS included, rented chips too. IT power over load comes from the step model that the twin's engines run "
        f"(docs/predict.md). {GRID}.",
        groups=("energy", "demand"),
        ids=("pue_factor", "cloud_pue", "cloud_power_share"),
    ),
    "water": Method(
        title="Water per million tokens",
        text="Evaporated at the site by its cooling, hour by hour with the weather (docs/energy.md), and by rented chips. Water of power plants is "
        "not in it.",
        groups=("energy", "carbon"),
        ids=("cloud_water_l_per_kwh",),
    ),
    "pue": Method(
        title="PUE and WUE",
        text="Energy at the meter over IT energy, first year, at the load that is: a hall that fills up gets better. Plant models: docs/energy.md.",
        groups=("energy",),
        ids=("pue_factor",),
    ),
    "ups": Method(
        title="UPS loss",
        text="Loss over IT energy; load: mean IT power of the year over the ratings of all UPS; efficiency: IT over IT and loss. A UPS loses k0 + k1 L + k2 L^2 of its "
        "rating at load L (Rasmussen, Schneider Electric WP 113), so the less it carries the larger the share (docs/energy.md).",
        groups=("energy",),
    ),
    "ttft": Method(
        title="Time to first token, planned",
        text="Round trip, then reading of a prompt of drawn length at a replica with mean load, in closed form; interactive requests of the first "
        "year, rented ones included. Queues and batches are not in it: the twin's figure beside it has them.",
        ids=("utilisation_max",),
        groups=("demand",),
    ),
    "twin": Method(
        title="What the twin measured",
        text="A discrete-event simulation of one day of requests on the design's fleet file (docs/twin.md). A design that misses the SLO is made "
        "larger and tried again, three times at most. It runs one day, or the busiest hours of a large study, and what own sites serve; "
        "what is planned for just these hours and requests stands beside it.",
        groups=("demand",),
    ),
    "rtt": Method(
        title="Round trip",
        text="City to serving site over fibre, last mile included, weighted by requests (docs/links.md).",
    ),
    "served": Method(
        title="Served share",
        text="Tokens delivered within the SLO over tokens asked for, median of draws. Lost: what no lawful site and no cloud could take.",
        groups=("demand",),
    ),
    "rented": Method(
        title="Rented share",
        text="Share of demand that is always rented from a cloud. Busy hours beyond own capacity are rented on top, by the hour, where law lets them.",
        groups=("cloud", "demand"),
    ),
    "idle": Method(
        title="Idle and stranded capacity",
        text="Idle: share of installed chips' work that nobody asks for, mean of years. Stranded: yearly capital of chips and plant times that share. "
        "Plant is ordered ahead of demand and never taken down.",
        groups=("demand", "servers", "chip_price", "building"),
        ids=("demand_growth_factor", "demand_shock_sd", "utilisation_max"),
    ),
    "pooling": Method(
        title="Pooling loss",
        text="Slots that separate sites need so that a request seldom waits, over those of one pool of the same users, less 1: m + z sqrt(m) slots "
        "at a mean of m running requests, so small sites need more for the same work (normal approximation, good from five running requests on).",
        groups=("demand",),
    ),
    "available": Method(
        title="Availability, and sites gone",
        text="Expected share of interactive demand that is served when each site is away for its share of the year and others take over as far as "
        "law and room let them. First order: two failures at once and common causes are left out. Availability of a size class: Uptime Institute's "
        "tiers, of a tower an assumption.",
        groups=("risk",),
    ),
    "hours": Method(
        title="Carbon-free, hour by hour and by the year",
        text="By the hour: share of the load met in that hour by carbon-free supply, own or of the grid. By the year: own generation over use, both "
        "summed over the year, which is what annual matching claims; it counts noon's sun for midnight's load. Own generation hour by hour: what the "
        "load takes of it when it is made, or later from the battery, whose losses do not count.",
        groups=("own_power",),
    ),
    "ownpower": Method(
        title="Own generation",
        text="PV, wind and batteries where they pay; used: share of what is made that the site takes itself, the battery's losses included; the rest is "
        "exported or curtailed.",
        groups=("own_power", "energy"),
    ),
    "staff": Method(
        title="People and operator actions",
        text="Staff: cost of staff over the cost of one full-time person. Actions: so many per site and month times sites.",
        groups=("people",),
        ids=("operator_actions_per_site_month", "staff_fte_at_1mw", "truck_rolls_per_site_year"),
    ),
    "law": Method(
        title="Jurisdictions and duties",
        text="Countries with a site of the design. Duties: sites that had to be mended to be lawful (docs/law.md); the cost of that is in the total.",
        groups=("law",),
        ids=("efficiency_upgrade_usd_per_kw",),
    ),
    "away": Method(
        title="Models that small sites cannot hold",
        text="A replica stands in one server: weights and the context of one request must fit into at most eight chips of the size class, and the SLO be met. "
        "What no small size class of a design serves so goes to its large sites and to rented chips; a design without small sites has no sum of it. "
        "Added: mean round trip there less that to the nearest city where one could build; traffic at a large site's transit or a cloud's egress. "
        "For scale: the largest model of the catalogue, and the largest that a size class holds, as if all interactive work asked for it.",
        groups=("wan",),
        ids=("region_transit_usd_per_gb", "cloud_egress_usd_per_gb"),
    ),
    "held": Method(
        title="Memory of a size class",
        text="Largest replica: as many chips as a server (eight) and the site's power allow, times their memory. Whole site: all its power in such chips. "
        "Weights: parameters times bytes of the precision; facts of chips and models: the catalogue (docs/sources.md), times: docs/predict.md.",
    ),
    "shifting": Method(
        title="Moving work by the hour",
        text="Upper bounds by the hours of the study's grids, with perfect foresight and no cost of moving, all energy moving along; first year. Static: each city "
        "at one site all year. By the hour: each hour at the best site that law, latency and chips allow. Waiting: work with slack in the best hour of it. "
        "Within room: a transport problem for every hour of six days, with the chips that stand. All places: those where sites of these sizes could stand too. "
        "Cf. Sukprasert et al., EuroSys 2024: simple policies get most of it.",
        groups=("carbon", "energy"),
        ids=("carbon_usd_per_t",),
    ),
    "wan": Method(
        title="WAN",
        text="Users' traffic of own sites and rented chips, median of draws.",
        groups=("wan",),
    ),
    "build": Method(
        title="Building in stages",
        text="Whole modules, ordered a lead time ahead for the demand that was expected then; median of draws by year, summed over sites.",
        groups=("building", "demand"),
    ),
    "tornado": Method(
        title="What moves the answer",
        text="One figure at a time at the ends of its range, all others most likely: cost per million tokens of the cheapest design less that of the "
        "second. Below nothing the first is cheaper, above it the second.",
        groups=MONEY,
    ),
    "flip": Method(
        title="Break-even",
        text="The value nearest to the most likely one, inside the figure's range, at which another design becomes cheapest, all others most likely. "
        "Latency limit and demand: the sites are searched anew for each value (to a gap of 3 %), without own power, and the step in which the winner "
        "changes is halved twice.",
        groups=MONEY,
    ),
    "policy": Method(
        title="Policies with and without",
        text="Each draw with all policies of the study, and again without this one: medians, and shares of draws won. What it adds: median of the difference of "
        "present values. A rule of law moves sites, which are then searched anew; own generation is sized anew without a credit, tariff or tax.",
        groups=MONEY,
    ),
    "training": Method(
        title="Training in one place or across sites",
        text="Forms of data parallel, DiLoCo and streaming DiLoCo with the links between sites; both sized so that they could end in time "
        "(docs/training.md).",
        groups=("chip_price", "energy", "wan"),
    ),
    "claim": Method(
        title="Claims",
        text="Measured on the designs of this study; a verdict that depends on a figure names its break-even.",
        groups=MONEY,
    ),
    "site": Method(
        title="Sites",
        text="Placed by the optimiser; a site's cost is what belongs to it, median of draws, mean of years. Next best: what leaving it out would cost.",
        groups=MONEY,
    ),
}
