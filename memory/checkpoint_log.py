"""What became of each session's state: suspended, resumed, exported, imported, evicted; the newest last."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlite_utils import Database

from memory.store import Store

Event = Literal["suspended", "resumed", "exported", "imported", "evicted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """One event."""

    at: datetime
    event: Event
    how: str | None = None
    """Of what was resumed or imported: exact, converted, rebuilt."""
    why: str | None = None
    codec: str | None = None
    tokens: int
    nbytes: int
    seconds: float
    seal: str | None = None
    """The file's: one file, one seal."""


def log_within(db: Database, session: str, logged: Logged) -> None:
    """Note an event, as a part of somebody's transaction. One of a session that is gone is not noted."""
    db.execute(
        """
        INSERT INTO checkpoints (session, at, event, how, why, codec, tokens, bytes, seconds, seal)
        SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM sessions WHERE id = ?
        """,
        [
            logged.at.isoformat(),
            logged.event,
            logged.how,
            logged.why,
            logged.codec,
            logged.tokens,
            logged.nbytes,
            logged.seconds,
            logged.seal,
            session,
        ],
    )


def log(store: Store, session: str, logged: Logged) -> None:
    """Note an event. Raises: StorageFailed."""
    store.write(lambda db: log_within(db, session, logged))


def logged_of(store: Store, session: str, *, limit: int = 1000) -> list[Logged]:
    """A session's events, oldest first; the newest `limit` of them."""
    newest = "SELECT * FROM checkpoints WHERE session = ? ORDER BY n DESC LIMIT ?"
    with store.reading() as db:
        rows = list(db.query(f"SELECT * FROM ({newest}) ORDER BY n", [session, limit]))
    return [
        Logged(
            at=datetime.fromisoformat(row["at"]),
            event=row["event"],
            how=row["how"],
            why=row["why"],
            codec=row["codec"],
            tokens=row["tokens"],
            nbytes=row["bytes"],
            seconds=row["seconds"],
            seal=row["seal"],
        )
        for row in rows
    ]
