"""Whether a database is as it was written, and what can be saved of one that is not. The service must not be running.

Four looks: at the log, which SQLite reads up to the first frame that is broken, without a word about what follows;
SQLite's own, at pages and indexes; what refers to what; and the digests that rows carry: of every message over all
before it, of every memory's letters. A flipped bit in a number, a date or a vector is seen by none, nor is a log whose
end is missing: a crash leaves the same.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pysqlite3
from sqlite_utils import Database

from memory import audit, fulltext
from memory.experiences import experience_of, pages_of
from memory.migrations import migrations
from memory.salience import RING
from memory.transcripts import EMPTY_CHAIN, FORGOTTEN, chain
from memory.words import fingerprint, letters

Kind = Literal["log", "pages", "index", "references", "full text", "memory", "message", "record"]
ASIDE = "broken"
"""The folder of a data directory that holds what could not be used."""
_MOST = 20
"""Damages of one kind that are told apart."""
_CHANGED = "its text is not what was stored: the disk has changed it"
UNREADABLE = (pysqlite3.Error, UnicodeDecodeError, OverflowError)
"""What reading a broken database may raise: its messages quote names that are no UTF-8 any more."""
_NEVER_DELETED = ("audit", "looks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something that is not as it was written."""

    kind: Kind
    what: str
    id: str = ""
    """Of the row, where it is one."""

    @property
    def lasting(self) -> bool:
        """Whether nothing but a backup can undo it: what was there is not known any more."""
        return self.kind in ("memory", "message", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What was read out of a broken database."""

    rows: Mapping[str, int]
    lost: Mapping[str, int]
    """Rows that could not be read, as far as is known that there were any; or that had nothing to belong to."""


def damages(path: Path) -> list[Damage]:
    """Everything that is wrong with a database; nothing: it is sound. Writes nothing."""
    log = path.with_name(path.name + "-wal")
    cut = _cut_short(log.read_bytes()) if log.exists() else None
    try:
        with closing(pysqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            found = [Damage(kind="log", what=cut)] if cut else []
            found += _pages(connection)
            if not any(d.kind == "pages" for d in found):
                found += _schema(connection)
                found += _references(connection)
                found += _full_text(connection)
                found += _memories(connection)
                found += _messages(connection)
                found += _record(connection)
            return found
    except UNREADABLE as error:
        return [Damage(kind="pages", what=str(error))]


def mend(path: Path) -> None:
    """Make indexes and full text anew from the rows; keep away what is not what was stored, and what refers to nothing.

    A memory whose text was changed is put into quarantine: shown, never recalled, never learnt. For a database whose
    pages can be read; see `save` for others.
    """
    with closing(pysqlite3.connect(str(path), isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        db = Database(connection)
        db.execute("REINDEX")
        changed = [d.id for d in _memories(connection, most=1 << 62) if d.kind == "memory"]
        db.execute("BEGIN IMMEDIATE")
        _let_go_of_senseless(db)
        _let_go_of_strays(connection, {})
        for id in changed:
            db.execute("UPDATE experiences SET quarantined = ? WHERE id = ?", [_CHANGED, id])
        _index_texts(db)
        db.execute("COMMIT")


def save(broken: Path, to: Path) -> Saved:
    """Read whatever can be read of a broken database, row by row, into a new one at `to`, which is not there yet."""
    rows: dict[str, int] = {}
    lost: dict[str, int] = {}
    with (
        closing(pysqlite3.connect(f"{broken.absolute().as_uri()}?mode=ro", uri=True)) as old,
        closing(pysqlite3.connect(str(to), isolation_level=None)) as new,
    ):
        old.text_factory = lambda raw: raw.decode(errors="replace")
        old.execute("PRAGMA cell_size_check = ON")
        db = Database(new)
        migrations.apply(db)
        new.execute("PRAGMA foreign_keys = OFF")
        for table in _tables(new):
            names = [f'"{c.name}"' for c in db[table].columns]
            found, gone = 0, 0
            new.execute("BEGIN")
            for row in _readable(old, table, names, keyed="WITHOUT ROWID" in db[table].schema.upper()):
                if row is None:
                    gone += 1
                    continue
                marks = ", ".join("?" for _ in names)
                try:
                    new.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES ({marks})", row)
                    found += 1
                except UNREADABLE:  # a value that the column does not take
                    gone += 1
            new.execute("COMMIT")
            rows[table], lost[table] = found, gone
        lost["experiences"] = lost.get("experiences", 0) + _let_go_of_senseless(db)
        _let_go_of_strays(new, lost)
        new.execute("BEGIN")
        _index_texts(db)
        new.execute("COMMIT")
    return Saved(rows=rows, lost={table: n for table, n in lost.items() if n})


def _cut_short(raw: bytes) -> str | None:
    """What is lost of a write-ahead log (sqlite.org/fileformat2.html#walformat); None: nothing that was committed.

    A frame whose sum is wrong ends what SQLite reads. At the end of a log that is what a crash leaves; before commits
    of the same log it is not.
    """
    if len(raw) < _HEADER:
        return None
    magic, _, page, _, *salts = struct.unpack(">6I", raw[:24])
    order = {0x377F0682: "<", 0x377F0683: ">"}.get(magic)
    frames = max(0, len(raw) - _HEADER)
    if order is None or not 512 <= page <= 65536 or _sum(raw[:24], order, (0, 0)) != struct.unpack(">2I", raw[24:32]):
        return "the log's header is broken: what it holds is not read" if frames else None
    sums, broken_at = struct.unpack(">2I", raw[24:32]), None
    for n, at in enumerate(range(_HEADER, len(raw) - page - _FRAME + 1, page + _FRAME), 1):
        _, commit, *of_frame = struct.unpack(">4I", raw[at : at + 16])
        if of_frame != salts:
            if broken_at is None:
                broken_at = n  # the rest of an earlier log, or a frame whose salts are broken
            continue
        if broken_at is not None:
            if commit:
                return f"frame {broken_at} of the log is broken: what was committed after it is not read"
            continue
        sums = _sum(raw[at + _FRAME : at + _FRAME + page], order, _sum(raw[at : at + 8], order, sums))
        if sums != struct.unpack(">2I", raw[at + 16 : at + 24]):
            broken_at = n
            if commit and at + 2 * (page + _FRAME) > len(raw):
                return None  # the very last one: a crash leaves it so
    return None


def _sum(raw: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for a, b in struct.iter_unpack(f"{order}2I", raw):
        one = (one + a + two) & 0xFFFFFFFF
        two = (two + b + one) & 0xFFFFFFFF
    return one, two


_HEADER, _FRAME = 32, 24


def _pages(connection: Any) -> Iterator[Damage]:
    for (line,) in connection.execute("PRAGMA integrity_check(50)").fetchall():
        if line == "ok":
            continue
        of_index = " index " in line or "missing from index" in line or "UNIQUE" in line
        of_text = "fts5" in line or line.startswith(("malformed inverted index", "unable to validate"))
        yield Damage(kind="full text" if of_text else "index" if of_index else "pages", what=str(line))


def _schema(connection: Any) -> list[Damage]:
    """Where the tables, indexes and triggers are described otherwise than by this version: SQLite believes it all."""
    with closing(pysqlite3.connect(":memory:")) as new:
        migrations.apply(Database(new))
        ours, theirs = _described(new), _described(connection)
        if _steps(connection) != _steps(new):  # of another version
            return []
    wrong = [name for name, said in ours.items() if theirs.get(name) != said]
    return [Damage(kind="pages", what=f"what it says of {name} is not what was written") for name in wrong[:_MOST]]


def _described(connection: Any) -> dict[str, str]:
    """Of each table, index and trigger, how it was made; spaces and quotes aside, which SQLite may set anew."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {str(name): "".join(c for c in str(sql) if not c.isspace() and c not in "\"'`") for name, sql in rows}


