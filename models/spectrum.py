"""How large an adapter is beside the weights that it is on.

A low-rank change BA of a weight W is measured by its largest singular value over that of W: at 1, some direction is
moved as far as W moves any. The largest over all matrices is the adapter's norm. That of BA costs two thin QR
factorisations of rank r; that of W is found by power iteration, which converges from below (30 steps: within a
hundredth for weights as they are, where a bar is a multiple).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BEYOND = 1e6
"""More than any bar, and a number in JSON."""
_STEPS = 30


@torch.no_grad()
def norm(changes: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """The largest of the changes W [out, in], A [r, in], B [out, r], the last scaled; `BEYOND` if one is no number."""
    largest = 0.0
    for weight, a, b in changes:
        added = _largest_of_product(a.float(), b.float())
        if not torch.isfinite(added):
            return BEYOND
        largest = max(largest, float(added / _largest(weight.float()).clamp_min(1e-12)))
    return min(largest, BEYOND)


def _largest_of_product(a: Tensor, b: Tensor) -> Tensor:
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return torch.tensor(float("inf"))
    left, right = torch.linalg.qr(b).R, torch.linalg.qr(a.T).R
    largest: Tensor = torch.linalg.matrix_norm(left @ right.T, ord=2)
    return largest


def _largest(weight: Tensor) -> Tensor:
    vector = torch.ones(weight.shape[1], device=weight.device) + torch.arange(weight.shape[1], device=weight.device) % 7
    for _ in range(_STEPS):
        vector = torch.nn.functional.normalize(weight.T @ (weight @ vector), dim=0)
    largest: Tensor = torch.linalg.vector_norm(weight @ vector)
    return largest
