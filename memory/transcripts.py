"""What was said, verbatim: sessions, their messages with the token ids that each added, and the turns behind them.

Every message carries a chain digest over itself and all before it. A client that resends its history is recognised
by that digest, however long the history is, without comparing text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
from sqlite_utils import Database

from memory.errors import SessionNotFound
from memory.ids import new_id
from memory.store import Store

Status = Literal["complete", "cancelled", "interrupted", "forgotten"]
EMPTY_CHAIN = bytes(16)
COMPACTION = "compaction"
"""The role of an entry that is not a message: from here on the context window starts anew."""
NOTE = "note"
FORGOTTEN = "[forgotten]"
"""What stands where something was forgotten."""
"""The role of an entry that is not a message: what was remembered, put before the message that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a transcript: a message, a note before one, or a compaction."""

    id: str
    role: str
    content: str
    status: Status = "complete"
    token_ids: tuple[int, ...]
    """What it added to the context; for a compaction, the whole new context."""
    kept_from: int | None = None
    """Compactions: the first position whose message stayed in the window."""
    turn: str | None = None
    created_at: datetime

    @property
    def spoken(self) -> bool:
        """Whether it is a message, and not a note or a compaction."""
        return self.role not in (COMPACTION, NOTE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One session, without its messages."""

    id: str
    owner: str
    parent: str | None
    created_at: datetime
    updated_at: datetime
    tokenizer: str
    head: bytes
    """Chain digest of its last message."""
    messages: int
    preview: str
    """The beginning of the first user message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRow:
    """One turn: how a reply came about."""

    id: str
    session: str
    owner: str
    model: str
    adapter: str
    finish_reason: str
    timings: dict[str, Any]
    idempotency_key: str | None = None
    request_digest: bytes | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The longest part of a history that is on record: its first `messages`, up to `position` of `session`."""

    session: str
    messages: int
    position: int
    at_head: bool


def chain(previous: bytes, role: str, content: str) -> bytes:
    """The digest of a message and all before it. Blank space at the ends is ignored: clients trim replies."""
    framed = json.dumps([role, content.strip()], ensure_ascii=True).encode()
    return hashlib.blake2b(previous + framed, digest_size=16).digest()


