"""Many short replies at once, by plain torch: for the night, which writes notes and sits exams by the hundred.

transformers' generate() samples over the whole vocabulary and computes finished rows to the end; with 75 rows of 288
tokens on two cores it takes 2.5 times as long (bench/writer.py). On a GPU a step is one CUDA graph (`graphed`), since
launching its kernels from Python takes ten times as long as they run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from models.graphed import Graphed

LIKELIEST = 40
"""Tokens to sample among."""
_COMPACTED_AT, _RECORDED_AT = 0.75, 0.35
"""Once no more than this share of the rows in memory goes on, the others are dropped: where a step would have to be
recorded anew, later."""
_ROOM = 64
"""Positions by which a full cache grows, and by which a fixed one may be too long."""


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


class _Fixed(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values in a room that stays where it is, written at `slot`, an index on the device."""

    slot: Tensor

    def __init__(self, keys: Tensor, values: Tensor, positions: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = (
            _with(of[:, :, :0].new_zeros(*of.shape[:2], positions, of.shape[-1]), of, 0, of.shape[-2])
            for of in (keys, values)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Both [rows, heads, 1, width]; all there is room for comes back, to be masked."""
        self.keys.index_copy_(2, self.slot, key_states)
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values


class _Growing:
    """Steps of rows whose caches grow by what is read."""

    compacted_at = _COMPACTED_AT

    def __init__(self, model: nn.Module, cache: Cache, mask: Tensor) -> None:
        self._model, self._cache, self._mask = model, cache, mask

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits after one more token each, [rows, vocabulary]."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=-1)
        return _read(self._model, ids, self._mask, positions, self._cache)

    def keep(self, left: Tensor) -> None:
        """Only these rows."""
        self._cache.batch_select_indices(left)
        self._mask = self._mask[left]


class _Recorded:
    """The same in rooms that are large enough from the beginning, so that every step is the same."""

    compacted_at = _RECORDED_AT

    def __init__(self, model: nn.Module, cache: Cache, mask: Tensor, most: int) -> None:
        self._model, self._read = model, mask.shape[-1]
        room = -(-(self._read + most) // _ROOM) * _ROOM
        self._mask = torch.cat([mask, mask.new_zeros(len(mask), room - self._read)], dim=-1)[:, None, None].bool()
        self._have([(layer.keys, layer.values) for layer in cache.layers])

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits after one more token each, [rows, vocabulary]; overwritten by the next call."""
        self._mask[..., self._read] = True
        slot = torch.tensor([self._read], device=ids.device)
        self._read += 1
        return self._run((ids, positions, self._mask, slot))[0]

    def keep(self, left: Tensor) -> None:
        """Only these rows."""
        self._mask = self._mask[left]
        self._have([(layer.keys[left], layer.values[left]) for layer in self._cache.layers])

    def _have(self, read: Sequence[tuple[Tensor, Tensor]]) -> None:
        cache = self._cache = Cache(layers=[_Fixed(*of, self._mask.shape[-1]) for of in read])
        model = self._model

        def run(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            ids, positions, mask, slot = given
            for layer in cache.layers:
                layer.slot = slot
            return (_read(model, ids, mask, positions, cache),)

        self._run = Graphed(run) if self._mask.device.type == "cuda" else run


def _read(model: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
    """Logits after the last of `ids`, [rows, vocabulary]."""
    logits: Tensor = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return logits


@torch.no_grad()
def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    most: int,
    stop_ids: Collection[int],
    temperature: float = 0.0,
    recorded: bool | None = None,
    kept: Callable[[Tensor], None] = lambda rows: None,
) -> list[list[int]]:
    """What follows each prompt: at most `most` token ids, without the stop; greedy at temperature 0.

    Sampled by torch's own generator among the `LIKELIEST` tokens. A prompt that stands there more than once is read
    once. `recorded`: in steps that are all alike; None: on a GPU. `kept` is told which rows go on, by their places,
    whenever others are dropped or one is to stand for several.
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
    logits = _read(model, ids, mask, positions, cache)
    if len(places) < len(prompts):
        cache.batch_select_indices(of)
        kept(of)
        logits, positions, mask = logits[of], positions[of], mask[of]
    in_one = device.type == "cuda" if recorded is None else recorded
    read = _Recorded(model, cache, mask, most) if in_one else _Growing(model, cache, mask)
    made: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    going = [True] * len(prompts)
    for step in range(most):
        chosen = _chosen(logits, temperature)
        for at, token in enumerate(chosen.tolist()):
            going[at] = going[at] and token not in stop_ids
            if going[at]:
                made[rows[at]].append(token)
        if step + 1 == most or not any(going):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        if sum(going) <= read.compacted_at * len(rows):
            left = torch.tensor([at for at, on in enumerate(going) if on], device=device)
            read.keep(left)
            kept(left)
            ids, positions = ids[left], positions[left]
            rows = [rows[at] for at in left.tolist()]
            going = [True] * len(rows)
        logits = read(ids, positions)
    return made


def _chosen(logits: Tensor, temperature: float) -> Tensor:
    """One token id a row, from [rows, vocabulary]."""
    if temperature <= 0:
        return logits.argmax(-1)
    likeliest = logits.float().topk(LIKELIEST, dim=-1)
    drawn = torch.multinomial((likeliest.values / temperature).softmax(-1), 1)
    return likeliest.indices.gather(-1, drawn)[:, 0]
