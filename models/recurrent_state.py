"""What a recurrent network remembers: a state of constant size, and the tokens that made it.

A recurrent state cannot be cut back: what came in is not found again. So a few states of before are kept, at the ends
of pieces, and the tokens since the nearest are read again where less is asked for. With the same pieces as at first,
the bits are those of the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from models.language import PIECE

Reader = Callable[[Sequence[int], Tensor], Tensor]
"""Tokens and the state before them [..., 1, channels], to the state after."""
_NEAR, _APART = 4, 1024
"""Kept: so many of the latest pieces' ends, and others at least so many tokens apart."""


class RecurrentState:
    """Of one sequence."""

    def __init__(self, begin: Tensor, reader: Reader) -> None:
        self._begin, self._reader = begin, reader
        self._token_ids: list[int] = []
        self.held = begin
        """The network's state now."""
        self._marks: dict[int, Tensor] = {}

    @property
    def length(self) -> int:
        return len(self._token_ids)

    def took(self, token_ids: Sequence[int], held: Tensor) -> None:
        """The state after more tokens."""
        self._token_ids += token_ids
        self.held = held
        if self.length % PIECE == 0:
            self._marks[self.length] = held
            for old in [at for at in self._marks if at <= self.length - _NEAR * PIECE and at % _APART]:
                del self._marks[old]

    def reserve(self, tokens: int) -> None:
        """It is of constant size."""

    def trim(self) -> None:
        """And has nothing to give back."""

    def crop(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a state of {self.length} tokens to {length}")
        if length == self.length:
            return
        tokens = self._token_ids[:length]
        self._marks = {at: held for at, held in self._marks.items() if at <= length}
        at = max(self._marks, default=0)
        held = self._marks.get(at, self._begin)
        while at < length:
            end = min(length, at - at % PIECE + PIECE)
            held = self._reader(tokens[at:end], held)
            at = end
        self._token_ids, self.held = tokens, held

    def fork(self, length: int) -> RecurrentState:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot fork {length} tokens of a state of {self.length}")
        copy = RecurrentState(self._begin, self._reader)
        copy._token_ids, copy.held, copy._marks = list(self._token_ids), self.held, dict(self._marks)
        copy.crop(length)
        return copy

    @property
    def shared(self) -> None:
        return None

    def share(self) -> None:
        return None

    def begin(self, shared: object, length: int) -> None:
        raise ValueError("a recurrent state shares nothing: it is as small as what it would share")

    def views(self) -> dict[str, Tensor]:
        return {"state.held": self.held.cpu(), "state.read": torch.tensor(self._token_ids, dtype=torch.int32)}

    def tensors(self) -> dict[str, Tensor]:
        return {name: view.clone() for name, view in self.views().items()}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        if set(tensors) != {"state.held", "state.read"}:
            raise ValueError("this is not the state of a recurrent network")
        held, read = tensors["state.held"], tensors["state.read"]
        if held.shape != self._begin.shape or read.dim() != 1 or not bool(torch.isfinite(held).all()):
            raise ValueError("this is the state of another network")
        self.held = held.to(self._begin.device, torch.float32)
        self._token_ids = [int(i) for i in read]
        self._marks = {}
