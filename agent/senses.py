"""Pure: what the mood feels of a moment, as numbers in [-1, 1], whatever was measured.

Charge follows the Spiralformer's, with its signs put right (docs/persona.md): tension is a body in a hurry, pressure
one in trouble, 0 at ease and 1 at worst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Senses:
    """One moment. 0 everywhere is a moment in which nothing happens."""

    surprise: float = 0.0
    novelty: float = 0.0
    arousal: float = 0.0
    reward: float = 0.0
    """Signed."""
    conflict: float = 0.0
    sentiment: float = 0.0
    """Of what was said: pleasant less unpleasant words, signed."""
    tension: float = 0.0
    pressure: float = 0.0
    load: float = 0.0
    daylight: float = 0.0
    """1 at noon, -1 at midnight."""
    evening: float = 0.0
    """1 at six in the evening, -1 at six in the morning."""
    coherence: float = 0.0
    """The order parameter R, of how alike the last events were (coherence.py)."""
    clusters: float = 0.0
    """The second order parameter, |Z2|."""

    def vector(self) -> NDArray[np.float64]:
        """[senses], finite and within [-1, 1]: what is no number counts as nothing, what is too large as the bound."""
        given = np.array([getattr(self, name) for name in SENSES], dtype=np.float64)
        return np.clip(np.nan_to_num(given, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)


SENSES: tuple[str, ...] = tuple(field.name for field in fields(Senses))
"""Their names, in the order of the vector."""


def tension(seconds: float, usual: float) -> float:
    """How much slower than usual an answer began, in [0, 1]: 0 as usual or faster, .5 at twice, towards 1 beyond."""
    if not (math.isfinite(seconds) and math.isfinite(usual)) or seconds <= usual or usual <= 0:
        return 0.0
    return 1.0 - usual / seconds


def pressure(*, failed: float, memory: float) -> float:
    """How much is wrong with the body, in [0, 1]: 1 - (1 - failed)(1 - m), m the memory used beyond three quarters."""
    used = min(1.0, max(0.0, (memory - 0.75) / 0.25)) if math.isfinite(memory) else 1.0
    return 1.0 - (1.0 - min(1.0, max(0.0, failed))) * (1.0 - used)


def time_of_day(at: datetime) -> tuple[float, float]:
    """(daylight, evening) of a local time."""
    turn = 2 * math.pi * (at.hour + at.minute / 60) / 24
    return -math.cos(turn), -math.sin(turn)
