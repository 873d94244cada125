"""The verbatim store: what was experienced, word for word, and how it is added, read, corrected and counted.

What becomes of an offer is decided in the transaction that adds it (`adding`), so that two copies cannot both get in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast

from sqlite_utils import Database

from memory import fulltext
from memory.adding import Adding, Quotas
from memory.errors import MemoryNotFound
from memory.experience import Experience, Offer, Outcome, Provenance
from memory.fulltext import Page, turn_text, window_text
from memory.salience import Salience
from memory.store import Store


class Experiences:
    """The tables `experiences` and `wordings`, and their full text."""

    def __init__(self, store: Store, *, now: Callable[[], datetime], quotas: Quotas | None = None) -> None:
        self._store = store
        self._now = now
        self.quotas = quotas or Quotas()

    def add(self, offers: Sequence[Offer], *, owner: str, power_safe: bool = True) -> list[Outcome]:
        """Take offers in, in one transaction.

        `power_safe` false: what is added survives the process being killed, but not surely the machine losing power
        within the next moments; a tenth of the time.
        """
        return self._store.write(lambda db: self.add_within(db, offers, owner=owner), power_safe=power_safe)

    def add_within(self, db: Database, offers: Sequence[Offer], *, owner: str) -> list[Outcome]:
        """The same as part of somebody else's transaction."""
        number = _own(db, owner)
        adding = Adding(db, number, self._now(), self.quotas)
        outcomes = [adding.take(offer) for offer in offers]
        adding.finish()
        return outcomes

    def get(self, id: str, *, owner: str) -> Experience:
        """An experience by its id, or by that of an event that was merged into it.

        Raises:
            MemoryNotFound: there is none, or it is another owner's.
        """
        with self._store.reading() as db:
            return find(db, id, owner=owner)

    def wordings(self, id: str, *, owner: str) -> list[tuple[str, str | None, datetime]]:
        """The events merged into an experience: id, wording (None: word for word), time."""
        with self._store.reading() as db:
            one = find(db, id, owner=owner)
            rows = db.execute("SELECT id, text, at FROM wordings WHERE experience = ? ORDER BY at, id", [one.n])
            return [(i, text, datetime.fromisoformat(at)) for i, text, at in rows]

    def newest(
        self, *, owner: str, limit: int, before: str | None = None, quarantined: bool | None = None
    ) -> list[Experience]:
        """An owner's experiences, last recorded first; `before`: those recorded earlier than this one."""
        sql = """
            SELECT * FROM experiences WHERE owner = :owner AND (:held IS NULL OR (quarantined IS NOT NULL) = :held)
              AND (:before IS NULL OR n < (SELECT n FROM experiences WHERE owner = :owner AND id = :before))
            ORDER BY n DESC LIMIT :limit
        """
        with self._store.reading() as db:
            number = owner_number(db, owner)
            given = {"owner": number, "held": quarantined, "before": before, "limit": limit}
            return [experience_of(r) for r in db.query(sql, given)]

    def count(self, *, owner: str) -> int:
        """How many an owner has."""
        with self._store.reading() as db:
            number = owner_number(db, owner)
            return int(db.execute("SELECT count(*) FROM experiences WHERE owner = ?", [number]).fetchone()[0])

    def in_all(self) -> int:
        """How many there are of all owners."""
        with self._store.reading() as db:
            return int(db.execute("SELECT count(*) FROM experiences").fetchone()[0])

    def of_turn(self, turn: str, *, owner: str) -> list[Experience]:
        """What a turn added."""
        with self._store.reading() as db:
            rows = db.query(
                "SELECT e.* FROM experiences e JOIN owners o ON o.n = e.owner WHERE e.turn = ? AND o.name = ?",
                [turn, owner],
            )
            return [experience_of(r) for r in rows]

    def mark(
        self,
        id: str,
        *,
        owner: str,
        pinned: bool | None = None,
        private: bool | None = None,
        release: bool = False,
        unlearn: Callable[[Database, Sequence[str]], object] = lambda db, events: None,
    ) -> Experience:
        """Pin or unpin an experience, keep it out of the nights or let it in; `release` it from quarantine.

        `unlearn` is part of the transaction: it takes what was made elsewhere from what becomes private.

        Raises:
            MemoryNotFound: there is none, or it is another owner's.
        """

        def transaction(db: Database) -> Experience:
            one = find(db, id, owner=owner)
            if pinned is not None:
                db.execute("UPDATE experiences SET pinned = ? WHERE n = ?", [int(pinned), one.n])
            if private is not None:
                db.execute("UPDATE experiences SET private = ? WHERE n = ?", [int(private), one.n])
            if private and not one.private:
                unlearn(db, [one.id])
            if release:
                db.execute("UPDATE experiences SET quarantined = NULL WHERE n = ?", [one.n])
            return find(db, one.id, owner=owner)

        return self._store.write(transaction)

    def quarantine(self, ids: Sequence[str], why: str, *, owner: str) -> None:
        """Keep experiences out of recall and nights until they are released; those that are gone are left out."""

        def transaction(db: Database) -> None:
            number = _own(db, owner)
            for id in ids:
                db.execute("UPDATE experiences SET quarantined = ? WHERE owner = ? AND id = ?", [why, number, id])

        self._store.write(transaction)

    def supersede(self, old: str, new: str, *, owner: str) -> None:
        """Let one experience take another's place: the old one is kept, and recalled only as of its own time.

        Raises:
            MemoryNotFound: there is none, or it is another owner's.
        """

        def transaction(db: Database) -> None:
            one, other = find(db, old, owner=owner), find(db, new, owner=owner)
            db.execute("UPDATE experiences SET superseded_by = ? WHERE n = ?", [other.id, one.n])

        self._store.write(transaction)

    def accessed_within(self, db: Database, turn: str, entered: Sequence[tuple[int, int, float, Any]]) -> None:
        """Note which experiences entered a turn's prompt: row, rank, score, reasons. Those gone by now are left out."""
        at = self._now().isoformat()
        for n, order, score, reasons in entered:
            db.execute(
                "INSERT OR IGNORE INTO recalls (turn, experience, rank, score, reasons, at)"
                " SELECT ?, n, ?, ?, ?, ? FROM experiences WHERE n = ?",
                [turn, order, score, json.dumps(reasons), at, n],
            )
            db.execute("UPDATE experiences SET accesses = accesses + 1, accessed_at = ? WHERE n = ?", [at, n])

    def recalled(self, turn: str, *, owner: str) -> list[tuple[Experience, int, float, Any]]:
        """What entered a turn's prompt: experience, rank, score, reasons."""
        sql = """
            SELECT e.*, r.rank AS r_rank, r.score AS r_score, r.reasons AS r_reasons
            FROM recalls r JOIN experiences e ON e.n = r.experience JOIN owners o ON o.n = e.owner
            WHERE r.turn = ? AND o.name = ? ORDER BY r.rank
        """
        with self._store.reading() as db:
            return [
                (experience_of(r), r["r_rank"], r["r_score"], json.loads(r["r_reasons"]))
                for r in db.query(sql, [turn, owner])
            ]

    def take_in(self, records: Sequence[Mapping[str, Any]], *, owner: str) -> list[Outcome]:
        """Import plain records, as `export` gives them, in one transaction: all of them or none.

        A record of a session is a turn of a conversation, and kept as it is; one without is a statement, and may be
        merged with one that says the same.
        """

        def transaction(db: Database) -> list[Outcome]:
            outcomes = self.add_within(db, offers_of(records), owner=owner)
            for record, outcome in zip(records, outcomes, strict=True):
                if outcome.fate in ("stored", "replaced", "quarantined"):
                    db.execute(
                        "UPDATE experiences SET copies = ?, pinned = ?, private = ?,"
                        " quarantined = coalesce(?, quarantined), superseded_by = ?"
                        " WHERE owner = (SELECT n FROM owners WHERE name = ?) AND id = ?",
                        [
                            record.get("copies") or 1,
                            int(record.get("pinned") or False),
                            int(record.get("private") or False),
                            record.get("quarantined"),
                            record.get("superseded_by"),
                            owner,
                            outcome.id,
                        ],
                    )
            return outcomes

        return self._store.write(transaction)

    def export(self, *, owner: str) -> Iterator[Mapping[str, Any]]:
        """Every experience as a plain record, oldest first; importing them elsewhere and exporting again gives the
        same, byte for byte."""
        after = 0
        while True:
            with self._store.reading() as db:
                number = owner_number(db, owner)
                rows = list(
                    db.query(
                        "SELECT * FROM experiences WHERE owner = ? AND n > ? ORDER BY n LIMIT 1000", [number, after]
                    )
                )
            if not rows:
                return
            for row in rows:
                yield record_of(experience_of(row))
            after = rows[-1]["n"]