def _steps(connection: Any) -> set[str]:
    return {str(name) for (name,) in connection.execute("SELECT name FROM _sqlite_migrations").fetchall()}


def _references(connection: Any) -> list[Damage]:
    found = connection.execute("PRAGMA foreign_key_check").fetchmany(_MOST)
    rings = [
        Damage(kind="references", what=f"statistics of {dimension} have a gap")
        for _, dimension in _broken_rings(connection)
    ]
    return rings + [
        Damage(kind="references", what=f"a row of {table} refers to nothing")
        for table, *_ in found
        if table not in _NEVER_DELETED
    ]


def _full_text(connection: Any) -> list[Damage]:
    found = []
    for (owner,) in connection.execute("SELECT n FROM owners").fetchall():
        try:
            connection.execute(f"SELECT count(*) FROM turn_{owner} WHERE turn_{owner} MATCH 'the'").fetchone()
            connection.execute(f"SELECT count(*) FROM window_{owner} WHERE window_{owner} MATCH 'the'").fetchone()
        except UNREADABLE as error:
            found.append(Damage(kind="full text", what=str(error)))
    return found


def _memories(connection: Any, most: int = _MOST) -> list[Damage]:
    found: list[Damage] = []
    rows = connection.execute("SELECT * FROM experiences")
    names = [column for column, *_ in rows.description]
    for values in rows:
        row = dict(zip(names, values, strict=True))
        if not _makes_sense(row):
            found.append(Damage(kind="references", what=f"memory {row['id']} holds what no memory can"))
            continue
        id, text, digest, held = row["id"], row["text"], row["fingerprint"], row["quarantined"]
        exact = row.get("letters")  # a database of an earlier version has none
        changed = fingerprint(text) != digest or (exact is not None and letters(text) != exact)
        if changed and held != _CHANGED and len(found) < most:
            found.append(Damage(kind="memory", what=f"memory {id}: {_CHANGED}", id=str(id)))
    return found


