"""How far a source is believed: Beta(2, 2) over its claims that were verified, which fade with a half-life of 30 days.

Salience is not reliability: what is striking is not thereby true, so nothing but verification moves trust.
"""

from __future__ import annotations

from datetime import datetime

from sqlite_utils import Database

PRIOR = 2.0
HALF_LIFE_DAYS = 30.0


def belief(confirmed: float, refuted: float, *, days: float) -> float:
    """The mean of Beta(2 + confirmed, 2 + refuted), both halved every 30 `days` since they were counted: in (0, 1)."""
    fading = float(0.5 ** (max(0.0, days) / HALF_LIFE_DAYS))
    return (PRIOR + confirmed * fading) / (2 * PRIOR + (confirmed + refuted) * fading)


def trust_in(db: Database, owner: int, source: str, *, at: datetime) -> float:
    """How far `source` is believed at a time; 0.5 for one of whom nothing was ever verified."""
    row = db.execute(
        "SELECT confirmed, refuted, at FROM sources WHERE owner = ? AND name = ?", [owner, source]
    ).fetchone()
    if row is None:
        return belief(0, 0, days=0)
    return belief(row[0], row[1], days=_days(row[2], at))


def verify(db: Database, owner: int, source: str, *, true: bool, at: datetime) -> float:
    """Count a claim of `source` that proved true or false; returns the trust in it now."""
    row = db.execute(
        "SELECT confirmed, refuted, at FROM sources WHERE owner = ? AND name = ?", [owner, source]
    ).fetchone()
    confirmed, refuted = 0.0, 0.0
    if row is not None:
        fading = 0.5 ** (_days(row[2], at) / HALF_LIFE_DAYS)
        confirmed, refuted = row[0] * fading, row[1] * fading
    confirmed, refuted = confirmed + true, refuted + (not true)
    db.execute(
        "INSERT OR REPLACE INTO sources (owner, name, confirmed, refuted, at) VALUES (?, ?, ?, ?, ?)",
        [owner, source, confirmed, refuted, at.isoformat()],
    )
    return belief(confirmed, refuted, days=0)


def _days(since: str, at: datetime) -> float:
    return max(0.0, (at - datetime.fromisoformat(since)).total_seconds() / 86400)