class Transcripts:
    """The tables `sessions`, `messages` and `turns`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, session: str, *, owner: str, tokenizer: str, entries: Sequence[Entry], at: datetime) -> None:
        """A new session that begins with `entries`."""

        def transaction(db: Database) -> None:
            _insert_session(db, session, owner=owner, parent=None, tokenizer=tokenizer, at=at)
            _append(db, session, entries, at=at)

        self._store.write(transaction)

    def append(
        self,
        session: str,
        *,
        entries: Sequence[Entry],
        turn: TurnRow | None,
        at: datetime,
        tokenizer: str,
        create_for: str | None = None,
        fork_of: tuple[str, int] | None = None,
        unfinished: dict[str, Any] | None = None,
        also: Callable[[Database], object] = lambda db: None,
        forgotten: Callable[[str], bool] = lambda text: False,
    ) -> None:
        """Add entries and the turn behind them, in one transaction; `also` is part of it.

        `unfinished`: how the reply, the last of `entries`, is to go on; JSON values. It can until the next turn.

        Entries that are `forgotten` by then, and those that the model read with them, are written down without it.

        `create_for`: the owner for whom the session is made on the way; `fork_of` then names another session and
        the last of its positions to begin with.

        Raises:
            SessionNotFound: it is gone.
        """

        def transaction(db: Database) -> None:
            if create_for is not None:
                parent = fork_of[0] if fork_of else None
                _insert_session(db, session, owner=create_for, parent=parent, tokenizer=tokenizer, at=at)
                if fork_of and _copy(db, *fork_of, to=session, at=at) == 0:
                    raise SessionNotFound(fork_of[0])
            elif db.execute("UPDATE sessions SET tokenizer = ? WHERE id = ?", [tokenizer, session]).rowcount == 0:
                raise SessionNotFound(session)
            if turn is not None:
                _insert_turn(db, turn)
            _append(db, session, entries, at=at, forgotten=forgotten)
            _leave_unfinished(db, session, turn, unfinished)
            also(db)

        self._store.write(transaction)

    def unfinished(self, session: str) -> tuple[str, dict[str, Any]] | None:
        """The turn whose reply was suspended before its end, and how it is to go on; None: there is none."""
        with self._store.reading() as db:
            for row in db.query("SELECT turn, body FROM unfinished WHERE session = ?", [session]):
                return row["turn"], json.loads(row["body"])
        return None

    def go_on(
        self,
        session: str,
        *,
        turn: TurnRow,
        entry: Entry,
        at: datetime,
        unfinished: dict[str, Any] | None = None,
        also: Callable[[Database], object] = lambda db: None,
        forgotten: Callable[[str], bool] = lambda text: False,
    ) -> None:
        """Write down more of a reply that was suspended: `entry` takes the place of the session's last.

        Raises:
            SessionNotFound: it is gone, or has gone on otherwise.
        """

        def transaction(db: Database) -> None:
            last = "SELECT position FROM messages WHERE session = ? AND id = ?"
            found = db.execute(
                last + " AND EXISTS (SELECT 1 FROM unfinished WHERE session = ?)", [session, entry.id, session]
            )
            if found.fetchone() is None:
                raise SessionNotFound(session)
            before = """
                SELECT chain FROM messages WHERE session = ? AND id <> ? AND role NOT IN ('compaction', 'note')
                ORDER BY position DESC LIMIT 1
            """
            head = db.execute(before, [session, entry.id]).fetchone()
            db.execute("DELETE FROM messages WHERE id = ?", [entry.id])
            db.execute("UPDATE sessions SET head = ? WHERE id = ?", [head[0] if head else EMPTY_CHAIN, session])
            update = "UPDATE turns SET finish_reason = ?, timings = ?, adapter = ? WHERE id = ?"
            db.execute(update, [turn.finish_reason, json.dumps(turn.timings), turn.adapter, turn.id])
            _append(db, session, [entry], at=at, forgotten=forgotten)
            _leave_unfinished(db, session, turn, unfinished)
            also(db)

        self._store.write(transaction)

    def fork(self, parent: str, *, session: str, owner: str, at: datetime) -> None:
        """A new session that begins as all of `parent`.

        Raises:
            SessionNotFound: no such parent, or another owner's.
        """
        row = self.session(parent, owner=owner)

        def transaction(db: Database) -> None:
            _insert_session(db, session, owner=owner, parent=parent, tokenizer=row.tokenizer, at=at)
            _copy(db, parent, 2**31, to=session, at=at)
            _copy_unfinished(db, parent, to=session, at=at)

        self._store.write(transaction)

    def delete(self, session: str, *, owner: str) -> None:
        """Remove a session with its messages and turns.

        Raises:
            SessionNotFound: no such session, or another owner's.
        """
        statement = "DELETE FROM sessions WHERE id = ? AND owner = ?"
        if self._store.write(lambda db: db.execute(statement, [session, owner]).rowcount) == 0:
            raise SessionNotFound(session)

    def session(self, session: str, *, owner: str) -> SessionRow:
        """Raises: SessionNotFound: no such session, or another owner's."""
        with self._store.reading() as db:
            rows = list(db.query(_SESSIONS + " WHERE s.id = ? AND s.owner = ?", [session, owner]))
        if not rows:
            raise SessionNotFound(session)
        return _session_row(rows[0])

    def sessions(self, *, owner: str, limit: int, before: str | None = None) -> list[SessionRow]:
        """An owner's sessions, last changed first; `before`: only those changed earlier than this session."""
        sql = _SESSIONS + (
            " WHERE s.owner = :owner AND (:before IS NULL OR (s.updated_at, s.id) <"
            " (SELECT updated_at, id FROM sessions WHERE id = :before AND owner = :owner))"
            " ORDER BY s.updated_at DESC, s.id DESC LIMIT :limit"
        )
        with self._store.reading() as db:
            return [_session_row(r) for r in db.query(sql, {"owner": owner, "before": before, "limit": limit})]

    def changed_since(self, at: datetime, *, limit: int) -> list[tuple[str, str, datetime]]:
        """Sessions of all owners that have changed since then, the last first: id, owner, when."""
        sql = "SELECT id, owner, updated_at FROM sessions WHERE updated_at >= ? ORDER BY updated_at DESC LIMIT ?"
        with self._store.reading() as db:
            rows = list(db.query(sql, [at.isoformat(), limit]))
        return [(row["id"], row["owner"], datetime.fromisoformat(row["updated_at"])) for row in rows]

    def entries(self, session: str) -> list[Entry]:
        """A session's transcript, in order."""
        with self._store.reading() as db:
            return [
                _entry(r) for r in db.query("SELECT * FROM messages WHERE session = ? ORDER BY position", [session])
            ]

    def turn(self, turn: str, *, owner: str) -> tuple[TurnRow, Entry] | None:
        """A turn and its reply."""
        return self._turn("t.id = ?", turn, owner)

    def turn_by_key(self, idempotency_key: str, *, owner: str) -> tuple[TurnRow, Entry] | None:
        """The turn that was taken under an idempotency key, and its reply."""
        return self._turn("t.idempotency_key = ?", idempotency_key, owner)

    def match(self, chains: Sequence[bytes], *, owner: str) -> Match | None:
        """The session that shares the longest prefix of a history with these chain digests, one a message.

        A session whose transcript ends there comes before one that goes on; among those, the one changed last.
        """
        sql = """
            SELECT m.session, m.position, s.head = m.chain AS at_head
            FROM messages m JOIN sessions s ON s.id = m.session
            WHERE m.chain = ? AND m.role NOT IN ('compaction', 'note') AND s.owner = ?
            ORDER BY at_head DESC, s.updated_at DESC LIMIT 1
        """
        with self._store.reading() as db:
            for messages in range(len(chains), 0, -1):
                for row in db.query(sql, [chains[messages - 1], owner]):
                    return Match(
                        session=row["session"],
                        messages=messages,
                        position=row["position"],
                        at_head=bool(row["at_head"]),
                    )
        return None

    def _turn(self, where: str, value: str, owner: str) -> tuple[TurnRow, Entry] | None:
        sql = f"SELECT t.* FROM turns t WHERE {where} AND t.owner = ?"
        with self._store.reading() as db:
            for row in db.query(sql, [value, owner]):
                replies = db.query("SELECT * FROM messages WHERE turn = ? AND role = 'assistant'", [row["id"]])
                return _turn_row(row), _entry(next(iter(replies)))
        return None


