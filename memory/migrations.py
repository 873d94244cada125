"""The database schema, as numbered steps. A released step is frozen: changes are a further step."""

from __future__ import annotations

from sqlite_utils import Database, Migrations

from memory.words import letters

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


@migrations()
def m002_memory(db: Database) -> None:
    """Experiences, how they were found salient, what supports them, and what became of them."""
    db.execute("PRAGMA defer_foreign_keys = ON")
    for statement in (
        # Remembered text that a turn was given is an entry of its own: the list of roles grows by 'note'.
        """
        CREATE TABLE messages_2 (
            id TEXT PRIMARY KEY,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            turn TEXT REFERENCES turns (id) ON DELETE CASCADE,   -- NULL: history that a client brought along
            role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool', 'compaction', 'note')),
            content TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('complete', 'cancelled', 'interrupted', 'forgotten')),
            token_ids BLOB NOT NULL,         -- int32, little-endian: what it added to the context
            kept_from INTEGER,               -- compactions: the first position that stayed in the window
            chain BLOB NOT NULL,             -- digest of this message and all before it
            created_at TEXT NOT NULL,
            UNIQUE (session, position)
        ) STRICT
        """,
        "INSERT INTO messages_2 SELECT * FROM messages",
        "DROP TABLE messages",
        "ALTER TABLE messages_2 RENAME TO messages",
        "CREATE INDEX messages_by_chain ON messages (chain)",
        "CREATE INDEX messages_by_turn ON messages (turn)",
        """
        CREATE TABLE owners (
            n INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE
        ) STRICT
        """,
        """
        CREATE TABLE experiences (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            owner INTEGER NOT NULL REFERENCES owners (n),
            id TEXT NOT NULL,
            text TEXT NOT NULL,
            fingerprint BLOB NOT NULL,       -- of the text less case, spacing and punctuation
            speaker TEXT NOT NULL,
            session TEXT,
            at TEXT NOT NULL,                -- when it was said
            recorded_at TEXT NOT NULL,
            channel TEXT NOT NULL CHECK (channel IN ('chat', 'taught', 'import', 'tool')),
            author TEXT NOT NULL CHECK (author IN ('user', 'model', 'other')),
            message TEXT,                    -- the transcript's entry
            turn TEXT,
            traits INTEGER NOT NULL,         -- what recall needs to know of the text, see memory/traits.py
            copies INTEGER NOT NULL DEFAULT 1,
            pinned INTEGER NOT NULL DEFAULT 0,
            quarantined TEXT,                -- why it may not be recalled; NULL: it may
            superseded_by TEXT,
            raw_surprise REAL, raw_novelty REAL, raw_arousal REAL, raw_reward REAL, raw_conflict REAL,
            tokens INTEGER,                  -- how many the surprise was measured on
            gate REAL, surprise REAL, novelty REAL, arousal REAL, reward REAL, conflict REAL,
            total REAL, percentile REAL,
            scored_at TEXT,                  -- NULL: not yet bound
            scored_by TEXT,                  -- the model
            accesses INTEGER NOT NULL DEFAULT 0,
            accessed_at TEXT,
            UNIQUE (owner, id)
        ) STRICT
        """,
        "CREATE INDEX experiences_by_fingerprint ON experiences (owner, fingerprint)",
        "CREATE INDEX experiences_by_session ON experiences (owner, session, n) WHERE session IS NOT NULL",
        "CREATE INDEX experiences_unscored ON experiences (owner, n) WHERE scored_at IS NULL",
        "CREATE INDEX experiences_by_source ON experiences (owner, author, speaker, recorded_at)"
        " WHERE channel <> 'import'",
        "CREATE INDEX experiences_by_turn ON experiences (turn) WHERE turn IS NOT NULL",
        """
        CREATE TABLE wordings (              -- what else was said that means the same
            owner INTEGER NOT NULL,
            id TEXT NOT NULL,                -- of the event
            experience INTEGER NOT NULL REFERENCES experiences (n) ON DELETE CASCADE,
            text TEXT,                       -- NULL: word for word
            at TEXT NOT NULL,
            PRIMARY KEY (owner, id)
        ) STRICT
        """,
        "CREATE INDEX wordings_by_experience ON wordings (experience)",
        """
        CREATE TABLE vectors (
            experience INTEGER PRIMARY KEY REFERENCES experiences (n) ON DELETE CASCADE,
            model TEXT NOT NULL,
            vector BLOB NOT NULL             -- float16, little-endian, length 1
        ) STRICT
        """,
        """
        CREATE TABLE patterns (
            id TEXT PRIMARY KEY,
            owner INTEGER NOT NULL REFERENCES owners (n),
            experience INTEGER NOT NULL UNIQUE REFERENCES experiences (n) ON DELETE CASCADE,
            created_at TEXT NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE evidence (
            pattern TEXT NOT NULL REFERENCES patterns (id) ON DELETE CASCADE,
            event TEXT NOT NULL,             -- an experience, or a wording of one
            at TEXT NOT NULL,
            PRIMARY KEY (pattern, event)
        ) STRICT
        """,
        """
        CREATE TABLE sources (
            owner INTEGER NOT NULL REFERENCES owners (n),
            name TEXT NOT NULL,
            confirmed REAL NOT NULL,         -- verified claims, decayed to `at`
            refuted REAL NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (owner, name)
        ) STRICT
        """,
        """
        CREATE TABLE recalls (
            turn TEXT NOT NULL,
            experience INTEGER NOT NULL REFERENCES experiences (n) ON DELETE CASCADE,
            rank INTEGER NOT NULL,
            score REAL NOT NULL,
            reasons TEXT NOT NULL,           -- JSON
            at TEXT NOT NULL,
            PRIMARY KEY (turn, experience)
        ) STRICT
        """,
        "CREATE INDEX recalls_by_experience ON recalls (experience)",
        """
        CREATE TABLE feedback (
            turn TEXT PRIMARY KEY REFERENCES turns (id) ON DELETE CASCADE,
            reward REAL NOT NULL,
            at TEXT NOT NULL
        ) STRICT
        """,
        """
        CREATE TABLE salience_rings (
            owner INTEGER NOT NULL REFERENCES owners (n),
            dimension TEXT NOT NULL,
            slot INTEGER NOT NULL,
            value REAL NOT NULL,
            PRIMARY KEY (owner, dimension, slot)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE salience_scales (
            owner INTEGER NOT NULL REFERENCES owners (n),
            dimension TEXT NOT NULL,
            pushed INTEGER NOT NULL,         -- values that the ring has ever been given
            PRIMARY KEY (owner, dimension)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE calibrations (
            model TEXT PRIMARY KEY,
            strangest REAL NOT NULL,
            scales TEXT NOT NULL             -- JSON: values by dimension
        ) STRICT
        """,
        """
        CREATE TABLE receipts (
            id TEXT PRIMARY KEY,
            owner INTEGER NOT NULL REFERENCES owners (n),
            at TEXT NOT NULL,
            body TEXT NOT NULL               -- JSON; ids and counts, never text
        ) STRICT
        """,
    ):
        db.execute(statement)


