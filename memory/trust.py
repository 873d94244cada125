"""How far who speaks is believed: Beta(2, 2) over their claims that were verified, which fade, half in 30 days.

An *entity* is who speaks; a *source* is an entity by one channel, since what somebody says in chat and what a file says
in their name deserve trust apart. A source starts from what its entity earned by other channels. Salience is not
reliability: what is striking is not thereby true, so nothing but verification moves trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlite_utils import Database

from memory.experience import Provenance

PRIOR = 2.0
HALF_LIFE_DAYS = 30.0


@dataclass(frozen=True, slots=True)
class Verified:
    """Claims that proved true or false, faded to one moment."""

    confirmed: float = 0.0
    refuted: float = 0.0

    def faded(self, days: float) -> Verified:
        """As they count `days` later."""
        fading = float(0.5 ** (max(0.0, days) / HALF_LIFE_DAYS))
        return Verified(self.confirmed * fading, self.refuted * fading)

    def __add__(self, other: Verified) -> Verified:
        return Verified(self.confirmed + other.confirmed, self.refuted + other.refuted)


def belief(own: Verified, elsewhere: Verified | None = None) -> float:
    """The mean of Beta(4 m + confirmed, 4 (1 - m) + refuted), in (0, 1).

    Its prior's mean m is that of Beta(2 + confirmed, 2 + refuted) over the entity's claims by other channels: 0.5
    without any, and then this is plain Beta(2, 2).
    """
    there = elsewhere or Verified()
    prior = (PRIOR + there.confirmed) / (2 * PRIOR + there.confirmed + there.refuted)
    return (2 * PRIOR * prior + own.confirmed) / (2 * PRIOR + own.confirmed + own.refuted)


def trust_in(db: Database, owner: int, of: Provenance, *, at: datetime) -> float:
    """How far the source of `of` is believed at a time; 0.5 where nothing by its entity was ever verified."""
    own, elsewhere = Verified(), Verified()
    for channel, claims in _claims(db, owner, of.entity, at):
        if channel == of.channel:
            own += claims
        else:
            elsewhere += claims
    return belief(own, elsewhere)


def trust_in_entity(db: Database, owner: int, entity: str, *, at: datetime) -> float:
    """How far somebody is believed, whatever the channel."""
    return belief(sum((claims for _, claims in _claims(db, owner, entity, at)), Verified()))


def verify(db: Database, owner: int, of: Provenance, *, true: bool, at: datetime) -> float:
    """Count a claim of a source that proved true or false; returns the trust in the source now."""
    known = sum((claims for channel, claims in _claims(db, owner, of.entity, at) if channel == of.channel), Verified())
    counted = known + Verified(float(true), float(not true))
    db.execute(
        "INSERT OR REPLACE INTO trust (owner, entity, channel, confirmed, refuted, at) VALUES (?, ?, ?, ?, ?, ?)",
        [owner, of.entity, of.channel, counted.confirmed, counted.refuted, at.isoformat()],
    )
    return trust_in(db, owner, of, at=at)


def _claims(db: Database, owner: int, entity: str, at: datetime) -> list[tuple[str, Verified]]:
    rows = db.execute(
        "SELECT channel, confirmed, refuted, at FROM trust WHERE owner = ? AND entity = ?", [owner, entity]
    ).fetchall()
    return [(channel, Verified(yes, no).faded(_days(since, at))) for channel, yes, no, since in rows]


def _days(since: str, at: datetime) -> float:
    return (at - datetime.fromisoformat(since)).total_seconds() / 86400