_SESSIONS = """
    SELECT s.*, (SELECT count(*) FROM messages m WHERE m.session = s.id
            AND m.role NOT IN ('compaction', 'note')) AS messages,
        coalesce((SELECT substr(m.content, 1, 120) FROM messages m
                  WHERE m.session = s.id AND m.role = 'user' ORDER BY m.position LIMIT 1), '') AS preview
    FROM sessions s
"""


def _insert_session(
    db: Database, session: str, *, owner: str, parent: str | None, tokenizer: str, at: datetime
) -> None:
    db.execute(
        """
        INSERT INTO sessions (id, owner, parent, created_at, updated_at, tokenizer, head)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        [session, owner, parent, at.isoformat(), at.isoformat(), tokenizer, EMPTY_CHAIN],
    )


def _insert_turn(db: Database, turn: TurnRow) -> None:
    db.execute(
        """
        INSERT INTO turns (id, session, owner, model, adapter, finish_reason, timings, idempotency_key,
                           request_digest, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        """,
        [
            turn.id,
            turn.session,
            turn.owner,
            turn.model,
            turn.adapter,
            turn.finish_reason,
            json.dumps(turn.timings),
            turn.idempotency_key,
            turn.request_digest,
            turn.created_at.isoformat(),
        ],
    )


def _leave_unfinished(db: Database, session: str, turn: TurnRow | None, body: dict[str, Any] | None) -> None:
    db.execute("DELETE FROM unfinished WHERE session = ?", [session])
    if body is not None and turn is not None:
        row = [session, turn.id, json.dumps(body, sort_keys=True)]
        db.execute("INSERT INTO unfinished (session, turn, body) VALUES (?, ?, ?)", row)


def _kept(entry: Entry) -> str:
    """What stays of an entry that was forgotten."""
    return "" if entry.role == NOTE else FORGOTTEN


def _append(
    db: Database,
    session: str,
    entries: Sequence[Entry],
    *,
    at: datetime,
    forgotten: Callable[[str], bool] = lambda text: False,
) -> None:
    gone = {entry.id for entry in entries if forgotten(entry.content)}
    if gone:  # whatever was read together with it is read anew
        db.execute("UPDATE messages SET token_ids = x'' WHERE session = ?", [session])
        entries = [
            replace(entry, token_ids=(), status="forgotten" if entry.id in gone else entry.status) for entry in entries
        ]
    sql = """
        SELECT head, (SELECT coalesce(max(position) + 1, 0) FROM messages WHERE session = ?) FROM sessions WHERE id = ?
    """
    head, position = db.execute(sql, [session, session]).fetchone()
    for entry in entries:
        if entry.spoken:  # of what was said, not of what is kept: a client that resends it is recognised
            head = chain(head, entry.role, entry.content)
        db.execute(
            """
            INSERT INTO messages (id, session, position, turn, role, content, status, token_ids, kept_from, chain,
                                  created_at)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                entry.id,
                session,
                position,
                entry.turn,
                entry.role,
                _kept(entry) if entry.id in gone else entry.content,
                entry.status,
                np.asarray(entry.token_ids, dtype="<i4").tobytes(),
                entry.kept_from,
                head,
                entry.created_at.isoformat(),
            ],
        )
        position += 1
    db.execute("UPDATE sessions SET head = ?, updated_at = ? WHERE id = ?", [head, at.isoformat(), session])


