"""Sites at the places whose weather is shipped."""

import msgspec

from hanse.model.fleet import Site

PLACES = {  # weather zone: country, grid zone, latitude, longitude
    "AU-NSW": ("AU", "", -33.85, 151.20),
    "AU-VIC": ("AU", "", -37.79, 144.94),
    "BR-SP": ("BR", "", -23.51, -46.61),
    "CA-ON": ("CA", "", 43.69, -79.41),
    "CL-SIC": ("CL", "", -33.43, -70.64),
    "DE-LU": ("DE", "DE", 50.09, 8.65),
    "GB": ("GB", "GB", 51.49, -0.16),
    "IN-WE": ("IN", "", 19.09, 72.85),
    "JP-TK": ("JP", "", 35.68, 139.81),
    "KR": ("KR", "", 37.57, 126.96),
    "SG": ("SG", "", 1.30, 103.86),
    "US-CAL-CISO": ("US", "US-CAL-CISO", 37.43, -121.95),
    "US-MIDA-PJM": ("US", "US-MIDA-PJM", 39.96, -75.17),
    "US-NY-NYIS": ("US", "US-NY-NYIS", 40.74, -74.04),
    "US-TEX-ERCO": ("US", "US-TEX-ERCO", 32.79, -96.82),
    "ZA": ("ZA", "", -26.19, 28.03),
}


def place(zone: str, **power: float) -> Site:
    country, grid, lat, lon = PLACES[zone]
    raw = {
        "id": zone.lower(),
        "kind": "micro",
        "city": "-",
        "country": country,
        "lat_deg": lat,
        "lon_deg": lon,
        "operator_hq": country,
        "grid_zone": grid,
        "weather_zone": zone,
        "power": {"grid_kw_max": 1000.0, **power},
    }
    return msgspec.convert(raw, Site)
