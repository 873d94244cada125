"""Persona: the variables that say in which manner the agent speaks, and how they come to act on a reply.

A variable is where the owner's mood has it (moods.py), unless it is pinned or named in a request, as experiments need
it (bench/persona.py).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from agent import measured
from agent.measured import Act
from agent.steering import REACHES, VARIABLES, Bearing, Reach, Steerer, checked_values, contrasts
from models import directions
from models.engine import Engine
from models.errors import SteeringRefused

log = logging.getLogger("slowwave.persona")

REST = 0.0
"""Where a variable changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Persona:
    """The variables of every owner, and what they do."""

    pins: Callable[[str], Mapping[str, float]] = lambda _: {}
    """What an owner has pinned."""
    moods: Callable[[str], Mapping[str, float]] = lambda _: {}
    """The levels that an owner's mood has reached."""
    steerer: Callable[[], Steerer] | None = None
    """None: this model cannot be steered, and there are no variables."""
    measured: Callable[[], Mapping[str, Act]] = dict
    """What forcing each was found to change here."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Those that act here."""
        return () if self.steerer is None else VARIABLES

    def values(self, owner: str, asked: Mapping[str, float] | None = None) -> dict[str, float]:
        """Every variable's value for a reply: as asked for, the others at 0; else as pinned, or as the mood.

        Raises:
            UnknownVariable: one is asked for that there is not, or that cannot have the value.
        """
        if self.steerer is None:
            return checked_values(asked or {}, ())
        given = {**self.moods(owner), **self.pins(owner)} if asked is None else checked_values(asked)
        return {name: float(given.get(name, REST)) for name in self.variables}

    def feeling(self, owner: str, asked: Mapping[str, float] | None) -> tuple[dict[str, float], Bearing]:
        """The values for a reply, and what they change in it.

        A mood that cannot act leaves the reply as it is; what somebody asked for or pinned is refused.

        Raises:
            UnknownVariable, SteeringRefused: of what was asked for or pinned.
        """
        values = self.values(owner, asked)
        try:
            return values, self.bearing(values)
        except SteeringRefused as refused:
            if asked is not None or self.pins(owner):
                raise
            log.warning("mood_does_not_act: %s", refused)
            return dict.fromkeys(values, REST), Bearing()

    def known(self, values: Mapping[str, float]) -> dict[str, float]:
        """Those of the values that act here: a reply that began elsewhere may name others."""
        return {name: float(value) for name, value in values.items() if name in self.variables}

    def bearing(self, values: Mapping[str, float]) -> Bearing:
        """How a reply is written under these values.

        The first time that any is not at rest, the directions may have to be found: that takes as long as reading
        thirty-two short texts for each variable.

        Raises:
            SteeringRefused: the model cannot be steered after all.
        """
        moved = {name: value for name, value in values.items() if value != REST}
        return self.steerer()(moved) if moved and self.steerer is not None else Bearing()


SHIPPED = Path(__file__).parent / "directions"
"""The default model's."""


class Found:
    """A model's directions: looked for when first needed, in a file if they were found before."""

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        weights: Callable[[], str],
        reaches: Mapping[str, Reach] = REACHES,
    ) -> None:
        self._engine = engine
        self._reaches = reaches
        self._folder = folder
        self._weights = weights
        self._lock = threading.Lock()
        self._steerer: Steerer | None = None

    def __call__(self) -> Steerer:
        """Raises: SteeringRefused, EngineClosed."""
        with self._lock:
            if self._steerer is None:
                pairs = contrasts(tuple(self._reaches))
                known = (directions.kept(folder / self._name, tuple(pairs)) for folder in (SHIPPED, self._folder))
                found = next(filter(None, known), None)
                if found is None:
                    found = directions.find(lambda: self._engine.model, pairs, run=self._engine.run)
                    directions.keep(found, self._folder / self._name)
                self._steerer = Steerer(directions=found, reaches=self._reaches)
            return self._steerer

    def measured(self) -> dict[str, Act]:
        """What forcing each variable was found to change: as shipped, or as it was found here since."""
        files = [(folder / self._name).with_suffix(".json") for folder in (SHIPPED, self._folder)]
        return {name: act for file in files for name, act in measured.kept(file).items()}

    def keep(self, acts: Mapping[str, Act]) -> None:
        """Keep what forcing variables was found to change."""
        measured.keep(acts, (self._folder / self._name).with_suffix(".json"))

    @cached_property
    def _name(self) -> str:
        return directions.name_of(self._weights(), contrasts(tuple(self._reaches)))
