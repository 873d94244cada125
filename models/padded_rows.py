"""Rows of a step side by side, each padded to the same length: the same shapes every time, as a CUDA graph wants them.

`packed_rows` wastes no product and so suits a processor; here some are wasted, and nothing depends on how long what is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

STEP_OF_LENGTHS = 32
"""Rows are padded to a multiple of this: a few shapes for a whole night."""
_UNLIKELY = -30.0


class PaddedRows(NamedTuple):
    """What one step reads. `examples` and `held`: how many targets there is room for."""

    hidden: Tensor
    """[rows, longest, width]: what enters the first trained layer, beginning and all."""
    places: Tensor
    """[examples], in the flattened rows: where the targets of what is learnt are predicted."""
    labels: Tensor
    """[examples]"""
    shares: Tensor
    """[examples], float32: what each counts; 0: it is padding."""
    held_places: Tensor
    """[held]: the same of what is held to the base."""
    likeliest: Tensor
    """[held, k]"""
    log_probabilities: Tensor
    """[held, k]"""
    held_shares: Tensor
    """[held]"""


def empty(rows: int, longest: int, width: int, examples: int, held: int, k: int, *, like: Tensor) -> PaddedRows:
    """All of it padding, on the device and with the dtype of `like`."""
    device = like.device
    return PaddedRows(
        hidden=torch.zeros(rows, longest, width, dtype=like.dtype, device=device),
        places=torch.zeros(examples, dtype=torch.long, device=device),
        labels=torch.zeros(examples, dtype=torch.long, device=device),
        shares=torch.zeros(examples, device=device),
        held_places=torch.zeros(held, dtype=torch.long, device=device),
        likeliest=torch.zeros(held, k, dtype=torch.long, device=device),
        log_probabilities=torch.full((held, k), _UNLIKELY, device=device),
        held_shares=torch.zeros(held, device=device),
    )


def fill(room: Tensor, numbers: Sequence[float] | Sequence[int]) -> None:
    """Put numbers at a tensor's beginning."""
    room[: len(numbers)] = torch.tensor(numbers, dtype=room.dtype, device=room.device)
