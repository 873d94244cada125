"""The reservoir against three leaky integrators, what feedback teaches each, and what a beat costs.

    python -m bench.mood --json [--seeds 1 2 3] [--hostile 1000000]

Seven constructs whose value depends on the order of what happened (habituation, sensitisation, relief, congruence,
streak, contrast, fatigue), none of which fitted the readout's prior, are read off each by ridge regression on 3,000
events and judged on 1,000 others: root mean square error over the construct's own deviation (1: no better than its
mean). `online`: wishes that are the mood's own targets mixed anew, by recursive least squares from noisy feedback
(.15): on all features from nothing, on all features from the prior, and on what the prior makes of them, as the
product does. The integrators are given everything that the reservoir is (senses, time, a constant) at 20, 120, 600 s.
`hostile`: random and broken inputs in a row. `beat`: one event, felt, read, and its levels set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.appraisal import appraised, histories
from agent.mood import Feeling
from agent.readout import ALPHA, features, moment
from agent.reservoir import FELT_SECONDS, Echo
from agent.senses import SENSES, Senses
from agent.temperament import VARIABLES

Array = NDArray[np.float64]
Read = Callable[[Sequence[Senses], Array], Array]
"""From events and the seconds before each to features; [events, features]."""
CONSTRUCTS = ("habituation", "sensitisation", "relief", "congruence", "streak", "contrast", "fatigue")
_TRAIN, _TEST, _ONLINE = 3000, 1000, 600
_MARKS = (0, 5, 20, 50, 150, 500)
_NOISE, _TAUS, _RIDGES = 0.15, (20.0, 120.0, 600.0), (1e-3, 1e-2, 0.1, 1.0, 10.0)


def constructs(events: Sequence[Senses], seconds: Array) -> Array:
    """What depends on the order of events; [events, constructs]."""
    found = np.zeros((len(events), len(CONSTRUCTS)))
    known = hurt = tense = mood = run = last = weary = 0.0
    for n, (event, pause) in enumerate(zip(events, seconds, strict=True)):
        short, long = float(np.exp(-pause / 120)), float(np.exp(-pause / 600))
        known, weary, hurt, tense, mood = known * long, weary * long, hurt * short, tense * short, mood * short
        reward = event.reward
        found[n, 0] = event.novelty * (1 - known)
        found[n, 1] = reward * (1 + hurt) if reward < 0 else reward * (1 - 0.5 * hurt)
        found[n, 2] = max(0.0, reward) * tense
        known, hurt = min(1.0, known + 0.25 * event.novelty), min(1.0, hurt + 0.4 * max(0.0, -reward))
        tense = min(1.0, tense + 0.5 * event.conflict + 0.3 * max(0.0, -reward))
        mood = float(np.clip(mood + 0.4 * reward * (1 + mood), -1, 1))
        run = run + 1 if np.sign(reward) == np.sign(last) else 0.0
        last, weary = reward, min(1.0, weary + 0.05 + 0.1 * event.arousal)
        found[n, 3:] = mood, np.tanh(run / 3) * np.sign(reward), reward - mood, weary
    return found


def of_reservoir(events: Sequence[Senses], seconds: Array) -> Array:
    """What the product's readout sees."""
    echo = Echo(len(SENSES))
    state, rows = echo.rest, []
    for event, pause in zip(events, seconds, strict=True):
        state = echo.moved(state, event.vector(), float(pause))
        rows.append(features(state, event.vector()))
    return np.array(rows)


def of_integrators(events: Sequence[Senses], seconds: Array) -> Array:
    """Three leaky integrators of each sense."""
    states, rows = [np.zeros(len(SENSES)) for _ in _TAUS], []
    for event, pause in zip(events, seconds, strict=True):
        felt = event.vector()
        for n, tau in enumerate(_TAUS):
            leak = 1 - np.exp(-FELT_SECONDS / tau)
            silent = states[n] * np.exp(-max(0.0, pause - FELT_SECONDS) / tau)
            states[n] = (1 - leak) * silent + leak * felt
        rows.append(features(np.concatenate(states), felt))
    return np.array(rows)


PEERS: Mapping[str, Read] = {"reservoir": of_reservoir, "integrators": of_integrators}


