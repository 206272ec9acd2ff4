"""What is given up, rung by rung, when memory runs short; each step is logged once."""

from __future__ import annotations

import logging
from typing import NamedTuple

from macule.observability import metrics

log = logging.getLogger("macule")


class Rung(NamedTuple):
    """What is still done from a share (0 to 1) of the limit on; `slots` None leaves them all."""

    name: str
    share: float
    cache: bool
    overlays: bool
    slots: int | None
    serves: bool


# Shares of what cannot be reclaimed: page cache is the kernel's to give back.
RUNGS = (
    Rung("everything", 0.0, cache=True, overlays=True, slots=None, serves=True),
    Rung("no cache", 0.85, cache=False, overlays=True, slots=None, serves=True),
    Rung("no overlays", 0.88, cache=False, overlays=False, slots=None, serves=True),
    Rung("one image at a time", 0.93, cache=False, overlays=False, slots=1, serves=True),
    Rung("refusing", 0.98, cache=False, overlays=False, slots=1, serves=False),
)


class Ladder:
    """Where the service stands, and what was last said of it."""

    def __init__(self) -> None:
        self.rung = RUNGS[0]

    def step(self, share: float) -> Rung:
        """Return the rung of *share*; log it if it is another than before."""
        rung = next(rung for rung in reversed(RUNGS) if share >= rung.share)
        if rung != self.rung:
            down = rung.share > self.rung.share
            level = logging.WARNING if down else logging.INFO
            facts = {"event": "ladder", "rung": rung.name}
            said = "memory at %.0f %% of the limit: %s"
            log.log(level, said, share * 100, rung.name, extra={"facts": facts})
            metrics.add("macule_ladder_steps_total", rung.name)
            self.rung = rung
        return rung
