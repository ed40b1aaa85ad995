"""Facts with sources: accelerators, AI models, countries and law, cities, electricity, egress.

Here: frozen values read once from the tables in `data/`, and the functions that look them up. Not
here: decisions (what a rule means for a request is `dispatch.law`), time series (`signals`),
speeds of engines (`serving`). Importing this reads no file; each table loads at first use.
"""

from hanse.catalogue.accelerators import (
    Accelerator,
    accelerator,
    accelerator_named,
    all_accelerators,
)
from hanse.catalogue.cities import City, city, distance_km, nearest_city, rtt_ms_floor
from hanse.catalogue.countries import Country, all_countries, country
from hanse.catalogue.egress import egress_usd_per_gb
from hanse.catalogue.electricity import CountryElectricity, country_electricity, emission_factor
from hanse.catalogue.jurisdictions import Adequacy, Jurisdictions, Rule, jurisdiction_rules
from hanse.catalogue.models import AiModel, ai_model, ai_model_named, ai_models

__all__ = [
    "Accelerator",
    "Adequacy",
    "AiModel",
    "City",
    "Country",
    "CountryElectricity",
    "Jurisdictions",
    "Rule",
    "accelerator",
    "accelerator_named",
    "ai_model",
    "ai_model_named",
    "ai_models",
    "all_accelerators",
    "all_countries",
    "city",
    "country",
    "country_electricity",
    "distance_km",
    "egress_usd_per_gb",
    "emission_factor",
    "jurisdiction_rules",
    "nearest_city",
    "rtt_ms_floor",
]
