"""The writer's notes, kept from night to night: a message is read once. Gone with the message when it is forgotten."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlite_utils import Database

from consolidation.notes import Note
from memory.store import Store


def keep(store: Store, notes: Mapping[str, Sequence[Note]], *, owner: str, writer: str) -> None:
    """Keep what a writer made of experiences, nothing included; of one that is forgotten meanwhile, nothing."""
    rows = [
        (id, owner, writer, json.dumps([asdict(n) for n in of], ensure_ascii=False) if of else None, id, owner)
        for id, of in notes.items()
    ]

    def transaction(db: Database) -> None:
        for row in rows:
            db.execute(
                "INSERT OR REPLACE INTO notes (experience, owner, writer, body) SELECT ?, ?, ?, ? WHERE EXISTS"
                " (SELECT 1 FROM experiences e JOIN owners o ON o.n = e.owner WHERE e.id = ? AND o.name = ?)",
                list(row),
            )

    store.write(transaction)


def kept(store: Store, *, owner: str, writer: str | None = None) -> dict[str, tuple[Note, ...]]:
    """By experience; of any writer, if none is named."""
    sql = "SELECT experience, body FROM notes WHERE owner = ? AND writer = coalesce(?, writer)"
    with store.reading() as db:
        rows = db.execute(sql, [owner, writer]).fetchall()
    return {str(id): () if body is None else _notes(json.loads(body)) for id, body in rows}


def drop(db: Database, owner: str, experiences: Sequence[str]) -> None:
    """Within the transaction that forgets them."""
    gone = ",".join("?" for _ in experiences)
    db.execute(f"DELETE FROM notes WHERE owner = ? AND experience IN ({gone})", [owner, *experiences])


def _notes(rows: list[dict[str, Any]] | dict[str, Any]) -> tuple[Note, ...]:
    """The first writer's notes stand alone, one a message."""
    return tuple(
        Note(told=row["told"], value=row["value"], asks=tuple(row["asks"]), never=tuple(row.get("never", ())))
        for row in (rows if isinstance(rows, list) else [rows])
    )
