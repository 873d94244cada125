"""The heart: looks at the body once a second, beats when a beat is due, and says of every beat why it came then.

A beat is what the agent does of its own accord: chores, each an act that conduct.py judges first. They are done by a
hand of their own, one at a time, so that a long one holds up no look, only the next beat. What
answers somebody never passes here, and goes first: while a reply is being written, only chores that cost nothing are
begun.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Literal

from agent import conduct, governor
from agent.breath import SHARES, Part, budget
from agent.conduct import CONSTRAINTS, Act, Constraint, Deeds, Metric
from agent.governor import Arena, Decider, Pace, Wish
from agent.vitals import Vitals

log = logging.getLogger("slowwave.heartbeat")

LOOK_SECONDS = 1.0
FROZEN_SECONDS = 3 * LOOK_SECONDS
"""Without a look for so long a heart counts as frozen: sooner than two beats of the fastest arena."""
STUCK_SECONDS = 900.0
"""So long may the chores of one beat take."""
_JITTER = 0.15
"""Deviation of the logarithm of what each interval is multiplied by."""
_LOGGED = 1000
_LONGEST_WAIT = 300.0
"""Seconds between two restarts of a heart that hangs time and again."""
"""Beats remembered."""

Status = Literal["waiting", "beating", "stopped", "overdue"]
"""waiting: for the model, before the first look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """Something that the agent does at a beat, by itself."""

    name: str
    act: Act
    part: Part = "pause"
    """Of the breath in which it has its turn: to look, to decide, to do, or to put away."""
    every: float
    """Seconds between two of it, at the least."""
    do: Callable[[], str | None]
    """Does it, and says what came of it; None: there was nothing to do."""
    heavy: bool = False
    """It costs enough to wait until nobody is being answered."""
    metrics: Callable[[], Mapping[Metric, float]] = dict
    """What its constraints ask for, beyond what the heart counts itself: as it would be after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a chore at a beat."""

    name: str
    outcome: Literal["done", "nothing to do", "refused", "failed", "waiting"]
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One beat, for the log."""

    n: int
    at: datetime
    interval: float
    """Seconds since the one before."""
    decided_by: Decider
    reason: str
    load: float
    worst: str
    did: tuple[Done, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """How the heart is, for whoever asks."""

    status: Status
    vitals: Vitals | None
    gauges: Mapping[str, float]
    """Each as a share of what is borne."""
    pace: Pace
    due: governor.Due
    beats: int
    late: int
    """Beats that came more than a fifth later than decided."""
    restarts: int
    last: Beat | None


def at_once(work: Callable[[], None]) -> None:
    """A hand that works while the heart waits: for tests and simulations."""
    work()


def beside(work: Callable[[], None]) -> None:
    """A hand of its own: the heart goes on looking."""
    threading.Thread(target=work, name="heartbeat-hand", daemon=True).start()


class Heart:
    """Owned by one thread at a time; others may only ask how it is."""

    def __init__(
        self,
        *,
        sense: Callable[[], Vitals],
        arena: Arena,
        now: Callable[[], datetime],
        chores: Sequence[Chore] = (),
        wish: Callable[[], Wish] = Wish,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
        hand: Callable[[Callable[[], None]], None] = beside,
        chance: random.Random | None = None,
        on_look: Callable[[Vitals, Pace], None] = lambda vitals, pace: None,
        on_beat: Callable[[Beat], None] = lambda beat: None,
        constraints: Sequence[Constraint] = CONSTRAINTS,
    ) -> None:
        self.arena = arena
        self.deeds = Deeds()
        """The hand's, while it works."""
        self.log: deque[Beat] = deque(maxlen=_LOGGED)
        self.looked_at = clock()
        """When it last looked; who watches it asks for this."""
        self.vitals: Vitals | None = None
        self._sense, self._wish, self._now, self._hand = sense, wish, now, hand
        self.chores, self._constraints = tuple(chores), tuple(constraints)
        self._on_look, self._on_beat = on_look, on_beat
        self._clock, self._cpu_clock = clock, cpu_clock
        self._chance = chance or random.Random()  # noqa: S311 - no secret
        self._done_at: dict[str, float] = {}
        self._pace = governor.begin(arena, clock())
        self._jitter = 1.0
        self._due = governor.due(self._pace, Wish(), arena)
        self._begun = self._late = 0
        self.closing = False
        """Begin nothing more."""
        self._working: int | None = None
        """The number of the beat that the hand is busy with."""
        self._working_since = 0.0
        self._mutating = threading.Lock()
        self._written: int | None = None
        self._costs: deque[float] = deque()

    def look(self, still: Callable[[], bool] = lambda: True) -> bool:
        """One look, and the beat if it is due; returns whether it was. To be called once a second, by one thread.

        `still`: whether that thread is still the one. One that hung while it sensed, and was replaced, changes nothing.
        """
        vitals, wish = self._sense(), self._wish()
        with self._mutating:
            return still() and self._looked(vitals, wish)

    def _looked(self, vitals: Vitals, wish: Wish) -> bool:
        self.vitals = vitals
        self._settle()
        before = self._due
        self._pace = governor.look(self._pace, vitals, self.arena)
        self._on_look(vitals, self._pace)
        self._due = due = governor.due(self._pace, replace(wish, jitter=self._jitter), self.arena)
        now = self.looked_at = self._clock()
        if now < due.at or self.closing or self._is_working(now) or self._too_many(now):
            return False
        if self._begun and now - due.at > max(due.interval / 5, LOOK_SECONDS):
            self._late += 1
        self._begun += 1
        waited = now - self._pace.beat_at
        # What held it back until a moment ago decided when it came, though it holds no longer.
        why = before if before.interval > due.interval else due
        self._pace = governor.beaten(self._pace, at=now)
        self._jitter = math.exp(self._chance.gauss(0.0, _JITTER))
        self._working, self._working_since = self._begun, now
        self._hand(partial(self._beat, self._begun, replace(why, interval=waited), vitals, now))
        return True

    @property
    def load(self) -> float:
        """Smoothed; 1 is all that is borne."""
        return self._pace.load

    @property
    def worst_gauge(self) -> str:
        """The one that is fullest."""
        return self._pace.worst

    def gauges(self, restarts: int = 0) -> Gauges:
        """How it is."""
        status: Status = "beating"
        if self.arena.stopped:
            status = "stopped"
        elif self.vitals is None:
            status = "waiting"
        elif self._clock() - self.looked_at > FROZEN_SECONDS:
            status = "overdue"
        return Gauges(
            status=status,
            vitals=self.vitals,
            gauges=governor.gauges(self.vitals) if self.vitals else {},
            pace=self._pace,
            due=governor.due(self._pace, replace(self._wish(), jitter=self._jitter), self.arena),
            beats=self._begun,
            late=self._late,
            restarts=restarts,
            last=self.log[-1] if self.log else None,
        )

    def _beat(self, n: int, due: governor.Due, vitals: Vitals, now: float) -> None:
        """The hand's part of a beat."""
        began = self._cpu_clock()
        try:
            self.deeds.begin_beat(now)
            self._count_written(vitals, now)
            did = tuple(done for part in SHARES for done in self._breathe(part, due.interval, vitals, n=n, now=now))
            beat = Beat(
                n=n,
                at=self._now(),
                interval=due.interval,
                decided_by=due.decided_by,
                reason=due.reason,
                load=self._pace.load,
                worst=self._pace.worst,
                did=did,
            )
            self.log.append(beat)
            self._on_beat(beat)
        except Exception:
            log.exception("beat_failed: %d", n)
        finally:
            self._costs.append(self._cpu_clock() - began)
            if self._working == n:
                self._working = None

    def _breathe(self, part: Part, interval: float, vitals: Vitals, *, n: int, now: float) -> Iterator[Done]:
        """One part of a beat. A message that comes meanwhile goes first: see `_chore`."""
        began, most = self._clock(), budget(part, interval)
        last = {c: self._done_at.get(c.name, -math.inf) for c in self.chores if c.part == part}
        for chore in sorted((c for c in last if now - last[c] >= c.every), key=last.__getitem__):
            # Only while it is this beat's turn: a hand that was given up does no more when it wakes.
            if self._working != n or self.closing:
                return
            if self._clock() - began > most:
                yield Done(name=chore.name, outcome="waiting", detail=f"the {part} is over")
            else:
                yield self._chore(chore, self.vitals or vitals, now)

    def _count_written(self, vitals: Vitals, now: float) -> None:
        """What the process wrote since the beat before, by whomever: the disk does not ask."""
        before, self._written = self._written, vitals.written_bytes
        if before is not None and vitals.written_bytes is not None:
            self.deeds.written.add(now, max(0, vitals.written_bytes - before))

    def _measured(self, vitals: Vitals, now: float) -> dict[Metric, float]:
        """What the heart knows of itself for its constraints; a gauge that is missing stays out, and so counts as
        broken."""
        found = {**self.deeds.metrics(now), "load": self._pace.load, "live requests": vitals.running + vitals.waiting}
        if vitals.disk_free is not None:
            found["share of the disk that is free"] = vitals.disk_free
        return found

    def _settle(self) -> None:
        """Put what the hand has cost since on the bill."""
        while self._costs:
            self._pace = governor.spent(self._pace, at=self._clock(), cpu_seconds=self._costs.popleft())

    def _is_working(self, now: float) -> bool:
        """Whether the hand is still busy with the beat before. One that hangs is given up, and another takes over."""
        if self._working is not None and now - self._working_since > STUCK_SECONDS:
            log.error("heartbeat_hand_given_up: after %.0f s", now - self._working_since)
            self.deeds, self._working = self.deeds.copied(), None
        return self._working is not None

    @property
    def working(self) -> bool:
        """Whether a beat's chores are being done."""
        return self._working is not None

    def _too_many(self, now: float) -> bool:
        ahead: dict[Metric, float] = {"beats in a minute": self.deeds.beats.sum(now) + 1}
        return bool(conduct.judge("beat", ahead, self._constraints))

    def _chore(self, chore: Chore, vitals: Vitals, now: float) -> Done:
        if chore.heavy and (vitals.running or vitals.waiting):
            return Done(name=chore.name, outcome="waiting", detail="somebody is being answered")
        broken = conduct.judge(chore.act, {**self._measured(vitals, now), **chore.metrics()}, self._constraints)
        if broken:
            return Done(name=chore.name, outcome="refused", detail="; ".join(map(str, broken)))
        began = self._clock()
        self._done_at[chore.name] = now
        try:
            found = chore.do()
        except Exception as error:
            log.exception("chore_failed: %s", chore.name)
            return Done(name=chore.name, outcome="failed", detail=f"{type(error).__name__}: {error}")
        seconds = round(self._clock() - began, 4)
        if found is None:
            return Done(name=chore.name, outcome="nothing to do", seconds=seconds)
        return Done(name=chore.name, outcome="done", detail=found, seconds=seconds)


