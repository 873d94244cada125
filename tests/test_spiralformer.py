"""Spiralformer: nothing of the future, what each mechanism reaches, and a breath by step."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import glyphs
from models.body import Signals, charge
from models.errors import CorpusRefused
from models.networks import network
from models.spiralformer import BREATH, Spiralformer, phase_of, risk_at_coverage, spiral

SHAPE = {"width": 32, "layers": 2, "heads": 2, "phases": 4, "tower": 8, "window": 4}


def made(**changed: object) -> Spiralformer:
    found: Spiralformer = network("spiralformer", {**SHAPE, **changed}, 23, seed=2)
    with torch.no_grad():
        for p in found.parameters():
            if p.ndim == 2:
                p.mul_(8)  # far from where weights begin, so that what reaches nothing would show
    found.train(False)
    return found


def ids(time: int = 70, seed: int = 1) -> torch.Tensor:
    return torch.randint(23, (2, time), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(place=st.integers(1, 69), token=st.integers(1, 22))
def test_no_later_token_changes_an_earlier_logit(place: int, token: int) -> None:
    net, tokens = made(), ids()
    other = tokens.clone()
    other[:, place] = (other[:, place] + token) % 23
    with torch.no_grad():
        before, after = net(tokens), net(other)
    assert torch.equal(before[:, :place], after[:, :place])
    assert not torch.equal(before[:, place:], after[:, place:])


@settings(max_examples=30, deadline=None)
@given(time=st.integers(1, 200), window=st.integers(1, 16))
def test_a_place_sees_itself_its_neighbours_and_powers_of_two_before(time: int, window: int) -> None:
    seen = spiral(time, window)
    for i in (0, time // 2, time - 1):
        wanted = {i - d for d in range(window)} | {i - 2**k for k in range(9)}
        assert set(seen[i].nonzero()[:, 0].tolist()) == {j for j in wanted if 0 <= j <= i}
    assert int(seen[-1].sum()) <= window + math.ceil(math.log2(time + 1)) + 1
    assert int(spiral(time, window, hops=False)[-1].sum()) == min(window, time)


def reached(net: Spiralformer, place: int, at: int) -> float:
    tokens = ids()
    other = tokens.clone()
    other[:, place] = (other[:, place] + 5) % 23
    with torch.no_grad():
        return float((net(tokens)[:, at] - net(other)[:, at]).abs().max())


def test_each_mechanism_reaches_what_it_says() -> None:
    """One layer: the neighbours; a hop; a tower's words, and only those of towers that are finished."""
    bare = {"layers": 1, "hops": False, "recalled": 0}
    assert reached(made(**bare), 60, 62) > 1e-4
    assert reached(made(**bare), 30, 62) == 0.0
    hopping = {**bare, "hops": True}
    assert reached(made(**hopping), 62 - 32, 62) > 1e-4
    assert reached(made(**hopping), 62 - 33, 62) == 0.0
    recalling = made(**{**bare, "recalled": 100})
    assert all(reached(recalling, place, 62) > 1e-6 for place in (3, 20, 50))
    assert reached(recalling, 57, 62) == 0.0  # its tower is not finished, and it is no neighbour