@migrations()
def m003_trust(db: Database) -> None:
    """Trust by entity and channel, instead of by entity alone: what was verified before counts for no channel."""
    db.execute(
        """
        CREATE TABLE trust (
            owner INTEGER NOT NULL REFERENCES owners (n),
            entity TEXT NOT NULL,
            channel TEXT NOT NULL,           -- '' before channels were told apart
            confirmed REAL NOT NULL,         -- verified claims, faded to `at`
            refuted REAL NOT NULL,
            at TEXT NOT NULL,
            PRIMARY KEY (owner, entity, channel)
        ) STRICT
        """
    )
    db.execute("INSERT INTO trust SELECT owner, name, '', confirmed, refuted, at FROM sources")
    db.execute("DROP TABLE sources")


@migrations()
def m004_nights(db: Database) -> None:
    """Nights, the adapters that they made, and what each has learnt. Told text stands in `learnt` alone."""
    for statement in (
        """
        CREATE TABLE nights (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            date TEXT NOT NULL,              -- the local date that it belongs to
            asked INTEGER NOT NULL,          -- by somebody, rather than due
            phase TEXT NOT NULL CHECK (phase IN
                ('due', 'selecting', 'dreaming', 'training', 'examining', 'promoting', 'ended')),
            outcome TEXT CHECK (outcome IN ('promoted', 'rejected', 'nothing to learn', 'interrupted', 'failed')),
            reasons TEXT NOT NULL DEFAULT '[]',   -- JSON
            seed INTEGER NOT NULL,
            started_at TEXT NOT NULL,
            phase_at TEXT NOT NULL,
            ended_at TEXT,
            figures TEXT NOT NULL DEFAULT '{}',   -- JSON: counts and marks, never text
            CHECK ((phase = 'ended') = (outcome IS NOT NULL)),
            CHECK ((phase = 'ended') = (ended_at IS NOT NULL))
        ) STRICT
        """,
        "CREATE UNIQUE INDEX nights_one_a_date ON nights (owner, date) WHERE asked = 0",
        "CREATE UNIQUE INDEX nights_one_at_a_time ON nights (owner) WHERE phase <> 'ended'",
        """
        CREATE TABLE adapters (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            night TEXT NOT NULL REFERENCES nights (id),
            parent TEXT REFERENCES adapters (id),  -- what served before it
            base TEXT NOT NULL,              -- digest of the weights that it belongs to
            status TEXT NOT NULL CHECK (status IN ('active', 'retired', 'rejected')),
            digest TEXT NOT NULL,            -- SHA-256 of its file
            stale INTEGER NOT NULL DEFAULT 0, -- it has seen what is forgotten since
            created_at TEXT NOT NULL,
            activated_at TEXT
        ) STRICT
        """,
        "CREATE UNIQUE INDEX adapters_one_active ON adapters (owner) WHERE status = 'active'",
        """
        CREATE TABLE learnt (
            adapter TEXT NOT NULL REFERENCES adapters (id) ON DELETE CASCADE,
            experience TEXT NOT NULL,        -- the memory that told it
            subject TEXT NOT NULL,
            relation TEXT NOT NULL,
            value TEXT NOT NULL,
            statement TEXT NOT NULL,
            asked TEXT NOT NULL,             -- the words in which one may ask for it
            recalled REAL,                   -- share of its questions answered in the exam
            PRIMARY KEY (adapter, subject, relation)
        ) STRICT
        """,
        "CREATE INDEX learnt_by_experience ON learnt (experience)",
        """
        CREATE TABLE choices (
            night TEXT NOT NULL REFERENCES nights (id) ON DELETE CASCADE,
            experience TEXT NOT NULL,
            taken INTEGER NOT NULL,
            reason TEXT NOT NULL,            -- never the text itself
            PRIMARY KEY (night, experience)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE answers (               -- some of the exam; whatever is forgotten, all go
            night TEXT NOT NULL REFERENCES nights (id) ON DELETE CASCADE,
            n INTEGER NOT NULL,
            question TEXT NOT NULL,
            told TEXT,                       -- what was told of it; NULL: nothing
            before TEXT,                     -- the base's reply, where it was asked
            after TEXT NOT NULL,
            good INTEGER NOT NULL,
            PRIMARY KEY (night, n)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE unlearning (
            owner TEXT NOT NULL,             -- until a night has been rebuilt without it
            salt BLOB NOT NULL,
            asked BLOB NOT NULL,             -- digest of what the forgotten fact was about
            said BLOB NOT NULL               -- digest of its value: the exam hears it, and nobody can read it here
        ) STRICT
        """,
    ):
        db.execute(statement)


