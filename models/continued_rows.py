"""Attention of short rows that go on from keys and values that were computed before, and do not change.

While a value is looked for, what is before the place that it is added at is the same at every step; half of a row's
tokens need not be computed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.packed_rows import PackedRows

Held = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each layer in turn, [tokens, kv_heads, d]."""


class Noting:
    """Attends as packed rows do, and keeps the keys and values of every layer."""

    def __init__(self, rows: PackedRows) -> None:
        self._rows, self._layers = rows, list[tuple[Tensor, Tensor]]()
        self.seen, self.positions = rows.seen, rows.positions

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """See PackedRows."""
        self._layers.append((key[0].transpose(0, 1), value[0].transpose(0, 1)))
        return self._rows.attend(query, key, value, scale=scale)

    def held(self, lengths: Sequence[int]) -> Iterator[Held]:
        """Of the shared beginning, and of each row."""
        borders = [0, self._rows.beginning]
        for length in lengths:
            borders.append(borders[-1] + length)
        for start, end in pairwise(borders):
            yield [(key[start:end].clone(), value[start:end].clone()) for key, value in self._layers]


class ContinuedRows:
    """Rows of these lengths, each behind what all share and what is its own. For one pass through the layers held."""

    def __init__(self, beginning: Held, before: Sequence[Held], lengths: Sequence[int]) -> None:
        device, rows, longest = beginning[0][0].device, len(lengths), max(lengths)
        held = torch.tensor([len(of[0][0]) for of in before])
        sizes, place = torch.tensor(lengths), torch.arange(longest)
        starts = torch.cumsum(sizes, 0) - sizes
        self._index = (starts[:, None] + torch.minimum(place[None], sizes[:, None] - 1)).to(device)
        back = torch.cat([row * longest + torch.arange(n) for row, n in enumerate(lengths)])
        self._back = back.to(device)
        shared = len(beginning[0][0])
        known = torch.arange(int(held.max()))[None] < held[:, None]
        own = (place[None] <= place[:, None])[None].expand(rows, -1, -1)
        everywhere = torch.ones(rows, longest, shared, dtype=torch.bool)
        seen = torch.cat([everywhere, known[:, None].expand(-1, longest, -1), own], dim=2)
        self.seen = seen[:, None].to(device)
        """[rows, 1, longest, all that may be seen]."""
        self.positions = (shared + held[back // longest] + back % longest)[None].to(device)
        self._beginning, self._before, self._layer = beginning, before, 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float | None) -> Tensor:
        """query [1, heads, tokens, d], key and value [1, kv_heads, tokens, d] -> [1, tokens, heads, d]."""
        groups, layer = query.shape[1] // key.shape[1], self._layer
        self._layer += 1
        keys, values = (
            torch.cat([self._held(layer, part), self._rows(own)], dim=2).repeat_interleave(groups, 1)
            for part, own in enumerate((key, value))
        )
        asked = self._rows(query) * (query.shape[-1] ** -0.5 if scale is None else scale)
        weights = (asked @ keys.transpose(2, 3)).masked_fill(~self.seen, float("-inf")).softmax(-1, dtype=torch.float32)
        mixed = weights.to(values.dtype) @ values
        return mixed.transpose(1, 2).flatten(0, 1).index_select(0, self._back)[None]

    def _held(self, layer: int, part: int) -> Tensor:
        """[rows, kv_heads, beginning + longest before, d]: its keys or its values."""
        shared = self._beginning[layer][part].expand(len(self._before), -1, -1, -1)
        own = pad_sequence([of[layer][part] for of in self._before], batch_first=True)
        return torch.cat([shared, own], dim=1).transpose(1, 2)

    def _rows(self, of: Tensor) -> Tensor:
        """[rows, heads, longest, d]."""
        taken = of[0].index_select(1, self._index.flatten())
        rows, longest = self._index.shape
        return taken.view(taken.shape[0], rows, longest, -1).transpose(0, 1)
