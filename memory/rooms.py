"""Rooms: what the agent thought and did not say. No user sees it, no night learns it, and every look is recorded.

Two rooms. `thoughts`: what a model that thinks aloud wrote before its answer. `withheld`: replies that were written and
not shown, since they were guesses or gave what was not asked for. A thought may hold what was told in any words, so
forgetting anything empties the owner's rooms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlite_utils import Database

from memory.store import Store

Room = Literal["thoughts", "withheld"]
KEPT, LONGEST = 1000, 4000
"""Thoughts that a room keeps of an owner, the newest; and characters of each."""
_JUST_BEFORE = timedelta(minutes=1)
"""A forgetting is dated when it is asked for, and reaches the tables a moment later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """One thing that was not said."""

    owner: str
    session: str
    turn: str
    at: datetime
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much an owner's room holds."""

    room: Room
    owner: str
    thoughts: int
    characters: int
    latest: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Somebody's having read in a room."""

    at: datetime
    by: str
    room: Room
    owner: str | None
    """Whose thoughts they asked for; None: everybody's."""
    shown: int


def keep_within(
    db: Database, *, owner: str, session: str, turn: str, unsaid: Mapping[Room, Sequence[str]], since: datetime
) -> None:
    """Keep what a turn that began at `since` left unsaid, as a part of its transaction.

    Not where the owner had something forgotten meanwhile, or just before: the turn may have read it.
    """
    kept = {room: said for room, texts in unsaid.items() if (said := [t[:LONGEST] for t in texts if t.strip()])}
    if not kept or _forgot(db, owner, after=since - _JUST_BEFORE):
        return
    for room, texts in kept.items():
        db.conn.executemany(
            "INSERT INTO thoughts (room, owner, session, turn, at, text) VALUES (?, ?, ?, ?, ?, ?)",
            [(room, owner, session, turn, since.isoformat(), text) for text in texts],
        )
        oldest = "SELECT n FROM thoughts WHERE room = ? AND owner = ? ORDER BY n DESC LIMIT 1 OFFSET ?"
        db.execute(
            f"DELETE FROM thoughts WHERE room = ? AND owner = ? AND n <= ({oldest})", [room, owner, room, owner, KEPT]
        )


def _forgot(db: Database, owner: str, *, after: datetime) -> bool:
    receipt = "SELECT 1 FROM receipts r JOIN owners o ON o.n = r.owner WHERE o.name = ? AND r.at >= ? LIMIT 1"
    return db.execute(receipt, [owner, after.isoformat()]).fetchone() is not None


def empty_within(db: Database, owner: str) -> int:
    """Empty all rooms of an owner, as a part of somebody's transaction; how many thoughts are gone."""
    return int(db.execute("DELETE FROM thoughts WHERE owner = ?", [owner]).rowcount)


def look(store: Store, room: Room, *, by: str, owner: str | None, limit: int, at: datetime) -> list[Thought]:
    """The newest thoughts in a room, newest first. The look is on disk before anything is shown."""

    def looked(db: Database) -> list[Thought]:
        rows = db.query(
            "SELECT * FROM thoughts WHERE room = ? AND (? IS NULL OR owner = ?) ORDER BY n DESC LIMIT ?",
            [room, owner, owner, limit],
        )
        found = [
            Thought(
                owner=row["owner"],
                session=row["session"],
                turn=row["turn"],
                at=datetime.fromisoformat(row["at"]),
                text=row["text"],
            )
            for row in rows
        ]
        db.execute(
            "INSERT INTO looks (at, by, room, owner, shown) VALUES (?, ?, ?, ?, ?)",
            [at.isoformat(), by, room, owner, len(found)],
        )
        return found

    return store.write(looked)


def sizes(store: Store) -> list[Size]:
    """How much there is in each room, of each owner who has anything there."""
    counted = """
        SELECT room, owner, count(*) AS thoughts, sum(length(text)) AS characters, max(at) AS latest
        FROM thoughts GROUP BY room, owner ORDER BY room, owner
    """
    with store.reading() as db:
        return [Size(**{**row, "latest": datetime.fromisoformat(row["latest"])}) for row in db.query(counted)]


def looks(store: Store, *, limit: int) -> list[Look]:
    """Who looked, the latest first. No look is ever deleted."""
    with store.reading() as db:
        rows = list(db.query("SELECT at, by, room, owner, shown FROM looks ORDER BY n DESC LIMIT ?", [limit]))
    return [Look(**{**row, "at": datetime.fromisoformat(row["at"])}) for row in rows]
