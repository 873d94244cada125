"""A linear layer whose weight lies as oneDNN likes it, for inference on CPUs.

`F.linear` multiplies through the BLAS that torch was built with, which on many CPUs reads weights at a fraction of
the memory's speed when few rows come at once (decoding). oneDNN's blocked layout reads them two to three times
faster and is as exact: same float32 products, summed in another order. docs/log.md has the measurements.

A row comes out the same whoever is beside it, or a reply would depend on who else is answered. On AVX-512 oneDNN sums
a lone row of more than 1,024 numbers in another order than the same row beside others: there it is given a twin.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

# oneDNN keeps the code that it made for every number of rows that it met, 1,024 of them, half a megabyte to two each:
# prompts of all lengths fill 400 MiB with what decoding never needs again, and making one anew takes a tenth of a
# millisecond. Read at its first use, which comes later.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "24")


class PackedLinear(nn.Module):
    """y = x Wᵀ + b, W packed once. x: [..., in_features], y: [..., out_features]. No gradient."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        # A plain attribute: an opaque tensor has no storage, so module.to() and state_dict() must not touch it.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        self._bias = None if bias is None else bias.detach()
        self._dtype = weight.dtype
        probe = torch.linspace(-1, 1, 2 * weight.shape[1], dtype=weight.dtype, device=weight.device).view(2, -1).cos()
        self._lone_rows_differ = not torch.equal(self._product(probe[:1]), self._product(probe)[:1])

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self._dtype)  # autocast does not know this product
        if self._lone_rows_differ and x.numel() == x.shape[-1]:
            return self._product(x.reshape(1, -1).expand(2, -1))[:1].view(*x.shape[:-1], -1)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")
        return y


def pack_linears(model: nn.Module) -> int:
    """Replace every `nn.Linear` under `model` by a packed one, freeing the originals. Returns how many."""
    packed = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child.weight, child.bias))
                packed += 1
    return packed


def packing_works(dtype: torch.dtype) -> bool:
    """Whether this build of torch on this CPU packs linears of `dtype`."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    linear = nn.Linear(64, 32, bias=False, dtype=dtype)
    x = torch.randn(3, 64, dtype=dtype)
    with torch.inference_mode():
        try:
            if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return False
            return torch.allclose(PackedLinear(linear.weight)(x), linear(x), rtol=1e-2, atol=1e-2)
        except (RuntimeError, AttributeError):  # an operator that this build lacks
            return False
