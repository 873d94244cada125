"""What recall keeps of one owner's experiences in memory: a column each, in the order in which they came.

Rebuilt from the database at first use, extended as experiences are added, dropped when one is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_VECTORS = 50_000
"""Up to this many experiences every vector is compared with a question; beyond, only those of lexical hits."""

_COLUMNS = {
    "n": np.int64,
    "session": np.int32,
    "previous": np.int32,
    "next": np.int32,
    "speaker": np.int32,
    "traits": np.int32,
    "at": np.float64,
    "percentile": np.float32,
    "accesses": np.int32,
    "accessed": np.float64,
    "recallable": np.bool_,
    "model_made": np.bool_,
    "ends": np.float64,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One experience as the index takes it in."""

    n: int
    session: str | None
    speaker: str
    traits: int
    at: float
    percentile: float | None
    accesses: int
    accessed: float | None
    recallable: bool
    model_made: bool
    ends: float
    """When another experience took its place, seconds; infinity: none has."""
    vector: bytes | None


class OwnerIndex:
    """Columns that grow by doubling. Not thread-safe: `Recall` locks."""

    def __init__(self, dimensions: int) -> None:
        self.size = 0
        self._columns: dict[str, NDArray[Any]] = {name: np.zeros(256, kind) for name, kind in _COLUMNS.items()}
        self._vectors = np.zeros((256, dimensions), np.float32)
        self._has_vector = np.zeros(256, np.bool_)
        self._sessions: dict[str, int] = {}
        self._session_count = 0
        self._last_of: dict[int, int] = {}
        self.speakers: dict[str, int] = {}
        self._vector_sum = np.zeros(dimensions, np.float64)
        self.vector_count = 0

    def column(self, name: str) -> NDArray[Any]:
        """One value for each experience."""
        return self._columns[name][: self.size]

    @property
    def session_count(self) -> int:
        """Sessions, experiences without one each counted as their own."""
        return self._session_count

    @property
    def small(self) -> bool:
        """Whether all vectors are at hand."""
        return self.size <= MOST_VECTORS

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[experiences, dimensions]; zeros where there is none."""
        return self._vectors[: self.size]

    @property
    def has_vector(self) -> NDArray[np.bool_]:
        return self._has_vector[: self.size]

    @property
    def mean_vector(self) -> NDArray[np.float32]:
        """Of all that have one."""
        return (self._vector_sum / max(1, self.vector_count)).astype(np.float32)

    def places(self, ns: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where these experiences stand, and which of them are here at all."""
        if not self.size:
            return np.zeros(0, np.int64), np.zeros(len(ns), np.bool_)
        known = self._columns["n"][: self.size]
        found = np.minimum(np.searchsorted(known, ns), self.size - 1)
        here = known[found] == ns
        return found[here], here

    def place(self, n: int) -> int | None:
        """Where one stands, or None."""
        place = int(np.searchsorted(self._columns["n"][: self.size], n))
        return place if place < self.size and self._columns["n"][place] == n else None

    def extend(self, rows: Iterable[Row]) -> None:
        """Take in more, in rising order of `n`."""
        for row in rows:
            place = self.size
            if place == len(self._columns["n"]):
                self._grow()
            session = self._session(row.session)
            before = self._last_of.get(session, -1) if row.session is not None else -1
            if row.session is not None:
                self._last_of[session] = place
            if before >= 0:
                self._columns["next"][before] = place
            values = {
                "n": row.n,
                "session": session,
                "previous": before,
                "next": -1,
                "speaker": self.speakers.setdefault(row.speaker, len(self.speakers)),
                "traits": row.traits,
                "at": row.at,
                "percentile": 0.5 if row.percentile is None else row.percentile,
                "accesses": row.accesses,
                "accessed": row.at if row.accessed is None else row.accessed,
                "recallable": row.recallable,
                "model_made": row.model_made,
                "ends": row.ends,
            }
            for name, value in values.items():
                self._columns[name][place] = value
            self.size += 1
            if row.vector is not None:
                self.put_vector(place, row.vector)

    def put_vector(self, place: int, vector: bytes) -> None:
        """Give an experience its vector: float16, little-endian."""
        values = np.frombuffer(vector, "<f2").astype(np.float32)
        if self._has_vector[place]:
            return
        self._has_vector[place] = True
        self._vector_sum += values
        self.vector_count += 1
        if place < len(self._vectors):
            self._vectors[place] = values

    def set(self, name: str, place: int, value: float) -> None:
        """Change one value."""
        self._columns[name][place] = value

    def _session(self, name: str | None) -> int:
        if name is not None and name in self._sessions:
            return self._sessions[name]
        number = self._session_count
        self._session_count += 1
        if name is not None:
            self._sessions[name] = number
        return number

    def _grow(self) -> None:
        for name, column in self._columns.items():
            self._columns[name] = np.concatenate([column, np.zeros_like(column)])
        self._has_vector = np.concatenate([self._has_vector, np.zeros_like(self._has_vector)])
        if len(self._vectors) <= MOST_VECTORS:
            self._vectors = np.concatenate([self._vectors, np.zeros_like(self._vectors)])
