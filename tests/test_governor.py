"""The pace: what the arena allows, what the machine bears, what the agent wishes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import governor
from agent.governor import Arena, Pace, Wish, beaten, begin, due, look, spent
from agent.vitals import Vitals

ARENA = Arena()
LOADS = st.floats(0, 4)
FACTORS = st.one_of(st.floats(0.01, 10), st.sampled_from([0.0, math.inf, 1e-9, 1e9]))


def vitals(at: float, load: float, **more: Any) -> Vitals:
    return Vitals(at=at, cpu=min(load, 1.0), stalled=max(0.0, min(1.0, (load - 1) / load if load > 1 else 0.0)), **more)


def walked(loads: list[float], wishes: list[float], arena: Arena, *, cost: float = 0.0) -> list[float]:
    """When it beat, looked at once a second."""
    pace, beats = begin(arena, 0.0), []
    for second, (load, factor) in enumerate(zip(loads, wishes, strict=True), start=1):
        pace = look(pace, vitals(float(second), load), arena)
        if second >= due(pace, Wish(factor=factor), arena).at:
            pace = spent(beaten(pace, at=float(second)), at=float(second), cpu_seconds=cost)
            beats.append(float(second))
    return beats


@given(st.lists(st.tuples(LOADS, LOADS, st.floats(0, 1)), min_size=1, max_size=200), FACTORS)
def test_more_load_never_makes_a_beat_come_sooner(rows: list[tuple[float, float, float]], factor: float) -> None:
    light, heavy = begin(ARENA, 0.0), begin(ARENA, 0.0)
    for second, (a, b, own) in enumerate(rows, start=1):
        mine = min(a, b, 1.0) * own  # of the same work of its own, beside more of others'
        light = look(light, vitals(float(second), min(a, b), own_cpu=mine), ARENA)
        heavy = look(heavy, vitals(float(second), max(a, b), own_cpu=mine), ARENA)
        assert due(heavy, Wish(factor=factor), ARENA).at >= due(light, Wish(factor=factor), ARENA).at


@given(st.lists(FACTORS, min_size=50, max_size=400), st.floats(2, 20), st.integers(1, 20), st.floats(60, 3600))
@settings(deadline=None)
def test_no_sequence_of_wishes_exceeds_the_arena(wishes: list[float], least: float, burst: int, hourly: float) -> None:
    arena = Arena(least=least, burst=burst, beats_an_hour=hourly)
    beats = walked([0.0] * len(wishes), wishes, arena)
    assert all(b - a >= least for a, b in itertools.pairwise(beats))
    for n, first in enumerate(beats):
        for m, last in enumerate(beats[n:], start=1):
            assert m <= burst + 1 + (last - first) * hourly / 3600


def test_an_eager_agent_on_an_idle_machine_beats_as_often_as_it_may_and_no_oftener() -> None:
    arena = Arena(beats_an_hour=120, burst=5)
    beats = walked([0.1] * 7200, [0.0] * 7200, arena)
    assert 230 <= len(beats) <= 245


def test_beats_that_cost_too_much_processor_time_are_put_off() -> None:
    arena = Arena(cpu_seconds_an_hour=60)
    beats = walked([0.1] * 7200, [0.5] * 7200, arena, cost=2.0)
    for first in beats:
        assert sum(2.0 for at in beats if first <= at < first + 3600) <= 62
    reason = None
    pace = begin(arena, 0.0)
    for second in range(1, 600):
        pace = look(pace, vitals(float(second), 0.1), arena)
        found = due(pace, Wish(factor=0.5), arena)
        if second >= found.at:
            pace = spent(beaten(pace, at=float(second)), at=float(second), cpu_seconds=30.0)
        reason = found.reason if found.decided_by == "arena" else reason
    assert reason is not None and "processor seconds" in reason


def test_a_switch_stops_it_and_no_wish_starts_it() -> None:
    arena = Arena(stopped=True)
    assert walked([0.0] * 4000, [0.0] * 4000, arena) == []
    assert due(begin(arena, 0.0), Wish(factor=0.0), arena).reason == "it is switched off"


def test_without_memory_it_stops_and_says_so() -> None:
    pace = look(begin(ARENA, 0.0), vitals(1.0, 0.1, memory=0.95), ARENA)
    found = due(pace, Wish(), ARENA)
    assert found.interval == math.inf and "memory" in found.reason
    assert due(look(pace, vitals(2.0, 0.1, memory=0.5), ARENA), Wish(), ARENA).interval < math.inf


def test_the_longer_of_wish_and_machine_decides_and_is_named() -> None:
    idle = look(begin(ARENA, 0.0), vitals(1.0, 0.1), ARENA)
    slow = due(idle, Wish(factor=2.0, why="tired"), ARENA)
    assert (slow.decided_by, slow.interval) == ("wish", 60.0) and "tired" in slow.reason
    loaded = begin(ARENA, 0.0)
    for second in range(1, 6):
        loaded = look(loaded, vitals(float(second), 2.0), ARENA)
    busy = due(loaded, Wish(factor=0.5), ARENA)
    assert busy.interval == ARENA.greatest and busy.decided_by in ("machine", "arena")


def test_in_the_dead_band_the_pace_holds() -> None:
    pace = begin(ARENA, 0.0)
    for second in range(1, 60):
        after = look(pace, vitals(float(second), 0.72), ARENA)
        assert after.rate == pace.rate
        pace = after


def test_a_peak_counts_at_once_and_ease_only_once_it_has_lasted() -> None:
    pace = begin(ARENA, 0.0)
    for second in range(1, 30):
        pace = look(pace, vitals(float(second), 0.95), ARENA)
    eased = look(pace, vitals(30.0, 0.1), ARENA)
    assert eased.rate <= pace.rate
    for second in range(31, 60):
        eased = look(eased, vitals(float(second), 0.1), ARENA)
    assert eased.rate > pace.rate


def test_a_gauge_that_is_missing_counts_for_nothing() -> None:
    assert governor.gauges(Vitals(at=0.0)) == {"event loop": 0.0, "line": 0.0}


@pytest.mark.parametrize("wrong", [{"least": 0}, {"least": 40}, {"greatest": 10}, {"burst": 0}, {"beats_an_hour": 0}])
def test_an_arena_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"needed|least"):
        Arena(**wrong)  # type: ignore[arg-type]


def test_pace_remembers_no_more_than_an_hour() -> None:
    pace: Pace = begin(ARENA, 0.0)
    for second in range(1, 8000, 4):
        pace = look(spent(pace, at=float(second), cpu_seconds=0.01), vitals(float(second), 0.1), ARENA)
    assert all(pace.looked_at is not None and pace.looked_at - at < 3600 for at, _ in pace.spent)
