"""Attention of many short rows that lie in one, behind one copy of what they all begin with.

Each row sees the shared beginning and itself. Done row by row in a padded batch, it costs rows x length x (beginning +
length) instead of the square of everything: for a step of training 8 rows of 25 tokens behind 25, a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Layout(Protocol):
    """How rows lie in one, and what each of them sees."""

    @property
    def seen(self) -> Tensor:
        """[rows, 1, longest, all that may be seen]."""
        ...

    @property
    def positions(self) -> Tensor:
        """[1, tokens]."""
        ...

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """query [1, heads, tokens, d], key and value [1, kv_heads, tokens, d] -> [1, tokens, heads, d]."""
        ...


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Where the rows lie."""

    beginning: int
    """Tokens that all rows share."""
    index: Tensor
    """[rows, longest]: each row's places in the whole; padded with its own last one."""
    seen: Tensor
    """[rows, 1, longest, beginning + longest]."""
    back: Tensor
    """[tokens - beginning]: places in the flattened batch, in the order of the whole."""

    @classmethod
    def of(cls, beginning: int, lengths: Sequence[int], device: Any) -> PackedRows:
        """Lay out rows of these lengths behind a shared beginning."""
        longest, rows = max(lengths), len(lengths)
        sizes = torch.tensor(lengths)
        starts = beginning + torch.cumsum(sizes, 0) - sizes
        place = torch.arange(longest)
        index = starts[:, None] + torch.minimum(place[None], sizes[:, None] - 1)
        own = (place[None, :] <= place[:, None])[None].expand(rows, -1, -1)
        seen = torch.cat([torch.ones(rows, longest, beginning, dtype=torch.bool), own], dim=2)[:, None]
        back = torch.cat([r * longest + torch.arange(n) for r, n in enumerate(lengths)])
        return cls(beginning, index.to(device), seen.to(device), back.to(device))

    @property
    def positions(self) -> Tensor:
        """[1, tokens]: each row counts on from the beginning."""
        start, longest = self.beginning, self.index.shape[1]
        device = self.index.device
        own = start + self.back % longest
        return torch.cat([torch.arange(start, device=device), own])[None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """query [1, heads, tokens, d], key and value [1, kv_heads, tokens, d] -> [1, tokens, heads, d]."""
        start, groups = self.beginning, query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        first = F.scaled_dot_product_attention(
            query[:, :, :start], key[:, :, :start], value[:, :, :start], is_causal=True, scale=scale
        )
        asked = self._rows(query) * (query.shape[-1] ** -0.5 if scale is None else scale)
        # Plain products: the CPU's fused attention takes four times as long over the way back through rows so short.
        scores = asked @ torch.cat([self._shared(key), self._rows(key)], dim=2).transpose(2, 3)
        weights = scores.masked_fill(~self.seen, float("-inf")).softmax(-1, dtype=torch.float32)
        rows = weights.to(value.dtype) @ torch.cat([self._shared(value), self._rows(value)], dim=2)
        flat = rows.transpose(1, 2).flatten(0, 1).index_select(0, self.back)
        return torch.cat([first[0].transpose(0, 1), flat])[None]

    def _rows(self, of: Tensor) -> Tensor:
        """[rows, heads, longest, d]."""
        taken = of[0].index_select(1, self.index.flatten())
        rows, longest = self.index.shape
        return taken.view(taken.shape[0], rows, longest, -1).transpose(0, 1)

    def _shared(self, of: Tensor) -> Tensor:
        return of[:, :, : self.beginning].expand(len(self.index), -1, -1, -1)
