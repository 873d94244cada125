"""A broadcast mailbox of fixed size for what is sensed: many writers, many readers, every reader gets every record.

A record is freed once all readers have read it, or once its time to live is over; nobody is held up for longer. What
does not fit is refused, and the writer is told so; what ran out before a reader came is missed, and the reader is told
so. A writer may fill its share of the room and no more, so one that never stops leaves room for the others.

Each record is 64 bytes in one array; a batch costs what a record costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

VALUES = 10
RECORD = np.dtype(
    [
        ("at", "<f8"),
        ("until", "<f8"),
        ("kind", "<u2"),
        ("writer", "<u2"),
        ("size", "<u4"),
        ("values", "<f4", (VALUES,)),
    ]
)
"""at, until: monotonic seconds; size: how many of the values were given."""
Records = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Popped:
    """What a reader got."""

    records: Records
    """[n] of `RECORD`, oldest first; the reader's own."""
    missed: int
    """Records that ran out unread since the last time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What passed through so far."""

    pushed: int
    refused: int
    """Did not fit, as their writers were told."""
    popped: int
    """Over all readers."""
    missed: int
    """Ran out before a reader came, over all readers."""
    waiting: int
    """In the box now."""


def records(kind: int, rows: Sequence[Sequence[float]] | NDArray[np.float32], *, ttl: float, at: float) -> Records:
    """A batch of one kind. rows: [n, m], m at most `VALUES`; ttl: seconds for which they are worth reading.

    Raises:
        ValueError: too many values in a row, or a time to live that is none.
    """
    values = np.atleast_2d(np.asarray(rows, dtype=np.float32))
    if values.ndim != 2 or values.shape[1] > VALUES:
        raise ValueError(f"a record has at most {VALUES} values, these have the shape {values.shape}")
    if not ttl > 0:
        raise ValueError(f"a record must live for some seconds, not {ttl}")
    made = np.zeros(len(values), dtype=RECORD)
    made["at"], made["until"], made["kind"], made["size"] = at, at + ttl, kind, values.shape[1]
    made["values"][:, : values.shape[1]] = values
    return made


class Mailbox:
    """`room`: records that fit in it. Safe for any number of threads."""

    def __init__(self, room: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        if room < 1:
            raise ValueError("a mailbox needs room for a record")
        self._ring = np.zeros(room, dtype=RECORD)
        self._clock = clock
        self._head = self._tail = 0
        """Records ever written, and ever freed: what lies between is in the box."""
        self._held: list[int] = []
        """Of each writer, how many of its records are in the box."""
        self._readers: list[Reader] = []
        self._pushed = self._refused = self._gone_popped = self._gone_missed = 0
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)

    def writer(self, name: str) -> Writer:
        """Somebody who may write; each further one makes the shares of all smaller."""
        with self._lock:
            if len(self._held) >= len(self._ring):
                raise ValueError(f"a room of {len(self._ring)} has no share for another writer")
            self._held.append(0)
            return Writer(self, len(self._held) - 1, name)

    def reader(self, name: str) -> Reader:
        """Somebody who gets all that is pushed from now on, until closed."""
        with self._lock:
            found = Reader(self, name, self._head)
            self._readers.append(found)
            return found

    def counts(self) -> Counts:
        """What passed through so far."""
        with self._lock:
            return Counts(
                pushed=self._pushed,
                refused=self._refused,
                popped=self._gone_popped + sum(r.popped for r in self._readers),
                missed=self._gone_missed + sum(r.missed for r in self._readers),
                waiting=self._head - self._tail,
            )

    def _push(self, writer: int, batch: Records) -> int:
        """Returns how many of the first of them are in."""
        with self._lock:
            share = len(self._ring) // len(self._held)
            fits = self._fits(writer, share)
            if fits < len(batch):
                self._free()
                fits = self._fits(writer, share)
            taken = min(len(batch), fits)
            if taken:
                self._copy_in(batch[:taken], writer)
                self._filled.notify_all()
            self._pushed += taken
            self._refused += len(batch) - taken
            return taken

    def _fits(self, writer: int, share: int) -> int:
        return max(0, min(len(self._ring) - (self._head - self._tail), share - self._held[writer]))

    def _copy_in(self, batch: Records, writer: int) -> None:
        room, n = len(self._ring), len(batch)
        start = self._head % room
        first = min(n, room - start)
        self._ring[start : start + first] = batch[:first]
        self._ring[: n - first] = batch[first:]
        self._ring["writer"][start : start + first] = writer
        self._ring["writer"][: n - first] = writer
        self._held[writer] += n
        self._head += n

    def _slice(self, start: int, end: int) -> Records:
        """A copy of records start to end, both as ever written."""
        room = len(self._ring)
        a, n = start % room, end - start
        first = min(n, room - a)
        if first == n:
            return self._ring[a : a + n].copy()
        return np.concatenate([self._ring[a:], self._ring[: n - first]])

    def _free(self) -> None:
        """Let go of what all have read, and of what has run out, from the oldest on."""
        read_by_all = min((r.at for r in self._readers), default=self._head)
        freed = max(read_by_all, self._tail)
        if freed < self._head:
            living = self._slice(freed, self._head)["until"] > self._clock()
            ran_out = int(living.argmax()) if living.any() else len(living)
            freed += ran_out
        if freed == self._tail:
            return
        gone = np.bincount(self._slice(self._tail, freed)["writer"], minlength=len(self._held))
        self._held = [held - int(n) for held, n in zip(self._held, gone, strict=True)]
        self._tail = freed

    def _pop(self, reader: Reader, most: int) -> Popped:
        overtaken = max(0, self._tail - reader.at)
        reader.at += overtaken
        end = min(self._head, reader.at + most)
        found = self._slice(reader.at, end)
        reader.at = end
        living = found["until"] > self._clock()
        if not living.all():
            found = found[living]
        missed = overtaken + int(len(living) - living.sum())
        reader.popped += len(found)
        reader.missed += missed
        return Popped(found, missed)

    def _close(self, reader: Reader) -> None:
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
                self._gone_popped += reader.popped
                self._gone_missed += reader.missed


@dataclass(frozen=True, slots=True)
class Writer:
    """Who may push."""

    _box: Mailbox
    _n: int
    name: str

    def push(self, batch: Records) -> int:
        """Put in as many of a batch as there is room for, from the first; returns how many."""
        return self._box._push(self._n, batch)

    def tell(self, kind: int, *values: float, ttl: float) -> bool:
        """Push one record, stamped now; returns whether there was room."""
        return self.push(records(kind, [values], ttl=ttl, at=self._box._clock())) == 1


@dataclass(slots=True, eq=False)
class Reader:
    """Who gets everything, once."""

    _box: Mailbox
    name: str
    at: int
    popped: int = field(default=0)
    missed: int = field(default=0)

    def pop(self, most: int = 1024) -> Popped:
        """What came since the last time, at most so many."""
        with self._box._lock:
            return self._box._pop(self, most)

    def wait(self, seconds: float, most: int = 1024) -> Popped:
        """The same; waits so long for something to come."""
        with self._box._filled:
            if self.at >= self._box._head:
                self._box._filled.wait(seconds)
            return self._box._pop(self, most)

    def close(self) -> None:
        """Read no more, and hold nobody up."""
        self._box._close(self)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
