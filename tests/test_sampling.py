"""Choosing a token: the cuts, the penalties, and that a seed repeats."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.sampling import Sampling, choose, uniform

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.07, 0.03]))


def draws(sampling: dict[str, float], n: int = 4000) -> Counter[int]:
    return Counter(
        choose(LOGITS, Sampling(seed=seed, **sampling), prompt=[], reply=[]).token_id  # type: ignore[arg-type]
        for seed in range(n)
    )


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draws({"temperature": 0.0}, 50) == {0: 50}


def test_plain_sampling_follows_the_distribution() -> None:
    counts = draws({})
    for token, p in enumerate([0.5, 0.25, 0.15, 0.07, 0.03]):
        assert abs(counts[token] / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.74}, {0, 1}),
        ({"top_p": 0.76}, {0, 1, 2}),
        ({"top_p": 0.0}, {0}),
        ({"min_p": 0.29}, {0, 1, 2}),
        ({"min_p": 1.0}, {0}),
        ({"top_k": 3, "top_p": 0.8}, {0, 1}),
    ],
)
def test_cuts_leave_what_they_should(cut: dict[str, float], left: set[int]) -> None:
    assert set(draws(cut, 2000)) == left


def test_cuts_agree_with_sorting_everything_on_a_wide_vocabulary() -> None:
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 0.1
    p, order = logits.softmax(-1).sort(descending=True)
    kept = int((p.cumsum(0) - p < 0.5).sum())
    allowed = set(order[:kept].tolist())
    seen = {choose(logits, Sampling(top_p=0.5, seed=s), prompt=[], reply=[]).token_id for s in range(400)}
    assert seen <= allowed and len(seen) > 300


@given(seed=st.integers(-(2**63), 2**64), position=st.integers(0, 10_000))
def test_a_draw_is_a_function_of_seed_and_position(seed: int, position: int) -> None:
    assert uniform(seed, position) == uniform(seed, position)
    assert 0.0 <= uniform(seed, position) < 1.0


def test_draws_along_a_reply_differ() -> None:
    assert len({uniform(7, n) for n in range(1000)}) == 1000


def test_penalties_push_away_from_what_was_said() -> None:
    greedy: dict[str, Any] = {"temperature": 0.0}
    assert choose(LOGITS, Sampling(repetition_penalty=3.0, **greedy), prompt=[0], reply=[]).token_id == 1
    assert choose(LOGITS, Sampling(presence_penalty=1.0, **greedy), prompt=[0], reply=[]).token_id == 0
    assert choose(LOGITS, Sampling(presence_penalty=1.0, **greedy), prompt=[], reply=[0]).token_id == 1
    assert choose(LOGITS, Sampling(frequency_penalty=0.5, **greedy), prompt=[], reply=[0]).token_id == 0
    assert choose(LOGITS, Sampling(frequency_penalty=0.5, **greedy), prompt=[], reply=[0, 0]).token_id == 1


def test_log_probabilities_are_the_models_own() -> None:
    choice = choose(LOGITS, Sampling(temperature=0.1, logprobs=2, seed=3), prompt=[], reply=[])
    assert choice.logprob is not None
    assert choice.logprob.logprob == pytest.approx(float(LOGITS[choice.token_id]), abs=1e-5)
    assert [a.token_id for a in choice.alternatives] == [0, 1]


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 1.1}, {"temperature": math.nan}, {"logprobs": 21}])
def test_impossible_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [5e-324, 1e-38, 1e-6])
@pytest.mark.parametrize("cut", [{}, {"top_p": 0.9}, {"top_k": 3}, {"min_p": 0.1}])
def test_the_smallest_temperature_is_as_good_as_none(temperature: float, cut: dict[str, float]) -> None:
    assert draws({"temperature": temperature, **cut}, 20) == {0: 20}


def test_broken_logits_are_not_sampled_from() -> None:
    for how in ({}, {"top_k": 3}, {"min_p": 0.1}, {"top_p": 0.5}):
        with pytest.raises(ValueError, match="not finite"):
            choose(torch.full((5,), math.nan), Sampling(**how), prompt=[], reply=[])
