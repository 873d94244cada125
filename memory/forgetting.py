"""Forgetting for good, with a receipt; and letting go of the least valuable when there is too much.

What is forgotten is taken out of every table that holds it or was derived from it, in one transaction: the experience,
its other wordings, whatever else contains the same words (a reply that repeated it, a note that recalled it, the
transcript), full text, vectors, patterns, evidence, recall records, and all that the agent thought and did not say
(rooms). Then the write-ahead log is emptied and the
database's files are searched for the text, byte by byte: the receipt says what was found.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from memory import fulltext, rooms
from memory.errors import StorageFailed
from memory.experience import Experience
from memory.experiences import experience_of, find, neighbours, owner_number, pages_of
from memory.fulltext import window_text
from memory.ids import new_id
from memory.sameness import claim
from memory.store import Store
from memory.transcripts import FORGOTTEN
from memory.underway import Underway
from memory.words import holder

log = logging.getLogger("slowwave.memory")

_LOG = "the write-ahead log: readers held it open; it is emptied at the next start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a forgetting reached: ids and counts, never text."""

    id: str
    at: str
    memories: list[str]
    """Experiences that are gone."""
    wordings: list[str]
    """Events that had been merged into them."""
    full_text_entries: int
    vectors: int
    patterns: list[str]
    evidence: int
    recalls: int
    """Records of prompts that they entered."""
    messages: list[str]
    """Transcript entries that now read "[forgotten]"; their sessions are read anew at their next turn."""
    thoughts: int
    """What was not said, in the owner's rooms: all of it, since it may hold what was told in any words."""
    kv_states: int
    """Sequence states that were dropped, in memory and in files."""
    files_searched: list[str]
    found_in_files: int
    """Places in those files where the text still stands; 0 when it is gone."""
    waiting: list[str]
    """What cannot be reached before the next night."""


@dataclass(frozen=True, slots=True)
class _Reached:
    gone: list[Experience]
    texts: list[str]
    wordings: list[str]
    vectors: int
    patterns: list[str]
    evidence: int
    recalls: int
    thoughts: int
    messages: list[str]


def forget(
    store: Store,
    id: str,
    *,
    owner: str,
    at: datetime,
    drop_states: Callable[[str], int] = lambda owner: 0,
    files: Sequence[Path] = (),
    underway: Underway | None = None,
    also: Callable[[Database, Sequence[str]], list[str]] = lambda db, events: [],
) -> Receipt:
    """Forget an experience and everything of its owner that holds its words.

    `drop_states` drops the owner's sequence states and returns how many; `files` are searched for the text afterwards;
    turns that are `underway` will not write it down again. `also` is part of the transaction: it takes what was made
    from these events elsewhere, and returns what has to wait.

    Raises:
        MemoryNotFound: there is none, or it is another owner's; nothing was done.
    """
    receipt = new_id("rcpt", at)
    waiting: list[str] = []

    def transaction(db: Database) -> _Reached:
        reached = _forget(db, id, owner, receipt, at)
        waiting.extend(also(db, [*(e.id for e in reached.gone), *reached.wordings]))
        if underway is not None:  # on the writer's thread: whichever turn writes later has heard of it
            underway.forgotten(owner, reached.texts)
        return reached

    reached = store.write(transaction)  # from here on it is forgotten, whatever else fails
    claim.cache_clear()
    states, unwritten = _dropped(drop_states, owner)
    unwritten += _rewrite(store)
    found = _remains(files, reached.texts)
    done = Receipt(
        id=receipt,
        at=at.isoformat(),
        memories=[one.id for one in reached.gone],
        wordings=reached.wordings,
        full_text_entries=2 * len(reached.gone),
        vectors=reached.vectors,
        patterns=reached.patterns,
        evidence=reached.evidence,
        recalls=reached.recalls,
        messages=reached.messages,
        thoughts=reached.thoughts,
        kv_states=states,
        files_searched=[path.name for path in files if path.exists()],
        found_in_files=found,
        waiting=[*waiting, *unwritten],
    )
    if not unwritten:  # else the next start finishes it
        body = json.dumps(asdict(done))
        with contextlib.suppress(StorageFailed):  # the same
            store.write(lambda db: db.execute("UPDATE receipts SET body = ? WHERE id = ?", [body, receipt]))
    return done


