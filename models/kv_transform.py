"""What was learnt of a model's own keys and values, so that they can be written in a tenth of their bytes.

For each layer and head, with keys turned back by their positions (their channels then have one meaning at all of them):
x -> A (x - centre), rounded to whole steps, one step for all. A is P^T R, where R is the root of the expected Fisher
information of what the model says next about x (how much an error costs, in which directions) and P the principal
axes of R x. In these coordinates an error of one step costs the same everywhere, so equal steps share out the bits as
reverse water-filling does, and nothing is cut off: whatever the numbers are, also under an adapter, the error stays
within half a step; only the size grows. The whole numbers are then entropy-coded (range coding, by the library
constriction), each channel by the one of a few distributions that fits its spread best. Needs no torch.

Source: transform coding at high rate (Goyal, IEEE Signal Processing Magazine 2001); keys before rotation (KVQuant,
arXiv:2401.18079); bases learnt of a model's own cache (KVTC, arXiv:2511.01815).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from models.state_file import BrokenStateFile

_NARROWEST, _PER_OCTAVE, _CLASSES = 2.0**-5, 2, 32
"""Distributions: mean absolute values from 1/32 of a step upwards, two an octave, to 1,448 steps."""
_MOST = 1 << 24
"""Steps: the largest number that is written."""
_REACH = 14.0
"""Mean absolute values that an alphabet reaches to; what lies beyond is written apart."""


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Learnt once a model; a file of its own (safetensors), known by its digest."""

    forward: NDArray[np.float32] = field(repr=False)
    """[layers, 2 (keys, values), kv_heads, d, d]: A."""
    centre: NDArray[np.float32] = field(repr=False)
    """[layers, 2, kv_heads, d]."""
    turns: NDArray[np.float32] = field(repr=False)
    """[d / 2]: radians a position, of each pair (n, n + d / 2) of a key's channels; 0 where it is not turned."""
    steps: Mapping[str, float]
    """The step of each codec that uses it."""
    alphabets: tuple[NDArray[np.float32], ...] = field(repr=False)
    """Probabilities of the whole numbers -m ... m, a class each: stored, since all machines need the very same."""
    layout: str
    """The models whose keys and values these are; see ModelCard."""
    digest: str

    @cached_property
    def inverse(self) -> NDArray[np.float32]:
        """A^-1, of the numbers that are stored."""
        return np.linalg.inv(self.forward.astype(np.float64)).astype(np.float32)

    @cached_property
    def _models(self) -> tuple[Any, ...]:
        return tuple(constriction.stream.model.Categorical(p, perfect=False) for p in self.alphabets)

    def whole(self, name: str, numbers: NDArray[np.float32], codec: str, *, first: int) -> NDArray[np.float32]:
        """[heads, tokens, d] -> whole numbers of steps, [heads, d, tokens]. `first`: position of the first token."""
        kind, layer = _place(name)
        x = _turned(numbers, -self.turns, first) if kind == 0 else numbers
        x = x - self.centre[layer, kind][:, None]
        y = np.matmul(self.forward[layer, kind], x.transpose(0, 2, 1))
        steps: NDArray[np.float32] = np.rint(y / np.float32(self.steps[codec]))
        return steps

    def coded(
        self, name: str, numbers: NDArray[np.float32], codec: str, *, first: int
    ) -> dict[str, tuple[NDArray[Any], str]] | None:
        """[heads, tokens, d] -> what is stored of it, with dtypes; None: not of this model's shape, or too large."""
        _, layer = _place(name)
        heads, tokens, d = numbers.shape
        if layer >= len(self.forward) or self.forward.shape[2:] != (heads, d, d) or not tokens:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            steps = self.whole(name, numbers, codec, first=first).reshape(heads * d, tokens)
        if not float(np.abs(steps).max()) <= _MOST:  # nor if it is no number
            return None
        q = steps.astype(np.int32)
        spread = np.abs(q).mean(1)
        classes = _class_of(spread)
        reach = np.array([len(p) // 2 for p in self.alphabets], np.int32)[classes]
        within = np.clip(q, -reach[:, None], reach[:, None])
        channel, token = np.nonzero(within != q)
        beyond = np.stack([channel * tokens + token, q[channel, token]], axis=1).astype(np.int32)
        encoder = constriction.stream.queue.RangeEncoder()
        for c in np.unique(classes):
            rows = classes == c
            encoder.encode((within[rows] + reach[rows, None]).reshape(-1), self._models[c])
        words = np.asarray(encoder.get_compressed(), np.uint32)
        return {
            "stream": (words.astype("<u4").view("<i4"), "I32"),
            "classes": (classes.astype(np.uint8).reshape(heads, d), "U8"),
            "beyond": (beyond.reshape(-1, 2), "I32"),
        }

    def decoded(
        self, name: str, parts: Mapping[str, NDArray[Any]], shape: tuple[int, int, int], codec: str, *, first: int
    ) -> NDArray[np.float32]:
        """The numbers again, to half a step.

        Raises:
            BrokenStateFile: the parts are not what `coded` makes.
        """
        heads, tokens, d = shape
        kind, layer = _place(name)
        found = {part: (a.dtype.kind + str(a.dtype.itemsize), a.shape) for part, a in parts.items()}
        n = parts["beyond"].shape[0] if found.keys() == {"stream", "classes", "beyond"} and parts["beyond"].ndim else -1
        right = (
            {"stream": ("i4", parts["stream"].shape), "classes": ("u1", (heads, d)), "beyond": ("i4", (n, 2))}
            if n >= 0
            else {}
        )
        if found != right or layer >= len(self.forward) or self.forward.shape[2:] != (heads, d, d):
            raise BrokenStateFile("a learned tensor has not the parts that it should have")
        classes = parts["classes"].reshape(-1)
        if classes.size and int(classes.max()) >= len(self.alphabets):
            raise BrokenStateFile("a learned tensor names a distribution that there is not")
        q = np.zeros((heads * d, tokens), np.int32)
        decoder = constriction.stream.queue.RangeDecoder(parts["stream"].astype("<i4").view(np.uint32))
        try:
            for c in np.unique(classes):
                rows = np.flatnonzero(classes == c)
                symbols = decoder.decode(self._models[c], len(rows) * tokens)
                q[rows] = symbols.reshape(len(rows), tokens) - len(self.alphabets[c]) // 2
        except (ValueError, AssertionError) as error:
            raise BrokenStateFile(f"a learned tensor cannot be decoded: {error}") from error
        at, value = parts["beyond"][:, 0], parts["beyond"][:, 1]
        if at.size and (
            int(at.min()) < 0 or int(at.max()) >= q.size or int(np.abs(value.astype(np.int64)).max()) > _MOST
        ):
            raise BrokenStateFile("a learned tensor has a number outside of it")
        q.reshape(-1)[at] = value
        y = q.reshape(heads, d, tokens).astype(np.float32) * np.float32(self.steps[codec])
        x = np.matmul(self.inverse[layer, kind], y).transpose(0, 2, 1) + self.centre[layer, kind][:, None]
        return _turned(x, self.turns, first) if kind == 0 else np.ascontiguousarray(x)


def _place(name: str) -> tuple[int, int]:
    kind, _, layer = name.partition(".")
    return int(kind == "values"), int(layer)


def _turned(numbers: NDArray[np.float32], turns: NDArray[np.float32], first: int) -> NDArray[np.float32]:
    """Rotary positions (Su et al. 2021), pairs half a head apart."""
    angle = np.arange(first, first + numbers.shape[1], dtype=np.float32)[:, None] * turns
    cos, sin = np.cos(angle), np.sin(angle)
    half = numbers.shape[2] // 2
    low, high = numbers[..., :half], numbers[..., half:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def _class_of(spread: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """The distribution whose mean absolute value comes nearest, in octaves."""
    octaves = np.log2(np.maximum(spread, _NARROWEST) / _NARROWEST)
    nearest: NDArray[np.int64] = np.rint(octaves * _PER_OCTAVE).astype(np.int64).clip(0, _CLASSES - 1)
    return nearest


def alphabets(shape: float) -> tuple[NDArray[np.float32], ...]:
    """The distributions: P(k) ~ exp(-(|k| / b)^shape), with b such that the mean of |k| is the class's."""
    made = []
    for c in range(_CLASSES):
        mean = _NARROWEST * 2.0 ** (c / _PER_OCTAVE)
        k = np.arange(-math.ceil(mean * _REACH) - 2, math.ceil(mean * _REACH) + 3, dtype=np.float64)
        low, high = 1e-3, 1e5
        for _ in range(80):
            b = math.sqrt(low * high)
            p = np.exp(-((np.abs(k) / b) ** shape))
            low, high = (b, high) if float((np.abs(k) * p).sum() / p.sum()) < mean else (low, b)
        made.append((np.maximum(p / p.sum(), 1e-7)).astype(np.float32))
    return tuple(made)


def to_bytes(transform: Transform) -> bytes:
    """A transform as a file."""
    lengths = np.array([len(p) for p in transform.alphabets], np.int32)
    return save(
        {
            # safetensors writes an array's memory as it lies, whatever its strides say.
            "forward": np.ascontiguousarray(transform.forward, np.float16),
            "centre": np.ascontiguousarray(transform.centre, np.float16),
            "turns": transform.turns,
            "alphabets": np.concatenate(transform.alphabets),
            "lengths": lengths,
            "steps": np.array(list(transform.steps.values()), np.float32),
        },
        metadata={"layout": transform.layout, "codecs": " ".join(transform.steps)},
    )


def of_bytes(raw: bytes) -> Transform:
    """A transform from a file. Raises: ValueError: it is none."""
    try:
        found = load(raw)
        (n,) = np.frombuffer(raw[:8], "<u8")
        told = json.loads(raw[8 : 8 + int(n)])["__metadata__"]
        ends = np.cumsum(found["lengths"])
        forward = found["forward"].astype(np.float32)
        centre = found["centre"].astype(np.float32)
        alphabets = tuple(np.split(found["alphabets"], ends[:-1]))
        steps = dict(zip(told["codecs"].split(), (float(s) for s in found["steps"]), strict=True))
        if forward.shape[:-1] != centre.shape or 2 * len(found["turns"]) != forward.shape[-1]:
            raise ValueError("its parts do not fit together")
    except (SafetensorError, KeyError, IndexError) as error:
        raise ValueError(f"this is no transform: {error}") from error
    return Transform(
        forward=forward,
        centre=centre,
        turns=found["turns"],
        steps=steps,
        alphabets=alphabets,
        layout=told["layout"],
        digest=_digest(found, told),
    )


def _digest(tensors: Mapping[str, NDArray[Any]], told: Mapping[str, str]) -> str:
    """Of what a file says, not of how it is laid out."""
    digest = hashlib.sha256(json.dumps(dict(told), sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape} ".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def known(*folders: Path) -> dict[str, Transform]:
    """What was learnt of models' caches: of those that come with slowwave, and what lies in `folders`; by digest."""
    paths = [
        p for folder in (Path(__file__).parent / "transforms", *folders) for p in sorted(folder.glob("*.safetensors"))
    ]
    return {transform.digest: transform for transform in map(read, paths)}


def read(path: Path) -> Transform:
    """A transform's file. Raises: ValueError, OSError."""
    return of_bytes(path.read_bytes())
