"""Weights in fewer bits: what they give, when they are used, and what they cost in exactness."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models.causal_lm import CausalLM
from models.errors import UnsupportedModel
from models.few_rows import GROUP, Bits, FewRows, works
from models.language import Chunk
from models.llama import LlamaForward

pytestmark = pytest.mark.skipif(not works(), reason="torch has no such kernels on this machine")
BITS: tuple[Bits, ...] = ("int4", "int8")


def weight(out: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, size, generator=torch.manual_seed(seed)).bfloat16()


def test_weights_that_have_four_bits_come_through() -> None:
    """As a GGUF's Q4_1: 16 steps of its own for each group. What is left is bfloat16's rounding of the product."""
    codes = torch.randint(0, 16, (48, 4, GROUP), generator=torch.manual_seed(1))
    codes[..., 0], codes[..., 1] = 0, 15
    step = 2.0 ** torch.randint(-6, -2, (48, 4, 1))
    exact = ((codes - 8) * step).view(48, 4 * GROUP).bfloat16()
    x = weight(3, 4 * GROUP, 2)
    layer = FewRows(exact, "int4")
    layer.begin(3)
    torch.testing.assert_close(layer(x).float(), x.float() @ exact.float().T, rtol=2**-7, atol=0.05)


@pytest.mark.parametrize(("bits", "error"), [("int4", 0.2), ("int8", 0.03)])
@given(rows=st.integers(1, 5), seed=st.integers(0, 1000))
def test_the_error_is_that_of_rounding_the_weights(bits: Bits, error: float, rows: int, seed: int) -> None:
    whole, x = weight(32, 96, seed), weight(rows, 96, seed + 1)
    layer = FewRows(whole, bits)
    layer.begin(5)
    expected = x.float() @ whole.float().T
    assert (layer(x).float() - expected).norm() < error * expected.norm()


@pytest.mark.parametrize("bits", BITS)
def test_many_rows_and_all_before_it_begins_are_whole(bits: Bits) -> None:
    whole, x = weight(32, 64), weight(6, 64, 1)
    layer = FewRows(whole, bits)
    before = layer(x)
    layer.begin(5)
    assert torch.equal(layer(x), before) and not torch.equal(layer(x[:5]), before[:5])
    assert layer(x[None, :2]).shape == (1, 2, 32)


@pytest.mark.parametrize(("bits", "out", "size"), [("int4", 32, 48), ("int4", 24, 64), ("int8", 32, 24)])
def test_sizes_that_the_kernels_do_not_take_stay_whole(bits: Bits, out: int, size: int) -> None:
    whole, x = weight(out, size), weight(1, size, 1)
    layer = FewRows(whole, bits)
    before = layer(x)
    layer.begin(4)
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("bits", BITS)
def test_a_model_in_fewer_bits_is_the_model_of_its_rounded_weights(tiny_folder: Path, bits: Bits) -> None:
    whole = CausalLM.load(tiny_folder, name="tiny", device="cpu", dtype="bfloat16")
    few = CausalLM.load(tiny_folder, name="tiny", device="cpu", dtype="bfloat16", bits=bits)
    assert bits in few.card.kernels and few.card.kernels != whole.card.kernels, "its states are not the whole one's"
    found = {"few": one_by_one(few), "whole": one_by_one(whole)}
    forward = few._forward
    assert isinstance(forward, LlamaForward)
    products = [p for la in forward._layers for p in (la.qkv, la.output, la.gate_up, la.down)]
    layers = [p for p in products if isinstance(p, FewRows)]
    assert len(layers) == 2 * 4, "four products a layer; the head stays whole"
    for layer in layers:
        size = 128 if layer in {la.down for la in forward._layers} else 64
        layer._few = partial(F.linear, weight=rounded(layer, size))
    found["same"] = one_by_one(few)
    away = {name: float((found["few"] - found[name]).norm() / found["few"].norm()) for name in ("same", "whole")}
    assert away["same"] < 0.06, "bfloat16's own rounding, in two ways of multiplying"
    assert bits == "int8" or away["same"] < 0.5 * away["whole"]


def rounded(layer: FewRows, size: int) -> torch.Tensor:
    """What its weights of fewer bits stand for."""
    assert layer._few is not None
    return layer._few(torch.eye(size, dtype=torch.bfloat16)).T.contiguous()


def one_by_one(model: CausalLM) -> torch.Tensor:
    """The logits after some tokens that are read one at a time."""
    state = model.new_state()
    return torch.cat([model.read([Chunk(token_ids=[n], state=state)]).logits for n in range(10, 22)])


def test_what_has_no_llama_layout_or_is_not_in_bfloat16_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(UnsupportedModel, match="bfloat16"):
        CausalLM.load(tiny_folder, name="tiny", device="cpu", dtype="float32", bits="int4")