def compared(read: Read, seed: int) -> dict[str, Any]:
    """One peer, one seed."""
    train, test, taught = (histories(n, seed=seed * 10 + k) for k, n in enumerate((_TRAIN, _TEST, _ONLINE)))
    seen, judged, online = (read(*history) for history in (train, test, taught))
    fits = {ridge: _ridge(seen[: _TRAIN // 2], constructs(*train)[: _TRAIN // 2], ridge) for ridge in _RIDGES}
    halves = {r: _error(seen[_TRAIN // 2 :] @ w, constructs(*train)[_TRAIN // 2 :]).mean() for r, w in fits.items()}
    weights = _ridge(seen, constructs(*train), min(halves, key=lambda r: float(halves[r])))
    offline = _error(judged @ weights, constructs(*test))
    prior = _ridge(seen, appraised(*train), 0.1)
    chance = np.random.default_rng(seed)
    # a user whose wishes are not the rules': the rules' variables mixed anew
    mixing = np.eye(len(VARIABLES)) + chance.normal(0, 0.3, (len(VARIABLES), len(VARIABLES)))
    wished, wanted = appraised(*taught) @ mixing, appraised(*test) @ mixing
    heard = wished + chance.normal(0, _NOISE, wished.shape)
    moments, asked = _moments(prior, online), _moments(prior, judged)
    as_appraised = np.eye(moments.shape[1], len(VARIABLES))
    return {
        **{name: float(e) for name, e in zip(CONSTRUCTS, offline, strict=True)},
        "mean": float(offline.mean()),
        "online, from nothing": _online(online, heard, np.zeros_like(prior), judged, wanted),
        "online, from the prior": _online(online, heard, prior, judged, wanted),
        "online, on the moment": _online(moments, heard, as_appraised, asked, wanted),
    }


def _moments(prior: Array, seen: Array) -> Array:
    """agent/readout.py's `moment` of each event."""
    n = len(SENSES)
    return np.array([moment(prior, row[: -n - 1], row[-n - 1 : -1]) for row in seen])


def _online(seen: Array, heard: Array, weights: Array, judged: Array, wanted: Array) -> dict[str, float]:
    weights, spread, found = weights.copy(), np.eye(seen.shape[1]) / ALPHA, {}
    for n in range(max(_MARKS) + 1):
        if n in _MARKS:
            found[str(n)] = float(_error(judged @ weights, wanted).mean())
        gained = spread @ seen[n] / (1 + seen[n] @ spread @ seen[n])
        weights += np.outer(gained, heard[n] - seen[n] @ weights)
        spread -= np.outer(gained, spread @ seen[n])
    return found


def _ridge(seen: Array, wanted: Array, ridge: float) -> Array:
    return np.asarray(np.linalg.solve(seen.T @ seen + ridge * np.eye(seen.shape[1]), seen.T @ wanted))


def _error(found: Array, wanted: Array) -> Array:
    return np.asarray(np.sqrt(((found - wanted) ** 2).mean(0) / wanted.var(0)))


def hostile(inputs: int, seed: int) -> dict[str, Any]:
    """Random and broken inputs in a row; `bad`: moods that were not finite or out of range."""
    chance, feeling = np.random.default_rng(seed), Feeling()
    mood, at, bad = feeling.begin(), datetime(2026, 1, 1, tzinfo=UTC), 0
    broken = np.array([np.nan, np.inf, -np.inf, 1e308, -1e308, 1.0, -1.0, 0.0])
    for n in range(inputs):
        numbers = chance.normal(0, 2, len(SENSES))
        numbers[chance.random(len(SENSES)) < 0.2] = chance.choice(broken)
        at += timedelta(seconds=float(chance.choice([-3600.0, 0.0, 0.1, 30.0, 60.0, 86400.0])))
        felt = feeling.feel(mood, Senses(**dict(zip(SENSES, map(float, numbers), strict=True))), at)
        mood = felt.mood
        if n % 7 == 0:
            mood = feeling.rated(mood, felt.moment, float(chance.choice(broken)))
        good = all(np.isfinite(a).all() for a in (mood.state, mood.values, mood.phases, mood.learnt))
        bad += not (good and np.abs(mood.values).max() <= 1 and np.abs(mood.state).max() <= 1)
        if n % 5000 == 0:
            sys.stderr.write(f"\r{n} of {inputs} inputs, {bad} bad   ")
    return {"inputs": inputs, "bad": bad, "largest": float(np.abs(mood.values).max())}


def beat() -> dict[str, float]:
    """Milliseconds of one event, 45 s after the last: felt by the reservoir, read, and levels set."""
    feeling = Feeling()
    mood, at, costs = feeling.begin(), datetime(2026, 1, 1, tzinfo=UTC), []
    for event in histories(1000, seed=3)[0]:
        at += timedelta(seconds=45)
        began = time.perf_counter()
        mood = feeling.feel(mood, event, at).mood
        costs.append((time.perf_counter() - began) * 1000)
    low, middle, high = (float(np.percentile(costs, p)) for p in (5, 50, 95))
    return {"median": middle, "5 %": low, "95 %": high}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--hostile", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    done: dict[str, Any] = {"beat": beat()}
    for name, read in PEERS.items():
        runs = [compared(read, seed) for seed in args.seeds]
        plain = {k: round(statistics.mean(r[k] for r in runs), 3) for k in (*CONSTRUCTS, "mean")}
        learnt = {
            how: {m: round(statistics.mean(r[how][m] for r in runs), 3) for m in map(str, _MARKS)}
            for how in ("online, from nothing", "online, from the prior", "online, on the moment")
        }
        done[name] = {**plain, **learnt, "means": [round(r["mean"], 3) for r in runs]}
    done["hostile"] = hostile(args.hostile, seed=1)
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["hostile"]["bad"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
