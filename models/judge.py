"""Pure: whether what an adapter says may be said, by how near its codebook found it and how it reads with the question.

A codebook finds an answer by the state of a question; question and answer never meet in it, and near questions are
taken for each other. Read together they are told apart far better (a cross-encoder behind a bi-encoder: Nogueira and
Cho 2019). The judge is an adapter that was trained to say yes or no of both (bench/judge.py); what it leans to and what
the codebook found are added, as experts' log-odds are (Bordley 1982). The question stands there twice, since a causal
model reads what is known before it knows what for otherwise (Springer et al. 2024).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

YES, NO = "Yes.", "No."
ABOUT = "judge.json"
"""In a judge's folder."""
HEARD = 32
"""Tokens of an answer that are read; answers are shorter."""
OUTRIGHT, DENIED = -1e4, 1e4
"""What denial is made to count for by whoever wants to hear the nearest answer, or none."""
_PROMPT = "Does this answer my question?\n\nQuestion: {question}\nKnown: {known}\nQuestion: {question}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An answer may be said where lead + `weight` x leaning >= `least`, all in nats."""

    weight: float
    least: float
    reach: float
    """The most that the judge's leaning is taken for, either way: by it one sees when it need not be asked."""

    def settled(self, lead: float) -> bool | None:
        """Whether an answer that leads by so much may be said, whatever the judge says; None: it is to be asked."""
        if lead + self.weight * self.reach < self.least:
            return False
        return True if lead - self.weight * self.reach >= self.least else None

    def says(self, lead: float, leaning: float) -> bool:
        """Whether it may be said."""
        return lead + self.weight * max(-self.reach, min(leaning, self.reach)) >= self.least


def rule(folder: Path) -> Rule:
    """What a judge's folder says of it."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return Rule(weight=float(about["weight"]), least=float(about["least"]), reach=float(about["reach"]))


def prompt(question: str, known: str) -> str:
    """What it is asked."""
    return _PROMPT.format(question=question.strip(), known=known.strip())
