"""Full fine-tuning within an adapter: whole weight matrices are trained, then kept as their best low-rank part.

So what full fine-tuning learns is served, scaled, stored and unlearnt like any other adapter. What the rank leaves out
is lost, by Eckart and Young (1936) the least that any adapter of that rank could lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

ADAPTER = "candidate"


def delta(layer: Any) -> Tensor:
    """What an adapted layer's adapter adds to its weight, [out, in], differentiable in the adapter."""
    added: Tensor = layer.lora_B[ADAPTER].weight @ layer.lora_A[ADAPTER].weight * layer.scaling[ADAPTER]
    return added


class WholeWeights:
    """The weights beneath adapted layers, in float32 and trainable, until they are folded into the adapter."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self._layers = layers
        self._before = [layer.base_layer.weight for layer in layers]
        for layer, weight in zip(layers, self._before, strict=True):
            layer.base_layer.weight = nn.Parameter(weight.detach().to(torch.float32, copy=True))

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What to train."""
        return [layer.base_layer.weight for layer in self._layers]

    def deltas(self) -> list[Tensor]:
        """How far each weight has come, [out, in], differentiable in it."""
        return [
            layer.base_layer.weight - weight.float() for layer, weight in zip(self._layers, self._before, strict=True)
        ]

    def fold(self) -> None:
        """Put the old weights back, and the best approximation of what was learnt in the adapter."""
        with torch.no_grad():
            for layer, weight, learnt in zip(self._layers, self._before, self.deltas(), strict=True):
                rank = layer.r[ADAPTER]
                left, singular, right = torch.linalg.svd(learnt, full_matrices=False)
                root = singular[:rank].sqrt()
                layer.lora_B[ADAPTER].weight.copy_(left[:, :rank] * root / layer.scaling[ADAPTER])
                layer.lora_A[ADAPTER].weight.copy_(root[:, None] * right[:rank])
                layer.base_layer.weight = weight
