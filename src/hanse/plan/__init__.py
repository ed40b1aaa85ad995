"""How to build AI capacity: siting, sizing, full cost, doubt. Judges its shortlist in the twin; never touches a live site."""
