"""From persona variables to how a reply is written: directions added to the model's activations, and how soon it ends.

Values lie in [-1, 1]; 0 is no change at all, bit for bit. The directions come from pairs of replies in
`texts/contrasts.jsonl` (models/directions.py); where in the model they are added, and how far at 1, was chosen on
prompts of their own and is judged on others (bench/persona.py, docs/persona.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

from agent.errors import UnknownVariable
from models.directions import Contrast, checked
from models.steering import Steering, combined

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a variable acts, and how far."""

    begin: float
    end: float
    """Layers, as shares of the model's depth: a larger model has the same manner at about the same depth."""
    scale: float
    """Of the direction, at the value 1."""

    def layers(self, depth: int) -> range:
        """The layers of a model of `depth` layers after which it is added."""
        begin = round(self.begin * depth)
        return range(begin, max(round(self.end * depth), begin + 1))


REACHES: Mapping[str, Reach] = {
    "pleasure": Reach(begin=10 / 30, end=18 / 30, scale=0.12),
    "arousal": Reach(begin=10 / 30, end=18 / 30, scale=0.12),
    "curiosity": Reach(begin=10 / 30, end=18 / 30, scale=0.08),
    "warmth": Reach(begin=10 / 30, end=18 / 30, scale=0.10),
}
"""Every variable that acts by a direction; each has passed all of bench/persona.py."""
ENDINGS: Mapping[str, float] = {"fatigue": 4.0}
"""Every variable that acts on how soon a reply ends: what it adds, at 1, to the logits of the tokens that end one."""
VARIABLES: tuple[str, ...] = (*REACHES, *ENDINGS)
"""All that act."""


@dataclass(frozen=True, slots=True, eq=False)
class Bearing:
    """How a reply is written."""

    steering: Steering | None = None
    end_bias: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Steerer:
    """Values to how a reply is written, for one model."""

    directions: Mapping[str, Tensor]
    """Of each variable that has one, [layers, hidden]."""
    reaches: Mapping[str, Reach] = field(default_factory=lambda: REACHES)

    def __call__(self, values: Mapping[str, float]) -> Bearing:
        """What these values change. Several directions together go no further than one does alone.

        Raises:
            UnknownVariable: one that does not act here, or a value outside of [-1, 1].
        """
        given = checked_values(values, (*self.reaches, *ENDINGS))
        along = {name: value for name, value in given.items() if name in self.reaches}
        dose = 1.0 / max(1.0, math.hypot(*along.values()))
        return Bearing(
            steering=combined([(dose * value, self.unit(name)) for name, value in along.items()]),
            end_bias=sum(value * ENDINGS[name] for name, value in given.items() if name in ENDINGS),
        )

    def unit(self, name: str) -> Steering:
        """What is added at the value 1."""
        direction, reach = self.directions[name], self.reaches[name]
        layers = reach.layers(len(direction))
        return Steering(first=layers.start, vectors=reach.scale * checked(direction, layers))


def checked_values(values: Mapping[str, float], known: Collection[str] = VARIABLES) -> dict[str, float]:
    """The values, if each is one that a variable can have.

    Raises:
        UnknownVariable: there is no such variable, or its value is no number in [-1, 1].
    """
    for name, value in values.items():
        if name not in known:
            raise UnknownVariable(f"there is no variable {name!r}; there are {', '.join(sorted(known))}")
        if not math.isfinite(value) or not -1 <= value <= 1:
            raise UnknownVariable(f"{name} = {value}: a variable lies in [-1, 1]")
    return dict(values)


def contrasts(known: Sequence[str] | None = None) -> dict[str, list[Contrast]]:
    """The pairs of replies by variable; of the `known` ones only, if given."""
    found: dict[str, list[Contrast]] = {}
    text = resources.files("agent").joinpath("texts/contrasts.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        row = json.loads(line)
        found.setdefault(row["variable"], []).append(Contrast(said=row["said"], high=row["high"], low=row["low"]))
    return {name: pairs for name, pairs in found.items() if known is None or name in known}
