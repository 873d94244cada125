"""Pure: from a reservoir's state to the variables, and what feedback teaches that. Linear, by recursive least squares.

First a prior, fitted by ridge regression on appraised histories (appraisal.py), appraises the reservoir's state. Then
feedback: each word of it moves weights on the appraisal and the senses by one step of RLS (Haykin 2002, ch. 10, lambda
1; Sussillo & Abbott 2009 start it as P = I / alpha). Feedback is scarce: on 21 numbers a few dozen words of it teach
what takes hundreds on all 314 (docs/persona.md). The steps and their sum are bounded, so that none, however hostile,
drives a variable out of range.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agent.appraisal import appraised, histories
from agent.reservoir import Echo
from agent.senses import SENSES
from agent.temperament import VARIABLES

_EVENTS, _WASHED_OUT, _RIDGE, _SEED = 2000, 50, 0.1, 20261123
ALPHA = 1.0
_LEAST_NEWS = 1e-6
"""Of h'Ph: below it an update says nothing, and P would only lose its symmetry."""
MOST_A_STEP, MOST_IN_ALL = 0.1, 0.5
"""How far one word of feedback may move a variable at the state it was given in, and all of it at any."""


@dataclass(frozen=True, slots=True)
class Readout:
    """Weights and what RLS knows of their certainty."""

    learnt: NDArray[np.float64]
    """What feedback added; [moment, variables]."""
    spread: NDArray[np.float64] | None = None
    """P, [moment, moment]; None: I / alpha, nothing was learnt yet."""
    updates: int = 0


MOMENT = len(VARIABLES) + len(SENSES) + 1
"""Numbers that feedback on a moment needs."""


def features(state: NDArray[np.float64], senses: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the prior reads: the state, the senses, and a constant; [units + senses + 1]."""
    return np.concatenate([state, senses, [1.0]])


def moment(prior: NDArray[np.float64], state: NDArray[np.float64], senses: NDArray[np.float64]) -> NDArray[np.float64]:
    """What feedback is learnt on: the variables as the prior reads them, the senses, and a constant; [moment]."""
    appraised = np.clip(features(state, senses) @ prior, -1.0, 1.0)
    return np.concatenate([appraised, senses, [1.0]])


def read(readout: Readout, seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each variable is from rest at a moment; [variables], within [-1, 1]."""
    learnt = np.clip(seen @ readout.learnt, -MOST_IN_ALL, MOST_IN_ALL)
    return np.clip(seen[: len(VARIABLES)] + learnt, -1.0, 1.0)


def learn(readout: Readout, seen: NDArray[np.float64], wanted: NDArray[np.float64]) -> Readout:
    """One word of feedback: at that moment each variable should have been there; nan: nothing was said of it."""
    spread = np.eye(len(seen)) / ALPHA if readout.spread is None else readout.spread
    gained = spread @ seen
    news = float(seen @ gained)
    if not np.isfinite(news) or news < _LEAST_NEWS:
        return readout
    missed = np.nan_to_num(np.clip(wanted, -1.0, 1.0) - read(readout, seen), nan=0.0)
    # the change at that moment is missed * news / (1 + news): what would be more than a step is made one
    change = np.clip(missed * news / (1.0 + news), -MOST_A_STEP, MOST_A_STEP)
    learnt = readout.learnt + np.outer(gained / news, change)
    spread = spread - np.outer(gained, gained) / (1.0 + news)
    return Readout(learnt, (spread + spread.T) / 2, readout.updates + 1)


@lru_cache(maxsize=4)
def prior(echo: Echo) -> NDArray[np.float64]:
    """Weights that read the variables off a reservoir as the rules would have them; [features, variables].

    Some 2 s the first time.
    """
    events, seconds = histories(_EVENTS, seed=_SEED)
    rows, state = [], echo.rest
    for event, pause in zip(events, seconds, strict=True):
        senses = event.vector()
        state = echo.moved(state, senses, float(pause))
        rows.append(features(state, senses))
    seen, wanted = np.array(rows)[_WASHED_OUT:], appraised(events, seconds)[_WASHED_OUT:]
    at_rest = features(echo.rest, np.zeros(len(SENSES)))
    # silence reads as no departure from rest: one row in eleven says so
    seen = np.vstack([seen, np.tile(at_rest, (len(seen) // 10, 1))])
    wanted = np.vstack([wanted, np.zeros((len(seen) - len(wanted), len(VARIABLES)))])
    found = np.linalg.solve(seen.T @ seen + _RIDGE * np.eye(seen.shape[1]), seen.T @ wanted)
    return np.asarray(found, dtype=np.float64)
