"""The writer's notes, kept from night to night: a message is read once. Gone with the message when it is forgotten."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlite_utils import Database

from consolidation.notes import Note
from memory.store import Store


def keep(store: Store, notes: Mapping[str, Note | None], *, owner: str, writer: str) -> None:
    """Keep what a writer made of experiences, nothing included; of one that is forgotten meanwhile, nothing."""
    rows = [
        (id, owner, writer, None if note is None else json.dumps(asdict(note), ensure_ascii=False), id, owner)
        for id, note in notes.items()
    ]

    def transaction(db: Database) -> None:
        for row in rows:
            db.execute(
                "INSERT OR REPLACE INTO notes (experience, owner, writer, body) SELECT ?, ?, ?, ? WHERE EXISTS"
                " (SELECT 1 FROM experiences e JOIN owners o ON o.n = e.owner WHERE e.id = ? AND o.name = ?)",
                list(row),
            )

    store.write(transaction)


def kept(store: Store, *, owner: str, writer: str | None = None) -> dict[str, Note | None]:
    """By experience; of any writer, if none is named."""
    sql = "SELECT experience, body FROM notes WHERE owner = ? AND writer = coalesce(?, writer)"
    with store.reading() as db:
        rows = db.execute(sql, [owner, writer]).fetchall()
    return {str(id): None if body is None else _note(json.loads(body)) for id, body in rows}


def drop(db: Database, owner: str, experiences: Sequence[str]) -> None:
    """Within the transaction that forgets them."""
    gone = ",".join("?" for _ in experiences)
    db.execute(f"DELETE FROM notes WHERE owner = ? AND experience IN ({gone})", [owner, *experiences])


def _note(row: Mapping[str, object]) -> Note:
    asks = row["asks"]
    assert isinstance(asks, list)
    return Note(told=str(row["told"]), value=str(row["value"]), asks=tuple(map(str, asks)))
