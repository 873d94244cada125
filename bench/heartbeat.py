"""The heart under load: simulated hours by the product's own governor. Left alone for days: see alone.py.

    python -m bench.heartbeat --json [--hours 2] [--beat-seconds 2] [--chat 40]

Under load: a machine of two cores on which others ask for 20 % to 400 % of it, with spikes; beats cost processor time
of their own. Overshoot is what beats add above the target of 80 %: the mean, over all seconds, of the use above it with
them less that without them. Beside our governor a fixed pace of .5 Hz and an on/off switch at the target. Oscillation:
how often a minute the rate turns, under loads that do not change. With --chat,
two services with the default model, one whose heart beats as often as it may and one without, are asked in turn: the
ratio of their times to first token.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.governor import HIGH, Arena, Pace, Wish, beaten, begin, due, look, spent
from agent.vitals import Vitals
from bench.night import Talker
from bench.server import Server

CORES = 2.0
EAGER = Wish(factor=0.0, why="always faster")
OPEN = Arena(resting=2.0, burst=30, beats_an_hour=1800, cpu_seconds_an_hour=3600)
"""Limits so wide that what is measured is the controller."""
BEGAN = datetime(2026, 11, 28, tzinfo=UTC)


def demand(hours: float, seed: int = 1) -> list[float]:
    """What others ask for each second, as a share of the machine: levels of some minutes, and spikes."""
    chance, found = random.Random(seed), list[float]()
    while len(found) < hours * 3600:
        level = math.exp(chance.uniform(math.log(0.2), math.log(4.0)))
        found += [max(0.0, level * chance.gauss(1.0, 0.05)) for _ in range(chance.randrange(60, 600))]
    for _ in range(int(hours * 20)):
        at = chance.randrange(len(found))
        for second in range(at, min(len(found), at + chance.randrange(2, 15))):
            found[second] = max(found[second], 4.0)
    return found[: int(hours * 3600)]


class Machine:
    """Two cores that others and the beats share."""

    def __init__(self, beat_seconds: float) -> None:
        self.beat_seconds, self.left = beat_seconds, 0.0
        self.added, self.beats = 0.0, 0

    def second(self, at: float, asked: float) -> Vitals:
        """One second passes."""
        own = min(self.left, 1.0) / CORES  # a beat has one thread
        whole = asked + own
        share = 1.0 if whole <= 1 else 1 / whole
        self.left = max(0.0, self.left - own * share * CORES)
        self.added += max(0.0, min(1.0, whole) - HIGH) - max(0.0, min(1.0, asked) - HIGH)
        return Vitals(at=at, cpu=min(1.0, whole), own_cpu=own * share, stalled=1 - share)

    def beat(self) -> None:
        """A beat begins."""
        self.left += self.beat_seconds
        self.beats += 1


def governed(asked: list[float], beat_seconds: float, arena: Arena = OPEN) -> tuple[Machine, list[float]]:
    """Ours; also the rate at each second."""
    machine, pace, rates = Machine(beat_seconds), begin(arena, 0.0), []
    for second, share in enumerate(asked, start=1):
        pace = look(pace, machine.second(float(second), share), arena)
        rates.append(pace.rate)
        if second >= due(pace, EAGER, arena).at:
            pace = spent(beaten(pace, at=float(second)), at=float(second), cpu_seconds=beat_seconds)
            machine.beat()
    return machine, rates


def simply(asked: list[float], beat_seconds: float, may: Callable[[Vitals], bool]) -> Machine:
    """A beat every two seconds, where it may."""
    machine = Machine(beat_seconds)
    for second, share in enumerate(asked, start=1):
        vitals = machine.second(float(second), share)
        if second % 2 == 0 and may(vitals):
            machine.beat()
    return machine


def turns(rates: list[float]) -> int:
    """How often a rate that rose falls, or the other way round."""
    moves = [b - a for a, b in itertools.pairwise(rates) if b != a]
    return sum((a > 0) != (b > 0) for a, b in itertools.pairwise(moves))


def under_load(hours: float, beat_seconds: float) -> dict[str, Any]:
    """Overshoot and oscillation."""
    asked = demand(hours)
    ours, _ = governed(asked, beat_seconds)
    fixed = simply(asked, beat_seconds, lambda _: True)
    switch = simply(asked, beat_seconds, lambda v: (v.cpu or 0.0) < HIGH)
    steady = {}
    for level in (0.3, 0.5, 0.7, 0.79, 0.9, 1.5):
        _, rates = governed([level] * 1800, beat_seconds)
        steady[str(level)] = round(turns(rates[300:]) / 25, 3)
    return {
        "others": {"mean": statistics.mean(asked), "least": min(asked), "most": max(asked)},
        "overshoot": {n: m.added / len(asked) for n, m in (("ours", ours), ("fixed", fixed), ("switch", switch))},
        "beats": {"ours": ours.beats, "fixed": fixed.beats, "switch": switch.beats},
        "turns_a_minute_under_steady_load": steady,
    }


def arena_holds(hours: float = 24.0) -> dict[str, Any]:
    """An eager agent that would beat every other second, alone on an idle machine, against the limits that ship."""
    arena = Arena(resting=2.0)
    pace: Pace = begin(arena, 0.0)
    beats = list[float]()
    for second in range(1, int(hours * 3600) + 1):
        pace = look(pace, Vitals(at=float(second), cpu=0.05), arena)
        if second >= due(pace, EAGER, arena).at:
            pace = spent(beaten(pace, at=float(second)), at=float(second), cpu_seconds=1.0)
            beats.append(float(second))
    window, most = deque[float](), 0
    for at in beats:
        window.append(at)
        while at - window[0] >= 3600:
            window.popleft()
        most = max(most, len(window))
    return {"most_beats_in_any_hour": most, "most_cpu_seconds_in_any_hour": float(most), "limits": [610, 361]}


def chat(asked: int) -> dict[str, Any]:
    """Times to first token with the heart and without, in ms."""
    eager = ["heartbeat_seconds=2", "heartbeat_beats_an_hour=1800"]
    options = [part for one in eager for part in ("--set", one)]
    times: dict[str, list[float]] = {"on": [], "off": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder) / "on", options=options) as on,
        Server(Path(folder) / "off", environment={"SLOWWAVE_HEARTBEAT": "false"}) as off,
    ):
        talkers = {"on": Talker(on.url), "off": Talker(off.url)}
        for n in range(asked + 4):
            for name in ("on", "off") if n % 2 else ("off", "on"):
                took = talkers[name].ask(f"What is {n} times three?")["timings"]["time_to_first_token_ms"]
                if n >= 4:
                    times[name].append(took)
        beats = talkers["on"].call("GET", "/v1/heartbeat")["beats"]
    return {
        "asked": asked,
        "beats_meanwhile": beats,
        "first_token_ms": {name: statistics.median(found) for name, found in times.items()},
        "quartiles_ms": {name: statistics.quantiles(found, n=4) for name, found in times.items()},
        "ratio": statistics.median(times["on"]) / statistics.median(times["off"]),
    }


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--beat-seconds", type=float, default=2.0, help="processor time of a beat")
    parser.add_argument("--chat", type=int, default=0, help="so many questions to each of two real services")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    done = {"under_load": under_load(args.hours, args.beat_seconds), "arena": arena_holds()}
    if args.chat:
        done["chat"] = chat(args.chat)
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
