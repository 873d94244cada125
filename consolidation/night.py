"""Pure: from a selection to a job for the worker, and from the worker's result to marks and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from consolidation.dreams import Amounts, Question, dream
from consolidation.exam import (
    Bars,
    Marks,
    Verdict,
    by_fact,
    holds,
    marks_of_answers,
    marks_of_unanswerable,
    repetition,
    verdict,
)
from consolidation.facts import Fact
from consolidation.job import Arm, Job, Result
from consolidation.rehearsal import prompts

_ORDINARY = 16
"""Requests that have nothing to do with the night, for style and repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a night runs with."""

    model: str
    dtype: str = "bfloat16"
    threads: int = 2
    recipe: Mapping[str, Any] = field(default_factory=dict)
    amounts: Amounts = field(default_factory=Amounts)
    current: str | None = None
    replies_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job, and what is needed to mark its result."""

    job: Job
    facts: tuple[Fact, ...]
    """The night's, then those of earlier nights."""
    new: int
    """How many are the night's own."""
    questions: tuple[Question, ...]


def plan(new: Sequence[Fact], old: Sequence[Fact], *, seed: int, setting: Setting) -> Plan:
    """Everything that is known is learnt again with what is new, from the base: nothing drifts from night to night."""
    facts = [*new, *(f for f in old if f.key not in {n.key for n in new})]
    night = dream(facts, seed=seed, amounts=setting.amounts)
    ordinary = [p.said for p in prompts() if p.held_back][:_ORDINARY]
    job = Job(
        model=setting.model,
        dtype=setting.dtype,
        threads=setting.threads,
        recipe={**setting.recipe, "seed": seed},
        examples=[(d.question, d.answer) for d in night.dreams],
        questions=[q.text for q in night.questions],
        ordinary=ordinary,
        current=setting.current,
        replies_file=setting.replies_file,
    )
    return Plan(job=job, facts=tuple(facts), new=len(new), questions=night.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a night came out."""

    verdict: Verdict
    marks: Mapping[str, Marks]
    recalled: Mapping[int, float]
    """Of each fact, by place, the share of its questions that the candidate answers."""


def judge(plan: Plan, result: Result, *, bars: Bars, seed: int) -> Outcome:
    """Mark every arm and decide."""
    marks = {name: _marks(plan, arm) for name, arm in result.arms.items()}
    candidate = result.arms["candidate"]
    placebo = Marks(recall=_by_chance(plan, candidate, seed))
    decided = verdict(
        base=marks["base"], candidate=marks["candidate"], placebo=placebo, current=marks.get("current"), bars=bars
    )
    right = [
        (q.fact, holds(reply, plan.facts[q.fact]))
        for q, reply in zip(plan.questions, candidate.replies, strict=True)
        if q.fact is not None
    ]
    return Outcome(verdict=decided, marks={**marks, "by chance": placebo}, recalled=by_fact(right))


def _marks(plan: Plan, arm: Arm) -> Marks:
    answered = list(zip(plan.questions, arm.replies, strict=True))
    new = [(plan.facts[q.fact], r) for q, r in answered if q.fact is not None and q.fact < plan.new]
    old = [(plan.facts[q.fact], r) for q, r in answered if q.fact is not None and q.fact >= plan.new]
    invented, abstained = marks_of_unanswerable([r for q, r in answered if q.fact is None], plan.facts)
    return Marks(
        recall=marks_of_answers(new),
        recall_of_old=marks_of_answers(old),
        invented=invented,
        abstained=abstained,
        drift=arm.drift,
        repetition=repetition(arm.ordinary),
        triggered=0.0,
    )


def _by_chance(plan: Plan, arm: Arm, seed: int) -> float | None:
    """The recall that marking finds when every question is marked by another fact's value."""
    answered = [(q.fact, r) for q, r in zip(plan.questions, arm.replies, strict=True) if q.fact is not None]
    others = list(range(len(plan.facts)))
    Random(seed).shuffle(others)  # noqa: S311 - no secret
    shifted = dict(zip(others, others[1:] + others[:1], strict=True))
    return marks_of_answers([(plan.facts[shifted[fact]], reply) for fact, reply in answered])
