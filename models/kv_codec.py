"""How keys and values are written into a file: as they are, losslessly packed, or in fewer bits.

    none      as they are
    lossless  bytes of one significance together, each channel's tokens in a row, then zstd: the same bits come back
    bf16      the upper half of a float32, rounded to nearest even
    int8      a byte a number: keys by channel over 64 tokens, values by token over 64 channels, each group with its
    int4      least value and step (float16); half a byte a number (KIVI, arXiv:2402.02750, with minima)
    learned   decorrelated by what was learnt of the model's own cache, rounded to one step, entropy-coded: kv_transform
    learned-fine  the same, in steps an eighth as large

The first SINKS tokens stay exact in all but bf16: what attention rests on has values of its own kind (StreamingLLM,
arXiv:2309.17453). Sizes, loss and times of all: docs/checkpoint-format.md. Only keys and values are coded; whatever
else a state holds is stored as it is. Needs no torch: it runs beside the engine, and must not start a second team of
threads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import zstandard
from numpy.typing import NDArray

from models.kv_transform import Transform
from models.state_file import ITEM_BYTES, Block, BrokenStateFile

Codec = Literal["none", "lossless", "bf16", "int8", "int4", "learned", "learned-fine"]
CODECS: tuple[Codec, ...] = get_args(Codec)
_LEARNED = frozenset({"learned", "learned-fine"})
SINKS = 4
GROUP = 64
_LEVEL = 1
_CODED = re.compile(r"(keys|values)\.\d{3,4}")
_MOST_RANK = 3


class CodecMissing(Exception):
    """A state that was written with what was learnt elsewhere, and is not here: read its tokens instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """A state as it goes into a file."""

    blocks: Mapping[str, Block]
    manifest: Mapping[str, Any]
    """What `decoded` wants back: JSON values."""


def coded(state: Mapping[str, Block], codec: Codec, transform: Transform | None = None) -> Coded:
    """Write a state in a codec.

    `state`: keys and values, [kv_heads, tokens, head_dim] a layer, among other tensors.

    Raises:
        CodecMissing: nothing was learnt of this model.
    """
    if codec == "none":
        return Coded(blocks=state, manifest={"name": codec})
    if codec in _LEARNED and transform is None:
        raise CodecMissing("nothing was learnt of this model's cache: use another codec")
    blocks: dict[str, Block] = {}
    tensors: dict[str, Any] = {}
    for name, block in state.items():
        if not _CODED.fullmatch(name) or len(block.shape) != _MOST_RANK or block.dtype not in _FLOATS:
            blocks[name] = block
            continue
        made = _lossless(block) if codec == "lossless" else _narrowed(name, block, codec, transform)
        if made is None:  # numbers that float16 or the alphabet does not reach
            blocks[name] = block
            continue
        tensors[name] = {"dtype": block.dtype, "shape": list(block.shape)}
        blocks |= {f"{name}.{part}": part_block for part, part_block in made.items()}
    manifest: dict[str, Any] = {"name": codec, "tensors": tensors}
    if codec in _LEARNED and transform is not None:
        manifest["transform"] = transform.digest
    return Coded(blocks=blocks, manifest=manifest)


def decoded(
    blocks: Mapping[str, Block], manifest: Mapping[str, Any], *, most_bytes: int, transforms: Mapping[str, Transform]
) -> dict[str, Block]:
    """The state again: float32 where bits were lost, else as it was.

    Raises:
        BrokenStateFile: the blocks are not what the manifest says, or would become more than `most_bytes`.
        CodecMissing: it was written with a transform that is not among `transforms`.
    """
    name = manifest.get("name")
    if name not in CODECS:
        raise BrokenStateFile(f"its codec is {str(name)[:40]!r}; this reads {', '.join(CODECS)}")
    if name == "none":
        return dict(blocks)
    tensors = manifest.get("tensors")
    if not isinstance(tensors, dict):
        raise BrokenStateFile("its manifest does not say what was coded")
    shapes = {tensor: _shape_of(tensor, of) for tensor, of in tensors.items()}
    if sum(math.prod(shape) * 4 for _, shape in shapes.values()) > most_bytes:
        raise BrokenStateFile(f"it would become more than {most_bytes} bytes")
    transform = transforms.get(str(manifest.get("transform")))
    if name in _LEARNED and transform is None:
        raise CodecMissing("its numbers need what was learnt elsewhere of this model, which is not here")
    state, parts = _parted(blocks, tensors)
    for tensor, (dtype, shape) in shapes.items():
        if name == "lossless":
            state[tensor] = _unpacked(parts[tensor], dtype, shape)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                state[tensor] = _widened(tensor, parts[tensor], shape, cast(Codec, name), transform)
        if not np.isfinite(floats(state[tensor])).all():
            raise BrokenStateFile(f"{tensor} holds what is no number")
    return state


