"""Weights in few bits: what they give back, and how few will do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.grouped_weights import GROUP, KINDS, Kind, grouped, ungrouped


def weight(out: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(out, size, generator=torch.manual_seed(seed))


def as_gguf(out: int, size: int, *, bits: int, seed: int) -> torch.Tensor:
    """As a GGUF's Q4_1 or Q8_0 stands for: codes times a float16 step, and for four bits a least number."""
    torch.manual_seed(seed)
    step = (torch.rand(out, size // GROUP, 1) + 0.1).mul(0.02).half().float()
    if bits == 8:
        codes = torch.randint(-127, 128, (out, size // GROUP, GROUP)).float()
        codes[..., 3] = 127
        return (codes * step).view(out, size)
    codes = torch.randint(0, 16, (out, size // GROUP, GROUP)).float()
    codes[..., 0], codes[..., 1] = 0, 15
    least = (torch.randn(out, size // GROUP, 1) * 0.1).half().float()
    return (codes * step + least).view(out, size)


@given(out=st.integers(1, 70), groups=st.integers(1, 4), seed=st.integers(0, 1000), bits=st.sampled_from([4, 8]))
def test_what_came_from_a_gguf_is_found_again_to_the_bit(out: int, groups: int, seed: int, bits: int) -> None:
    whole = as_gguf(out, groups * GROUP, bits=bits, seed=seed)
    kind: Kind = "int4" if bits == 4 else "int8"
    few = grouped(whole, kind)
    assert grouped(whole).kind == kind
    torch.testing.assert_close(ungrouped(few), whole, rtol=2**-22, atol=2**-24)
    assert few.nbytes == few.blocks * 32 * few.size * (20 if bits == 4 else 34) // 32


def test_the_fewest_bits_lose_nothing() -> None:
    assert grouped(weight(40, 64).bfloat16()).kind == "bfloat16"
    assert grouped(weight(40, 64)).kind == "float32"


@pytest.mark.parametrize(("kind", "error"), list(zip(KINDS, (0.11, 0.009, 0.003, 0.0), strict=True)))
@given(out=st.integers(1, 70), seed=st.integers(0, 1000))
def test_the_error_is_that_of_rounding(kind: Kind, error: float, out: int, seed: int) -> None:
    whole = weight(out, 96, seed)
    found = ungrouped(grouped(whole, kind))
    assert found.shape == whole.shape
    assert (found - whole).norm() <= error * whole.norm()


def test_a_size_that_does_not_fall_into_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="groups of 32"):
        grouped(weight(32, 48), "int8")
