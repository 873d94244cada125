"""Pure: the pace of the heart. The arena's hard limits, what the machine can bear, and the agent's wish within both.

Three layers, each of which may only slow down what the one below asks for:

1. the arena: least and greatest interval, a token bucket, processor seconds an hour, the switch that stops it. It is
   made from the operator's settings, frozen, and nothing that the agent can say reaches it;
2. what the machine can bear: additive increase, multiplicative decrease of the rate (Chiu and Jain 1989) on the worst
   of the gauges, looked at once a second, with a dead band in between;
3. the wish: a factor from mood, waiting salience and the agent's own choice.

The longer of 2 and 3 wins, then 1 clamps. More load never makes a beat come sooner: `look` is monotone in the load and
in the rate before it, and it is called at fixed times, not at beats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from agent.vitals import Vitals

Decider = Literal["arena", "machine", "wish"]

HIGH, LOW = 0.80, 0.65
"""The rate is cut above, and may rise below; between them it holds."""
CUT, RISE = 0.5, 0.01
"""What the rate is multiplied by, and the Hz it rises by, at each look."""
EWMA_SECONDS = 10.0
"""Time constant of the smoothed load. A peak counts at once, ease only once it has lasted."""
MEMORY_FULL = 0.9
"""Share of the memory at which it stops, whatever the rest says."""
MEMORY_STALLED = 0.1
"""Share of the time in which everything waits for memory, at which it stops too."""
LAG_BORNE, LINE_BORNE = 0.25, 8
"""Event-loop lag in seconds, and requests in line, that count as a full load."""
WISHES = (0.5, 2.0)
"""Bounds of what a wish multiplies the resting interval by."""
NOTHING = "nothing"
"""The fullest gauge of a machine that has none, or has not been looked at."""
_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena:
    """What no wish exceeds. Seconds, unless it says otherwise."""

    least: float = 2.0
    greatest: float = 300.0
    resting: float = 30.0
    """The interval of an agent that wishes for nothing, on a machine with nothing else to do."""
    burst: float = 10.0
    """Beats that may come faster than `beats_an_hour` allows, once saved up."""
    beats_an_hour: float = 600.0
    cpu_seconds_an_hour: float = 360.0
    """Of processor time spent by beats; a tenth of one core."""
    stopped: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.resting <= self.greatest < math.inf:
            raise ValueError("0 < least <= resting <= greatest is needed of the intervals")
        if not (self.burst >= 1 and self.beats_an_hour > 0 and self.cpu_seconds_an_hour > 0):
            raise ValueError("a burst of one at least, and beats and processor seconds above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the heart remembers between looks."""

    rate: float
    """Hz that the machine bears."""
    load: float = 0.0
    """Smoothed."""
    own: float = 0.0
    """Share of the processors that this process uses, smoothed."""
    looked_at: float | None = None
    beat_at: float
    """When it last beat."""
    saved: float
    """Beats in the bucket."""
    spent: tuple[tuple[float, float], ...] = ()
    """When beats ended, and the processor seconds that they took; of the last hour."""
    worst: str = NOTHING
    """The gauge that is fullest."""
    halted: bool = False
    """There is no memory left for anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """When the next beat comes, and why then."""

    at: float
    interval: float
    """Since the last."""
    decided_by: Decider
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the agent would like, and who in it."""

    factor: float = 1.0
    why: str = "at rest"
    jitter: float = 1.0
    """Drawn for each beat, so that hearts on one machine do not beat together."""


def begin(arena: Arena, now: float) -> Pace:
    """A heart that has just been started: it rests first."""
    return Pace(rate=1.0 / arena.resting, beat_at=now, saved=1.0)


GAUGES = (
    "processor",
    "waiting for a processor",
    "memory",
    "waiting for memory",
    "waiting for the disk",
    "GPU",
    "GPU memory",
    "event loop",
    "line",
)
"""All that `gauges` may tell."""


def gauges(vitals: Vitals, own: float | None = None) -> dict[str, float]:
    """Each as a share of what is borne, 1 being full; those that the machine has.

    `own`: what this process uses on average, to stand in for what it uses at the moment. A beat that took its own work
    for the machine's would be halved by every beat.
    """
    processor = vitals.cpu
    if vitals.cpu is not None and vitals.own_cpu is not None and own is not None:
        processor = max(0.0, vitals.cpu - vitals.own_cpu) + own
    read = (
        processor,
        vitals.stalled,
        None if vitals.memory is None else vitals.memory / MEMORY_FULL * HIGH,
        None if vitals.memory_stalled is None else vitals.memory_stalled / MEMORY_STALLED * HIGH,
        vitals.io_stalled,
        vitals.gpu,
        None if vitals.gpu_memory is None else vitals.gpu_memory / MEMORY_FULL * HIGH,
        vitals.lag / LAG_BORNE,
        vitals.waiting / LINE_BORNE,
    )
    found = zip(GAUGES, read, strict=True)
    return {name: value for name, value in found if value is not None and math.isfinite(value)}