@migrations()
def m005_notes(db: Database) -> None:
    """What the writer made of each message, so that no night reads it twice."""
    db.execute(
        """
        CREATE TABLE notes (
            owner TEXT NOT NULL,
            experience TEXT NOT NULL,
            writer TEXT NOT NULL,            -- digest of the adapter that wrote it
            body TEXT,                       -- JSON; NULL: it tells nothing. Goes with the experience
            PRIMARY KEY (owner, experience)
        ) STRICT, WITHOUT ROWID
        """
    )


@migrations()
def m006_private(db: Database) -> None:
    """What may be recalled and never learnt."""
    db.execute("ALTER TABLE experiences ADD COLUMN private INTEGER NOT NULL DEFAULT 0")


@migrations()
def m007_checkpoints(db: Database) -> None:
    """Replies that were suspended before their end, and what became of each session's state."""
    for statement in (
        """
        CREATE TABLE unfinished (
            session TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
            turn TEXT NOT NULL REFERENCES turns (id) ON DELETE CASCADE,
            body TEXT NOT NULL               -- JSON: how the reply is to go on
        ) STRICT
        """,
        """
        CREATE TABLE checkpoints (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            at TEXT NOT NULL,
            event TEXT NOT NULL CHECK (event IN ('suspended', 'resumed', 'exported', 'imported', 'evicted')),
            how TEXT,                        -- resumed: exact, converted, rebuilt
            why TEXT,
            codec TEXT,
            tokens INTEGER NOT NULL,
            bytes INTEGER NOT NULL,
            seconds REAL NOT NULL,
            seal TEXT                        -- digest of the file's header, and so of all of it
        ) STRICT
        """,
        "CREATE INDEX checkpoints_by_session ON checkpoints (session, n)",
    ):
        db.execute(statement)


