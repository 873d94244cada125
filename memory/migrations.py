"""The database schema, as numbered steps. A released step is frozen: changes are a further step."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

migrations = Migrations("slowwave")


@migrations()
def m001_transcripts(db: Database) -> None:
    """Sessions, their messages, and the turns that made them."""
    for statement in (
        """
        CREATE TABLE sessions (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,             -- whose API key; 'local' without keys
            parent TEXT,                     -- the session that it was forked from
            created_at TEXT NOT NULL,
            updated_at TEXT NOT NULL,
            tokenizer TEXT NOT NULL,         -- digest: what the token ids of its messages mean
            head BLOB NOT NULL               -- chain digest of its last message
        ) STRICT
        """,
        "CREATE INDEX sessions_by_head ON sessions (owner, head)",
        "CREATE INDEX sessions_by_update ON sessions (owner, updated_at)",
        """
        CREATE TABLE turns (
            id TEXT PRIMARY KEY,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            owner TEXT NOT NULL,
            model TEXT NOT NULL,
            adapter TEXT NOT NULL,
            finish_reason TEXT NOT NULL,
            timings TEXT NOT NULL,           -- JSON
            idempotency_key TEXT,
            request_digest BLOB,
            created_at TEXT NOT NULL,
            UNIQUE (owner, idempotency_key)
        ) STRICT
        """,
        "CREATE INDEX turns_by_session ON turns (session)",
        """
        CREATE TABLE messages (
            id TEXT PRIMARY KEY,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            turn TEXT REFERENCES turns (id) ON DELETE CASCADE,   -- NULL: history that a client brought along
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool', 'compaction')),
            content TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('complete', 'cancelled', 'interrupted')),
            token_ids BLOB NOT NULL,         -- int32, little-endian: what it added to the context
            kept_from INTEGER,               -- compactions: the first position that stayed in the window
            chain BLOB NOT NULL,             -- digest of this message and all before it
            created_at TEXT NOT NULL,
            UNIQUE (session, position)
        ) STRICT
        """,
        "CREATE INDEX messages_by_chain ON messages (chain)",
        "CREATE INDEX messages_by_turn ON messages (turn)",
    ):
        db.execute(statement)