def look(pace: Pace, vitals: Vitals, arena: Arena) -> Pace:
    """One look at the machine; to be called at fixed times."""
    gone = 0.0 if pace.looked_at is None else max(0.0, vitals.at - pace.looked_at)
    new = -math.expm1(-gone / EWMA_SECONDS)
    own = pace.own + ((vitals.own_cpu or 0.0) - pace.own) * new
    found = gauges(vitals, own)
    worst = max(found, key=lambda name: found[name], default=NOTHING)
    now = found.get(worst, 0.0)
    smooth = pace.load + (now - pace.load) * new
    felt = max(now, smooth)
    rate = pace.rate * CUT if felt > HIGH else pace.rate + RISE if felt < LOW else pace.rate
    return replace(
        pace,
        rate=min(1.0 / arena.least, max(1.0 / arena.greatest, rate)),
        load=smooth,
        own=own,
        looked_at=vitals.at,
        saved=min(arena.burst, pace.saved + gone * arena.beats_an_hour / _HOUR),
        spent=tuple((at, seconds) for at, seconds in pace.spent if vitals.at - at < _HOUR),
        worst=worst,
        halted=(vitals.memory or 0.0) > MEMORY_FULL or (vitals.memory_stalled or 0.0) > MEMORY_STALLED,
    )


def due(pace: Pace, wish: Wish, arena: Arena) -> Due:
    """When the next beat comes as things are."""
    borne = 1.0 / pace.rate
    wished = arena.resting * min(WISHES[1], max(WISHES[0], wish.factor)) * wish.jitter
    choices: list[tuple[float, Decider, str]] = [
        (wished, "wish", f"{wish.why}: every {wished:.0f} s"),
        (borne, "machine", f"{pace.worst} at {pace.load:.0%}: no faster than every {borne:.0f} s"),
    ]
    interval, by, reason = max(choices, key=lambda choice: choice[0])
    if interval > arena.greatest:
        interval, by, reason = arena.greatest, "arena", f"never less often than every {arena.greatest:.0f} s"
    for floor, why in _floors(pace, arena):
        if interval < floor:
            interval, by, reason = floor, "arena", why
    return Due(at=pace.beat_at + interval, interval=interval, decided_by=by, reason=reason)


def beaten(pace: Pace, *, at: float) -> Pace:
    """As a beat begins."""
    return replace(pace, beat_at=at, saved=max(0.0, pace.saved - 1.0))


def spent(pace: Pace, *, at: float, cpu_seconds: float) -> Pace:
    """After a beat that cost so much."""
    if not (math.isfinite(cpu_seconds) and cpu_seconds > 0):
        return pace
    return replace(pace, spent=(*pace.spent, (at, cpu_seconds)))


def _floors(pace: Pace, arena: Arena) -> list[tuple[float, str]]:
    found = [(arena.least, f"never more often than every {arena.least:.0f} s")]
    if pace.saved < 1.0:
        wait = (1.0 - pace.saved) * _HOUR / arena.beats_an_hour
        since = 0.0 if pace.looked_at is None else max(0.0, pace.looked_at - pace.beat_at)
        found.append((since + wait, f"{arena.beats_an_hour:.0f} beats an hour are spent"))
    found.append(
        (_until_affordable(pace, arena), f"{arena.cpu_seconds_an_hour:.0f} processor seconds an hour are spent")
    )
    if pace.halted:
        found.append((math.inf, "no memory is left for it"))
    if arena.stopped:
        found.append((math.inf, "it is switched off"))
    return found


def _until_affordable(pace: Pace, arena: Arena) -> float:
    """Seconds after the last beat at which the last hour's beats have cost less than the hour may."""
    total = sum(seconds for _, seconds in pace.spent)
    for at, seconds in pace.spent:
        if total < arena.cpu_seconds_an_hour:
            break
        total -= seconds
        if total < arena.cpu_seconds_an_hour:
            return at + _HOUR - pace.beat_at
    return 0.0