def _parted(
    blocks: Mapping[str, Block], coded_ones: Mapping[str, Any]
) -> tuple[dict[str, Block], dict[str, dict[str, Block]]]:
    """The blocks that are as they were, and the parts of those that are coded."""
    state: dict[str, Block] = {}
    parts: dict[str, dict[str, Block]] = {tensor: {} for tensor in coded_ones}
    for name, block in blocks.items():
        tensor, _, part = name.rpartition(".")
        if tensor in parts:
            parts[tensor][part] = block
        else:
            state[name] = block
    if set(state) & set(parts):
        raise BrokenStateFile("it holds a tensor both coded and as it is")
    return state, parts


_FLOATS = frozenset({"F32", "F16", "BF16"})


def _shape_of(tensor: str, of: Any) -> tuple[str, tuple[int, int, int]]:
    shape: Any = of.get("shape") if isinstance(of, dict) else None
    whole = (
        isinstance(shape, list) and len(shape) == _MOST_RANK and all(type(n) is int and 0 <= n < 1 << 32 for n in shape)
    )
    if not _CODED.fullmatch(tensor) or not whole or str(of.get("dtype")) not in _FLOATS:
        raise BrokenStateFile(f"{tensor[:60]!r} is no tensor that is coded")
    return of["dtype"], tuple(shape)


# Between bytes and numbers


