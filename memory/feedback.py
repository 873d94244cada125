"""Outcomes: what people thought of a turn, and which claims proved true. They move reward, conflict and trust."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlite_utils import Database

from memory.errors import TurnNotFound
from memory.experience import Provenance
from memory.experiences import experience_of, find, owner_number
from memory.salience import total
from memory.store import Store
from memory.trust import trust_in, trust_in_entity, verify

NEIGHBOURS, LOOKED_AT = 10, 500
"""Rated experiences that an outcome is expected from, and the latest of which they are chosen."""


def rate(
    store: Store,
    turn: str,
    reward: float,
    *,
    owner: str,
    at: datetime,
    also: Callable[[Database], None] = lambda db: None,
) -> list[str]:
    """Note how good a turn was, in [-1, 1]; a later word on the same turn replaces an earlier one.

    Its experiences' reward becomes that, and their conflict at least the distance from what was expected. Their other
    dimensions and the statistics stay: the event happened once. `also` is part of the transaction. Returns the
    experiences' ids.

    Raises:
        TurnNotFound: there is none, or it is another owner's.
    """

    def transaction(db: Database) -> list[str]:
        known = db.execute("SELECT 1 FROM turns WHERE id = ? AND owner = ?", [turn, owner]).fetchone()
        if known is None:
            raise TurnNotFound(turn)
        db.execute(
            "INSERT OR REPLACE INTO feedback (turn, reward, at) VALUES (?, ?, ?)", [turn, reward, at.isoformat()]
        )
        number = owner_number(db, owner)
        rows = list(db.query("SELECT * FROM experiences WHERE owner = ? AND turn = ?", [number, turn]))
        for row in rows:
            outcome = abs((reward + 1) / 2 - expected(db, int(row["owner"]), row["n"]))
            conflict = max(row["raw_conflict"] or 0.0, outcome)
            db.execute("UPDATE experiences SET raw_reward = ? WHERE n = ?", [reward, row["n"]])
            if row["scored_at"] is not None:
                salience = experience_of(row).salience
                assert salience is not None
                summed = total(
                    {
                        "surprise": salience.surprise,
                        "novelty": salience.novelty,
                        "arousal": salience.arousal,
                        "reward": abs(reward),
                        "conflict": conflict,
                    }
                )
                db.execute(
                    "UPDATE experiences SET reward = ?, conflict = ?, total = ? WHERE n = ?",
                    [abs(reward), conflict, summed, row["n"]],
                )
        also(db)
        return [row["id"] for row in rows]

    return store.write(transaction)


@dataclass(frozen=True, slots=True)
class Trust:
    """How far the source of a memory is believed, and who speaks there by any channel; both in (0, 1)."""

    entity: str
    source: str
    in_entity: float
    in_source: float


def confirm(store: Store, id: str, true: bool, *, owner: str, at: datetime) -> Trust:
    """Count a memory's claim as proved true or false for its source; returns the trust after it.

    Raises:
        MemoryNotFound: there is none, or it is another owner's.
    """

    def transaction(db: Database) -> Trust:
        where = find(db, id, owner=owner).provenance
        number = owner_number(db, owner)
        assert number is not None
        verify(db, number, where, true=true, at=at)
        return _trust(db, number, where, at)

    return store.write(transaction)


def trust(store: Store, where: Provenance, *, owner: str, at: datetime) -> Trust:
    """How far an owner's source is believed."""
    with store.reading() as db:
        number = owner_number(db, owner)
        return _trust(db, -1 if number is None else number, where, at)


def _trust(db: Database, owner: int, where: Provenance, at: datetime) -> Trust:
    return Trust(
        entity=where.entity,
        source=where.source,
        in_entity=trust_in_entity(db, owner, where.entity, at=at),
        in_source=trust_in(db, owner, where, at=at),
    )


def expected(db: Database, owner: int, n: int) -> float:
    """The outcome to expect of an experience, in [0, 1]: that of the nearest rated ones before it, else 0.5."""
    mine = db.execute("SELECT vector FROM vectors WHERE experience = ?", [n]).fetchone()
    rated = db.execute(
        """
        SELECT f.reward, v.vector FROM experiences e JOIN feedback f ON f.turn = e.turn
        JOIN vectors v ON v.experience = e.n WHERE e.owner = ? AND e.n < ? AND e.author = 'user'
        ORDER BY e.n DESC LIMIT ?
        """,
        [owner, n, LOOKED_AT],
    ).fetchall()
    if mine is None or not rated:
        return 0.5
    vector = np.frombuffer(mine[0], "<f2").astype(np.float32)
    cosines = [float(np.frombuffer(v, "<f2").astype(np.float32) @ vector) for _, v in rated]
    nearest = sorted(range(len(rated)), key=lambda i: -cosines[i])[:NEIGHBOURS]
    return float(np.mean([(rated[i][0] + 1) / 2 for i in nearest]))
