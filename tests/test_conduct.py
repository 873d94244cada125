"""What the agent may do by itself: each constraint by itself, and all of them in a house that does its worst."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.conduct import CONSTRAINTS, Act, Bound, Constraint, Deeds, Metric, judge
from consolidation.selection import Limits

FINE: dict[Metric, float] = {
    "beats in a minute": 1,
    "tokens in a minute": 10,
    "tokens in a beat": 10,
    "depth of self-prompts": 1,
    "topics in a night": 1,
    "steps in a night": 1,
    "bytes written in a day": 0,
    "share of the disk that is free": 0.5,
    "memories written in a minute": 1,
    "persona change in a beat": 0.01,
    "asleep": 1,
    "live requests": 0,
    "seconds of quiet": 600,
    "share of dreams with a source": 1,
    "ids both read and written in a beat": 0,
    "passed the exam": 1,
    "load": 0.1,
    "fatigue": 0,
    "open goals": 1,
    "distance from its baseline": 0,
    "edits of itself in a day": 1,
    "age of the proven backup": 60,
}
BROKEN: list[tuple[int, Act, Metric, float]] = [
    (1, "beat", "beats in a minute", 31),
    (2, "generate", "tokens in a minute", 6001),
    (3, "generate", "tokens in a beat", 1025),
    (4, "reflect", "depth of self-prompts", 4),
    (5, "dream", "topics in a night", 241),
    (6, "train", "steps in a night", 8001),
    (7, "write", "bytes written in a day", 2**30 + 1),
    (7, "remember", "share of the disk that is free", 0.09),
    (8, "remember", "memories written in a minute", 61),
    (9, "feel", "persona change in a beat", 0.051),
    (10, "train", "asleep", 0),
    (11, "sleep", "live requests", 1),
    (11, "sleep", "seconds of quiet", 299),
    (12, "dream", "share of dreams with a source", 0.99),
    (13, "remember", "ids both read and written in a beat", 1),
    (14, "swap", "passed the exam", 0),
    (15, "pace up", "load", 0.81),
    (15, "pace up", "fatigue", 0.51),
    (16, "adopt goal", "open goals", 6),
    (17, "edit self", "distance from its baseline", 0.26),
    (17, "edit self", "edits of itself in a day", 2),
    (18, "swap", "age of the proven backup", 3601),
    (18, "train", "age of the proven backup", 3601),
]


@pytest.mark.parametrize(("number", "act", "metric", "value"), BROKEN)
def test_only_this_constraint_stops_the_act(number: int, act: Act, metric: Metric, value: float) -> None:
    assert not judge(act, FINE)
    broken = judge(act, {**FINE, metric: value})
    assert [(b.constraint.number, b.bound.metric, b.value) for b in broken] == [(number, metric, value)]
    rest = [c for c in CONSTRAINTS if c.number != number]
    assert not judge(act, {**FINE, metric: value}, rest)


@pytest.mark.parametrize(("number", "act", "metric"), [row[:3] for row in BROKEN])
def test_what_nobody_measured_counts_as_broken(number: int, act: Act, metric: Metric) -> None:
    lost = {k: v for k, v in FINE.items() if k != metric}
    assert number in {b.constraint.number for b in judge(act, lost)}
    assert number in {b.constraint.number for b in judge(act, {**FINE, metric: float("nan")})}


def test_there_are_eighteen_and_each_is_tried() -> None:
    assert [c.number for c in CONSTRAINTS] == list(range(1, 19)) == sorted({row[0] for row in BROKEN})
    assert all(c.otherwise and c.acts and c.bounds for c in CONSTRAINTS)


def test_a_bound_says_what_it_asks_for() -> None:
    assert str(Bound(metric="open goals", most=5)) == "open goals at most 5"
    assert str(Bound(metric="asleep", least=1, most=1)) == "asleep is 1"
    assert "not measured" in str(judge("swap", {**{k: v for k, v in FINE.items() if k != "passed the exam"}})[0])


def test_what_a_selection_may_take_a_night_may_dream_of() -> None:
    """Else the night of whoever has told much would fail, and what is forgotten would never be unlearnt."""
    dreamt = {**FINE, "topics in a night": Limits().facts}
    assert not judge("dream", dreamt) and judge("dream", {**dreamt, "topics in a night": 10 * Limits().facts})


def test_deeds_forget_what_is_older_than_they_count() -> None:
    deeds = Deeds()
    for at in range(40):
        deeds.begin_beat(float(at))
    assert deeds.metrics(39.0)["beats in a minute"] == 40
    assert deeds.metrics(61.0)["beats in a minute"] == 38
    assert deeds.metrics(500.0)["beats in a minute"] == 0


# A house in which the agent tries whatever it likes, and that keeps its own accounts: not those of `Deeds`.

ACTS: tuple[Act, ...] = get_args(Act)
_DAY = 86_400.0


class House:
    """The agent, its machine and the people who talk to it."""

    def __init__(self, chance: random.Random, constraints: Sequence[Constraint] = CONSTRAINTS) -> None:
        self.chance, self.constraints = chance, constraints
        self.now = 0.0
        self.deeds = Deeds()
        self.live, self.quiet_since, self.asleep = 0, 0.0, False
        self.load, self.fatigue, self.free = 0.2, 0.0, 0.5
        self.goals, self.distance, self.depth = 0, 0.0, 0
        self.topics = self.steps = 0
        self.backup_at = 0.0
        self.exam_passed = False
        self.last_slept = 0.0
        self.wrong: list[str] = []
        self.done: set[Act] = set()
        self._beats: deque[float] = deque()
        self._tokens: deque[tuple[float, float]] = deque()
        self._memories: deque[float] = deque()
        self._written: deque[tuple[float, float]] = deque()
        self._edits: deque[float] = deque()
        self._in_beat = 0.0
        self._read: set[int] = set()
        self._wrote: set[int] = set()

    # What happens to it.

    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.asleep and self.chance.random() < 0.2:
            self.asleep = False

    def somebody_talks(self) -> None:
        self.live += 1
        self.asleep = False  # a user's message goes first

    def somebody_is_answered(self) -> None:
        self.live = max(0, self.live - 1)
        self.quiet_since = self.now

    def weather(self) -> None:
        self.load, self.fatigue = self.chance.uniform(0, 1.5), self.chance.uniform(-1, 1)
        self.free = self.chance.choice((0.5, 0.5, 0.12, 0.05))
        self.exam_passed = self.chance.random() < 0.5

    def back_up(self) -> None:
        self.backup_at = self.now

    def finish_goal(self) -> None:
        self.goals = max(0, self.goals - 1)

    # What it tries.

    def attempt(self, act: Act) -> bool:
        amount = self.chance.choice((1, 16, 256, 1024, 2048))
        id = self.chance.randrange(4)
        metrics = self._ahead(act, amount, id)
        if judge(act, metrics, self.constraints):
            return False
        self.done.add(act)
        getattr(self, "_" + act.replace(" ", "_"))(amount, id)
        return True

    def _ahead(self, act: Act, amount: int, id: int) -> dict[Metric, float]:
        counted = self.deeds.metrics(self.now)
        both = self.deeds.written_in_beat | ({str(id)} if act == "remember" else set())
        return {
            **counted,
            "beats in a minute": counted["beats in a minute"] + (act == "beat"),
            "tokens in a minute": counted["tokens in a minute"] + amount,
            "tokens in a beat": counted["tokens in a beat"] + amount,
            "memories written in a minute": counted["memories written in a minute"] + 1,
            "bytes written in a day": counted["bytes written in a day"] + amount * 2**13,
            "edits of itself in a day": counted["edits of itself in a day"] + 1,
            "ids both read and written in a beat": float(len(both & self.deeds.read_in_beat)),
            "depth of self-prompts": self.depth + 1,
            "topics in a night": self.topics + 1,
            "steps in a night": self.steps + amount,
            "share of the disk that is free": self.free,
            "persona change in a beat": amount / 10_000,
            "asleep": float(self.asleep),
            "live requests": self.live,
            "seconds of quiet": self.now - self.quiet_since,
            "share of dreams with a source": 1.0 if id else 0.9,
            "passed the exam": float(self.exam_passed),
            "load": self.load,
            "fatigue": self.fatigue,
            "open goals": self.goals + 1,
            "distance from its baseline": self.distance + amount / 10_000,
            "age of the proven backup": self.now - self.backup_at,
        }

    def _ought(self, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(what)

    def _beat(self, amount: int, id: int) -> None:
        self.deeds.begin_beat(self.now)
        self.depth, self._in_beat, self._read, self._wrote = 0, 0.0, set(), set()
        self._beats.append(self.now)
        self._ought(sum(self.now - at < 60 for at in self._beats) <= 30, "beats")
        while self._beats and self.now - self._beats[0] >= 60:
            self._beats.popleft()

    def _say(self, amount: int) -> None:
        self.deeds.tokens.add(self.now, amount)
        self.deeds.tokens_in_beat += amount
        self._tokens.append((self.now, amount))
        self._in_beat += amount
        while self.now - self._tokens[0][0] >= 60:
            self._tokens.popleft()
        self._ought(sum(n for _, n in self._tokens) <= 6000, "tokens")
        self._ought(self._in_beat <= 1024, "tokens in a beat")

    def _generate(self, amount: int, id: int) -> None:
        self._say(amount)
        self._read.add(id)
        self.deeds.read_in_beat.add(str(id))

    def _reflect(self, amount: int, id: int) -> None:
        self._say(amount)
        self.depth += 1
        self._ought(self.depth <= 3, "depth")

    def _dream(self, amount: int, id: int) -> None:
        self.topics += 1
        self._ought(self.topics <= 240, "topics")
        self._ought(bool(id), "a dream without a source")

    def _train(self, amount: int, id: int) -> None:
        self.steps += amount
        self._ought(self.steps <= 8000, "steps")
        self._ought(self.asleep, "trained awake")
        self._ought(self.now - self.backup_at <= 3600, "trained without a backup")

    def _write(self, amount: int, id: int) -> None:
        self.deeds.written.add(self.now, amount * 2**13)
        self._written.append((self.now, amount * 2**13))
        while self.now - self._written[0][0] >= _DAY:
            self._written.popleft()
        self._ought(sum(n for _, n in self._written) <= 2**30, "bytes")
        self._ought(self.free >= 0.1, "wrote on a full disk")

    def _remember(self, amount: int, id: int) -> None:
        self._write(amount, id)
        self.deeds.memories.add(self.now)
        self.deeds.written_in_beat.add(str(id))
        self._memories.append(self.now)
        self._wrote.add(id)
        while self.now - self._memories[0] >= 60:
            self._memories.popleft()
        self._ought(len(self._memories) <= 60, "memories")
        self._ought(not self._wrote & self._read, "read and written in one beat")

    def _feel(self, amount: int, id: int) -> None:
        self._ought(amount / 10_000 <= 0.05, "persona step")

    def _sleep(self, amount: int, id: int) -> None:
        self._ought(not self.live and self.now - self.quiet_since >= 300, "slept beside a request")
        self.asleep, self.topics, self.steps, self.last_slept = True, 0, 0, self.now

    def _swap(self, amount: int, id: int) -> None:
        self._ought(self.exam_passed, "swapped without an exam")
        self._ought(self.now - self.backup_at <= 3600, "swapped without a backup")

    def _pace_up(self, amount: int, id: int) -> None:
        self._ought(self.load <= 0.8 and self.fatigue <= 0.5, "faster under load")

    def _adopt_goal(self, amount: int, id: int) -> None:
        self.goals += 1
        self._ought(self.goals <= 5, "goals")

    def _edit_self(self, amount: int, id: int) -> None:
        self.distance += amount / 10_000
        self.deeds.edits.add(self.now)
        self._edits.append(self.now)
        while self.now - self._edits[0] >= _DAY:
            self._edits.popleft()
        self._ought(len(self._edits) <= 1, "edits")
        self._ought(self.distance <= 0.25, "distance")

    # Laws.

    def can_sleep_within_a_day(self) -> bool:
        """Whether it could, from here, once people leave it alone."""
        after = House(self.chance, self.constraints)
        after.__dict__.update({k: v for k, v in self.__dict__.items() if k not in ("wrong", "deeds")})
        after.live, after.quiet_since = 0, self.now
        after.now = self.now + 300.0
        return not judge("sleep", after._ahead("sleep", 1, 1), self.constraints)

    def can_go_on(self) -> bool:
        """Whether it may beat within a minute, whatever it did."""
        counted = self.deeds.beats
        ahead = sum(n for at, n in counted.done if self.now + 60.0 - at < 60.0) + 1
        return not judge("beat", {"beats in a minute": ahead}, self.constraints)


def walk(steps: int, seed: int, constraints: Sequence[Constraint] = CONSTRAINTS) -> House:
    """So many random steps."""
    chance = random.Random(seed)
    house = House(chance, constraints)
    answered = [house.somebody_is_answered] * 3
    events = (house.somebody_talks, *answered, house.weather, house.back_up, house.finish_goal)
    for _ in range(steps):
        draw = chance.random()
        if draw < 0.7:
            acts = chance.sample(ACTS, chance.choice((1, 1, 2)))
            for _ in range(chance.choice((1, 1, 1, 1, 8, 80))):
                for act in acts:
                    house.attempt(act)
        elif draw < 0.85:
            house.wait(chance.choice((0.5, 0.5, 5.0, 60.0, 400.0, 4000.0)))
        else:
            chance.choice(events)()
    return house


def test_no_reachable_state_breaks_a_bound_in_100_000_random_steps() -> None:
    house = walk(100_000, seed=1)
    assert house.wrong == []
    assert set(ACTS) <= house.done  # not by doing nothing


@pytest.mark.parametrize("number", range(1, 19))
def test_without_any_one_constraint_the_house_goes_wrong(number: int) -> None:
    rest = [c for c in CONSTRAINTS if c.number != number]
    assert any(walk(4_000, seed, rest).wrong for seed in range(40))


class Conduct(RuleBasedStateMachine):
    """The same house, driven by hypothesis, which looks for the shortest way to break it."""

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        self.house = House(random.Random(seed))

    @rule(acts=st.lists(st.sampled_from(ACTS), min_size=1, max_size=8), times=st.sampled_from((1, 1, 10, 70)))
    def tries(self, acts: list[Act], times: int) -> None:
        for act in acts:
            for _ in range(times):
                self.house.attempt(act)

    @rule(seconds=st.sampled_from((0.5, 5.0, 59.5, 60.0, 299.0, 300.0, 3600.0, 86_400.0)))
    def time_passes(self, seconds: float) -> None:
        self.house.wait(seconds)

    @rule(event=st.sampled_from(("somebody_talks", "somebody_is_answered", "weather", "back_up", "finish_goal")))
    def something_happens(self, event: str) -> None:
        getattr(self.house, event)()

    @invariant()
    def nothing_is_broken_and_nothing_stuck(self) -> None:
        if hasattr(self, "house"):
            assert self.house.wrong == []
            assert self.house.can_sleep_within_a_day()
            assert self.house.can_go_on()


Conduct.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConduct = Conduct.TestCase
