"""Tensors in memory that another process maps: handed over as a file descriptor, nothing copied.

The memory has no name (`memfd_create`), so nobody but who inherits the descriptor can open it, and it is gone with the
last process that holds it, however that ended. Once filled it is sealed: no side can change, shrink or grow it any
more. Who maps it gets pages of its own for whatever it writes to.
"""

from __future__ import annotations

import fcntl
import math
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from models.errors import ModelError

DTYPES = {
    str(t).removeprefix("torch."): t
    for t in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8)
}
_ALIGNED = 64
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class BrokenHandOver(ModelError):
    """What was handed over is not what it was said to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Where one tensor lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """In bytes."""

    @property
    def nbytes(self) -> int:
        """Of its elements."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(slots=True)
class Shared:
    """Filled memory, as who filled it holds it. `fd` is what to pass on; close it when nobody more will need it."""

    fd: int
    pieces: tuple[Piece, ...]
    nbytes: int

    def said(self) -> dict[str, Any]:
        """What to tell the other side, beside passing `fd`: plain enough for JSON."""
        return {"fd": self.fd, "pieces": [asdict(p) for p in self.pieces]}

    def close(self) -> None:
        """Let go of it here; who has mapped it keeps it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def share(tensors: Mapping[str, Tensor]) -> Shared:
    """Put tensors where another process can map them: the only copy there is.

    Raises:
        OSError: the system has no such memory, or not enough.
    """
    pieces = _laid_out((name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items())
    return _filled(pieces, lambda piece: tensors[piece.name])


def share_files(files: Sequence[Path], dtype: str) -> Shared:
    """The tensors of safetensors files, floating ones in `dtype`; one at a time is in memory twice.

    Raises:
        OSError, safetensors.SafetensorError: a file that cannot be read, or no memory.
    """
    with ExitStack() as held:
        tensors: dict[str, Tensor] = {}  # views of the mapped files: nothing is read before it is copied
        for file in files:
            opened = held.enter_context(safe_open(file, "pt"))
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        pieces = _laid_out(
            (name, dtype if t.is_floating_point() else str(t.dtype).removeprefix("torch."), tuple(t.shape))
            for name, t in tensors.items()
        )
        return _filled(pieces, lambda piece: tensors[piece.name])


def mapped(said: Mapping[str, Any]) -> dict[str, Tensor]:
    """The other side's: tensors upon the memory of a descriptor that was inherited. It stays open, to be mapped again.

    Raises:
        BrokenHandOver: no such memory, or one that the pieces do not fit in, or that could still change.
    """
    try:
        pieces = [Piece(**{**p, "shape": tuple(p["shape"])}) for p in said["pieces"]]
        fd, size = int(said["fd"]), os.fstat(said["fd"]).st_size
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        fits = all(
            p.dtype in DTYPES
            and min(p.shape, default=0) >= 0
            and p.offset >= 0
            and p.offset % _ALIGNED == 0
            and p.offset + p.nbytes <= size
            for p in pieces
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BrokenHandOver(f"no tensors were handed over: {error}") from error
    if not (sealed and fits):
        raise BrokenHandOver("what was handed over is not sealed, or is smaller than was said")
    memory = mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return {p.name: _view(memory, p) for p in pieces}


def _laid_out(kinds: Iterator[tuple[str, str, tuple[int, ...]]]) -> tuple[Piece, ...]:
    made, at = [], 0
    for name, dtype, shape in kinds:
        made.append(Piece(name=name, dtype=dtype, shape=shape, offset=at))
        at += -(-made[-1].nbytes // _ALIGNED) * _ALIGNED
    return tuple(made)


def _filled(pieces: tuple[Piece, ...], tensor: Any) -> Shared:
    size = max(_ALIGNED, max((p.offset + p.nbytes for p in pieces), default=0))
    fd = os.memfd_create("slowwave", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        memory = mmap.mmap(fd, size)
        for piece in pieces:
            _view(memory, piece).copy_(tensor(piece))
        memory.close()  # the seal against writing is refused while anybody could write
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return Shared(fd, pieces, size)


def _view(memory: mmap.mmap, piece: Piece) -> Tensor:
    if not piece.nbytes:
        return torch.empty(piece.shape, dtype=DTYPES[piece.dtype])
    flat = torch.frombuffer(memory, dtype=DTYPES[piece.dtype], count=math.prod(piece.shape), offset=piece.offset)
    return flat.view(piece.shape)
