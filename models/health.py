"""Pure: what is wrong with a training run, by its curve. An alarm names its cause; it closes when the cause is gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from models.pretraining import Measured

_RISING, _STILL = 5, 3


def gradient_zone(norm: float) -> str:
    """How a gradient's norm before clipping reads."""
    if not math.isfinite(norm):
        return "no number"
    bounds = ((0.01, "vanishing"), (1.0, "low"), (50.0, "ok"), (200.0, "high"))
    return next((name for bound, name in bounds if norm < bound), "exploding")


def alarms(points: Sequence[Measured]) -> list[str]:
    """What a person should look at, at the last of these points."""
    if not points:
        return []
    last, found = points[-1], []
    if not math.isfinite(last.loss):
        found.append("the loss is no number: such steps are not taken; a lower learning rate may end it")
    zone = gradient_zone(last.gradient)
    if zone in ("no number", "vanishing", "exploding"):
        found.append(f"the gradient is {zone} ({last.gradient:.3g})")
    recent = [p.loss for p in points[-_RISING - 1 :]]
    if len(recent) > _RISING and all(late > early for early, late in pairwise(recent)):
        found.append(f"the loss has risen {_RISING} times on end: a lower learning rate may end it")
    spreads = [p.told["R_std"] for p in points if "R_std" in p.told][-_STILL:]
    if len(spreads) == _STILL and max(spreads) < 1e-3:
        found.append("R does not move with what is read")
    held = [p.held for p in points if p.held is not None]
    if held and held[-1] < 0.05:
        found.append("a held loss of nearly nothing: look whether what is held out stands in what is trained on")
    if len(held) > _STILL and min(held[-_STILL:]) > min(held) * 1.02:
        found.append("the held loss has left its best: the run learns its text by heart")
    return found
