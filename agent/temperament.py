"""Pure: where the mood rests, from a profile of the Big Five (Mehrabian 1996, as ALMA has it).

Neuroticism n is stated as such; the formulas have emotional stability S = -n. All in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VARIABLES: tuple[str, ...] = ("pleasure", "arousal", "dominance", "curiosity", "warmth", "fatigue", "focus")
"""What a mood consists of, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperament:
    """The Big Five; 0 is the average person.

    Raises:
        ValueError: one that is no number in [-1, 1].
    """

    openness: float = 0.0
    conscientiousness: float = 0.0
    extraversion: float = 0.0
    agreeableness: float = 0.0
    neuroticism: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not -1 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a trait lies in [-1, 1]")


def resting(of: Temperament) -> Mapping[str, float]:
    """Where each variable comes back to. PAD by Mehrabian's regression, the others by the trait they belong to."""
    stable = -of.neuroticism
    return {
        "pleasure": 0.21 * of.extraversion + 0.59 * of.agreeableness + 0.19 * stable,
        "arousal": 0.15 * of.openness + 0.30 * of.agreeableness - 0.57 * stable,
        "dominance": 0.25 * of.openness
        + 0.17 * of.conscientiousness
        + 0.60 * of.extraversion
        - 0.32 * of.agreeableness,
        "curiosity": 0.60 * of.openness,
        "warmth": 0.60 * of.agreeableness,
        "fatigue": 0.0,
        "focus": 0.60 * of.conscientiousness,
    }
