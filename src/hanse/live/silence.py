"""Who has said nothing for too long, in time that this process spent listening.

Here: `Silence`, when each site was last heard. Not here: hearing, what follows from a silence (`dispatch`).

A process that is held up (another fleet of a thousand sites takes it a second or more) comes back with reports that wait to be read. That time is
nobody's silence: without this, all sites together would be lost for an instant.
"""

from __future__ import annotations


class Silence:
    """Instants are of a clock that only rises."""

    def __init__(self, silent_s: float, look_s: float, now_s: float) -> None:
        """Nobody was heard yet.

        Args:
            silent_s: Longer without a word is silence.
            look_s: `lost` is called so often while nothing holds this process up.
            now_s: The clock.
        """
        self._silent_s = silent_s
        self._look_s = look_s
        self._looked_s = now_s
        self._heard_s: dict[str, float] = {}

    def hear(self, site: str, now_s: float) -> None:
        """A site said something."""
        self._heard_s[site] = now_s

    def lost(self, now_s: float) -> list[str]:
        """Sites that are silent now and were not before."""
        late_s = now_s - self._looked_s - self._look_s
        self._looked_s = now_s
        if late_s > self._look_s:
            self._heard_s = {site: heard_s + late_s for site, heard_s in self._heard_s.items()}
        found = [s for s, heard_s in self._heard_s.items() if now_s - heard_s > self._silent_s]
        for site in found:
            del self._heard_s[site]
        return found
