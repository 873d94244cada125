"""Whether the salience scorer is alive. Prior ones were silently dead for months; nothing here trusts that it runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlite_utils import Database

from memory.store import Store

RECENT, LEAST, OUTCOMES = 200, 50, 500
"""Events looked at; events from which on anything is said; events without any outcome that are too many."""
DEAD_DEVIATION, SATURATED_SHARE, BYPASSED_SHARE = 0.02, 0.5, 0.2
GRACE = timedelta(minutes=5)
"""An event may wait for its score for so long."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One event's dimensions, newest first in a sequence of them; None: not scored, or the dimension is unknown."""

    surprise: float | None
    novelty: float | None
    arousal: float | None
    reward: float | None
    conflict: float | None
    bypassed: bool
    """It went past the scorer: no score in time, or a message of a chat whose surprise nobody measured."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something about the scorer that makes its scores worth little."""

    dimension: str
    kind: Literal["dead", "saturated", "no_outcome", "bypassed"]
    detail: str


def alarms(events: Sequence[Scored]) -> list[Alarm]:
    """What is wrong, judged by the latest events."""
    found = []
    recent = events[:RECENT]
    for name in ("surprise", "novelty", "arousal"):
        values = [v for e in recent if (v := getattr(e, name)) is not None]
        if len(values) < LEAST:
            continue
        deviation = statistics.pstdev(values)
        if deviation < DEAD_DEVIATION:
            found.append(Alarm(name, "dead", f"it hardly varies: deviation {deviation:.3f} over {len(values)} events"))
        extreme = sum(v <= 0.01 or v >= 0.99 for v in values) / len(values)
        if extreme > SATURATED_SHARE:
            found.append(Alarm(name, "saturated", f"{extreme:.0%} of {len(values)} events are at an end of the scale"))
    outcomes = [e for e in events[:OUTCOMES] if not e.bypassed]
    if len(outcomes) >= OUTCOMES and not any(e.reward or e.conflict for e in outcomes):
        found.append(Alarm("reward", "no_outcome", f"no feedback and no contradiction in {OUTCOMES} events"))
    if len(recent) >= LEAST:
        past = sum(e.bypassed for e in recent) / len(recent)
        if past > BYPASSED_SHARE:
            found.append(Alarm("all", "bypassed", f"{past:.0%} of {len(recent)} events went past the scorer"))
    return found


def latest(db: Database, *, now: datetime) -> list[Scored]:
    """The latest events of everybody that ought to be scored: what people said and taught, imports left out."""
    rows = db.execute(
        """
        SELECT surprise, novelty, arousal, raw_reward, conflict,
            scored_at IS NULL AND recorded_at < ? OR
            scored_at IS NOT NULL AND channel = 'chat' AND author = 'user' AND tokens > 0 AND raw_surprise IS NULL
        FROM experiences WHERE channel <> 'import' ORDER BY n DESC LIMIT ?
        """,
        [(now - GRACE).isoformat(), OUTCOMES],
    ).fetchall()
    return [Scored(s, n, a, r, c, bool(bypassed)) for s, n, a, r, c, bypassed in rows]


def sounding(store: Store, *, now: datetime) -> list[Alarm]:
    """The alarms that sound now."""
    with store.reading() as db:
        return alarms(latest(db, now=now))