def _copy(db: Database, parent: str, position: int, *, to: str, at: datetime) -> int:
    """Copy a transcript up to `position`; returns how many entries there were."""
    copied = db.execute(
        """
        INSERT INTO messages (id, session, position, turn, role, content, status, token_ids, kept_from, chain,
                              created_at)
        SELECT 'msg_' || lower(hex(randomblob(13))), ?, position, NULL, role, content, status, token_ids, kept_from,
               chain, created_at
        FROM messages WHERE session = ? AND position <= ?
        """,
        [to, parent, position],
    ).rowcount
    db.execute(
        """
        UPDATE sessions SET updated_at = ?, head = coalesce(
            (SELECT chain FROM messages WHERE session = ? ORDER BY position DESC LIMIT 1), head)
        WHERE id = ?
        """,
        [at.isoformat(), to, to],
    )
    return int(copied)


def _copy_unfinished(db: Database, parent: str, *, to: str, at: datetime) -> None:
    """A reply that was suspended goes on in each fork by itself, as a turn of its own."""
    for row in list(db.query("SELECT * FROM unfinished WHERE session = ?", [parent])):
        turn = new_id("turn", at)
        db.execute(
            """
            INSERT INTO turns (id, session, owner, model, adapter, finish_reason, timings, created_at)
            SELECT ?, ?, owner, model, adapter, finish_reason, timings, created_at FROM turns WHERE id = ?
            """,
            [turn, to, row["turn"]],
        )
        last = "(SELECT max(position) FROM messages WHERE session = ?)"
        db.execute(f"UPDATE messages SET turn = ? WHERE session = ? AND position = {last}", [turn, to, to])
        db.execute("INSERT INTO unfinished (session, turn, body) VALUES (?, ?, ?)", [to, turn, row["body"]])


def _session_row(row: dict[str, Any]) -> SessionRow:
    return SessionRow(
        id=row["id"],
        owner=row["owner"],
        parent=row["parent"],
        created_at=datetime.fromisoformat(row["created_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
        tokenizer=row["tokenizer"],
        head=row["head"],
        messages=row["messages"],
        preview=row["preview"],
    )


def _turn_row(row: dict[str, Any]) -> TurnRow:
    fields = {name: row[name] for name in ("id", "session", "owner", "model", "adapter", "finish_reason")}
    return TurnRow(
        **fields,
        timings=json.loads(row["timings"]),
        idempotency_key=row["idempotency_key"],
        request_digest=row["request_digest"],
        created_at=datetime.fromisoformat(row["created_at"]),
    )


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(
        id=row["id"],
        role=row["role"],
        content=row["content"],
        status=row["status"],
        token_ids=tuple(np.frombuffer(row["token_ids"], dtype="<i4").tolist()),
        kept_from=row["kept_from"],
        turn=row["turn"],
        created_at=datetime.fromisoformat(row["created_at"]),
    )