def finish_forgetting(store: Store, *, drop_files: Callable[[], object] = lambda: None) -> None:
    """After a start: a process that was killed has deleted the rows, but perhaps not rewritten the file.

    `drop_files` removes what else on the disk may hold the forgotten; only then is the forgetting done.
    """
    with store.reading() as db:
        unfinished = _column(db, "SELECT id FROM receipts WHERE json_extract(body, '$.files_searched') IS NULL")
    if not unfinished:
        return
    drop_files()
    if unwritten := _rewrite(store):
        log.warning("forgetting_unfinished: %s", unwritten[0])
        return
    done = "UPDATE receipts SET body = json_set(body, '$.files_searched', json('[]'))"
    store.write(lambda db: db.execute(f"{done} WHERE id IN ({_marks(unfinished)})", unfinished))


def _dropped(drop_states: Callable[[str], int], owner: str) -> tuple[int, list[str]]:
    """How many states were dropped, and what has to wait."""
    try:
        return drop_states(owner), []
    except OSError as error:
        return 0, [f"states on disk: they could not be removed ({error}), and are at the next start"]


def _rewrite(store: Store) -> list[str]:
    """Write the database anew; what has to wait for the next start, if anything does: the rows are gone already."""
    try:
        return [] if store.rewrite() else [_LOG]
    except StorageFailed as error:  # no room for a second copy of it, say
        return [f"the database's file: it could not be written anew ({error}), and is at the next start"]


def receipts(store: Store, *, owner: str) -> list[dict[str, Any]]:
    """All receipts of an owner, newest first."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT body FROM receipts WHERE owner = ? ORDER BY id DESC", [owner_number(db, owner)]
        ).fetchall()
    return [json.loads(body) for (body,) in rows]


def evict(store: Store, *, owner: str, most: int, now: datetime) -> list[str]:
    """Let go of the least valuable experiences beyond `most`, down to nine tenths of it; returns their ids.

    Value = .5 salience + .3 min(accesses/10, 1) + .2/(1 + age in days). What is pinned, supports a pattern or has
    entered a prompt is never let go.
    """

    def transaction(db: Database) -> list[str]:
        number = owner_number(db, owner)
        count = db.execute("SELECT count(*) FROM experiences WHERE owner = ?", [number]).fetchone()[0]
        if number is None or count <= most:
            return []
        rows = db.query(_LEAST_VALUABLE, {"owner": number, "now": now.isoformat(), "many": count - most * 9 // 10})
        ones = [experience_of(r) for r in rows]
        _remove(db, number, ones)
        return [one.id for one in ones]

    return store.write(transaction)


_LEAST_VALUABLE = """
    SELECT * FROM experiences e WHERE owner = :owner AND pinned = 0
        AND NOT EXISTS (SELECT 1 FROM patterns p WHERE p.experience = e.n)
        AND NOT EXISTS (SELECT 1 FROM evidence v WHERE v.event = e.id)
        AND NOT EXISTS (SELECT 1 FROM recalls r WHERE r.experience = e.n)
    ORDER BY 0.5 * coalesce(total, 0.5) + 0.3 * min(accesses / 10.0, 1)
        + 0.2 / (1 + max(0, julianday(:now) - julianday(at))), n LIMIT :many
