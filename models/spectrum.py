"""How large an adapter is beside the weights that it is on.

A low-rank change BA of a weight W is measured by its largest singular value over that of W: at 1, some direction is
moved as far as W moves any. The largest over all matrices is the adapter's norm. BA is not decomposed whole, but
the product of two triangles of its rank; a largest singular value is the root of the largest eigenvalue of the smaller
Gram matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

BEYOND = 1e6
"""More than any bar, and a number in JSON."""


@torch.no_grad()
def norm(changes: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """The largest of the changes W [out, in], A [r, in], B [out, r], the last scaled; `BEYOND` if one is no number."""
    largest = 0.0
    for weight, a, b in changes:
        core = _core(a.float(), b.float())
        if not torch.isfinite(core).all():
            return BEYOND
        largest = max(largest, float(_largest(core) / _largest(weight.float()).clamp_min(1e-12)))
    return min(largest, BEYOND)


def _core(a: Tensor, b: Tensor) -> Tensor:
    """A small matrix with the singular values of BA; not finite where A, B or their product is not."""
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return torch.tensor(float("nan"))
    left, right = torch.linalg.qr(b).R, torch.linalg.qr(a.T).R
    core: Tensor = left @ right.T
    return core


def _largest(matrix: Tensor) -> Tensor:
    scale = matrix.abs().max().clamp_min(1e-30)  # squares neither overflow nor vanish
    wide = matrix / scale if matrix.shape[0] <= matrix.shape[1] else matrix.T / scale
    largest: Tensor = torch.linalg.eigvalsh(wide @ wide.T)[-1].clamp_min(0).sqrt() * scale
    return largest