@dataclass(slots=True)
class Watch:
    """Keeps a heart beating: a thread for it, and a look from elsewhere at whether that thread still lives.

    A thread that hangs cannot be killed; it is left behind, and will find that another has taken its place.
    """

    heart: Heart
    clock: Callable[[], float] = time.monotonic
    restarts: int = 0
    _again_at: float = 0.0
    _wait: float = FROZEN_SECONDS
    _generation: int = 0
    _thread: threading.Thread | None = None
    _ended: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Beat from now on."""
        self._generation += 1
        self.heart.looked_at = self.clock()
        self._thread = threading.Thread(target=self._run, args=(self._generation,), name="heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> bool:
        """Whether it beats; one that does not is started anew. To be called by another thread, every second or two."""
        alive = self._thread is not None and self._thread.is_alive()
        frozen = self.clock() - self.heart.looked_at > FROZEN_SECONDS
        if self._ended.is_set() or (alive and not frozen):
            self._wait = FROZEN_SECONDS
            return True
        if self.clock() < self._again_at:
            return False
        self.restarts += 1
        log.error("heartbeat_restarted: it %s", "hung" if alive else "had ended")
        # What hangs time and again leaves a thread behind each time: ever more seldom, then.
        self._again_at = self.clock() + self._wait
        self._wait = min(_LONGEST_WAIT, 2 * self._wait)
        self.start()
        return False

    def stop(self, seconds: float = 10.0) -> None:
        """No more; waits so long for what is being done."""
        self._ended.set()
        self.heart.closing = True
        if self._thread is not None:
            self._thread.join(timeout=LOOK_SECONDS + 1)
        until = self.clock() + seconds
        while self.heart.working and self.clock() < until:
            time.sleep(0.05)

    def gauges(self) -> Gauges:
        """How it is."""
        return self.heart.gauges(self.restarts)

    def _run(self, generation: int) -> None:
        while not self._ended.wait(LOOK_SECONDS) and generation == self._generation:
            try:
                self.heart.look(lambda: generation == self._generation)
            except Exception:
                log.exception("look_failed")  # the next may do; one that never does again counts as frozen
