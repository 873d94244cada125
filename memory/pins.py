"""Persona variables that an owner holds at a value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlite_utils import Database

from memory.store import Store


def pinned(store: Store, owner: str) -> dict[str, float]:
    """What an owner has pinned."""
    with store.reading() as db:
        rows = db.execute("SELECT variable, value FROM pins WHERE owner = ? ORDER BY variable", [owner]).fetchall()
    return {name: float(value) for name, value in rows}


def pin(store: Store, owner: str, changes: Mapping[str, float | None], *, at: datetime) -> dict[str, float]:
    """Hold variables at values, or let go of them (None); all of it or nothing. Returns what is pinned then.

    Raises:
        StorageFailed: nothing was changed.
    """

    def transaction(db: Database) -> None:
        for name, value in changes.items():
            if value is None:
                db.execute("DELETE FROM pins WHERE owner = ? AND variable = ?", [owner, name])
            else:
                db.execute(
                    "INSERT OR REPLACE INTO pins (owner, variable, value, at) VALUES (?, ?, ?, ?)",
                    [owner, name, value, at.isoformat()],
                )

    store.write(transaction)
    return pinned(store, owner)
