"""Activation steering: what is added to the residual stream while a reply is written.

Turner et al. 2023 (activation addition), Rimsky et al. 2024 (contrastive activation addition): a direction is the
difference of the mean residuals under texts that differ in one trait; adding it after some layers gives a reply more
of the trait. Only the words being written are steered. What was read before them is read plainly, and so is the reply
itself once it is history, so that no state in a cache depends on yesterday's mood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

After = Callable[[int, "Tensor"], "Tensor"]
"""Called after each layer with its number and the residuals, [tokens, hidden]; returns what goes on."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steering:
    """What is added after the layers `first`, `first` + 1 and so on."""

    first: int
    vectors: Tensor
    """float32 [layers, hidden]."""

    def at(self, layer: int) -> Tensor | None:
        """What is added after a layer, [hidden]; None: nothing."""
        n = layer - self.first
        return self.vectors[n] if 0 <= n < len(self.vectors) else None


def combined(parts: Sequence[tuple[float, Steering]]) -> Steering | None:
    """The weighted sum of several over the layers of all; None: nothing is left of it."""
    kept = [(weight, part) for weight, part in parts if weight]
    if not kept:
        return None
    first = min(part.first for _, part in kept)
    last = max(part.first + len(part.vectors) for _, part in kept)
    vectors = kept[0][1].vectors.new_zeros(last - first, kept[0][1].vectors.shape[1])
    for weight, part in kept:
        at = part.first - first
        vectors[at : at + len(part.vectors)] += weight * part.vectors
    return Steering(first=first, vectors=vectors)


def adding(steered: Sequence[tuple[Steering, Tensor]]) -> After | None:
    """Adds each to its rows of the residuals; None: there is nothing to add."""
    if not steered:
        return None

    def after(layer: int, x: Tensor) -> Tensor:
        for steering, rows in steered:
            vector = steering.at(layer)
            if vector is not None:
                x = x.index_add(0, rows, vector.to(device=x.device, dtype=x.dtype).expand(len(rows), -1))
        return x

    return after
