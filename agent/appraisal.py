"""Pure: what a mood should make of a history, by rules of appraisal theory; the readout's prior is fitted on these.

Scherer's checks in small (novelty, pleasantness, control), with what dampens and what heightens: the same thing again
surprises less (habituation), blame weighs more after blame (sensitisation), and praise is believed more in a good mood
(mood congruence). Histories are drawn at random; nobody's talk is in them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.senses import Senses
from agent.temperament import VARIABLES

_PAUSE, _LONG_PAUSE, _LONG_SHARE = 45.0, 900.0, 0.03
_CLIMATES = (0.0, 0.55, -0.5, 0.1)
"""Mean reward of an indifferent, a kind, a hostile and a busy stretch."""


def histories(events: int, *, seed: int) -> tuple[list[Senses], NDArray[np.float64]]:
    """Events as they might come, and the seconds before each."""
    chance = np.random.default_rng(seed)
    made: list[Senses] = []
    climate, hour = 0, float(chance.uniform(0, 24))
    seconds = chance.exponential(_PAUSE, events) + 3.0
    seconds[chance.random(events) < _LONG_SHARE] += chance.exponential(_LONG_PAUSE)
    for n in range(events):
        climate = int(chance.integers(len(_CLIMATES))) if chance.random() < 0.1 else climate
        hour = (hour + seconds[n] / 3600) % 24
        likely = float(np.clip(chance.normal(_CLIMATES[climate], 0.3), -1, 1))
        hostile, busy = climate == 2, climate == 3
        dull = climate == 0 and chance.random() < 0.7
        made.append(
            Senses(
                surprise=0.0 if dull else float(chance.beta(1.5, 4)),
                novelty=0.0 if dull else float(chance.beta(1.5, 4)),
                arousal=0.0 if dull else float(chance.beta(1.5, 3 if busy or hostile else 6)),
                reward=likely if chance.random() < 0.6 and not dull else 0.0,
                conflict=0.0 if dull else float(chance.beta(1.5, 4) if hostile else chance.beta(1, 12)),
                sentiment=0.0 if dull else float(np.clip(0.6 * likely + chance.normal(0, 0.3), -1, 1)),
                tension=float(chance.beta(2, 4) if busy else 0.0 if dull else chance.beta(1, 12)),
                pressure=0.0 if chance.random() < 0.7 else float(chance.beta(1, 5)),
                load=float(chance.beta(4, 3) if busy else 0.0 if dull else chance.beta(1, 5)),
                daylight=-float(np.cos(2 * np.pi * hour / 24)),
                evening=-float(np.sin(2 * np.pi * hour / 24)),
                coherence=float(chance.uniform(0, 1)),
                clusters=float(chance.beta(2, 5)),
            )
        )
    return made, seconds


def appraised(events: list[Senses], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each variable is from rest after each event, within [-1, 1]; [events, variables]."""
    found = np.zeros((len(events), len(VARIABLES)))
    mood = warm = control = known = hurt = tired = stirred = gathered = 0.0
    for n, (event, pause) in enumerate(zip(events, seconds, strict=True)):
        minutes2, minutes10 = float(np.exp(-pause / 120)), float(np.exp(-pause / 600))
        mood, stirred, hurt = mood * minutes2, stirred * minutes2, hurt * minutes2
        warm, control, known, gathered = warm * minutes10, control * minutes10, known * minutes10, gathered * minutes10
        tired = max(0.0, tired * minutes10)
        news = (event.novelty + event.surprise) / 2 * (1.0 - known)
        felt = 0.7 * event.reward + 0.3 * event.sentiment
        felt *= 1.0 + (0.5 * mood if felt > 0 else hurt)
        bad = 0.5 * event.conflict + 0.5 * event.pressure
        mood = _within(mood + 0.4 * felt - 0.3 * bad)
        stirred = _within(stirred + 0.5 * max(news, event.arousal, event.tension) + 0.2 * abs(felt) - 0.1)
        control = _within(control + 0.2 * felt - 0.4 * bad - 0.1 * event.tension)
        warm = _within(warm + 0.25 * (event.sentiment + event.reward) / 2 - 0.15 * event.conflict)
        known, hurt = min(1.0, known + 0.2 * event.novelty), min(1.0, hurt + 0.4 * max(0.0, -felt))
        tired = min(1.0, tired + 0.03 + 0.06 * event.load + 0.03 * event.arousal)
        gathered = _within(gathered + 0.3 * (event.coherence - 0.5) - 0.2 * event.tension - 0.1 * event.novelty)
        weary = _within(tired + 0.15 * max(0.0, -event.daylight))
        found[n] = (mood, stirred, control, _within(1.6 * news - 0.4 * weary), warm, weary, gathered - 0.5 * tired)
    return np.clip(found, -1.0, 1.0)


def _within(value: float) -> float:
    return min(1.0, max(-1.0, value))
