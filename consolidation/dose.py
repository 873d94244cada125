"""Pure: how much of an adapter is examined next, where all of it was too much: each fault has its own remedy.

What answers too readily is to deny the more; what changes how the agent speaks elsewhere is to act less. A night that
only invented would else lose answers for acting less, and one that only drifted for denying more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

Part = Literal["acts", "answers"]
_REMEDY: dict[str, Part] = {
    "invented": "answers",
    "drift": "acts",
    "persona_drift": "acts",
    "repetition": "acts",
    "norm": "acts",
}
"""Of marks that may be better with less of the adapter, with less of what."""
_STEPS = (1.0, 0.88, 0.75)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """How much of an adapter, of what it was when it was made."""

    acts: float = 1.0
    """How far it changes the model."""
    answers: float = 1.0
    """How readily it answers, where it could deny."""


WHOLE = Dose()


def lesser(dose: Dose, failed: Collection[str]) -> Dose | None:
    """The next to examine, after these marks of exam.py failed at this one; None: less of it would not help."""
    for part in sorted({_REMEDY.get(name) for name in failed}, key=str):
        if part is None:
            return None
        now = _STEPS.index(getattr(dose, part))
        if now + 1 == len(_STEPS):
            return None
        dose = replace(dose, **{part: _STEPS[now + 1]})
    return dose if failed else None