"""


def _remains(files: Sequence[Path], texts: Sequence[str]) -> int:
    return sum(occurrences(path, texts) for path in files if path.exists() and path.stat().st_size)


def occurrences(path: Path, texts: Iterable[str]) -> int:
    """How often any of `texts` stands in a file, as UTF-8."""
    wanted = [text.encode() for text in texts if text.strip()]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        count = 0
        for text in wanted:
            at = held.find(text)
            while at >= 0:
                count += 1
                at = held.find(text, at + 1)
        return count


def _forget(db: Database, id: str, owner: str, receipt: str, at: datetime) -> _Reached:
    one = find(db, id, owner=owner)
    number = owner_number(db, owner)
    assert number is not None
    texts = [one.text, *_column(db, "SELECT text FROM wordings WHERE experience = ? AND text IS NOT NULL", one.n)]
    holds = [holder(text) for text in texts]

    def held(text: str) -> bool:
        return any(holds_it(text) for holds_it in holds)

    gone = {one.n: one}
    for text in texts:
        for n in fulltext.containing(db, number, text):
            row = next(db.query("SELECT * FROM experiences WHERE n = ?", [n]))
            if held(row["text"]):
                gone[n] = experience_of(row)
    wordings = _column(db, f"SELECT id FROM wordings WHERE experience IN ({_marks(gone)})", *gone)
    for row in _rows_with(db, "SELECT * FROM wordings WHERE owner = ? AND text IS NOT NULL", number, held):
        if row["experience"] not in gone:  # it was merged into something else: only this wording goes
            wordings.append(row["id"])
            db.execute("DELETE FROM wordings WHERE owner = ? AND id = ?", [number, row["id"]])
    events = [*(e.id for e in gone.values()), *wordings]
    sources = [*(e.provenance.message for e in gone.values() if e.provenance.message), *wordings]
    messages = _redact(db, owner, held, sources)
    reached = _Reached(
        gone=list(gone.values()),
        texts=[*texts, *(e.text for e in gone.values())],
        wordings=wordings,
        vectors=_count(db, "vectors", "experience", gone),
        patterns=_column(db, f"SELECT id FROM patterns WHERE experience IN ({_marks(gone)})", *gone),
        evidence=_count(db, "evidence", "event", events),
        recalls=_count(db, "recalls", "experience", gone),
        thoughts=rooms.empty_within(db, owner),
        messages=messages,
    )
    db.execute(f"DELETE FROM evidence WHERE event IN ({_marks(events)})", events)
    _remove(db, number, list(gone.values()))
    db.execute(
        "INSERT INTO receipts (id, owner, at, body) VALUES (?, ?, ?, ?)",
        [receipt, number, at.isoformat(), json.dumps({"id": receipt, "at": at.isoformat(), "memories": events})],
    )
    return reached


def _remove(db: Database, number: int, ones: Sequence[Experience]) -> None:
    """Take experiences out of the table and the full text; what refers to them goes with them."""
    for one in ones:
        fulltext.remove(db, number, pages_of(db, number, one))
        beside = _windows_beside(db, number, one)
        db.execute("DELETE FROM experiences WHERE n = ?", [one.n])
        for n, session, old in beside:
            new = window_text([(r["speaker"], r["text"]) for r in neighbours(db, number, session, n)])
            fulltext.replace_window(db, number, n, old=old, new=new)
        db.execute(
            "UPDATE experiences SET superseded_by = NULL WHERE owner = ? AND superseded_by = ?", [number, one.id]
        )


def _windows_beside(db: Database, number: int, one: Experience) -> list[tuple[int, str | None, str]]:
    """The neighbours whose windows show an experience, and those windows as they are indexed."""
    session = one.provenance.session
    found = []
    for row in neighbours(db, number, session, one.n):
        if row["n"] != one.n:
            lines = [(r["speaker"], r["text"]) for r in neighbours(db, number, session, row["n"])]
            found.append((row["n"], session, window_text(lines)))
    return found


def _redact(db: Database, owner: str, held: Callable[[str], bool], sources: Sequence[str]) -> list[str]:
    """Blank the owner's transcript entries that hold the text, or that it came from, and have their sessions read anew.

    The chain digests stay: a client that resends its history is still recognised, and a digest gives no text back.
    """
    named = set(sources)
    rows = _rows_with(
        db,
        "SELECT m.id, m.content AS text, m.session, m.chain FROM messages m JOIN sessions s ON s.id = m.session"
        " WHERE s.owner = ? AND m.status <> 'forgotten'",
        owner,
        held,
        also=lambda row: row["id"] in named,
    )
    # A fork holds copies under other ids; the digest up to a message is the same in all of them.
    chains = {row["chain"] for row in rows if row["id"] in named}
    for chain in chains:
        rows += db.query(
            "SELECT m.id, m.session FROM messages m JOIN sessions s ON s.id = m.session WHERE m.chain = ?"
            " AND s.owner = ? AND m.role NOT IN ('note', 'compaction')",
            [chain, owner],
        )
    for row in rows:
        db.execute(
            "UPDATE messages SET content = CASE role WHEN 'note' THEN '' ELSE ? END, status = 'forgotten' WHERE id = ?",
            [FORGOTTEN, row["id"]],
        )
    for session in {row["session"] for row in rows}:
        db.execute("UPDATE messages SET token_ids = x'' WHERE session = ?", [session])
    return list(dict.fromkeys(row["id"] for row in rows))


def _rows_with(
    db: Database,
    sql: str,
    key: object,
    held: Callable[[str], bool],
    *,
    also: Callable[[Mapping[str, Any]], bool] = lambda row: False,
) -> list[dict[str, Any]]:
    return [row for row in db.query(sql, [key]) if held(row["text"]) or also(row)]


def _column(db: Database, sql: str, *given: object) -> list[Any]:
    return [value for (value,) in db.execute(sql, list(given)).fetchall()]


def _count(db: Database, table: str, column: str, values: Iterable[object]) -> int:
    given = list(values)
    return int(db.execute(f"SELECT count(*) FROM {table} WHERE {column} IN ({_marks(given)})", given).fetchone()[0])


def _marks(values: Iterable[object]) -> str:
    return ",".join("?" for _ in values)
