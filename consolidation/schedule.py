"""Pure: when a night is due, and which rhythm it has.

A night belongs to a local date, and is due from its hour on, for as long as it may be caught up with; so a service that
was off, a clock that jumped and an hour that a change of time left out or repeated all come to the same: at most one
night that was due for each date, whoever looks and how often. (Cron fires twice or not at all there: measured with
APScheduler 3.11 for New York.)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Literal

Rhythm = Literal["daily", "weekly", "monthly"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """When to sleep."""

    at: time | None = time(3, 30)
    """Local; None: only when asked to."""
    catch_up: timedelta = timedelta(hours=6)
    """For so long after its hour a missed night is made up for."""
    least_new: int = 3
    """Experiences since the last night, at least."""
    pressure: float = 0.0
    """Salience gathered since the last night (a sum) that brings the night forward; 0: never."""
    idle: timedelta = timedelta(minutes=10)
    """So long must nobody have talked before a night that is brought forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What gathered since an owner's last night."""

    new: int
    """Experiences."""
    salience: float
    """Their sum."""
    quiet: timedelta
    """Since somebody talked."""


def due(plan: Plan, day: Day, *, now: datetime, zone: tzinfo, had: Collection[str]) -> tuple[date, str] | None:
    """The date of the night to begin now, and why now; None: none is due.

    `now`: aware. `had`: dates (ISO) of nights that were due.
    """
    if plan.at is None or day.new < plan.least_new:
        return None
    local = now.astimezone(zone)
    for back in (0, 1):  # an hour late in the evening is caught up with after midnight
        of = local.date() - timedelta(days=back)
        begins = _instant(of, plan.at, zone)
        if begins <= now < begins + plan.catch_up and of.isoformat() not in had:
            return of, "its hour"
    begins = _instant(local.date(), plan.at, zone)
    tonight = local.date() if now < begins else local.date() + timedelta(days=1)
    pressed = plan.pressure > 0 and day.salience >= plan.pressure and day.quiet >= plan.idle
    return (tonight, "sleep pressure") if pressed and tonight.isoformat() not in had else None


def rhythm(of: date) -> Rhythm:
    """A month's first night is monthly, a Sunday's weekly, any other daily."""
    return "monthly" if of.day == 1 else "weekly" if of.weekday() == 6 else "daily"


def _instant(day: date, at: time, zone: tzinfo) -> datetime:
    """When a local hour comes: the first of two; where the clock leaps over it, an hour after the leap began."""
    return datetime.combine(day, at, tzinfo=zone).replace(fold=0).astimezone(UTC)
