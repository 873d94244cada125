"""Elastic weight consolidation: what the model leans on for its own replies may move least (Kirkpatrick et al. 2017).

The penalty is weight/2 * sum of F * (W - W0)^2, F being the diagonal of the empirical Fisher information: the mean
square of each weight's gradient of -ln P of the base's own replies, scaled to a mean of 1 over all adapted weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def fisher(layers: Sequence[Any], losses: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Of each adapted layer's base weight, [out, in]; `losses`: one text's -ln P each, by the base."""
    weights = [layer.base_layer.weight for layer in layers]
    squares = [torch.zeros_like(w, dtype=torch.float32) for w in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for loss in losses:
            for square, gradient in zip(squares, torch.autograd.grad(loss(), weights), strict=True):
                square.add_(gradient.float() ** 2)
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    mean = torch.stack([s.mean() for s in squares]).mean().clamp(min=1e-30)
    return [s / mean for s in squares]


def tether(deltas: Sequence[Tensor], importance: Sequence[Tensor]) -> Tensor:
    """Half the sum of importance times the square of how far each weight has come."""
    parts = [(f * d.float() ** 2).sum() for d, f in zip(deltas, importance, strict=True)]
    return 0.5 * torch.stack(parts).sum()
