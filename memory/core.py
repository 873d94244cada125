"""The rows that make an agent itself: moods, pins, who is trusted, its best memories, what its adapter learnt.

Taken in one consistent look, as plain values that JSON holds; put into a database that has none of them. Knows no file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pysqlite3
from sqlite_utils import Database

from memory import fulltext
from memory.errors import CoreRefused
from memory.experiences import experience_of, pages_of
from memory.store import Store

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

MOST_MEMORIES = 5000
"""Of an owner's memories, those that stay; with their vectors some ten megabytes."""
_CHOSEN = """
    SELECT n FROM (
        SELECT n, row_number() OVER (
            PARTITION BY owner ORDER BY pinned DESC, coalesce(percentile, 0.5) DESC, n DESC
        ) AS place FROM experiences WHERE quarantined IS NULL AND superseded_by IS NULL
    ) WHERE place <= :most
"""
_OF_CHOSEN = f"experience IN ({_CHOSEN})"
_SERVING = "status = 'active' AND stale = 0"
"""An adapter that has seen what is forgotten since is no part of anybody's self."""
_TAKEN: Mapping[str, str] = {
    "owners": "SELECT * FROM owners",
    "experiences": f"SELECT * FROM experiences WHERE n IN ({_CHOSEN}) ORDER BY n",
    "wordings": f"SELECT * FROM wordings WHERE {_OF_CHOSEN}",
    "vectors": f"SELECT * FROM vectors WHERE {_OF_CHOSEN}",
    "patterns": f"SELECT * FROM patterns WHERE {_OF_CHOSEN}",
    "evidence": f"SELECT * FROM evidence WHERE pattern IN (SELECT id FROM patterns WHERE {_OF_CHOSEN})",
    "notes": f"SELECT * FROM notes WHERE experience IN (SELECT id FROM experiences WHERE n IN ({_CHOSEN}))",
    "compared": f"SELECT * FROM compared WHERE experience IN (SELECT id FROM experiences WHERE n IN ({_CHOSEN}))",
    "revisions": "SELECT * FROM revisions WHERE"
    f" experience IN (SELECT id FROM experiences WHERE n IN ({_CHOSEN}))"
    f" AND earlier IN (SELECT id FROM experiences WHERE n IN ({_CHOSEN}))",
    "trust": "SELECT * FROM trust",
    "salience_rings": "SELECT * FROM salience_rings",
    "salience_scales": "SELECT * FROM salience_scales",
    "calibrations": "SELECT * FROM calibrations",
    "pins": "SELECT * FROM pins",
    "moods": "SELECT * FROM moods",
    "mood_events": "SELECT * FROM mood_events ORDER BY n",
    "paces": "SELECT * FROM paces ORDER BY n DESC LIMIT 1",
    "gauge_alarms": "SELECT * FROM gauge_alarms",
    "nights": f"SELECT * FROM nights WHERE id IN (SELECT night FROM adapters WHERE {_SERVING})",
    "adapters": f"SELECT * FROM adapters WHERE {_SERVING}",
    "learnt": f"SELECT * FROM learnt WHERE adapter IN (SELECT id FROM adapters WHERE {_SERVING})",
    "audit": "SELECT * FROM audit ORDER BY n",
}
"""In the order in which they can be put back: what is referred to comes first."""


def serving(store: Store) -> list[str]:
    """The adapters that a core self may hold, the latest first."""
    with store.reading() as db:
        rows = db.execute(f"SELECT id FROM adapters WHERE {_SERVING} ORDER BY activated_at DESC").fetchall()
    return [str(id) for (id,) in rows]


def taken(
    store: Store, *, most: int = MOST_MEMORIES, adapters: Collection[str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """All rows, as they stood at one moment; of adapters those named, None: all that serve."""
    with store.reading() as db:
        found = {
            table: [_plain(row) for row in db.query(sql, {"most": most} if ":most" in sql else None)]
            for table, sql in _TAKEN.items()
        }
    if adapters is not None:
        found["adapters"] = [row for row in found["adapters"] if row["id"] in adapters]
        found["learnt"] = [row for row in found["learnt"] if row["adapter"] in adapters]
        nights = {row["night"] for row in found["adapters"]}
        found["nights"] = [row for row in found["nights"] if row["id"] in nights]
    for adapter in found["adapters"]:
        adapter["parent"] = None  # its ancestors stay behind
    return found


def put(store: Store, rows: Rows) -> None:
    """Put them into a database that has none, in one transaction, and index the texts.

    Raises:
        CoreRefused: tables, columns or values that there are not; or something is there already.
    """
    if not isinstance(rows, Mapping) or not all(_is_table(found) for found in rows.values()):
        raise CoreRefused("its rows are no tables of rows")
    strange = set(rows) - set(_TAKEN)
    if strange:
        raise CoreRefused(f"it names tables that no core self has: {', '.join(sorted(strange))}")

    def transaction(db: Database) -> None:
        for table in ("owners", "moods", "adapters"):
            if db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]:
                raise CoreRefused("this agent has memories of its own: restore into an empty data directory")
        for table in _TAKEN:
            _insert(db, table, rows.get(table, ()))
        for (owner,) in db.execute("SELECT n FROM owners").fetchall():
            fulltext.create(db, owner)
            own = [experience_of(row) for row in db.query("SELECT * FROM experiences WHERE owner = ?", [owner])]
            fulltext.add(db, owner, [pages_of(db, owner, one) for one in own])

    try:
        store.write(transaction)
    except pysqlite3.IntegrityError as error:
        raise CoreRefused(f"its rows contradict each other: {error}") from error
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise CoreRefused(f"its rows hold what no row of theirs can: {error}") from error


def _is_table(rows: object) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _insert(db: Database, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    known = {column.name for column in db[table].columns}
    for row in rows:
        if not row or not set(row) <= known:
            raise CoreRefused(f"{table} has no such row")
        names = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join("?" for _ in row)
        db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", [_value(v) for v in row.values()])


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in row.items()}


def _value(value: Any) -> str | int | float | bytes | None:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping) and set(value) == {"base64"} and isinstance(value["base64"], str):
        try:
            return base64.b64decode(value["base64"], validate=True)
        except binascii.Error as error:
            raise CoreRefused("bytes that are not base64") from error
    raise CoreRefused(f"a value of a kind that no table holds: {type(value).__name__}")
