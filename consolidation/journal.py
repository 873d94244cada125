"""The record of nights: one row each, moved along by `cycle`'s table, in one transaction a step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pysqlite3
from sqlite_utils import Database

from consolidation.cycle import Outcome, Phase, advance, after_crash, end
from consolidation.night import Answer
from memory.ids import new_id
from memory.store import Store


class NightFault(Exception):
    """Base of this package's refusals to the outside."""


class NightUnderWay(NightFault):
    """An owner has one night at a time, and one that is due a date."""


class NightNotFound(NightFault):
    """No such night, or another owner's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One night as it stands."""

    id: str
    owner: str
    date: str
    asked: bool
    phase: Phase
    outcome: Outcome | None
    reasons: tuple[str, ...]
    seed: int
    started_at: datetime
    phase_at: datetime
    ended_at: datetime | None
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def placebo(self) -> bool:
        """Whether it trains on shuffled answers, and may not be promoted."""
        return bool(self.figures.get("placebo"))


def begin(store: Store, *, owner: str, date: str, asked: bool, at: datetime, placebo: bool = False) -> Night:
    """Open a night.

    Raises:
        NightUnderWay: one is under way; or the one that was due at this date has been.
    """
    id = new_id("night", at)
    seed, figures = int(at.timestamp()) % (1 << 31), json.dumps({"placebo": placebo})
    row = [id, owner, date, int(asked), seed, at.isoformat(), at.isoformat(), figures]

    def transaction(db: Database) -> Night:
        db.execute(
            "INSERT INTO nights (id, owner, date, asked, phase, seed, started_at, phase_at, figures)"
            " VALUES (?, ?, ?, ?, 'due', ?, ?, ?, ?)",
            row,
        )
        return _find(db, id, owner)

    try:
        return store.write(transaction)
    except pysqlite3.IntegrityError as error:
        raise NightUnderWay(f"{owner} has a night under way, or has had the one of {date}") from error


def move(store: Store, night: Night, to: Phase, *, at: datetime, figures: Mapping[str, Any] | None = None) -> Night:
    """Enter the next phase. `figures` are added to those kept.

    Raises:
        WrongTurn: it does not follow.
    """

    def transaction(db: Database) -> Night:
        now = _find(db, night.id, night.owner)
        advance(now.phase, to)
        kept = {**now.figures, **(figures or {})}
        db.execute(
            "UPDATE nights SET phase = ?, phase_at = ?, figures = ? WHERE id = ?",
            [to, at.isoformat(), json.dumps(kept), night.id],
        )
        return _find(db, night.id, night.owner)

    return store.write(transaction)


def finish(
    store: Store,
    night: Night,
    outcome: Outcome,
    reasons: Sequence[str],
    *,
    at: datetime,
    figures: Mapping[str, Any] | None = None,
) -> Night:
    """End a night. `promoted` is for the registry's transaction to write: see `end_within`."""
    return store.write(lambda db: end_within(db, night, outcome, reasons, at=at, figures=figures))


