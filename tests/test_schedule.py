"""When nights are due: once for each date, whatever the clock does."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.schedule import Day, Plan, due, rhythm

NEW_YORK = ZoneInfo("America/New_York")
FULL = Day(new=9, salience=3.0, quiet=timedelta(hours=1))


def nights(
    plan: Plan, moments: list[datetime], *, zone: ZoneInfo = NEW_YORK, day: Day = FULL
) -> list[tuple[date, datetime]]:
    """What begins if somebody looks at these moments."""
    had: list[str] = []
    begun = []
    for now in moments:
        found = due(plan, day, now=now, zone=zone, had=had)
        if found is not None:
            had.append(found[0].isoformat())
            begun.append((found[0], now))
    return begun


def every(minutes: int, start: datetime, days: int) -> list[datetime]:
    return [start + timedelta(minutes=minutes * n) for n in range(days * 24 * 60 // minutes)]


def test_one_night_a_date_at_its_hour() -> None:
    begun = nights(Plan(), every(1, datetime(2026, 11, 20, 5, tzinfo=UTC), 3))
    assert [d.isoformat() for d, _ in begun] == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert {now.astimezone(NEW_YORK).strftime("%H:%M") for _, now in begun} == {"03:30"}


def test_an_hour_that_comes_twice_or_not_at_all_is_one_night() -> None:
    autumn = nights(Plan(at=time(1, 30)), every(1, datetime(2026, 10, 31, 12, tzinfo=UTC), 2))
    assert [d.isoformat() for d, _ in autumn] == ["2026-11-01", "2026-11-02"]
    spring = nights(Plan(at=time(2, 30)), every(1, datetime(2027, 3, 13, 14, tzinfo=UTC), 2))
    assert [d.isoformat() for d, _ in spring] == ["2027-03-14", "2027-03-15"]
    assert spring[0][1].astimezone(NEW_YORK).strftime("%H:%M") == "03:30"


def test_a_missed_night_is_caught_up_with_and_not_for_ever() -> None:
    plan = Plan(at=time(23, 0), catch_up=timedelta(hours=6))
    late = datetime(2026, 11, 21, 8, tzinfo=UTC)  # 03:00 in New York, four hours late
    assert nights(plan, [late])[0][0] == date(2026, 11, 20)
    assert nights(plan, [late + timedelta(hours=3)]) == []


def test_little_new_makes_no_night_and_none_means_never() -> None:
    moments = every(10, datetime(2026, 11, 20, 5, tzinfo=UTC), 1)
    assert nights(Plan(), moments, day=Day(new=2, salience=9, quiet=timedelta(hours=1))) == []
    assert nights(Plan(at=None), moments) == []


def test_pressure_brings_a_night_forward_when_all_is_quiet() -> None:
    plan, noon = Plan(pressure=2.0), datetime(2026, 11, 20, 17, tzinfo=UTC)
    assert nights(plan, [noon])[0][0] == date(2026, 11, 21), "the coming night"
    assert len(nights(plan, every(10, noon, 1)[:80])) == 1, "not again at its hour"
    talking = Day(new=9, salience=3.0, quiet=timedelta(minutes=1))
    assert nights(plan, [noon], day=talking) == []


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 40 * 24 * 60), min_size=1, max_size=300),
    st.sampled_from(["America/New_York", "Europe/Lisbon", "Pacific/Apia", "Australia/Lord_Howe", "UTC"]),
    st.integers(0, 24 * 60 - 1),
)
def test_no_clock_makes_two_nights_of_one_date(minutes: list[int], zone: str, at: int) -> None:
    """Looks in any order: the clock jumps as it likes."""
    start = datetime(2026, 10, 10, tzinfo=UTC)
    plan = Plan(at=time(at // 60, at % 60), pressure=1.0)
    begun = nights(plan, [start + timedelta(minutes=m) for m in minutes], zone=ZoneInfo(zone))
    dates = [d for d, _ in begun]
    assert len(dates) == len(set(dates))


def test_rhythms() -> None:
    assert [rhythm(date(2026, 11, d)) for d in (1, 2, 8)] == ["monthly", "daily", "weekly"]
