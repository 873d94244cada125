"""Pure: whether a later message takes back what an earlier one told, as a model says; and what that leaves of a fact.

The reviser is an adapter on the default model, trained on `texts/revisions.jsonl` (bench/reviser.py): shown two
messages of one person it answers that the first still holds, or what was and what is now. A message is compared with
what lies nearest to it in meaning and with what was told right before it. What it says is kept only where the words are
the messages' own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consolidation.english import second_person, spoken
from consolidation.facts import Fact, marks
from consolidation.notes import LONGEST

STANDS, REVISED = "Yes.", "No."
"""How the two kinds of reply begin."""
_PROMPT = "First I told you:\n{earlier}\n\nLater I told you:\n{later}\n\nDoes what I told you first still hold?"
_WAS, _NOW, _NO_MORE = "Before:", "Now:", "No more."
ABOUT = "reviser.json"
"""In a reviser's folder."""
NEAREST, LATEST = 6, 2
"""Earlier messages that one is compared with: those nearest in meaning, and those right before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One message's taking back what an earlier one told."""

    earlier: str
    """The experience that told it first."""
    was: str
    """Words of the earlier message that hold no more."""
    now: str
    """Words of the later one in their place; empty: nothing is."""


def least(folder: Path) -> float:
    """Nats by which a reviser's reply has to be likelier to begin with a revision than without."""
    return float(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["least"])


def prompt(earlier: str, later: str) -> str:
    """What the reviser is asked."""
    return _PROMPT.format(earlier=earlier.strip(), later=later.strip())


def written(was: str, now: str) -> str:
    """What it is to answer where something has changed."""
    return f"{REVISED}\n{_WAS} {was}\n{_NOW} {now or _NO_MORE}"


def revision_of(earlier: str, later: str, reply: str, *, experience: str) -> Revision | None:
    """What a reply says, if the messages bear it out: what was must be the earlier's, what is the later's alone."""
    lines = [line.strip() for line in reply.splitlines()]
    if len(lines) < 3 or lines[0] != REVISED or not lines[1].startswith(_WAS) or not lines[2].startswith(_NOW):
        return None
    was, now = (line.partition(":")[2].strip() for line in lines[1:3])
    now = "" if now == _NO_MORE else now
    if not _said_in(was, earlier) or (now and not _said_in(now, later)) or spoken(now) == spoken(was):
        return None
    return Revision(earlier=experience, was=was, now=now)


def of_one(found: Sequence[tuple[float, Revision]]) -> list[Revision]:
    """What one message takes back, of what it seems to, by leaning: the likeliest, and whatever else told the same."""
    ordered = [one for _, one in sorted(found, key=lambda each: -each[0])]
    return [one for one in ordered if marks(one.was) & marks(ordered[0].was)]


def _said_in(words: str, text: str) -> bool:
    said = spoken(words)
    return bool(said) and f" {' '.join(said)} " in f" {' '.join(spoken(text))} "


def to_compare(
    later: Sequence[int], texts: Sequence[str], vectors: NDArray[np.float32], *, may: Sequence[bool]
) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of places that a reviser is to see.

    `texts` in the order in which they were said; `vectors` [texts, dimensions], each of length 1 or 0; `may`: which of
    them may stand first in a pair.
    """
    pairs = []
    for place in later:
        before = [i for i in range(place) if may[i] and len(texts[i]) <= LONGEST]
        if len(texts[place]) > LONGEST or not before:
            continue
        alike = vectors[before] @ vectors[place]
        nearest = [before[i] for i in np.argsort(-alike, kind="stable")[:NEAREST]]
        pairs += [(i, place) for i in sorted({*nearest, *before[-LATEST:]})]
    return pairs


def revised(fact: Fact, by: Revision) -> Fact:
    """A fact as it is now: in the same words, asked for by the same questions, with the other value."""
    now = second_person(by.now)
    ways = "|".join(r"\W+".join(map(re.escape, _words(was))) for was in (by.was, second_person(by.was)))
    statement, found = re.subn(rf"\b(?:{ways})\b", lambda _: now, fact.statement, count=1, flags=re.IGNORECASE)
    if not found:
        statement = f"{fact.statement}, now {now}"
    given_away = marks(now)
    return replace(
        fact,
        value=now,
        statement=statement,
        was=fact.statement,
        asks=tuple(a for a in fact.asks if not given_away & set(spoken(a.direct))),
        written=tuple(q for q in fact.written if not given_away & set(spoken(q))),
    )


def meant(facts: Sequence[Fact], by: Revision) -> Fact | None:
    """Which of an earlier message's facts is revised: the one whose value it names, or the only one."""
    was = marks(by.was)
    best = max(facts, key=lambda fact: len(was & marks(fact.value)), default=None)
    if best is not None and was & marks(best.value):
        return best
    return facts[0] if len(facts) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One message of the reviser's lessons, with later ones that revise it and later ones that do not."""

    tell: str
    value: str
    revising: tuple[tuple[str, str], ...]
    """What is said later, and the value since; empty: there is none."""
    others: tuple[str, ...]


@cache
def lessons() -> tuple[Lesson, ...]:
    """The reviser's lessons."""
    text = resources.files("consolidation").joinpath("texts", "revisions.jsonl").read_text(encoding="utf-8")
    return tuple(map(_lesson, map(json.loads, text.splitlines())))


def _lesson(row: Mapping[str, object]) -> Lesson:
    revising, others = row["corrections"], row["others"]
    assert isinstance(revising, Iterable) and isinstance(others, Iterable)
    return Lesson(
        tell=str(row["tell"]),
        value=str(row["value"]),
        revising=tuple((str(one["say"]), str(one["new"])) for one in revising),
        others=tuple(str(one["say"]) for one in others),
    )
