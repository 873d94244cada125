"""Packed linears give what plain ones give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.packed_linear import PackedLinear, pack_linears, packing_works

pytestmark = pytest.mark.skipif(not packing_works(torch.float32), reason="this torch build has no oneDNN linear")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_products_agree(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 160, bias=bias), torch.randn(1, rows, 96)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear.weight, linear.bias)(x), linear(x), rtol=1e-5, atol=1e-5)


def test_every_linear_of_a_model_is_packed() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 4)))
    x = torch.randn(3, 8)
    with torch.inference_mode():
        before = model(x)
        assert pack_linears(model) == 2
        torch.testing.assert_close(model(x), before)
    assert not any(type(m) is nn.Linear for m in model.modules())


@pytest.mark.parametrize(("inputs", "outputs"), [(576, 960), (1536, 576), (3072, 64), (64, 3072)])
def test_a_row_comes_out_the_same_whoever_is_beside_it(inputs: int, outputs: int) -> None:
    """On AVX-512 a lone row of 1,536 came out otherwise than beside another one: replies parted by it."""
    torch.manual_seed(0)
    packed, x = PackedLinear(torch.randn(outputs, inputs)), torch.randn(100, inputs)
    with torch.inference_mode():
        alone = torch.cat([packed(x[n : n + 1]) for n in range(len(x))])
        assert torch.equal(packed(x[:1].reshape(inputs)), alone[0])
        for rows in (2, 3, 8, 25, 64, 100):
            assert torch.equal(packed(x[:rows]), alone[:rows]), rows


def test_what_comes_in_another_precision_is_taken_in_the_weights() -> None:
    linear = torch.nn.Linear(64, 32, bias=False)
    x = torch.randn(3, 64).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear.weight)(x), linear(x.float()), rtol=1e-5, atol=1e-5)
