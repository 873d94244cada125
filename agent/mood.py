"""Pure: a mood, and how it moves: by what happens, by feedback, and back to rest in silence.

A mood is the reservoir's state, the oscillators' phases and the variables' values. An event moves the state; the
readout says where the variables would be; they go there by small steps. Without events they return to where the
temperament rests. A reply hears of a variable by its level alone, five of them, held by hysteresis: what a level does
is what was measured (docs/persona.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache

import numpy as np
from numpy.typing import NDArray

from agent import readout
from agent.coherence import Bank, Zone, bank, beginning, order, swung, zone
from agent.errors import ReservoirRefused
from agent.readout import Readout
from agent.reservoir import Echo
from agent.senses import SENSES, Senses
from agent.temperament import VARIABLES, Temperament, resting

MOST_A_BEAT = 0.05
"""How far one event moves a variable."""
_HOMEWARD_SECONDS = 600.0
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_HOLDS = 0.05
"""How far beyond a border between two levels a value must be before the level changes."""
_REMEMBERED, _USUAL_OVER = 200, 20
"""Order parameters that a zone is told by, and replies over which the usual time to first token is taken."""
_MOVED_BY_FEEDBACK: Mapping[str, float] = {"pleasure": 1.0, "warmth": 0.5}
"""Which variables somebody's thumb speaks of, and how much."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """One owner's. `at` None: nothing has happened yet."""

    state: Array
    phases: Array
    values: Array
    levels: Array
    at: datetime | None = None
    orders: tuple[float, ...] = ()
    zone: Zone = "mixed"
    usual: float = 0.0
    """Seconds to a first token, as they are usually."""
    learnt: Array = field(default_factory=lambda: np.zeros((0, 0)))
    spread: Array | None = None
    updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """What became of a mood, and the moment as the readout saw it: feedback on it needs that."""

    mood: Mood
    moment: Array
    senses: Senses


class Feeling:
    """What a mood is moved by: a reservoir, a bank of oscillators, a temperament. Holds no mood."""

    def __init__(self, temperament: Temperament | None = None) -> None:
        """Some 2 s the first time, for the readout's prior.

        Raises:
            ReservoirRefused: the reservoir does not forget where it began.
        """
        self._echo, self._bank = _fixed()
        self._prior = readout.prior(self._echo)
        found = resting(temperament or Temperament())
        self.rest: Array = np.clip([found[name] for name in VARIABLES], -1.0, 1.0)

    @property
    def digest(self) -> str:
        """What a mood belongs to: another reservoir cannot go on with its state."""
        return self._echo.digest

    def begin(self) -> Mood:
        """At rest."""
        return Mood(
            state=self._echo.rest,
            phases=beginning(self._bank),
            values=self.rest,
            levels=_levels(self.rest, np.zeros(len(VARIABLES))),
            learnt=np.zeros((readout.MOMENT, len(VARIABLES))),
        )

    def feel(self, mood: Mood, senses: Senses, at: datetime, *, coherence: float | None = None) -> Felt:
        """An event. The clock may have been put back: then no time has passed.

        `coherence`: for experiments, what is felt of it instead of what the oscillators say.
        """
        seconds = _since(mood, at)
        mood = self.now(mood, at)
        phases = swung(self._bank, mood.phases, senses.vector(), min(seconds, 1e6))
        r, clusters = order(phases)
        senses = replace(senses, coherence=r if coherence is None else coherence, clusters=clusters)
        felt = senses.vector()
        state = self._echo.moved(mood.state, felt, seconds)
        seen = readout.moment(self._prior, state, felt)
        wanted = np.clip(self.rest + readout.read(self._readout(mood), seen), -1.0, 1.0)
        values = mood.values + np.clip(wanted - mood.values, -MOST_A_BEAT, MOST_A_BEAT)
        moved = replace(
            mood,
            state=state,
            phases=phases,
            values=values,
            levels=_levels(values, mood.levels),
            at=at,
            orders=(*mood.orders, r)[-_REMEMBERED:],
            zone=zone(r, mood.orders, mood.zone),
        )
        return Felt(mood=moved, moment=seen, senses=Senses(**dict(zip(SENSES, map(float, felt), strict=True))))

    def now(self, mood: Mood, at: datetime) -> Mood:
        """The mood as it is at a time, without an event: its variables are on their way to rest."""
        left = math.exp(-_since(mood, at) / _HOMEWARD_SECONDS)
        values = self.rest + left * (mood.values - self.rest)
        return replace(mood, values=values, levels=_levels(values, mood.levels), at=at if mood.at else None)

    def rated(self, mood: Mood, moment: Array, reward: float) -> Mood:
        """Feedback on an earlier moment: a direction for what feedback speaks of, not a value.

        Raises:
            ReservoirRefused: a moment as another readout saw it.
        """
        if moment.shape != (readout.MOMENT,):
            raise ReservoirRefused(f"a moment of {moment.shape} was not seen by this readout")
        known = self._readout(mood)
        there = readout.read(known, moment)
        wanted = np.full(len(VARIABLES), np.nan)
        for name, share in _MOVED_BY_FEEDBACK.items():
            n = VARIABLES.index(name)
            wanted[n] = there[n] + share * float(np.clip(reward, -1.0, 1.0))
        taught = readout.learn(known, moment, wanted)
        return replace(mood, learnt=taught.learnt, spread=taught.spread, updates=taught.updates)

    def _readout(self, mood: Mood) -> Readout:
        return Readout(mood.learnt, mood.spread, mood.updates)


def noticed(mood: Mood, seconds: float) -> Mood:
    """A reply's time to first token, for what is usual."""
    if not (math.isfinite(seconds) and seconds >= 0):
        return mood
    usual = seconds if mood.usual == 0 else mood.usual + (seconds - mood.usual) / _USUAL_OVER
    return replace(mood, usual=usual)


def named(values: Array) -> dict[str, float]:
    """Values by variable."""
    return {name: float(value) for name, value in zip(VARIABLES, values, strict=True)}


def level(value: float, before: float) -> float:
    """The level of a value; the one before holds until the value is clearly beyond its border."""
    if abs(value - before) <= 0.25 + _HOLDS:
        return before
    return min(LEVELS, key=lambda one: (abs(one - value), abs(one)))


def _levels(values: Array, before: Array) -> Array:
    return np.array([level(float(v), float(b)) for v, b in zip(values, before, strict=True)])


@cache
def _fixed() -> tuple[Echo, Bank]:
    return Echo(len(SENSES)), bank(len(SENSES))


def _since(mood: Mood, at: datetime) -> float:
    return 0.0 if mood.at is None else max(0.0, (at - mood.at).total_seconds())
