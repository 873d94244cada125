"""Linear layers whose weights lie in fewer bits for the few rows that decoding multiplies, and whole for the many.

One row through a layer is as fast as its weights are read, so weights of four bits are read in a fourth of bfloat16's
time; many rows are as fast as they are multiplied, which bfloat16 does best. Both lie in memory: less than float32
alone takes. By torch's own CPU kernels, in the layouts of the machine that runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.packed_linear import PackedLinear

Bits = Literal["int4", "int8"]
GROUP = 32
"""Numbers along the input that share a scale and a zero, as in GGUF's Q4_1: its codes are found again."""
MOST_ROWS = 8
"""So many rows are few. The same everywhere: a state must not depend on how busy a machine was at its start."""


class FewRows(nn.Module):
    """y = x Wᵀ. Until `begin`, and for many rows, by the whole weight, in bfloat16. x: [rows, in], bfloat16."""

    def __init__(self, weight: Tensor, bits: Bits) -> None:
        super().__init__()
        self._many = PackedLinear(weight)
        self._few = _quantized(weight, bits)
        self._most = 0

    def begin(self, most_rows: int = MOST_ROWS) -> None:
        """Multiply so many rows, or fewer, by the weights of fewer bits."""
        self._most = most_rows

    def forward(self, x: Tensor) -> Tensor:
        if self._few is not None and x.numel() <= self._most * x.shape[-1]:
            return self._few(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
        y: Tensor = self._many(x)
        return y


def _quantized(weight: Tensor, bits: Bits) -> Callable[[Tensor], Tensor] | None:
    """The product by fewer bits; None: torch's kernel does not take this size, and does not say so for all of them."""
    out, size = weight.shape
    if bits == "int8":
        return None if size % 16 else _int8(weight)
    return None if size % GROUP or out % 16 else _int4(weight)


def _int4(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """w = (q - 8) s + z, with 16 steps between the least and the greatest of each group."""
    out, size = weight.shape
    groups = weight.float().view(out, size // GROUP, GROUP)
    least, greatest = groups.amin(-1), groups.amax(-1)
    step = ((greatest - least) / 15).clamp(min=1e-8).bfloat16()
    zero = (least + 8 * step.float()).bfloat16()
    codes = ((groups - zero.float()[..., None]) / step.float()[..., None] + 8).round().clamp(0, 15)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32).view(out, size), 1)
    scales = torch.stack([step, zero], dim=-1).transpose(0, 1).contiguous()

    def product(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)
        return y

    return product


def _int8(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """w = q s, one scale a row."""
    scales = (weight.float().abs().amax(1) / 127).clamp(min=1e-8).bfloat16()
    codes = (weight.float() / scales.float()[:, None]).round().clamp(-127, 127).to(torch.int8)

    def product(x: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x, codes, scales)
        return y

    return product


def works() -> bool:
    """Whether this build of torch on this CPU has the kernels."""
    weight = torch.randn(32, 64).bfloat16()
    x = torch.randn(2, 64).bfloat16()
    try:
        found = [_quantized(weight, bits) for bits in ("int4", "int8")]
        whole = F.linear(x, weight).float()
        return all(f is not None and float((f(x) - whole).norm()) < 0.25 * float(whole.norm()) for f in found)
    except (RuntimeError, AttributeError):
        return False
