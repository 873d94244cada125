"""A mood as bytes: safetensors, so arrays and text and nothing that executes; the same bits out as in.

RLS's spread goes by itself, as plain float64: it is a hundred times larger than all else, and only feedback needs it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import cast, get_args

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from agent.coherence import Zone
from agent.errors import ReservoirRefused
from agent.mood import Mood

_NAME = "mood"
_ARRAYS = ("state", "phases", "values", "levels", "learnt")


def packed(mood: Mood, digest: str) -> bytes:
    """All of a mood but its spread; `digest`: of the reservoir that it belongs to."""
    arrays = {name: np.ascontiguousarray(getattr(mood, name)) for name in _ARRAYS}
    arrays["orders"] = np.array(mood.orders, dtype=np.float64)
    arrays["usual"] = np.array([mood.usual])
    said: dict[str, str] = {  # in one value: safetensors writes several in any order
        "reservoir": digest,
        "at": mood.at.isoformat() if mood.at else "",
        "zone": mood.zone,
        "updates": str(mood.updates),
    }
    return bytes(safetensors.numpy.save(arrays, metadata={_NAME: json.dumps(said, sort_keys=True)}))


def unpacked(body: bytes, like: Mood, digest: str, spread: bytes | None = None) -> Mood:
    """A mood from bytes; `like`: one of the same reservoir, for the shapes; without a spread it cannot be taught.

    Raises:
        ReservoirRefused: no such file, another reservoir's, or numbers that no mood has.
    """
    try:
        arrays = safetensors.numpy.load(body)
        said = _metadata(body)
        at = datetime.fromisoformat(said["at"]) if said["at"] else None
        zone, updates = cast(Zone, said["zone"]), int(said["updates"])
        orders, usual = tuple(map(float, arrays["orders"])), float(arrays["usual"][0])
        found = {name: arrays[name] for name in _ARRAYS}
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        raise ReservoirRefused(f"these bytes are no mood: {error}") from error
    if said["reservoir"] != digest:
        raise ReservoirRefused("this mood is another reservoir's; it begins at rest here")
    for name, array in found.items():
        if array.shape != getattr(like, name).shape or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ReservoirRefused(f"{name} is not what a mood of this reservoir has")
    if zone not in get_args(Zone) or not np.isfinite([usual, *orders]).all():
        raise ReservoirRefused("a mood in no zone, or one that is not finite")
    if any(np.abs(found[name]).max() > 1 for name in ("state", "values", "levels")):
        raise ReservoirRefused("a mood out of range")
    certain = None if spread is None else _square(spread, len(like.learnt))
    return Mood(**found, spread=certain, at=at, orders=orders, zone=zone, usual=usual, updates=updates)


def packed_array(array: NDArray[np.float64]) -> bytes:
    """Numbers by themselves."""
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def unpacked_array(body: bytes) -> NDArray[np.float64]:
    """The numbers again; [numbers].

    Raises:
        ReservoirRefused: no whole number of them, or some are not finite.
    """
    if len(body) % 8:
        raise ReservoirRefused("these bytes are no array of float64")
    found = np.frombuffer(body, dtype="<f8").astype(np.float64)
    if not np.isfinite(found).all():
        raise ReservoirRefused("an array that is not finite")
    return found


def _square(body: bytes, side: int) -> NDArray[np.float64]:
    found = unpacked_array(body)
    if len(found) != side * side:
        raise ReservoirRefused("a spread of another reservoir's readout")
    return found.reshape(side, side)


def _metadata(body: bytes) -> dict[str, str]:
    length = int.from_bytes(body[:8], "little")
    return dict(json.loads(json.loads(body[8 : 8 + length])["__metadata__"][_NAME]))