def _messages(connection: Any) -> list[Damage]:
    found: list[Damage] = []
    session, before = None, EMPTY_CHAIN
    for id, of, role, content, status, digest in connection.execute(
        "SELECT id, session, role, content, status, chain FROM messages ORDER BY session, position"
    ):
        if of != session:
            session, before = of, EMPTY_CHAIN
        spoken = role not in ("compaction", "note")
        kept = status != "forgotten" and FORGOTTEN not in content
        if spoken and kept and chain(before, role, content) != digest and len(found) < _MOST:
            what = f"message {id} is not what was said: the disk has changed it"
            found.append(Damage(kind="message", what=what, id=str(id)))
        before = bytes(digest)
    return found


def _record(connection: Any) -> list[Damage]:
    rows = connection.execute("SELECT n, at, owner, key, act, of, status, chain FROM audit ORDER BY n")
    names = [column for column, *_ in rows.description]
    found = audit.verified(audit.entry_of(dict(zip(names, row, strict=True))) for row in rows)
    at = found.broken_at
    return (
        [] if at is None else [Damage(kind="record", what=f"row {at} of the record of acts is not as it was written")]
    )


def _tables(connection: Any) -> list[str]:
    """Those that hold rows of their own: neither what is made from others nor SQLite's."""
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND sql NOT LIKE '%VIRTUAL%'"
        " AND name NOT LIKE 'turn\\_%' ESCAPE '\\' AND name NOT LIKE 'window\\_%' ESCAPE '\\' AND name NOT LIKE '\\_%'"
        " ESCAPE '\\'"
    ).fetchall()
    return [str(name) for (name,) in rows]


def _readable(old: Any, table: str, names: list[str], *, keyed: bool) -> Iterator[tuple[Any, ...] | None]:
    """The rows of a table, None for each that cannot be read."""
    try:
        there = {f'"{name}"' for _, name, *_ in old.execute(f"PRAGMA table_info({table})").fetchall()}
    except UNREADABLE:
        return
    if not there:
        return
    columns = ", ".join(name if name in there else "NULL" for name in names)
    if keyed:
        yield from _from_both_ends(old, f"SELECT {columns} FROM {table}")
        return
    at = -(1 << 62)
    while True:
        try:
            for rowid, *row in old.execute(
                f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid", [at]
            ):
                yield tuple(row)
                at = rowid
            return
        except UNREADABLE:
            later = _next_readable(old, table, at)
            yield None
            if later is None:
                return
            at = later - 1


