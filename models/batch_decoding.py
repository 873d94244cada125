"""Many short replies at once, by plain torch: for the night, which writes notes and sits exams by the hundred.

transformers' generate() samples over the whole vocabulary and computes finished rows to the end; with 75 rows of 288
tokens on two cores it takes 2.5 times as long (bench/writer.py).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

LIKELIEST = 40
"""Tokens to sample among."""
_COMPACTED_AT = 0.75
"""Once no more than this share of the rows in memory goes on, the others are dropped."""
_ROOM = 64
"""Positions by which a full cache grows."""


class _Roomy(DynamicLayer):  # type: ignore[misc]  # transformers is untyped
    """A layer's keys and values, written in place: concatenation would copy all of them at each step."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Both [rows, heads, positions, width], with the new ones."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room_for_keys, self._room_for_values = key_states[:, :, :0], value_states[:, :, :0]
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        self._room_for_keys = _with(self._room_for_keys, key_states, start, end)
        self._room_for_values = _with(self._room_for_values, value_states, start, end)
        self.keys, self.values = self._room_for_keys[:, :, :end], self._room_for_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Only keep these rows."""
        end = self.get_seq_length()
        self._room_for_keys, self._room_for_values = self._room_for_keys[indices], self._room_for_values[indices]
        self.keys, self.values = self._room_for_keys[:, :, :end], self._room_for_values[:, :, :end]


def _with(room: Tensor, new: Tensor, start: int, end: int) -> Tensor:
    if end > room.shape[-2]:
        more = new.new_empty(*new.shape[:2], end + _ROOM - start, new.shape[-1])
        room = torch.cat([room[:, :, :start], more], dim=-2)
    room[:, :, start:end] = new
    return room


@torch.no_grad()
def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    most: int,
    stop_ids: Collection[int],
    temperature: float = 0.0,
) -> list[list[int]]:
    """What follows each prompt: at most `most` token ids, without the stop; greedy at temperature 0.

    Sampled by torch's own generator among the `LIKELIEST` tokens. A prompt that stands there more than once is read
    once.
    """
    if not prompts:
        return []
    device = next(model.parameters()).device
    places: dict[tuple[int, ...], int] = {}
    of = torch.tensor([places.setdefault(tuple(p), len(places)) for p in prompts], device=device)
    longest, pad = max(map(len, places)), min(stop_ids)
    ids = torch.tensor([[pad] * (longest - len(p)) + [*p] for p in places], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in places], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = Cache(layer_class_to_replicate=_Roomy)
    made: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    going = [True] * len(prompts)
    for step in range(most):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if step == 0 and len(places) < len(prompts):
            cache.batch_select_indices(of)
            logits, positions, mask = logits[of], positions[of], mask[of]
        chosen = _chosen(logits, temperature)
        for at, token in enumerate(chosen.tolist()):
            going[at] = going[at] and token not in stop_ids
            if going[at]:
                made[rows[at]].append(token)
        if not any(going):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
        if sum(going) <= _COMPACTED_AT * len(rows):
            left = torch.tensor([at for at, on in enumerate(going) if on], device=device)
            cache.batch_select_indices(left)
            ids, positions, mask = ids[left], positions[left], mask[left]
            rows = [rows[at] for at in left.tolist()]
            going = [True] * len(rows)
    return made


def _chosen(logits: Tensor, temperature: float) -> Tensor:
    """One token id a row, from [rows, vocabulary]."""
    if temperature <= 0:
        return logits.argmax(-1)
    likeliest = logits.float().topk(LIKELIEST, dim=-1)
    drawn = torch.multinomial((likeliest.values / temperature).softmax(-1), 1)
    return likeliest.indices.gather(-1, drawn)[:, 0]
