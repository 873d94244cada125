"""Pure: what comes up again and again in a week's or a month's talk. For the report; nothing is trained on it.

A word is a pattern if it was said on several days, on a larger share of them than before, and not everybody says it
every day; words that mostly come in the same memories are one. Nothing of this is kept: it is found anew from the
memories whenever a report is read, so what is forgotten is not in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from consolidation.english import RELATIVE_TIME, is_noun, is_word
from consolidation.schedule import Rhythm
from memory.experience import USER, Experience
from memory.words import content_words

PERIODS: Mapping[Rhythm, timedelta] = {"weekly": timedelta(days=7), "monthly": timedelta(days=31)}
_LEAST_DAYS: Mapping[Rhythm, int] = {"weekly": 3, "monthly": 5}
_BEFORE = timedelta(days=90)
_MORE_THAN_BEFORE = 1.5
"""Times the share of days on which it was said before."""
_ONE = 0.6
"""Two words are one pattern where so much of their memories is the same (Jaccard)."""
_MOST = 8
_EVERYDAY = frozenset(
    """
    day night week month year morning evening afternoon time today tomorrow yesterday minute hour thing things stuff way
    lot bit kind sort people person something anything nothing someone everyone question idea name work help need want
    think know feel look start end place part number please thanks hello hey okay yes
    """.split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Something that keeps coming up."""

    words: tuple[str, ...]
    days: int
    """On so many days of the period."""
    memories: tuple[str, ...]


def patterns(experiences: Sequence[Experience], rhythm: Rhythm, *, until: datetime, zone: tzinfo) -> list[Pattern]:
    """Of the period that a night of this rhythm closes; none for a daily one. The most frequent first."""
    if rhythm not in PERIODS:
        return []
    since = until - PERIODS[rhythm]
    said: dict[str, dict[date, set[str]]] = defaultdict(lambda: defaultdict(set))
    before: dict[str, set[date]] = defaultdict(set)
    earlier_days: set[date] = set()
    for one in experiences:
        if not _counts(one) or not since - _BEFORE <= one.at < until:
            continue
        day = one.at.astimezone(zone).date()
        if one.at < since:
            earlier_days.add(day)
        for word in {w.removesuffix("'s") for w in content_words(one.text) if _says_something(w)}:
            if one.at < since:
                before[word].add(day)
            else:
                said[word][day].add(one.id)
    days = len({day for of in said.values() for day in of})
    found = [
        Pattern(words=(word,), days=len(of), memories=tuple(sorted(set().union(*of.values()))))
        for word, of in said.items()
        if len(of) >= _LEAST_DAYS[rhythm] and _rose(len(of) / days, len(before[word]), len(earlier_days))
    ]
    return _joined(sorted(found, key=lambda p: (-p.days, -len(p.memories), p.words)))[:_MOST]


def _counts(one: Experience) -> bool:
    owners = one.provenance.author == "user" and one.provenance.speaker == USER
    return owners and one.quarantined is None and one.superseded_by is None and not one.private


def _says_something(word: str) -> bool:
    common = word in _EVERYDAY or word in RELATIVE_TIME or len(word) < 3
    return not common and (is_noun(word) or not is_word(word))


def _rose(share: float, days_before: int, all_before: int) -> bool:
    return all_before == 0 or share >= _MORE_THAN_BEFORE * days_before / all_before


def _joined(found: Sequence[Pattern]) -> list[Pattern]:
    """Words of the same memories together, under the most frequent."""
    made: list[Pattern] = []
    for one in found:
        place = next((i for i, p in enumerate(made) if _alike(p.memories, one.memories) >= _ONE), None)
        if place is None:
            made.append(one)
        else:
            made[place] = Pattern(
                words=(*made[place].words, *one.words), days=made[place].days, memories=made[place].memories
            )
    return made


def _alike(one: Collection[str], other: Collection[str]) -> float:
    return len(set(one) & set(other)) / len(set(one) | set(other))
