"""What nights noted of messages, and which of them revise others; kept, so that a message is read once.

Gone with the message when it is forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlite_utils import Database

from consolidation.notes import Note
from consolidation.revisions import Revision
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


def keep_revisions(store: Store, found: Mapping[str, Sequence[Revision]], *, owner: str, reviser: str) -> None:
    """Keep what a reviser found in experiences, nothing included; of one that is forgotten meanwhile, nothing."""

    def transaction(db: Database) -> None:
        for id, of in found.items():
            there = "EXISTS (SELECT 1 FROM experiences e JOIN owners o ON o.n = e.owner WHERE e.id = ? AND o.name = ?)"
            db.execute(
                f"INSERT OR REPLACE INTO compared (owner, experience, reviser) SELECT ?, ?, ? WHERE {there}",
                [owner, id, reviser, id, owner],
            )
            db.execute("DELETE FROM revisions WHERE owner = ? AND experience = ?", [owner, id])
            for one in of:
                db.execute(
                    "INSERT INTO revisions (owner, experience, earlier, was, now)"
                    f" SELECT ?, ?, ?, ?, ? WHERE {there} AND {there}",
                    [owner, id, one.earlier, one.was, one.now, id, owner, one.earlier, owner],
                )

    store.write(transaction)


def compared(store: Store, *, owner: str, reviser: str) -> frozenset[str]:
    """The experiences that a reviser has seen."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT experience FROM compared WHERE owner = ? AND reviser = ?", [owner, reviser]
        ).fetchall()
    return frozenset(str(id) for (id,) in rows)


def revisions(store: Store, *, owner: str) -> dict[str, tuple[Revision, ...]]:
    """What experiences revise, by the later of two."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT experience, earlier, was, now FROM revisions WHERE owner = ? ORDER BY experience, earlier", [owner]
        ).fetchall()
    found: dict[str, tuple[Revision, ...]] = {}
    for id, earlier, was, now in rows:
        found[str(id)] = (*found.get(str(id), ()), Revision(earlier=earlier, was=was, now=now))
    return found


def drop(db: Database, owner: str, experiences: Sequence[str]) -> None:
    """Within the transaction that forgets them."""
    gone = ",".join("?" for _ in experiences)
    db.execute(f"DELETE FROM notes WHERE owner = ? AND experience IN ({gone})", [owner, *experiences])
    db.execute(f"DELETE FROM compared WHERE owner = ? AND experience IN ({gone})", [owner, *experiences])
    db.execute(
        f"DELETE FROM revisions WHERE owner = ? AND (experience IN ({gone}) OR earlier IN ({gone}))",
        [owner, *experiences, *experiences],
    )


def _notes(rows: list[dict[str, Any]] | dict[str, Any]) -> tuple[Note, ...]:
    """The first writer's notes stand alone, one a message."""
    return tuple(
        Note(told=row["told"], value=row["value"], asks=tuple(row["asks"]), never=tuple(row.get("never", ())))
        for row in (rows if isinstance(rows, list) else [rows])
    )