def owner_number(db: Database, owner: str) -> int | None:
    """The number that an owner's rows and tables carry; None: nothing was ever added."""
    row = db.execute("SELECT n FROM owners WHERE name = ?", [owner]).fetchone()
    return None if row is None else int(row[0])


def find(db: Database, id: str, *, owner: str) -> Experience:
    """An experience by its id or by that of a merged event, as `db` shows it.

    Raises:
        MemoryNotFound: there is none, or it is another owner's.
    """
    number = owner_number(db, owner)
    row = next(iter(db.query("SELECT * FROM experiences WHERE owner = ? AND id = ?", [number, id])), None)
    if row is None:
        merged = "SELECT e.* FROM wordings w JOIN experiences e ON e.n = w.experience WHERE w.owner = ? AND w.id = ?"
        row = next(iter(db.query(merged, [number, id])), None)
    if row is None:
        raise MemoryNotFound(id)
    return experience_of(row)


def record_of(one: Experience) -> dict[str, Any]:
    """An experience as it is exported: only what differs from the ordinary, in a fixed order."""
    where = one.provenance
    fields: dict[str, Any] = {
        "id": one.id,
        "text": one.text,
        "speaker": where.speaker,
        "session": where.session,
        "at": one.at.isoformat(),
        "author": where.author if where.author != "user" else None,
        "copies": one.copies if one.copies != 1 else None,
        "pinned": True if one.pinned else None,
        "private": True if one.private else None,
        "quarantined": one.quarantined,
        "superseded_by": one.superseded_by,
    }
    return {name: value for name, value in fields.items() if value is not None}


