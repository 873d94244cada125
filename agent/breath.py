"""Pure: one beat as one breath: what is looked at comes first, then what is decided, done, and put away.

Each part has its share of the beat's interval (4 : 2 : 4 : 2, after Spiralformer's BreathClock). A part whose share is
used up begins nothing more, and the next goes on; what did not get its turn comes first at the next beat. So a beat
with much to do is no longer than the one before it, and no part starves the others.
"""

from __future__ import annotations

from typing import Literal

Part = Literal["inhale", "hold", "exhale", "pause"]
SHARES: dict[Part, float] = {"inhale": 4 / 12, "hold": 2 / 12, "exhale": 4 / 12, "pause": 2 / 12}
"""Of a beat's interval, in the order of a breath."""


def budget(part: Part, interval: float) -> float:
    """Seconds within which a part may begin something. `interval`: of the beat, in seconds."""
    return SHARES[part] * max(0.0, interval)
