"""The record of administrative acts: appended to, never changed, each row sealed with all before it.

    chain = SHA-256(chain of the row before || JSON of this row)

An act is written down before it is done and again with what came of it, so that none is without its row, however the
process ends. A row names the key, the act and ids; never a text. Triggers refuse changes; whoever can write the file
past them would have to reseal all that follows, which the head that somebody noted earlier then shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlite_utils import Database

from memory.store import Store

_LONGEST = 300
"""Characters of an act: whoever makes up a path may not fill the disk with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row."""

    n: int
    at: str
    owner: str
    key: str
    """What the key is called; or what acted without one."""
    act: str
    of: int | None
    """The row that says what was asked, where this one says what came of it."""
    status: int | None
    """Of the answer, as in HTTP; None: it is what was asked."""
    chain: str

    def sealed(self, before: str) -> str:
        """What `chain` must be, after a row with `before`."""
        told = json.dumps([self.n, self.at, self.owner, self.key, self.act, self.of, self.status], ensure_ascii=False)
        return hashlib.sha256(bytes.fromhex(before) + told.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a look at all of it found."""

    entries: int
    head: str
    """Of the last row: note it elsewhere, and a record that was resealed is found out."""
    broken_at: int | None
    """The first row whose seal is not right, or that is missing; None: all is whole."""


START = "0" * 64
"""The chain before the first row."""


def asked(store: Store, act: str, *, owner: str, key: str, at: datetime) -> int:
    """Write down that somebody asks for an act, before it is done; returns its row. Raises: StorageFailed."""
    return store.write(lambda db: _append(db, act[:_LONGEST], owner=owner, key=key, at=at, of=None, status=None))


def answered(store: Store, of: int, act: str, status: int, *, owner: str, key: str, at: datetime) -> None:
    """Write down what came of it. Raises: StorageFailed."""
    store.write(
        lambda db: _append(db, act[:_LONGEST], owner=owner, key=key, at=at, of=of, status=status), power_safe=False
    )


def newest(store: Store, *, limit: int, before: int | None = None) -> list[Entry]:
    """The latest rows first."""
    with store.reading() as db:
        rows = db.query(
            "SELECT * FROM audit WHERE :before IS NULL OR n < :before ORDER BY n DESC LIMIT :limit",
            {"before": before, "limit": limit},
        )
        return [entry_of(row) for row in rows]


def verify(store: Store) -> Verified:
    """Look at every row."""
    with store.reading() as db:
        return verified(entry_of(row) for row in db.query("SELECT * FROM audit ORDER BY n"))


def verified(entries: Iterator[Entry]) -> Verified:
    """Pure: whether rows, the first first, are all there and as they were sealed."""
    head, count = START, 0
    for n, entry in enumerate(entries, 1):
        if entry.n != n or entry.sealed(head) != entry.chain:
            return Verified(entries=count, head=head, broken_at=n)
        head, count = entry.chain, n
    return Verified(entries=count, head=head, broken_at=None)


def _append(db: Database, act: str, *, owner: str, key: str, at: datetime, of: int | None, status: int | None) -> int:
    last = db.execute("SELECT n, chain FROM audit ORDER BY n DESC LIMIT 1").fetchone()
    n, before = (last[0] + 1, bytes(last[1]).hex()) if last else (1, START)
    entry = Entry(n=n, at=at.isoformat(), owner=owner, key=key, act=act, of=of, status=status, chain="")
    db.execute(
        "INSERT INTO audit (n, at, owner, key, act, of, status, chain) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [n, entry.at, owner, key, act, of, status, bytes.fromhex(entry.sealed(before))],
    )
    return n


def entry_of(row: dict[str, Any]) -> Entry:
    """A row of the table."""
    return Entry(**{**row, "chain": bytes(row["chain"]).hex()})