def floats(block: Block) -> NDArray[np.float32]:
    """A block of floats as float32; its own memory where it is that."""
    if block.dtype == "F32":
        return np.frombuffer(block.data, "<f4").reshape(block.shape)
    if block.dtype == "F16":
        return np.frombuffer(block.data, "<f2").astype(np.float32).reshape(block.shape)
    return (np.frombuffer(block.data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(block.shape)


def block_of(array: NDArray[Any], dtype: str) -> Block:
    """An array as a block of `dtype`, whose bytes it has."""
    flat = np.ascontiguousarray(array)
    data = flat.reshape(-1).view(np.uint8).data if flat.size else memoryview(b"")
    return Block.of(dtype, array.shape, data)


def _rounded_to_bf16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _array(parts: Mapping[str, Block], part: str, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    found = parts.get(part)
    if found is None or found.dtype != dtype or found.shape != tuple(shape):
        raise BrokenStateFile(f"a coded tensor has no {part} of the right kind")
    return _numbers(found)


def _numbers(block: Block) -> NDArray[Any]:
    return np.frombuffer(block.data, _NUMPY[block.dtype]).reshape(block.shape)


_NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I8": "i1", "U8": "u1", "I64": "<i8"}


# Lossless


def _lossless(block: Block) -> dict[str, Block]:
    """[heads, tokens, d] -> bytes of one significance, channel by channel: a channel's exponents are alike."""
    width = ITEM_BYTES[block.dtype]
    words = np.frombuffer(block.data, f"<u{width}").reshape(block.shape).transpose(0, 2, 1)
    planes = np.ascontiguousarray(words).view(np.uint8).reshape(-1, width)
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    # The lowest bytes of a float32 are noise: looking for what repeats in them only takes time.
    noise = width - 2
    packed = [np.ascontiguousarray(planes[:, n]).tobytes() for n in range(width)]
    made = {f"plane{n}": packed[n] if n < noise else compress(packed[n]) for n in range(width)}
    return {part: block_of(np.frombuffer(raw, np.uint8), "U8") for part, raw in made.items()}


def _unpacked(parts: Mapping[str, Block], dtype: str, shape: tuple[int, int, int]) -> Block:
    width, size = ITEM_BYTES[dtype], math.prod(shape)
    if set(parts) != {f"plane{n}" for n in range(width)}:
        raise BrokenStateFile("a packed tensor lacks some of its planes")
    planes = np.empty((size, width), np.uint8)
    for n in range(width):
        raw = bytes(parts[f"plane{n}"].data)
        plane = raw if n < width - 2 else _decompressed(raw, size)
        if len(plane) != size:
            raise BrokenStateFile("a packed tensor is too short or too long")
        planes[:, n] = np.frombuffer(plane, np.uint8)
    heads, tokens, d = shape
    return block_of(planes.reshape(-1).view(f"<u{width}").reshape(heads, d, tokens).transpose(0, 2, 1), dtype)


def _decompressed(raw: bytes, size: int) -> bytes:
    try:
        if zstandard.frame_content_size(raw) != size:
            raise BrokenStateFile("a packed tensor would become another size than its own")
        return zstandard.ZstdDecompressor().decompress(raw, max_output_size=size)
    except zstandard.ZstdError as error:
        raise BrokenStateFile(f"a packed tensor cannot be unpacked: {error}") from error


# In fewer bits


def _narrowed(name: str, block: Block, codec: Codec, transform: Transform | None) -> dict[str, Block] | None:
    numbers = floats(block)
    if codec == "bf16":
        return {"upper": block_of(_rounded_to_bf16(numbers), "BF16")}
    sinks, rest = numbers[:, :SINKS], numbers[:, SINKS:]
    made = {"sinks": block_of(sinks, "F32")}
    if codec in _LEARNED:
        assert transform is not None
        symbols = transform.coded(name, rest, codec, first=SINKS)
        return None if symbols is None else made | {part: block_of(a, kind) for part, (a, kind) in symbols.items()}
    groups = _grouped(rest, keys=name.startswith("keys"))
    least, most = groups.min(-1), groups.max(-1)
    levels = (1 << _BITS[codec]) - 1
    with np.errstate(over="ignore"):
        low = least.astype(np.float16)
        step = ((most - low) / levels).astype(np.float16)
    if not (np.isfinite(low).all() and np.isfinite(step).all()):
        return None
    wide = np.maximum(step.astype(np.float32), np.float32(1e-7))
    codes = np.rint((groups - low.astype(np.float32)[..., None]) / wide[..., None]).clip(0, levels).astype(np.uint8)
    if codec == "int4":
        codes = codes[..., 0::2] | codes[..., 1::2] << 4
    return made | {"codes": block_of(codes, "U8"), "least": block_of(low, "F16"), "step": block_of(step, "F16")}


_BITS = {"int8": 8, "int4": 4}


def _widened(
    name: str, parts: Mapping[str, Block], shape: tuple[int, int, int], codec: Codec, transform: Transform | None
) -> Block:
    heads, tokens, d = shape
    if codec == "bf16":
        upper = _array(parts, "upper", "BF16", shape)
        return block_of((upper.astype(np.uint32) << 16).view(np.float32), "F32")
    sinks = _array(parts, "sinks", "F32", (heads, min(tokens, SINKS), d))
    rest = max(tokens - SINKS, 0)
    if codec in _LEARNED:
        assert transform is not None
        arrays = {part: _numbers(b) for part, b in parts.items() if part != "sinks"}
        numbers = transform.decoded(name, arrays, (heads, rest, d), codec, first=SINKS)
        return block_of(np.concatenate([sinks, numbers], axis=1), "F32")
    keys = name.startswith("keys")
    *outer, size = _grouped(np.empty((heads, rest, d), np.uint8), keys=keys).shape
    low = _array(parts, "least", "F16", outer).astype(np.float32)
    wide = np.maximum(_array(parts, "step", "F16", outer).astype(np.float32), np.float32(1e-7))
    if codec == "int4":
        pairs = _array(parts, "codes", "U8", (*outer, size // 2))
        codes = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*outer, size)
    else:
        codes = _array(parts, "codes", "U8", (*outer, size))
    numbers = codes.astype(np.float32) * wide[..., None] + low[..., None]
    return block_of(np.concatenate([sinks, _ungrouped(numbers, (heads, rest, d), keys=keys)], axis=1), "F32")


def _grouped(numbers: NDArray[Any], *, keys: bool) -> NDArray[Any]:
    """[heads, tokens, d] -> [heads, groups, d, 64 tokens] of keys, [heads, tokens, groups, channels] of values.

    Channels are shared out evenly, 64 a group at most. What does not fill a group is filled with the last of it.
    """
    across = numbers.transpose(0, 2, 1) if keys else numbers
    outer, middle, along = across.shape
    size = GROUP if keys else _even(along)
    missing = -along % size
    if missing and along:
        across = np.concatenate([across, np.repeat(across[..., -1:], missing, axis=-1)], axis=-1)
    groups = across.reshape(outer, middle, (along + missing) // size, size)
    return groups.transpose(0, 2, 1, 3) if keys else groups


def _even(channels: int) -> int:
    """The size of equal groups of channels, even, GROUP at most."""
    size = -(-channels // -(-channels // GROUP))
    return size + size % 2


def _ungrouped(groups: NDArray[Any], shape: tuple[int, int, int], *, keys: bool) -> NDArray[Any]:
    heads, tokens, d = shape
    if keys:
        across = groups.transpose(0, 2, 1, 3).reshape(heads, d, groups.shape[1] * groups.shape[3])
        return across[..., :tokens].transpose(0, 2, 1)
    return groups.reshape(heads, tokens, groups.shape[2] * groups.shape[3])[..., :d]