def end_within(
    db: Database,
    night: Night,
    outcome: Outcome,
    reasons: Sequence[str],
    *,
    at: datetime,
    figures: Mapping[str, Any] | None = None,
) -> Night:
    """End a night as part of a transaction. Raises: WrongTurn."""
    now = _find(db, night.id, night.owner)
    end(now.phase, outcome)
    kept = {**now.figures, **(figures or {})}
    db.execute(
        "UPDATE nights SET phase = 'ended', outcome = ?, reasons = ?, phase_at = ?, ended_at = ?, figures = ?"
        " WHERE id = ?",
        [outcome, json.dumps(list(reasons)), at.isoformat(), at.isoformat(), json.dumps(kept), night.id],
    )
    return _find(db, night.id, night.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How nights have ended so far, of all owners."""

    by_outcome: Mapping[str, int]
    promoted_at: datetime | None
    """When one was promoted last."""


def tally(store: Store) -> Tally:
    """Count all nights that ended."""
    with store.reading() as db:
        rows = db.execute("SELECT outcome, count(*) FROM nights WHERE phase = 'ended' GROUP BY outcome").fetchall()
        (at,) = db.execute("SELECT max(ended_at) FROM nights WHERE outcome = 'promoted'").fetchone()
    return Tally(
        by_outcome={str(outcome): int(n) for outcome, n in rows},
        promoted_at=None if at is None else datetime.fromisoformat(at),
    )


def left_open(store: Store, *, at: datetime, attempts: int = 3) -> list[Night]:
    """At a start: nights that a crash, a power cut or a stop left open. They changed nothing that serves.

    Each is put back to its beginning and returned, to be begun again; one that was begun so often ends as failed.
    """

    def transaction(db: Database) -> list[Night]:
        again = []
        for night in [_night(r) for r in db.query("SELECT * FROM nights WHERE phase <> 'ended'")]:
            begun = int(night.figures.get("begun", 1))
            if begun >= attempts:
                end_within(db, night, "failed", [f"it was begun {begun} times, and never came to its end"], at=at)
                continue
            to = after_crash(night.phase)
            figures = json.dumps({"placebo": night.placebo, "begun": begun + 1})
            db.execute(
                "UPDATE nights SET phase = ?, phase_at = ?, figures = ? WHERE id = ?",
                [to, at.isoformat(), figures, night.id],
            )
            again.append(_find(db, night.id, night.owner))
        return again

    return store.write(transaction)


def find(store: Store, id: str, *, owner: str) -> Night:
    """One night. Raises: NightNotFound."""
    with store.reading() as db:
        return _find(db, id, owner)


def newest(store: Store, *, owner: str, limit: int = 50) -> list[Night]:
    """An owner's nights, last begun first."""
    with store.reading() as db:
        rows = db.query("SELECT * FROM nights WHERE owner = ? ORDER BY id DESC LIMIT ?", [owner, limit])
        return [_night(r) for r in rows]


def choose(store: Store, night: Night, choices: Sequence[tuple[str, bool, str]]) -> None:
    """Keep why each experience (id, taken, reason) was in or out."""

    def transaction(db: Database) -> None:
        for experience, taken, reason in choices:
            db.execute(
                "INSERT OR REPLACE INTO choices (night, experience, taken, reason) VALUES (?, ?, ?, ?)",
                [night.id, experience, int(taken), reason],
            )

    store.write(transaction)


def choices(store: Store, id: str) -> list[tuple[str, bool, str]]:
    """Why each experience was in or out of a night."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT experience, taken, reason FROM choices WHERE night = ? ORDER BY taken DESC, experience", [id]
        ).fetchall()
    return [(str(e), bool(t), str(r)) for e, t, r in rows]


def keep_answers(store: Store, night: Night, answers: Sequence[Answer]) -> None:
    """Keep some of the exam for the morning."""
    rows = [[night.id, n, a.question, a.told, a.before, a.after, int(a.good)] for n, a in enumerate(answers)]

    def transaction(db: Database) -> None:
        for row in rows:
            db.execute(
                "INSERT OR REPLACE INTO answers (night, n, question, told, before, after, good)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    store.write(transaction)


def answers(store: Store, id: str) -> list[Answer]:
    """What is kept of a night's exam."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT question, told, before, after, good FROM answers WHERE night = ? ORDER BY n", [id]
        ).fetchall()
    return [Answer(question=q, told=t, before=b, after=a, good=bool(g)) for q, t, b, a, g in rows]


def settled(store: Store, *, owner: str, active: str | None) -> datetime | None:
    """Since when only what was told since can be new: the beginning of the last night that came to its end.

    `active`: the night that made the adapter which serves. None: there is no such night; or another adapter serves than
    the last that was promoted, and may know less.
    """
    with store.reading() as db:
        rows = db.execute(
            "SELECT id, outcome, started_at FROM nights WHERE owner = ? AND outcome IN ('promoted', 'nothing to learn')"
            " ORDER BY id DESC",
            [owner],
        ).fetchall()
    promoted = next((id for id, outcome, _ in rows if outcome == "promoted"), None)
    return datetime.fromisoformat(rows[0][2]) if rows and promoted == active else None


def missed(store: Store, *, owner: str, nights: int = 50) -> Counter[str]:
    """By experience, in how many of the last nights its fact was taught and then not answered in the exam."""
    ended = newest(store, owner=owner, limit=nights)
    taught = [n for n in ended if n.outcome in ("promoted", "rejected") and not n.placebo]
    return Counter(experience for night in taught for experience in night.figures.get("missed", ()))


def dates(store: Store, *, owner: str) -> frozenset[str]:
    """The dates of an owner's nights that were due."""
    with store.reading() as db:
        rows = db.execute("SELECT date FROM nights WHERE owner = ? AND asked = 0", [owner]).fetchall()
    return frozenset(str(r[0]) for r in rows)


def _find(db: Database, id: str, owner: str) -> Night:
    for row in db.query("SELECT * FROM nights WHERE id = ? AND owner = ?", [id, owner]):
        return _night(row)
    raise NightNotFound(f"there is no night {id!r}")


def _night(row: Mapping[str, Any]) -> Night:
    return Night(
        id=row["id"],
        owner=row["owner"],
        date=row["date"],
        asked=bool(row["asked"]),
        phase=row["phase"],
        outcome=row["outcome"],
        reasons=tuple(json.loads(row["reasons"])),
        seed=row["seed"],
        started_at=datetime.fromisoformat(row["started_at"]),
        phase_at=datetime.fromisoformat(row["phase_at"]),
        ended_at=None if row["ended_at"] is None else datetime.fromisoformat(row["ended_at"]),
        figures=json.loads(row["figures"]),
    )