@migrations()
def m008_pins(db: Database) -> None:
    """Persona variables that an owner holds at a value."""
    db.execute(
        """
        CREATE TABLE pins (
            owner TEXT NOT NULL,
            variable TEXT NOT NULL,
            value REAL NOT NULL CHECK (value BETWEEN -1 AND 1),
            at TEXT NOT NULL,
            PRIMARY KEY (owner, variable)
        ) STRICT
        """
    )


@migrations()
def m009_moods(db: Database) -> None:
    """Each owner's mood, and what moved it."""
    for statement in (
        "CREATE TABLE moods (owner TEXT PRIMARY KEY, body BLOB NOT NULL, spread BLOB) STRICT",
        """
        CREATE TABLE mood_events (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            owner TEXT NOT NULL,
            at TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('turn', 'feedback')),
            turn TEXT NOT NULL,
            "values" TEXT NOT NULL,          -- JSON: every variable afterwards
            senses TEXT NOT NULL,            -- JSON: what was felt
            zone TEXT NOT NULL,
            updates INTEGER NOT NULL,
            features BLOB NOT NULL           -- what the readout read, float64
        ) STRICT
        """,
        "CREATE INDEX mood_events_by_turn ON mood_events (owner, turn)",
    ):
        db.execute(statement)


@migrations()
def m010_beats(db: Database) -> None:
    """Every beat of the heart, and why it came; alarms, and what the agent wishes of its pace."""
    for statement in (
        """
        CREATE TABLE beats (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            at TEXT NOT NULL,
            interval REAL NOT NULL,          -- seconds after the one before
            decided_by TEXT NOT NULL CHECK (decided_by IN ('arena', 'machine', 'wish')),
            reason TEXT NOT NULL,
            load REAL NOT NULL,              -- smoothed; 1 is all that is borne
            worst TEXT NOT NULL,             -- the gauge that was fullest
            did TEXT NOT NULL                -- JSON: chores, and what came of each
        ) STRICT
        """,
        """
        CREATE TABLE gauge_alarms (
            gauge TEXT NOT NULL,
            owner TEXT NOT NULL CHECK (owner IN ('operator', 'agent')),
            bound REAL NOT NULL,             -- sounds above it
            seconds REAL NOT NULL,           -- once it has lasted so long
            at TEXT NOT NULL,
            PRIMARY KEY (gauge, owner)
        ) STRICT
        """,
        """
        CREATE TABLE paces (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            at TEXT NOT NULL,
            choice TEXT NOT NULL CHECK (choice IN ('slower', 'same', 'faster')),
            factor REAL NOT NULL,            -- what the resting interval is multiplied by from then on
            why TEXT NOT NULL                -- JSON: the options' scores, or why it was refused
        ) STRICT
        """,
    ):
        db.execute(statement)


