"""Moods at rest: one for each owner, and the trace of what moved it. Knows bytes and numbers, not what they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlite_utils import Database

from memory.store import Store

Kind = Literal["turn", "feedback"]
TRACED = 1000
"""Events that an owner's trace keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What moved a mood, and where the variables were after it."""

    at: datetime
    kind: Kind
    turn: str
    values: Mapping[str, float]
    senses: Mapping[str, float]
    zone: str
    updates: int
    """Words of feedback that the readout has learnt from."""


def kept(store: Store, owner: str) -> bytes | None:
    """An owner's mood; None: they have none yet."""
    with store.reading() as db:
        return kept_within(db, owner)


def only_one(store: Store) -> str | None:
    """Whose mood there is, if it is one person's alone."""
    with store.reading() as db:
        rows = db.execute("SELECT owner FROM moods LIMIT 2").fetchall()
    return str(rows[0][0]) if len(rows) == 1 else None


def kept_within(db: Database, owner: str) -> bytes | None:
    """`kept`, within a transaction."""
    row = db.execute("SELECT body FROM moods WHERE owner = ?", [owner]).fetchone()
    return None if row is None else bytes(row[0])


def spread_within(db: Database, owner: str) -> bytes | None:
    """What is known of how certain the readout's weights are; None: nothing was learnt yet."""
    row = db.execute("SELECT spread FROM moods WHERE owner = ?", [owner]).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def begin_within(db: Database, owner: str, body: bytes, spread: bytes | None) -> bool:
    """Give an owner the mood of another place, if they have none yet; part of a transaction. Whether they took it."""
    done = db.execute(
        "INSERT INTO moods (owner, body, spread) VALUES (?, ?, ?) ON CONFLICT (owner) DO NOTHING", [owner, body, spread]
    )
    return int(done.rowcount) == 1


def keep_within(
    db: Database, owner: str, body: bytes, event: Event, features: bytes, *, spread: bytes | None = None
) -> None:
    """Put a mood in place of the one before, with what moved it; part of a transaction. The spread stays, if none."""
    db.execute(
        "INSERT INTO moods (owner, body, spread) VALUES (?, ?, ?)"
        " ON CONFLICT (owner) DO UPDATE SET body = excluded.body, spread = coalesce(excluded.spread, spread)",
        [owner, body, spread],
    )
    db.execute(
        'INSERT INTO mood_events (owner, at, kind, turn, "values", senses, zone, updates, features)'
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            owner,
            event.at.isoformat(),
            event.kind,
            event.turn,
            json.dumps(dict(event.values)),
            json.dumps(dict(event.senses)),
            event.zone,
            event.updates,
            features,
        ],
    )
    db.execute(
        "DELETE FROM mood_events WHERE owner = ? AND n <= (SELECT n FROM mood_events WHERE owner = ?"
        " ORDER BY n DESC LIMIT 1 OFFSET ?)",
        [owner, owner, TRACED],
    )


def unrated_within(db: Database, owner: str, turn: str) -> bytes | None:
    """The features of the moment of a turn; None: too long ago, it moved nothing, or feedback on it was heard."""
    rows = db.execute("SELECT kind, features FROM mood_events WHERE owner = ? AND turn = ?", [owner, turn]).fetchall()
    kinds = dict(rows)
    return None if "turn" not in kinds or "feedback" in kinds else bytes(kinds["turn"])


def trace(store: Store, owner: str, *, most: int) -> list[Event]:
    """The latest events, the newest first."""
    with store.reading() as db:
        rows = list(db.query("SELECT * FROM mood_events WHERE owner = ? ORDER BY n DESC LIMIT ?", [owner, most]))
    return [
        Event(
            at=datetime.fromisoformat(row["at"]),
            kind=row["kind"],
            turn=row["turn"],
            values=json.loads(row["values"]),
            senses=json.loads(row["senses"]),
            zone=row["zone"],
            updates=row["updates"],
        )
        for row in rows
    ]
