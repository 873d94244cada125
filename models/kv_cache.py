"""The keys and values of one sequence, for all layers, in memory. Knows no model and no file."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_WORTH_SHARING = 256
"""Tokens. Fewer are copied."""
_SPARE = 1024
"""Tokens of room beside what a cache is filled with: on a CPU it costs nothing, and to make room later costs a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVShape:
    """The layout of one token's keys and values."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of all layers, in bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """Views of a cache for one step, one a layer, taken at once: each by itself costs as much as a small product."""

    new_keys: tuple[Tensor, ...]
    """[kv_heads, new, head_dim], to be written."""
    new_values: tuple[Tensor, ...]
    keys: tuple[Tensor, ...]
    """[kv_heads, held + new, head_dim]."""
    values: tuple[Tensor, ...]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Frozen:
    """What several caches have begun with: pages that the kernel shares until one of them writes to its own."""

    file: int
    """Of memory (memfd): all keys, then all values."""
    capacity: int
    length: int
    """Tokens written; none of them changes any more."""

    def __del__(self) -> None:
        os.close(self.file)


class KVCache:
    """Keys and values, each [layers, kv_heads, capacity, head_dim], the first `length` tokens of them written.

    Room is reserved ahead and not filled: pages that no token was written to cost no memory. Forks of one cache share
    the pages of what they have in common (on a CPU, under Linux).
    """

    def __init__(self, shape: KVShape) -> None:
        self.shape = shape
        self.length = 0
        self._keys = self._empty(0)
        self._values = self._empty(0)
        self._frozen: Frozen | None = None

    @property
    def capacity(self) -> int:
        """Tokens that fit without reallocating."""
        return self._keys.shape[2]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` in all, keeping what is held."""
        if tokens <= self.capacity:
            return
        keys, values = self._empty(tokens), self._empty(tokens)
        keys[:, :, : self.length] = self._keys[:, :, : self.length]
        values[:, :, : self.length] = self._values[:, :, : self.length]
        self._keys, self._values, self._frozen = keys, values, None

    @property
    def shared(self) -> tuple[Frozen, int] | None:
        """What it shares with its forks, and how many of its tokens; None: it has its memory to itself."""
        return None if self._frozen is None else (self._frozen, min(self.length, self._frozen.length))

    def share(self) -> Frozen | None:
        """What other caches can `begin` with; None: too few tokens, or not on this device or system."""
        return self._frozen if self.length >= LEAST_WORTH_SHARING and self._freeze(self.length) else None

    def begin(self, shared: Frozen, length: int) -> None:
        """Hold the first `length` tokens of what another cache of this shape shares."""
        if length > shared.length:
            raise ValueError(f"{length} tokens of {shared.length} that are shared")
        self._keys, self._values = self._mapped(shared, mmap.MAP_PRIVATE)
        self._frozen, self.length = shared, length

    def trim(self) -> None:
        """Give back room that was reserved and not used; on a CPU it costs nothing."""
        if self.shape.device.type != "cpu" and self.length < self.capacity:
            self._keys, self._values = (
                self._keys[:, :, : self.length].clone(),
                self._values[:, :, : self.length].clone(),
            )

    def extension(self, tokens: int) -> Extension:
        """Views for reading `tokens` more, which must be reserved.

        Every layer writes its keys and values through them. `length` moves only with `advance`, once all have, so that
        a step which fails half-way leaves the cache as it was.
        """
        keys, values = self._keys[:, :, : self.length + tokens], self._values[:, :, : self.length + tokens]
        return Extension(
            new_keys=keys[:, :, self.length :].unbind(0),
            new_values=values[:, :, self.length :].unbind(0),
            keys=keys.unbind(0),
            values=values.unbind(0),
        )

    @property
    def addresses(self) -> tuple[int, int, int]:
        """Where keys and values begin, and the capacity: for code that writes the next token's itself."""
        return self._keys.data_ptr(), self._values.data_ptr(), self.capacity

    def advance(self, tokens: int) -> None:
        """Count `tokens` more as held: every layer has written them."""
        self.length += tokens

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        self.length = length

    def fork(self, length: int) -> KVCache:
        """An independent copy of the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot fork {length} tokens of a cache of {self.length}")
        copy = KVCache(self.shape)
        if length >= LEAST_WORTH_SHARING and self._freeze(length):
            assert self._frozen is not None
            copy.begin(self._frozen, length)
            return copy
        copy.reserve(length)
        copy._keys[:, :, :length] = self._keys[:, :, :length]
        copy._values[:, :, :length] = self._values[:, :, :length]
        copy.length = length
        return copy

    def views(self) -> dict[str, Tensor]:
        """Keys and values of each layer, [kv_heads, length, head_dim], on the CPU; copied, if they lie elsewhere."""
        held = {"keys": self._keys[:, :, : self.length].cpu(), "values": self._values[:, :, : self.length].cpu()}
        return {f"{kind}.{n:03d}": of[n] for kind, of in held.items() for n in range(self.shape.layers)}

    def tensors(self) -> dict[str, Tensor]:
        """The same, copied."""
        return {name: view.clone(memory_format=torch.contiguous_format) for name, view in self.views().items()}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold these, converted to this cache's dtype and device. Raises: ValueError: they are not of its shape."""
        s = self.shape
        names = [f"{kind}.{n:03d}" for kind in ("keys", "values") for n in range(s.layers)]
        if set(tensors) != set(names):
            raise ValueError(f"these are not the keys and values of {s.layers} layers")
        tokens = tensors[names[0]].shape[1] if tensors[names[0]].dim() == 3 else -1
        wrong = [n for n in names if tensors[n].shape != (s.kv_heads, tokens, s.head_dim)]
        if wrong or not all(tensors[n].is_floating_point() for n in names):
            raise ValueError(f"a token of this cache has {s.kv_heads} heads of {s.head_dim} numbers; see {wrong[:2]}")
        self.length = 0
        self.reserve(tokens + (_SPARE if s.device.type == "cpu" else 0))
        for n in range(s.layers):
            self._keys[n, :, :tokens].copy_(tensors[f"keys.{n:03d}"])
            self._values[n, :, :tokens].copy_(tensors[f"values.{n:03d}"])
        self.length = tokens

    def _freeze(self, length: int) -> bool:
        """Have the first `length` tokens in pages that forks can share. False: not on this device or system."""
        if self._frozen is not None and length <= self._frozen.length:
            return True
        if self.shape.device.type != "cpu" or not hasattr(os, "memfd_create"):
            return False
        capacity = self.length + _SPARE
        frozen = Frozen(os.memfd_create("slowwave-kv"), capacity, self.length)
        try:
            os.ftruncate(frozen.file, 2 * self._nbytes(capacity))
            keys, values = self._mapped(frozen, mmap.MAP_SHARED)
        except OSError:  # no room, or none allowed
            return False
        keys[:, :, : self.length] = self._keys[:, :, : self.length]
        values[:, :, : self.length] = self._values[:, :, : self.length]
        self._keys, self._values = self._mapped(frozen, mmap.MAP_PRIVATE)
        self._frozen = frozen
        return True

    def _mapped(self, frozen: Frozen, how: int) -> tuple[Tensor, Tensor]:
        s = self.shape
        nbytes = self._nbytes(frozen.capacity)
        pages = mmap.mmap(frozen.file, 2 * nbytes, flags=how, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        both = torch.frombuffer(pages, dtype=torch.uint8).view(s.dtype)
        keys, values = both.view(2, s.layers, s.kv_heads, frozen.capacity, s.head_dim).unbind(0)
        return keys, values

    def _nbytes(self, tokens: int) -> int:
        """Of the keys of so many tokens, or of their values."""
        return tokens * self.shape.bytes_per_token // 2

    def _empty(self, tokens: int) -> Tensor:
        s = self.shape
        size = (s.layers, s.kv_heads, tokens, s.head_dim)
        if s.device.type != "cpu" or tokens == 0:
            return torch.empty(size, dtype=s.dtype, device=s.device)
        return _own_pages(math.prod(size) * s.dtype.itemsize).view(s.dtype).view(size)


def _own_pages(nbytes: int) -> Tensor:
    """Bytes straight from the kernel: only pages that are written to cost memory, and all go back when freed.

    From malloc's heap, caches of changing sizes leave holes that are never returned: a gigabyte within minutes of
    16 clients (docs/log.md). Huge pages would make a whole reservation real at its first token.
    """
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):  # a kernel without huge pages
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