def _next_readable(old: Any, table: str, at: int) -> int | None:
    """A row number after a page that cannot be read: tried further and further on."""
    step = 1
    while step < 1 << 40:
        try:
            sql = f"SELECT rowid FROM {table} WHERE rowid >= ? ORDER BY rowid LIMIT 1"
            row = old.execute(sql, [at + 1 + step]).fetchone()
            return None if row is None else int(row[0])
        except UNREADABLE:
            step = step + 1 if step < 64 else step * 2
    return None


def _from_both_ends(old: Any, sql: str) -> Iterator[tuple[Any, ...] | None]:
    """Rows of a table that has no row numbers: from its beginning to what cannot be read, and from its end."""
    for order in ("", " ORDER BY 1 DESC"):
        try:
            for row in old.execute(sql + order):
                yield tuple(row)
            return
        except UNREADABLE:
            yield None


def _let_go_of_strays(new: Any, lost: dict[str, int]) -> None:
    """Rows that belong to what could not be read: they are still in the broken file."""
    while True:
        rows = new.execute("PRAGMA foreign_key_check").fetchall()
        strays = {(table, rowid) for table, rowid, *_ in rows if rowid is not None and table not in _NEVER_DELETED}
        if not strays:
            return
        for table, rowid in strays:
            new.execute(f"DELETE FROM {table} WHERE rowid = ?", [rowid])
            lost[table] = lost.get(table, 0) + 1


def _let_go_of_senseless(db: Database) -> int:
    """Memories with a value that none can have, so that nothing could show them; they are in the broken file."""
    gone = [row["n"] for row in list(db.query("SELECT * FROM experiences")) if not _makes_sense(row)]
    for n in gone:
        db.execute("DELETE FROM experiences WHERE n = ?", [n])
    for owner, dimension in _broken_rings(db.conn):  # measured anew, from the model's calibration on
        for table in ("salience_rings", "salience_scales"):
            db.execute(f"DELETE FROM {table} WHERE owner = ? AND dimension = ?", [owner, dimension])
    return len(gone)


def _broken_rings(connection: Any) -> list[tuple[int, str]]:
    """Running statistics of salience with a gap."""
    rows = connection.execute(
        "SELECT s.owner, s.dimension, s.pushed, count(r.slot), min(r.slot), max(r.slot) FROM salience_scales s"
        " LEFT JOIN salience_rings r USING (owner, dimension) GROUP BY s.owner, s.dimension"
    ).fetchall()
    return [
        (owner, dimension)
        for owner, dimension, pushed, n, low, high in rows
        if n != min(pushed, RING) or (n and (low, high) != (0, n - 1))
    ]


def _makes_sense(row: dict[str, Any]) -> bool:
    try:
        experience_of(row)
    except (ValueError, TypeError, KeyError, OverflowError):
        return False
    return True


def _index_texts(db: Database) -> None:
    """Full text, of every owner, from the rows."""
    for (owner,) in db.execute("SELECT n FROM owners").fetchall():
        for table in (f"turn_{owner}", f"window_{owner}"):
            db.execute(f"DROP TABLE IF EXISTS {table}")
        fulltext.create(db, owner)
        own = [experience_of(row) for row in db.query("SELECT * FROM experiences WHERE owner = ?", [owner])]
        fulltext.add(db, owner, [pages_of(db, owner, one) for one in own])


def aside(folder: Path, at: datetime) -> Path:
    """Where what is broken is kept; made, for its owner alone."""
    to = folder / ASIDE / at.strftime("%Y-%m-%dT%H%M%S")
    for made in (to.parent, to):
        made.mkdir(mode=0o700, exist_ok=True)
    return to
