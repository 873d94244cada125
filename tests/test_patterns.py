"""What keeps coming up: by days, against the time before, never of what is withheld."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from consolidation.patterns import patterns
from memory.experience import Author, Experience, Provenance

SUNDAY = datetime(2026, 11, 22, 3, tzinfo=UTC)


def said(n: int, days_ago: float, text: str, *, author: Author = "user", private: bool = False) -> Experience:
    at = SUNDAY - timedelta(days=days_ago)
    return Experience(
        n=n,
        id=f"m{n}",
        text=text,
        at=at,
        recorded_at=at,
        provenance=Provenance(channel="chat", author=author),
        copies=1,
        pinned=False,
        private=private,
        quarantined=None,
        superseded_by=None,
        salience=None,
        accesses=0,
        accessed_at=None,
    )


WEEK = [
    said(1, 0.5, "My knee hurts after the marathon training."),
    said(2, 2.5, "The knee again, and the marathon is close."),
    said(3, 4.5, "Marathon shoes arrived, my knee is better."),
    said(4, 5.5, "I baked bread."),
    said(5, 5.6, "Bread again in the evening."),
    said(6, 1.5, "A gulag story.", author="model"),
    said(7, 3.5, "My secret gulag.", private=True),
    said(8, 6.5, "A gulag film."),
]


def test_what_came_up_on_several_days_is_one_pattern_with_its_memories() -> None:
    [found] = patterns(WEEK, "weekly", until=SUNDAY, zone=UTC)
    assert set(found.words) == {"knee", "marathon"} and found.days == 3 and found.memories == ("m1", "m2", "m3")
    assert patterns(WEEK, "daily", until=SUNDAY, zone=UTC) == []
    assert patterns([e for e in WEEK if e.id != "m3"], "weekly", until=SUNDAY, zone=UTC) == [], "forgotten, gone"


def test_what_always_came_up_is_no_pattern() -> None:
    before = [said(20 + n, 7.5 + n, "My knee hurts.") for n in range(6)]
    [found] = patterns([*WEEK, *before], "weekly", until=SUNDAY, zone=UTC)
    assert found.words == ("marathon",)


@pytest.mark.parametrize("rhythm", ["weekly", "monthly"])
def test_nothing_said_nothing_found(rhythm: str) -> None:
    assert patterns([], rhythm, until=SUNDAY, zone=UTC) == []  # type: ignore[arg-type]
