"""K-SSM: a real recurrence, nothing of the future, one path to the output, and a state of constant size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import kuramoto, scan
from models.kssm import Kssm, KssmShape, Looked
from models.kuramoto import Phases
from models.order_tests import examine
from models.zones import zones

SHAPE = KssmShape(vocab_size=23, width=16, layers=2, oscillators=16, harmonics=2, scales=(2, 8, 16), choirs=2, inner=24)


def network(seed: int = 3, shape: KssmShape = SHAPE) -> Kssm:
    made = Kssm(shape, seed=seed)
    made.train(False)
    return made


def ids(rows: int = 2, time: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(SHAPE.vocab_size, (rows, time), generator=torch.Generator().manual_seed(seed))


def read(made: Kssm, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        hidden, after, _ = made.hidden(tokens, state)
        return hidden @ made.embedding.T, after


@settings(max_examples=25, deadline=None)
@given(time=st.integers(1, 40), rows=st.integers(1, 3), channels=st.integers(1, 5), seed=st.integers(0, 99))
def test_scans_and_their_gradients_agree(time: int, rows: int, channels: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(2, rows, time, channels, generator=draw, dtype=torch.float64) * 0.6
    b = torch.randn(2, rows, time, channels, generator=draw, dtype=torch.float64)
    first = torch.randn(2, rows, channels, generator=draw, dtype=torch.float64)
    weights = torch.randn(2, rows, time, channels, generator=draw, dtype=torch.float64)
    results = []
    for by in (scan.scan, scan.doubling):
        given_to = [t.clone().requires_grad_() for t in (a, b, first)]
        z = by(*given_to)
        (z * weights).sum().backward()  # type: ignore[no-untyped-call]
        results.append([z.detach(), *(t.grad for t in given_to)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 39))
def test_reading_in_two_parts_is_reading_at_once(cut: int) -> None:
    made, tokens = network(), ids()
    whole, state = read(made, tokens, made.new_state(2))
    early, middle = read(made, tokens[:, :cut], made.new_state(2))
    late, end = read(made, tokens[:, cut:], middle)
    torch.testing.assert_close(torch.cat((early, late), 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(end, state, rtol=1e-5, atol=1e-5)
    assert end.shape == middle.shape == made.new_state(2).shape


def test_a_state_of_46_million_parameters_is_under_32_kb_whatever_was_read() -> None:
    assert Kssm(KssmShape(vocab_size=8)).new_state(1).numel() * 4 < 32 * 1024


@pytest.mark.parametrize("readout", ["order", "phases"])
def test_no_later_token_changes_an_earlier_logit_and_earlier_ones_do(readout: Any) -> None:
    made = network(shape=KssmShape(**{f: getattr(SHAPE, f) for f in SHAPE.__slots__} | {"readout": readout}))
    tokens = ids()
    plain, _ = read(made, tokens, made.new_state(2))
    other = tokens.clone()
    other[:, 20] = (other[:, 20] + 1) % SHAPE.vocab_size
    changed, _ = read(made, other, made.new_state(2))
    assert torch.equal(changed[:, :20], plain[:, :20])
    assert all((changed[:, at] - plain[:, at]).abs().max() > 1e-6 for at in (20, 21, 36))


def test_order_parameters_are_the_only_path_to_the_output() -> None:
    """With every layer's phases fixed, whatever is read gives the same logits; in the other variant it does not."""

    def fixed(_layer: int, held: Phases) -> Phases:
        return torch.ones_like(held[0]), torch.zeros_like(held[1])

    for readout, same in (("order", True), ("phases", False)):
        made = network(shape=KssmShape(**{f: getattr(SHAPE, f) for f in SHAPE.__slots__} | {"readout": readout}))
        with torch.no_grad():
            hidden, _, _ = made.hidden(ids(), made.new_state(2), force=fixed)
        assert (float(hidden.std((0, 1)).max()) < 1e-6) is same


@settings(max_examples=20, deadline=None)
@given(wanted=st.floats(0.3, 0.95), seed=st.integers(0, 50))
def test_forcing_reaches_an_order_and_keeps_the_mean_phase(wanted: float, seed: int) -> None:
    angles = torch.randn(64, generator=torch.Generator().manual_seed(seed)) * 1.2
    held = (angles.cos(), angles.sin())
    made = kuramoto.forced(held, torch.tensor(wanted))
    assert float(kuramoto.order(made)) == pytest.approx(wanted, abs=0.02)
    before, after = (torch.atan2(h[1].mean(), h[0].mean()) for h in (held, made))
    assert float((after - before).cos()) > 0.8


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.01, 30), seed=st.integers(0, 99))
def test_the_core_has_two_stable_points_and_a_gradient_everywhere(scale: float, seed: int) -> None:
    coefficients = torch.randn(5, 10, 3, generator=torch.Generator().manual_seed(seed)) * scale
    coefficients.requires_grad_()
    root, evidence = kuramoto.core(coefficients)
    (root + evidence).sum().backward()  # type: ignore[no-untyped-call]
    assert bool((root > 0).all())
    assert coefficients.grad is not None
    assert bool(coefficients.grad.isfinite().all())
    assert bool((coefficients.grad.abs().amax(1) > 0).all())


def test_the_core_solves_its_equations_where_they_have_a_solution() -> None:
    a, b, c, d, e, f, g, h, i, j = (1.5, 0.2, 0.1, 2.0, 0.3, 1.2, -0.1, 0.4, 0.2, 0.1)
    told = torch.tensor([a, b, c, d, e, f, g, h, i, j]).mul(1.0)[:, None]
    exact = torch.linalg.solve(torch.tensor([[a, b, c], [e, f, g], [i, j, 1.0]]), torch.tensor([d, h, 0.0]))
    root, y = kuramoto.core(told * 1.0)
    # The determinant is made smaller by D / (D^2 + small): a shrunken solution, of the same signs.
    assert 0.7 < float(y) / float(exact[1]) <= 1.0
    assert float(root) > 0


def test_weight_decay_leaves_frequencies_decays_and_vectors_alone() -> None:
    made = network()
    kept = made.undecayed()
    names = {name for name, _ in made.named_parameters()}
    assert {n for n in names if n.endswith(("omega", "alpha", "patience", "core_bias", "norm"))} <= kept
    assert {n for n in names if n.endswith(("drive", ".core", "into", ".out"))}.isdisjoint(kept)


def test_an_untrained_network_that_forgets_fails_the_context_test() -> None:
    """The negative control: a network without memory, as the published one is."""

    class Memoryless:
        def logits(self, tokens: Tensor, force: Any = None) -> Tensor:
            return torch.nn.functional.one_hot(tokens, SHAPE.vocab_size).float()

        def order(self, tokens: Tensor) -> Tensor:
            return torch.full(tokens.shape, 0.4) + torch.linspace(0, 0.2, tokens.shape[1])

    found = {f.test: f.passed for f in examine(Memoryless(), ids(32, 80), [(0.1, 0.0), (0.2, 0.0), (0.3, 0.0)])}
    assert not any(found.values())
    recurrent = {f.test: f for f in examine(Looked(network()), ids(32, 80), [(0.2, 0.1)] * 3)}
    assert recurrent["context"].passed
    assert recurrent["time"].passed


def test_zones_have_hysteresis_and_dwell() -> None:
    assert zones([0.2, 0.31, 0.31, 0.31, 0.31])[-1] == "intimacy"
    assert zones([0.2, 0.33, 0.33, 0.2, 0.2])[-1] == "intimacy"
    assert zones([0.2, 0.33, 0.33, 0.33])[-1] == "balance"
    assert zones([0.05])[-1] == "unformed"