def test_a_tower_is_read_word_by_word_and_chosen_by_resonance() -> None:
    """Recalling one tower of many: what is said depends on its words, and turning the phases changes which it is."""
    net = made(layers=1, hops=False, recalled=1)
    moved = [place for place in range(56) if reached(net, place, 62) > 1e-6]
    towers = {place // 8 for place in moved}
    assert moved
    with torch.no_grad():
        net.layers[0].asks.mul_(-1.7).add_(0.3)  # type: ignore[operator]
    again = {place // 8 for place in range(56) if reached(net, place, 62) > 1e-6}
    assert towers != again


def test_the_breath_goes_by_step_and_has_mean_one() -> None:
    steps = torch.arange(240)
    phases = phase_of(steps)
    assert [int((phases[:12] == n).sum()) for n in range(4)] == list(BREATH)
    assert torch.equal(phases[:12], phases[12:24])
    net = made()
    block = net.layers[0]
    with torch.no_grad():
        block.breath.copy_(torch.tensor([0.5, -1.0, 0.2, -2.0]))  # type: ignore[operator]
        gates = block._gate(steps)  # type: ignore[operator]
    assert float(gates.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(gates.std()) > 0.1
    tokens = ids()
    with torch.no_grad():
        assert torch.equal(net.hidden(tokens), net.hidden(tokens, first_step=sum(BREATH)))
        assert not torch.equal(net.hidden(tokens), net.hidden(tokens, first_step=3))


def test_gradients_are_numbers_from_the_first_step_on() -> None:
    net = made()
    net.train()
    net(ids()).square().mean().backward()
    assert all(
        p.grad is not None and bool(p.grad.isfinite().all()) for n, p in net.named_parameters() if "silence" not in n
    )


def test_silence_is_learnt_of_its_own_errors() -> None:
    net = made(layers=1)
    net.train()
    net(ids())
    assert float(net.penalty.detach()) == pytest.approx(0.1 * math.log(2), rel=0.2)
    net.penalty.backward()  # type: ignore[no-untyped-call]
    assert net.silence.grad is not None
    assert net.embedding.grad is None or float(net.embedding.grad.abs().max()) == 0.0
    doubt = torch.tensor([0.9, 0.1, 0.8, 0.2])
    wrong = torch.tensor([True, False, True, False])
    risk, threshold = risk_at_coverage(doubt, wrong, 0.5)
    assert risk == 0.0
    assert threshold == pytest.approx(0.2)
    assert risk_at_coverage(doubt, wrong, 1.0)[0] == 0.5


gauge = st.floats(0, 1)


@given(values=st.tuples(gauge, gauge, gauge, gauge, gauge), which=st.integers(0, 4), more=st.floats(0.01, 0.5))
def test_more_strain_of_any_gauge_is_more_charge(values: tuple[float, ...], which: int, more: float) -> None:
    before = list(values)
    after = list(values)
    if which == 1:
        away = 1 if before[1] >= 0.5 else -1
        after[1] = min(1.0, max(0.0, before[1] + away * more))
    elif which == 4:
        after[4] = max(0.0, before[4] - more)
    else:
        after[which] = min(1.0, before[which] + more)
    assert charge(Signals(*after)) >= charge(Signals(*before)) - 1e-12


def test_charge_has_its_signs_right() -> None:
    nominal = Signals(latency=0.1, voltage=0.5, temperature=0.3, errors=0.0, bandwidth=0.9)
    assert charge(nominal) < 0.3
    assert charge(replace(nominal, voltage=0.0)) > 0.9  # a dead supply
    assert charge(Signals(latency=0.8, voltage=0.1, temperature=0.8, errors=0.7, bandwidth=0.2)) > 0.7
    with pytest.raises(ValueError, match="every gauge"):
        Signals(latency=1.2, voltage=0.5, temperature=0, errors=0, bandwidth=1)


def test_scenarios_are_right_and_on_one_side_alone() -> None:
    chance = random.Random(4)
    for _ in range(400):
        one = glyphs.drawn(chance)
        assert glyphs.encode(glyphs.decode(one.prompt)) == list(one.prompt)
        if one.kind == "echo":
            many = glyphs.length_for(charge(one.signals))
            assert one.silent is (many == 0)
            assert one.silent or one.answer[:-1] == one.prompt[6 : 6 + many]
        if one.kind == "keep":
            assert one.silent is (one.told is None)
            key = one.prompt[-2]
            assert (key in one.prompt[6:14:3]) is (one.told is not None)
            if one.told is not None:
                assert (one.prompt[one.told - 1], one.prompt[one.told]) == (key, one.answer[0])
    train = set(glyphs.text(50, seed=1, held=False).split(glyphs.decode([glyphs.END])))
    held = set(glyphs.text(50, seed=1, held=True).split(glyphs.decode([glyphs.END])))
    assert train & held == {""}
    with pytest.raises(CorpusRefused, match="no glyph"):
        glyphs.encode("a")
