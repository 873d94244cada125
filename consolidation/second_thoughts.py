"""What an adapter answers after second thoughts, many questions at a time: the exam asks as one is asked awake.

The same rule decides (models/judge.py); agent/judging.py has it for one reply on its way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models.judge import DENIED, HEARD, NO, OUTRIGHT, YES, Rule, prompt, rule

if TYPE_CHECKING:
    from models.trainable import Trainable
    from models.tuned import Tuned, Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who has them."""

    speaks: Tuned
    rule: Rule


def judge_from(folder: Path, model: Trainable) -> Judge:
    """The judge in a folder, on a model that is taken for it alone."""
    from models.recipe import Recipe
    from models.tuned import Tuned

    return Judge(speaks=Tuned(model, Recipe(), start=folder), rule=rule(folder))


def answers(speaker: Tuned, questions: Sequence[str], *, most: int, who: Who, judge: Judge | None) -> list[str]:
    """What is said to each question, at most `most` tokens, greedily; without a judge, what was heard first."""
    heard = speaker.heard(questions, most=most, who=who)
    said = [text for text, _ in heard]
    if judge is None:
        return said
    leads = {n: lead for n, (_, lead) in enumerate(heard) if lead is not None}
    settled = {n: judge.rule.settled(lead) for n, lead in leads.items()}
    open_ = [n for n, lead in leads.items() if settled[n] is not (lead > 0)]

    def instead(of: Sequence[int], denial: float) -> dict[int, str]:
        again = speaker.heard([questions[n] for n in of], most=most, who=who, denial=denial)
        return dict(zip(of, (text for text, _ in again), strict=True))

    answered = {n: said[n] for n in open_ if leads[n] > 0}
    answered |= instead([n for n in open_ if leads[n] <= 0], OUTRIGHT)
    asked = [n for n in open_ if settled[n] is None]
    read = [prompt(questions[n], judge.speaks.beginning_of(answered[n], HEARD)) for n in asked]
    leanings = judge.speaks.leanings(read, to=YES, rather_than=NO)
    may = {n: settled[n] is True for n in open_}
    may |= {n: judge.rule.says(leads[n], leaning) for n, leaning in zip(asked, leanings, strict=True)}
    changed = {n: answered[n] for n in open_ if may[n]}
    changed |= instead([n for n in open_ if leads[n] > 0 and not may[n]], DENIED)
    return [changed.get(n, first) for n, first in enumerate(said)]
