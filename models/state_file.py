"""One file of tensors with a manifest: the safetensors layout, a digest for every tensor, nothing that executes.

    8 bytes     length of the header, little-endian
    header      JSON: {"__metadata__": {"format", "manifest", "sha256"}, name: {"dtype", "shape", "data_offsets"}, ...}
                and in a signed file, in its metadata, "signer" and "signature"
    data        the tensors, one after another, without gaps

`manifest` is a JSON text; `sha256` is the digest of the manifest and of the table of tensors, so that a flipped bit
anywhere is found: in the header by that one, in a tensor by the digest that the table of digests in the manifest has of
it. Any reader of safetensors can open the file. Everything is checked against the file's size before memory is taken.

A digest is no signature: whoever can write a file can make its digests. It finds what is broken; what is forged, only a
signature finds (signature.py), which is made over the header's digest, and so over all. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models import signature
from models.signature import Signer

T = TypeVar("T")
FORMAT = "slowwave-state-1"
MOST_HEADER = 1 << 20
"""Bytes: some four thousand tensors."""
MOST_TENSORS = 4096
_MOST_RANK = 4
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
"""The dtypes that there are, by safetensors' names."""
_PIECE = 1 << 22
"""Bytes handed on at once, and from which on threads are worth their start."""


class BrokenStateFile(Exception):
    """Not a file that this reads: cut off, changed, of another format, or never one. The message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One tensor, as bytes."""

    dtype: str
    shape: tuple[int, ...]
    runs: tuple[memoryview, ...]
    """Its bytes, in one piece or in several that follow each other: a cache with room to grow is not copied for it."""

    @classmethod
    def of(cls, dtype: str, shape: tuple[int, ...], data: memoryview) -> Block:
        """A tensor in one piece."""
        return cls(dtype=dtype, shape=shape, runs=(data,))

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.runs))

    @property
    def data(self) -> memoryview:
        """In one piece; a copy, if it is not."""
        return self.runs[0] if len(self.runs) == 1 else memoryview(b"".join(self.runs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One tensor of a file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """In the file, in bytes."""
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file's header says, and its size bears out. The data itself is not looked at yet."""

    manifest: Mapping[str, Any]
    tensors: Mapping[str, Placed]
    digests: Mapping[str, str]
    nbytes: int
    seal: str
    """Digest of the header, and so of all: one file, one seal."""
    signer: str | None
    """The public key, in hex, whose signature the seal bears; None: unsigned."""


def pieces(
    blocks: Mapping[str, Block], manifest: Mapping[str, Any], signer: Signer | None = None
) -> Iterator[memoryview]:
    """The file, piece by piece: for the network.

    `manifest`: JSON values; its key "digests" is ours.

    Raises:
        ValueError: a name, a number of dimensions, a dtype or a size that the format does not have.
    """
    nbytes = _checked(blocks)

    def digest(name: str) -> str:
        made = hashlib.sha256()
        for run in blocks[name].runs:
            made.update(run)
        return made.hexdigest()

    yield memoryview(_header(blocks, manifest, _for_each(digest, list(blocks), nbytes), signer))
    for block in blocks.values():
        for run in block.runs:
            for start in range(0, len(run), _PIECE):
                yield run[start : start + _PIECE]


def write(path: Path, blocks: Mapping[str, Block], manifest: Mapping[str, Any], signer: Signer | None = None) -> int:
    """Write a file, whole or not at all, flushed to the disk; returns its size in bytes.

    Raises:
        OSError: no room, or no right, to write; nothing is left behind.
        ValueError: as of `pieces`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", buffering=0, opener=_private) as file:
            size = _fill(file.fileno(), blocks, manifest, signer)
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return size


def _fill(file: int, blocks: Mapping[str, Block], manifest: Mapping[str, Any], signer: Signer | None) -> int:
    """Each tensor is hashed while it is written, the header is written last: its length is known before its digests."""
    nbytes = _checked(blocks)
    first = len(_header(blocks, manifest, dict.fromkeys(blocks, "0" * 64), signer))
    places = dict(zip(blocks, accumulate((b.nbytes for b in blocks.values()), initial=first), strict=False))

    def written(name: str) -> str:
        digest, at = hashlib.sha256(), places[name]
        for run in blocks[name].runs:
            digest.update(run)
            _put(file, run, at)
            at += len(run)
        _begin_flushing(file, places[name], at - places[name])
        return digest.hexdigest()

    header = _header(blocks, manifest, _for_each(written, list(blocks), nbytes), signer)
    assert len(header) == first
    _put(file, header, 0)
    return first + nbytes


def _put(file: int, piece: memoryview | bytes, at: int) -> None:
    done = 0
    while done < len(piece):
        done += os.pwrite(file, piece[done:], at + done)


def _begin_flushing(file: int, at: int, nbytes: int) -> None:
    """Have the kernel begin to write out what lies there, so that `fsync` finds little left to do (Linux does)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, at, nbytes, os.POSIX_FADV_DONTNEED)


def _header(
    blocks: Mapping[str, Block], manifest: Mapping[str, Any], digests: Mapping[str, str], signer: Signer | None
) -> bytes:
    """Length and header. As long for one set of digests as for another."""
    text = json.dumps({**manifest, "digests": dict(digests)}, sort_keys=True, ensure_ascii=False)
    table: dict[str, Any] = {}
    at = 0
    for name, block in blocks.items():
        end = at + block.nbytes
        table[name] = {"dtype": block.dtype, "shape": list(block.shape), "data_offsets": [at, end]}
        at = end
    seal = _seal(text, table)
    metadata = {"format": FORMAT, "manifest": text, "sha256": seal}
    if signer is not None:
        metadata |= {"signer": signer.public, "signature": signer.sign(seal)}
    header = json.dumps({"__metadata__": metadata, **table}, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MOST_HEADER or len(table) > MOST_TENSORS:
        raise ValueError("too many tensors, or too long a manifest, for one file")
    return struct.pack("<Q", len(header)) + header


def inspect(path: Path) -> Contents:
    """Read and check a file's header; its tensors are not read.

    Raises:
        BrokenStateFile: see there.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return contents(file.read(MOST_HEADER + 8), size)


def header_bytes(beginning: bytes) -> int:
    """How many bytes of a file `contents` wants to see, by its first eight.

    Raises:
        BrokenStateFile: there are no eight, or more are named than any header has.
    """
    if len(beginning) < 8:
        raise BrokenStateFile("it is cut off: no header")
    (n,) = struct.unpack("<Q", beginning[:8])
    if n > MOST_HEADER:
        raise BrokenStateFile(f"its header would have {n} bytes; at most {MOST_HEADER} are read")
    return int(n) + 8


def opened(path: Path) -> tuple[Contents, Mapping[str, Block]]:
    """A file's manifest and tensors, every digest checked. The tensors are views of the file: copy what is to stay.

    Raises:
        BrokenStateFile: see there; a tensor does not have its digest, or holds what is no number.
        OSError: it cannot be read.
    """
    found = inspect(path)
    with path.open("rb") as file:  # the pages stay until the last view of them is gone
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if len(pages) != found.nbytes:
        raise BrokenStateFile("the file changed while it was read")
    whole = memoryview(pages)
    views = {name: whole[t.start : t.start + t.nbytes] for name, t in found.tensors.items()}
    finite: dict[str, bool] = {}

    def checked(name: str) -> bool:
        finite[name] = _finite(found.tensors[name].dtype, views[name])
        return hashlib.sha256(views[name]).hexdigest() == found.digests[name]

    right = _for_each(checked, list(views), sum(map(len, views.values())))
    wrong = sorted(name for name, same in right.items() if not same)
    if wrong:
        raise BrokenStateFile(f"the data is not what was written: {', '.join(wrong[:3])}")
    bad = sorted(name for name, fine in finite.items() if not fine)
    if bad:
        raise BrokenStateFile(f"it holds what is no number: {', '.join(bad[:3])}")
    return found, {n: Block.of(t.dtype, t.shape, views[n]) for n, t in found.tensors.items()}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _checked(blocks: Mapping[str, Block]) -> int:
    """Bytes of them all, if the format has them."""
    for name, block in blocks.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a tensor")
        if block.dtype not in ITEM_BYTES or len(block.shape) > _MOST_RANK:
            raise ValueError(f"{name}: {block.dtype}, {len(block.shape)} dimensions")
        fits = block.nbytes == math.prod(block.shape) * ITEM_BYTES[block.dtype]
        if not fits or any(run.itemsize != 1 or not run.contiguous for run in block.runs):
            raise ValueError(f"{name}: {block.nbytes} bytes for {block.dtype} {list(block.shape)}")
    return sum(block.nbytes for block in blocks.values())


def _for_each(work: Callable[[str], T], names: Sequence[str], nbytes: int) -> dict[str, T]:
    """On a thread a core, where there is much to do: hashlib and numpy let others run meanwhile."""
    if nbytes < _PIECE:
        return {name: work(name) for name in names}
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return dict(zip(names, pool.map(work, names), strict=True))


_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80}
"""All ones: infinite, or not a number (IEEE 754)."""


def _finite(dtype: str, view: memoryview) -> bool:
    """By numpy: torch would start a team of threads beside the engine's."""
    if dtype == "F32":
        return bool(np.isfinite(np.frombuffer(view, np.float32)).all())
    mask = _EXPONENT.get(dtype)
    return mask is None or not bool((np.frombuffer(view, np.uint16) & mask == mask).any())


def _seal(manifest: str, table: Mapping[str, Any]) -> str:
    """Digest of all that the header says."""
    return hashlib.sha256(json.dumps([FORMAT, manifest, table], sort_keys=True).encode()).hexdigest()


def contents(beginning: bytes, size: int) -> Contents:
    """What the header says of a file of `size` bytes, of which `header_bytes` are here.

    Raises:
        BrokenStateFile: see there.
    """
    n = header_bytes(beginning) - 8
    if n + 8 > size or n + 8 > len(beginning):
        raise BrokenStateFile("it is cut off within its header")
    header = _json(beginning[8 : 8 + n], "its header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise BrokenStateFile(f"its format is {found!r}; this reads {FORMAT!r}")
    text, seal = metadata.get("manifest", ""), metadata.get("sha256", "")
    signed = {"signer", "signature"} & set(metadata)
    if set(metadata) - signed != {"format", "manifest", "sha256"} or not all(
        isinstance(v, str) for v in metadata.values()
    ):
        raise BrokenStateFile("its metadata is not what this format has")
    if len(header) > MOST_TENSORS:
        raise BrokenStateFile(f"it names {len(header)} tensors; at most {MOST_TENSORS} are read")
    if _seal(text, header) != seal:
        raise BrokenStateFile("its header is not what was written")
    if signed and not signature.holds(metadata.get("signer", ""), seal, metadata.get("signature", "")):
        raise BrokenStateFile("its signature is not its signer's")
    tensors, at = {}, 0
    for name, entry in header.items():
        placed = _placed(name, entry, at, first=n + 8)
        tensors[name] = placed
        at += placed.nbytes
    if n + 8 + at != size:
        raise BrokenStateFile(f"it has {size} bytes, where its header names {n + 8 + at}")
    manifest = _json(text.encode(), "its manifest")
    digests = manifest.pop("digests", None)
    if not isinstance(digests, dict) or set(digests) != set(tensors):
        raise BrokenStateFile("its manifest has no digests of its tensors")
    return Contents(
        manifest=manifest, tensors=tensors, digests=digests, nbytes=size, seal=seal, signer=metadata.get("signer")
    )


def _placed(name: str, entry: Any, at: int, *, first: int) -> Placed:
    if not _NAME.fullmatch(name):
        raise BrokenStateFile(f"{name[:80]!r} is no name for a tensor")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BrokenStateFile(f"{name}: its entry is not what this format has")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = isinstance(dtype, str) and dtype in ITEM_BYTES
    if not known or not _whole(shape, most=_MOST_RANK) or not _whole(offsets, most=2) or len(offsets) != 2:
        raise BrokenStateFile(f"{name}: no dtype, shape or place that this format has")
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets != [at, at + nbytes]:
        raise BrokenStateFile(f"{name}: it is said to lie at {offsets}, and by its shape lies at {[at, at + nbytes]}")
    return Placed(dtype=dtype, shape=tuple(shape), start=first + at, nbytes=nbytes)


def _whole(numbers: Any, *, most: int) -> bool:
    return (
        isinstance(numbers, list) and len(numbers) <= most and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
    )


def _json(text: bytes, what: str) -> dict[str, Any]:
    def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise BrokenStateFile(f"{what} names something twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BrokenStateFile(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise BrokenStateFile(f"{what} is no object")
    return found
