"""How a machine becomes a site of a league: tokens, the hub's door, what a host is found to have, and the site's first files.

Not here: certificates (`live.ca`), the fleet file in force (`live.league_file`).
"""
