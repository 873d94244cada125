"""What the heart did: every beat with its reason, the agent's choices of its pace, and the alarms on gauges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlite_utils import Database

from memory.store import Store

KEPT = 50_000
"""Beats that stay; at rest seventeen days of them."""
Choice = Literal["slower", "same", "faster"]
Owner = Literal["operator", "agent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One beat."""

    n: int
    at: datetime
    interval: float
    decided_by: str
    reason: str
    load: float
    worst: str
    did: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A choice of pace."""

    at: datetime
    choice: Choice
    factor: float
    why: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeAlarm:
    """Sounds once a gauge has been above its bound for so long."""

    gauge: str
    bound: float
    seconds: float
    owner: Owner


def keep(
    store: Store,
    *,
    at: datetime,
    interval: float,
    decided_by: str,
    reason: str,
    load: float,
    worst: str,
    did: Sequence[Mapping[str, Any]],
) -> int:
    """Note a beat; the oldest beyond `KEPT` go. Returns its number.

    Not power-safe: a beat lost with the machine's power is a line of a log.
    """

    def transaction(db: Database) -> int:
        n = db.execute(
            "INSERT INTO beats (at, interval, decided_by, reason, load, worst, did) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [at.isoformat(), interval, decided_by, reason, load, worst, json.dumps(list(did))],
        ).lastrowid
        assert n is not None
        db.execute("DELETE FROM beats WHERE n <= ?", [n - KEPT])
        return int(n)

    return store.write(transaction, power_safe=False)


def latest(store: Store, *, most: int) -> list[Kept]:
    """The last beats, the newest first."""
    with store.reading() as db:
        rows = db.execute(
            "SELECT n, at, interval, decided_by, reason, load, worst, did FROM beats ORDER BY n DESC LIMIT ?", [most]
        ).fetchall()
    return [
        Kept(
            n=n,
            at=datetime.fromisoformat(at),
            interval=interval,
            decided_by=decided_by,
            reason=reason,
            load=load,
            worst=worst,
            did=json.loads(did),
        )
        for n, at, interval, decided_by, reason, load, worst, did in rows
    ]


def choose(store: Store, choice: Choice, factor: float, why: Mapping[str, Any], *, at: datetime) -> None:
    """Note a choice of pace."""
    store.write(
        lambda db: db.execute(
            "INSERT INTO paces (at, choice, factor, why) VALUES (?, ?, ?, ?)",
            [at.isoformat(), choice, factor, json.dumps(dict(why))],
        )
    )


def chosen(store: Store) -> Chosen | None:
    """The latest choice of pace; None: it never chose."""
    with store.reading() as db:
        row = db.execute("SELECT at, choice, factor, why FROM paces ORDER BY n DESC LIMIT 1").fetchone()
    if row is None:
        return None
    return Chosen(at=datetime.fromisoformat(row[0]), choice=row[1], factor=row[2], why=json.loads(row[3]))


def alarms(store: Store) -> list[GaugeAlarm]:
    """All that are set."""
    with store.reading() as db:
        rows = db.execute("SELECT gauge, bound, seconds, owner FROM gauge_alarms ORDER BY gauge, owner").fetchall()
    return [GaugeAlarm(gauge=g, bound=b, seconds=s, owner=o) for g, b, s, o in rows]


def set_alarm(store: Store, alarm: GaugeAlarm, *, at: datetime) -> GaugeAlarm:
    """Set an alarm, in place of its owner's on the same gauge. The agent's only ever get tighter.

    Returns:
        the alarm as it stands then, which is the one before if the agent asked for a looser one.
    """

    def transaction(db: Database) -> GaugeAlarm:
        wanted = alarm
        if alarm.owner == "agent":
            row = db.execute(
                "SELECT min(bound), min(seconds) FROM gauge_alarms WHERE gauge = ?", [alarm.gauge]
            ).fetchone()
            if row[0] is not None:
                wanted = GaugeAlarm(
                    gauge=alarm.gauge,
                    bound=min(alarm.bound, row[0]),
                    seconds=min(alarm.seconds, row[1]),
                    owner="agent",
                )
        db.execute(
            "INSERT OR REPLACE INTO gauge_alarms (gauge, owner, bound, seconds, at) VALUES (?, ?, ?, ?, ?)",
            [wanted.gauge, wanted.owner, wanted.bound, wanted.seconds, at.isoformat()],
        )
        return wanted

    return store.write(transaction)