def pages_of(db: Database, number: int, one: Experience) -> Page:
    """What the full-text tables hold of an experience: its own text and that of its present neighbours."""
    around = neighbours(db, number, one.provenance.session, one.n)
    return Page(
        n=one.n,
        turn=turn_text(one.provenance.speaker, one.text, one.at),
        window=window_text([(r["speaker"], r["text"]) for r in around]),
    )


def neighbours(db: Database, number: int, session: str | None, n: int) -> list[dict[str, Any]]:
    """The experience before `n` in its session, itself and the one after, those that exist."""
    if session is None:
        return list(db.query("SELECT n, speaker, text FROM experiences WHERE n = ?", [n]))
    sql = """
        SELECT * FROM (SELECT n, speaker, text FROM experiences WHERE owner = :o AND session = :s AND n < :n
                       ORDER BY n DESC LIMIT 1)
        UNION ALL SELECT * FROM (SELECT n, speaker, text FROM experiences WHERE owner = :o AND session = :s AND n >= :n
                       ORDER BY n LIMIT 2)
    """
    return list(db.query(sql, {"o": number, "s": session, "n": n}))


def experience_of(row: Mapping[str, Any]) -> Experience:
    """One row of the table."""
    return Experience(
        n=row["n"],
        id=row["id"],
        text=row["text"],
        at=datetime.fromisoformat(row["at"]),
        provenance=Provenance(
            speaker=row["speaker"],
            session=row["session"],
            channel=row["channel"],
            author=row["author"],
            message=row["message"],
            turn=row["turn"],
        ),
        recorded_at=datetime.fromisoformat(row["recorded_at"]),
        copies=row["copies"],
        pinned=bool(row["pinned"]),
        private=bool(row["private"]),
        quarantined=row["quarantined"],
        superseded_by=row["superseded_by"],
        salience=None if row["scored_at"] is None else _salience(row),
        accesses=row["accesses"],
        accessed_at=None if row["accessed_at"] is None else datetime.fromisoformat(row["accessed_at"]),
    )


def _salience(row: Mapping[str, Any]) -> Salience:
    reward = row["raw_reward"] or 0.0
    return Salience(
        surprise=row["surprise"],
        novelty=row["novelty"],
        arousal=row["arousal"],
        reward=row["reward"],
        conflict=row["conflict"],
        total=row["total"],
        percentile=row["percentile"],
        gate=row["gate"],
        sign=cast(Literal[-1, 0, 1], (reward > 0) - (reward < 0)),
    )


def _own(db: Database, owner: str) -> int:
    number = owner_number(db, owner)
    if number is None:
        number = int(db.execute("INSERT INTO owners (name) VALUES (?) RETURNING n", [owner]).fetchone()[0])
        fulltext.create(db, number)
    return number


def offers_of(records: Iterable[Mapping[str, Any]]) -> list[Offer]:
    """Plain records, as `Experiences.export` gives them, as offers."""
    return [
        Offer(
            id=r["id"],
            text=r["text"],
            at=datetime.fromisoformat(r["at"]),
            provenance=Provenance(
                speaker=r.get("speaker", "user"),
                session=r.get("session"),
                channel="import",
                author=r.get("author", "user"),
            ),
            merge=r.get("session") is None,
        )
        for r in records
    ]
