"""What an adapter learns from: examples, and replies that are to stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One example: what follows the shared beginning, and from where on it is to be learnt."""

    token_ids: tuple[int, ...]
    target_from: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A reply, with the base's likeliest tokens at each target: indices and log-probabilities, [targets, k]."""

    row: Row
    likeliest: Tensor
    log_probabilities: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class InTalk:
    """Some of what is taught, and some of what is rehearsed, in the middle of a conversation: for the gate.

    It has seen nothing but first messages otherwise, and shuts in the second (docs/log.md, 2026-11-27, night).
    """

    taught: Mapping[Row, Row] = field(default_factory=dict)
    """Each with the same as a first message."""
    rehearsed: Sequence[Row] = ()
