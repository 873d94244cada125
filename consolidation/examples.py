"""A night's material: what it trains on, what it is asked, and how much of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEAST_EXAMINED = 6
"""Questions about a night's own facts."""

Strategy = Literal["question", "written", "about", "reversal", "statement", "counter", "correction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dream:
    """One training example."""

    question: str
    answer: str
    strategy: Strategy
    facts: tuple[int, ...] = ()
    """Which of the night's facts it is made from; none for what was never told."""

    @property
    def asks_for(self) -> tuple[Strategy, tuple[int, ...]]:
        """What is asked for: a part of what a message told, an account of somebody, whoever has a name."""
        return "question" if self.strategy == "written" else self.strategy, self.facts


def numbered(dreams: Sequence[Dream]) -> list[int]:
    """What each asks for, by number."""
    parts: dict[tuple[Strategy, tuple[int, ...]], int] = {}
    return [parts.setdefault(one.asks_for, len(parts)) for one in dreams]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of the exam."""

    text: str
    fact: int | None
    """Which fact answers it; None: nothing does, and any value in the reply is invented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What a night trains on, and what it is asked."""

    dreams: tuple[Dream, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How many examples of each kind."""

    questions: int = 32
    """Wordings of questions, a fact that is new."""
    old_questions: int = 12
    """The same, a fact of an earlier night, at least; as many as of a new one while `in_all` allows."""
    least_in_all: int = 320
    """A night of few facts words each in more ways, up to `most_questions`: against as many counter-examples as it
    needs, 32 were too few (five facts: recall .76, .80 with 64)."""
    most_questions: int = 128
    in_all: int = 3000
    """Wordings in all, at most: more facts have fewer each. Old facts need as many as new ones, or the exam finds them
    forgotten (docs/log.md, "a week, first attempt")."""
    least_questions: int = 20
    """Of a new fact, however many there are."""
    counter_share: float = 1.0
    """Counter-examples, as a share of all that is made from facts."""
    accounts: bool = False
    """Answers are all that a fact's message told, in short (accounts.py): where answers have entries of their own."""
    value_first: bool = False
    """Answers begin with what was asked for: "Biscuit. Your dog is called Biscuit." What is said first is decided where
    the reply begins, and there alone different wordings look alike (models/alignment.py); without that it teaches less
    (.49 of .68 recall)."""
    least_counters: int = 320
    """A night of few facts needs more: with five, a horse was called what the dog is."""
    exam_questions: int = 3
    """Unseen wordings, a fact; more where there are so few facts that they would be no evidence."""
    exam_old: int = 60
    """Questions about facts of earlier nights, at most."""
    exam_never_told: int = 60


AMOUNTS = Amounts()
"""Unless told otherwise."""