@migrations()
def m011_rooms(db: Database) -> None:
    """What was thought and not said, and who looked at it."""
    for statement in (
        """
        CREATE TABLE thoughts (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            room TEXT NOT NULL CHECK (room IN ('thoughts', 'withheld')),
            owner TEXT NOT NULL,
            session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            turn TEXT NOT NULL,
            at TEXT NOT NULL,
            text TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX thoughts_by_owner ON thoughts (room, owner, n)",
        "CREATE INDEX thoughts_by_session ON thoughts (session)",
        """
        CREATE TABLE looks (
            n INTEGER PRIMARY KEY AUTOINCREMENT,
            at TEXT NOT NULL,
            by TEXT NOT NULL,                -- the operator whose key asked
            room TEXT NOT NULL,
            owner TEXT,                      -- whose thoughts; NULL: everybody's
            shown INTEGER NOT NULL
        ) STRICT
        """,
        "CREATE TRIGGER looks_stay BEFORE DELETE ON looks BEGIN SELECT RAISE(ABORT, 'looks are never deleted'); END",
        "CREATE TRIGGER looks_are_final BEFORE UPDATE ON looks"
        " BEGIN SELECT RAISE(ABORT, 'looks are never changed'); END",
    ):
        db.execute(statement)


@migrations()
def m012_revisions(db: Database) -> None:
    """Which messages take back what earlier ones told, so that no night compares them twice."""
    for statement in (
        """
        CREATE TABLE compared (
            owner TEXT NOT NULL,
            experience TEXT NOT NULL,
            reviser TEXT NOT NULL,           -- digest of the adapter that saw it
            PRIMARY KEY (owner, experience)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE revisions (
            owner TEXT NOT NULL,
            experience TEXT NOT NULL,        -- the later; goes with either
            earlier TEXT NOT NULL,
            was TEXT NOT NULL,               -- words of the earlier that hold no more
            now TEXT NOT NULL,               -- words of the later in their place; empty: none
            PRIMARY KEY (owner, experience, earlier)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE INDEX revisions_by_earlier ON revisions (owner, earlier)",
    ):
        db.execute(statement)


@migrations()
def m013_audit(db: Database) -> None:
    """Administrative acts, sealed in a chain."""
    for statement in (
        """
        CREATE TABLE audit (
            n INTEGER PRIMARY KEY,           -- from 1, without a gap
            at TEXT NOT NULL,
            owner TEXT NOT NULL,
            key TEXT NOT NULL,               -- what the key is called: nothing of the key itself
            act TEXT NOT NULL,               -- method and path, without a query
            of INTEGER REFERENCES audit (n), -- what was asked, where this is what came of it
            status INTEGER,
            chain BLOB NOT NULL              -- SHA-256 over this row and the one before
        ) STRICT
        """,
        "CREATE TRIGGER acts_stay BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'acts are never deleted'); END",
        "CREATE TRIGGER acts_are_final BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'acts are never changed'); END",
    ):
        db.execute(statement)


@migrations()
def m014_letters(db: Database) -> None:
    """A digest of every memory's text, letter for letter: its fingerprint says nothing of case and punctuation."""
    db.execute("ALTER TABLE experiences ADD COLUMN letters BLOB")
    rows = db.execute("SELECT n, text FROM experiences")
    while some := rows.fetchmany(_AT_ONCE):
        db.conn.executemany(
            "UPDATE experiences SET letters = ? WHERE n = ?", [(letters(str(text)), n) for n, text in some]
        )


_AT_ONCE = 1000
