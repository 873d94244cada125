"""SNARC: the scorer's laws, and the numbers that another implementation must reproduce (docs/snarc-vectors.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.alarms import OUTCOMES, Scored, alarms
from memory.salience import (
    RING,
    Calibration,
    Observation,
    Raw,
    Ring,
    Statistics,
    observe,
    score,
    urgency,
)

VECTORS = json.loads((Path(__file__).parents[1] / "docs" / "snarc-vectors.json").read_text())
UNIT = st.floats(0, 1)


def statistics(**rings: list[float]) -> Statistics:
    empty: dict[Any, Ring] = {d: Ring.seeded(()) for d in ("surprise", "novelty", "arousal", "total")}
    return Statistics(strangest=5.75, rings=empty | {d: Ring.seeded(v) for d, v in rings.items()})


@pytest.mark.parametrize("vector", VECTORS["scores"], ids=lambda v: v["name"])
def test_the_published_numbers_hold(vector: dict[str, Any]) -> None:
    known = statistics(**vector["rings"])
    given_ = vector["observation"]
    surprisals = given_.get("surprisals")
    raw = observe(
        Observation(**{**given_, "surprisals": None if surprisals is None else tuple(surprisals)}),
        strangest=vector["strangest"],
    )
    salience = score(raw, known)
    for name, expected in vector["raw"].items():
        assert getattr(raw, name) == (None if expected is None else pytest.approx(expected, abs=1e-9)), name
    for name, expected in vector["salience"].items():
        assert getattr(salience, name) == (None if expected is None else pytest.approx(expected, abs=1e-9)), name


@given(st.lists(st.floats(0, 20), min_size=1, max_size=30), st.floats(-1, 1), UNIT, UNIT)
def test_every_dimension_is_in_the_unit_interval(
    surprisals: list[float], reward: float, expected: float, contradiction: float
) -> None:
    seen = Observation(
        text="a message", surprisals=tuple(surprisals), similarity=0.3, reward=reward, expected=expected,
        contradiction=contradiction,
    )  # fmt: skip
    salience = score(observe(seen, strangest=5.75), statistics(surprise=[1.0, 2.0], novelty=[0.5], arousal=[0.0]))
    for name in ("surprise", "novelty", "arousal", "reward", "conflict", "total", "percentile", "gate"):
        assert 0 <= getattr(salience, name) <= 1
    assert salience.sign == (reward > 0) - (reward < 0)


def test_a_constant_value_sits_in_the_middle_and_sounds_the_alarm() -> None:
    known = statistics()
    raw = Raw(surprise=3.0, novelty=0.5, arousal=0.2, reward=0.0, conflict=0.0, gate=1.0)
    seen = []
    for _ in range(RING):
        salience = score(raw, known)
        known = known.knowing(raw, salience)
        seen.append(salience)
    assert (seen[-1].surprise, seen[-1].novelty, seen[-1].arousal) == (0.5, 0.5, 0.5)
    events = [Scored(s.surprise, s.novelty, s.arousal, 0.0, 0.0, False) for s in seen]
    assert {(a.dimension, a.kind) for a in alarms(events)} == {
        ("surprise", "dead"),
        ("novelty", "dead"),
        ("arousal", "dead"),
        ("reward", "no_outcome"),
    }


def test_saturation_bypass_and_silence_are_told_apart() -> None:
    alive = [Scored(n / 200, n / 200, n / 200, 1.0, 0.0, False) for n in range(200)]
    assert alarms(alive) == []
    saturated = [Scored(1.0 if n % 3 else 0.5, 0.1 + n / 400, n / 200, 1.0, 0.0, False) for n in range(200)]
    assert [(a.dimension, a.kind) for a in alarms(saturated)] == [("surprise", "saturated")]
    passed = [Scored(None, None, None, None, None, n % 2 == 0) for n in range(100)]
    assert [a.kind for a in alarms(passed)] == ["bypassed"]
    silent = [Scored(n / 500, n / 500, n / 500, 0.0, 0.0, False) for n in range(OUTCOMES)]
    assert [a.kind for a in alarms(silent[:499])] == []
    assert "no_outcome" in [a.kind for a in alarms(silent)]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(-1e6, 1e6))
def test_a_percentile_counts_what_is_below_and_half_of_what_is_equal(values: list[float], value: float) -> None:
    expected = (sum(v < value for v in values) + sum(v == value for v in values) / 2) / len(values)
    assert Ring.seeded(values).percentile(value) == expected


def test_a_full_ring_forgets_the_oldest() -> None:
    ring = Ring.seeded([0.0] * RING)
    for n in range(RING):
        ring = ring.pushing(1.0 + n)
    assert min(ring.values) == 1.0 and ring.pushed == 2 * RING


@pytest.mark.parametrize("text", ["however, it took an hour", "just a moment", "however hour just"])
def test_everyday_words_neither_reward_nor_alarm(text: str) -> None:
    raw = observe(Observation(text=text, surprisals=None, similarity=None), strangest=5.75)
    assert (raw.reward, raw.arousal, urgency(text)) == (0.0, 0.0, 0.0)


def test_calibration_seeds_every_ring() -> None:
    made = Calibration(
        model="m", strangest=5.0, surprise=(1.0, 2.0, 3.0), novelty=(0.1, 0.2, 0.3), arousal=(0.0, 0.0, 0.5)
    )
    known = Statistics.calibrated(made)
    assert [len(known.rings[d].values) for d in ("surprise", "novelty", "arousal", "total")] == [3, 3, 3, 3]
    assert known.rings["surprise"].percentile(2.5) == pytest.approx(2 / 3)
