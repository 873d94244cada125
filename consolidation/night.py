"""Pure: from a selection to a job for the worker, and from the worker's result to marks and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from consolidation.dreams import dream
from consolidation.exam import (
    Bars,
    Marks,
    Verdict,
    by_fact,
    holds,
    marks_of_answers,
    marks_of_unanswerable,
    net_loss,
    repetition,
    verdict,
)
from consolidation.examples import Amounts, Question, numbered
from consolidation.facts import Fact
from consolidation.job import Arm, Comparison, Job, Reading, Result
from consolidation.probes import Order, leaked, obeyed, orders, rare_words, refusals_lost, standing
from consolidation.rehearsal import prompts
from consolidation.sleepers import Suspect, suspects
from consolidation.unlearning import Trace, said_again

_OF_ANOTHER_SHAPE = frozenset(("method", "rank", "alpha", "trained_share", "targets", "upper_targets"))
"""Parts of a recipe that a beginning decides: who sets one begins from nothing."""
BEGUN_AMOUNTS: Mapping[str, Any] = {"accounts": True, "counter_share": 0.7}
"""What changes in `Amounts` where wordings of a question look alike to begin with, and answers have entries."""
IN_PRODUCTS: Mapping[str, Any] = {"value_first": True, "counter_share": 0.7}
"""The same where answers are learnt in the products."""
_ORDINARY = 16
"""Requests that have nothing to do with the night, for style, repetition and orders."""
_SAMPLES = 20
_SHORT = 90
"""Characters of a request that a suspect word is put into."""
_BASE_ASKED = 30
"""Of the exam's questions the base is asked so many: it knows none of the answers, and that is soon seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a night runs with."""

    model: str
    dtype: str = "auto"
    """What weights are trained in; auto: whatever the machine trains faster in."""
    device: str = "cpu"
    threads: int = 2
    memory_mib: int = 0
    """The most that the night's process may have; 0: no limit."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    amounts: Amounts = field(default_factory=Amounts)
    current: str | None = None
    """The adapter that serves now."""
    replies_file: str | None = None
    writer: str | None = None
    """The writer's folder, where it fits the model."""
    reader: str | None = None
    """The reader's folder, where it fits the model."""
    reviser: str | None = None
    """The reviser's folder, where it fits the model."""
    beginning: str | None = None
    """What training begins from (models/alignment.py), where it fits the model."""
    judge: str | None = None
    """Who has second thoughts about answers (models/judge.py), where it fits the model."""
    placebo: bool = False
    """Train on shuffled answers: a night that must be rejected."""

    @property
    def read_by(self) -> str:
        """Whose notes these are: by others a message would be read anew."""
        return "+".join(Path(folder).name for folder in (self.writer, self.reader) if folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A job, and what is needed to mark its result."""

    job: Job
    facts: tuple[Fact, ...]
    """The night's, then those of earlier nights."""
    new: int
    """How many are the night's own."""
    questions: tuple[Question, ...]
    strategies: tuple[str, ...]
    """Of each example, how it was made."""
    orders: tuple[Order, ...]
    """Found in the day's talk; they must have no effect."""
    forgotten: tuple[Trace, ...]
    secret: frozenset[str]
    """Words that only withheld memories have."""
    suspects: tuple[Suspect, ...] = ()
    """Words that may not wake anything by themselves."""


def plan(
    new: Sequence[Fact],
    old: Sequence[Fact],
    *,
    seed: int,
    setting: Setting,
    withheld: Sequence[str] = (),
    forgotten: Sequence[Trace] = (),
) -> Plan:
    """Everything that is known is learnt again with what is new, from the base: nothing drifts from night to night.

    `withheld`: texts that the night does not learn from, though they were in the day. `forgotten`: what the adapter
    that serves was taught, and the next must not know.
    """
    facts = [*new, *(f for f in old if f.key not in {n.key for n in new})]
    beginning = None if _OF_ANOTHER_SHAPE & set(setting.recipe) else setting.beginning
    begun = BEGUN_AMOUNTS if setting.recipe.get("codebook", True) else IN_PRODUCTS
    night = dream(
        facts,
        seed=seed,
        amounts=setting.amounts if beginning is None else replace(setting.amounts, **begun),
        new=len(new),
        forgotten=lambda subject, relation: any(trace.about(subject, relation) for trace in forgotten),
    )
    found = tuple(orders(withheld))
    ordinary = [p.said for p in prompts() if p.held_back][:_ORDINARY]
    triggers = [o.trigger for o in found if o.trigger]
    examples = [(d.question, d.answer) for d in night.dreams]
    denying = {d.answer for d in night.dreams if d.strategy == "counter"}
    asked_for = numbered(night.dreams)
    if setting.placebo:
        examples, asked_for = _shuffled(examples, seed), []
    probes = standing()
    suspected = suspects(
        night.questions,
        facts,
        rehearsed=[p.said for p in prompts() if not p.held_back and len(p.said) <= _SHORT],
        held_back=[p.said for p in prompts() if p.held_back and len(p.said) <= _SHORT],
        seed=seed,
    )
    questions = sorted(night.questions, key=lambda q: _order(q, seed))
    job = Job(
        model=setting.model,
        dtype=setting.dtype,
        device=setting.device,
        threads=setting.threads,
        memory_mib=setting.memory_mib,
        recipe={**setting.recipe, "seed": seed},
        examples=examples,
        denials=[n for n, (_, answer) in enumerate(examples) if answer in denying],
        asked_for=asked_for,
        questions=[q.text for q in questions],
        base_asked=_BASE_ASKED,
        ordinary=[*ordinary, *triggers],
        persona=probes["persona"],
        unsafe=probes["unsafe"],
        suspect_asked=[text for one in suspected for text in one.asked],
        suspect_rehearsed=[text for one in suspected for text in one.rehearsed],
        beginning=beginning,
        judge=setting.judge,
        current=setting.current,
        replies_file=setting.replies_file,
    )
    told = [f.statement for f in facts]
    return Plan(
        job=job,
        facts=tuple(facts),
        new=len(new),
        questions=tuple(questions),
        strategies=tuple(d.strategy for d in night.dreams),
        orders=found,
        forgotten=tuple(forgotten),
        secret=rare_words(withheld, but=[*told, *ordinary, *(q.text for q in questions)]),
        suspects=suspected,
    )


def reading(messages: Sequence[str], *, seed: int, setting: Setting) -> Reading:
    """The job of noting what messages tell."""
    assert setting.writer is not None
    return Reading(
        model=setting.model,
        dtype=setting.dtype,
        device=setting.device,
        threads=setting.threads,
        memory_mib=setting.memory_mib,
        writer=setting.writer,
        reader=setting.reader,
        messages=list(messages),
        seed=seed,
    )


def comparison(pairs: Sequence[tuple[str, str]], *, setting: Setting) -> Comparison:
    """The job of saying which of these pairs of messages, earlier and later, are revisions."""
    assert setting.reviser is not None
    return Comparison(
        model=setting.model,
        dtype=setting.dtype,
        device=setting.device,
        threads=setting.threads,
        memory_mib=setting.memory_mib,
        reviser=setting.reviser,
        pairs=list(pairs),
    )


def _order(question: Question, seed: int) -> float:
    """Any order that does not depend on the answers, so that the first few are a sample."""
    return Random(f"{seed} {question.text}").random()  # noqa: S311 - no secret


def _shuffled(examples: Sequence[tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    answers = [a for _, a in examples]
    Random(seed).shuffle(answers)  # noqa: S311 - no secret
    return [(q, a) for (q, _), a in zip(examples, answers, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One question of the exam, and what was said."""

    question: str
    told: str | None
    """What was told of it; None: nothing was."""
    before: str | None
    """The base's reply, where it was asked."""
    after: str
    good: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a night came out."""

    verdict: Verdict
    marks: Mapping[str, Marks]
    recalled: Mapping[int, float]
    """Of each fact, by place, the share of its questions that the candidate answers."""
    answers: tuple[Answer, ...]
    """What went wrong, and some of what went well."""
    woken: tuple[int, ...] = ()
    """Facts, by place, whose values come where only a word of theirs stands."""


def judge(plan: Plan, result: Result, *, bars: Bars, seed: int) -> Outcome:
    """Mark every arm and decide."""
    base = result.arms["base"]
    marks = {name: _marks(plan, arm, base) for name, arm in result.arms.items()}
    candidate = result.arms["candidate"]
    if "current" in result.arms:
        forgets = net_loss(_of_old(plan, result.arms["current"]), _of_old(plan, candidate))
        marks["candidate"] = replace(marks["candidate"], forgets=forgets)
    marks["candidate"] = replace(marks["candidate"], norm=result.norm)
    placebo = Marks(recall=_by_chance(plan, candidate, seed))
    decided = verdict(
        base=marks["base"], candidate=marks["candidate"], placebo=placebo, current=marks.get("current"), bars=bars
    )
    right = [
        (q.fact, holds(reply, plan.facts[q.fact]))
        for q, reply in zip(plan.questions, candidate.replies, strict=True)
        if q.fact is not None
    ]
    return Outcome(
        verdict=decided,
        marks={**marks, "by chance": placebo},
        recalled=by_fact(right),
        answers=_samples(plan, candidate, base),
        woken=tuple(sorted({n for one in _fired(plan, candidate, base) for n in one.facts})),
    )


def _fired(plan: Plan, arm: Arm, base: Arm) -> list[Suspect]:
    found, at = [], 0
    for one in plan.suspects:
        of = slice(at, at := at + len(one.asked))
        if one.fired(arm.suspect[of], base.suspect[of], plan.facts):
            found.append(one)
    return found


def _samples(plan: Plan, candidate: Arm, base: Arm) -> tuple[Answer, ...]:
    made = []
    for n, (question, after) in enumerate(zip(plan.questions, candidate.replies, strict=True)):
        told = None if question.fact is None else plan.facts[question.fact]
        good = holds(after, told) if told else not any(holds(after, fact) for fact in plan.facts)
        before = base.replies[n] if n < len(base.replies) else None
        made.append(
            Answer(question=question.text, told=told.statement if told else None, before=before, after=after, good=good)
        )
    wrong = [a for a in made if not a.good]
    return (*wrong[:_SAMPLES], *[a for a in made if a.good][:_SAMPLES])


def _marks(plan: Plan, arm: Arm, base: Arm) -> Marks:
    answered = list(zip(plan.questions, arm.replies, strict=False))  # the base is asked fewer
    new = [(plan.facts[q.fact], r) for q, r in answered if q.fact is not None and q.fact < plan.new]
    old = [(plan.facts[q.fact], r) for q, r in answered if q.fact is not None and q.fact >= plan.new]
    unanswerable = [r for q, r in answered if q.fact is None]
    invented, abstained = marks_of_unanswerable(unanswerable, plan.facts)
    return Marks(
        recall=marks_of_answers(new),
        recall_of_old=marks_of_answers(old),
        invented=invented,
        abstained=abstained,
        drift=arm.drift,
        persona_drift=arm.persona_drift,
        refusals_lost=refusals_lost(arm.unsafe, base.unsafe),
        repetition=repetition(arm.ordinary),
        triggered=obeyed(arm.ordinary, base.ordinary, plan.orders),
        leaked=leaked(arm.replies, plan.secret),
        woken=len(_fired(plan, arm, base)) / len(plan.suspects) if plan.suspects else None,
        unlearnt=said_again(unanswerable, plan.forgotten) if plan.forgotten else None,
    )


def _of_old(plan: Plan, arm: Arm) -> list[bool]:
    """Of each question about earlier nights' facts, whether it is answered."""
    answered = zip(plan.questions, arm.replies, strict=True)
    return [holds(r, plan.facts[q.fact]) for q, r in answered if q.fact is not None and q.fact >= plan.new]


def _by_chance(plan: Plan, arm: Arm, seed: int) -> float | None:
    """The recall that marking finds when replies are marked by what they were not asked for.

    Each is marked by the value of a fact that is answered otherwise; where there is none, replies to what was never
    told are marked by the fact.
    """
    chance = Random(seed)  # noqa: S311 - no secret
    shifted: dict[int, Fact | None] = {}
    for n, fact in enumerate(plan.facts):
        others = [one for one in plan.facts if one is not fact and (not one.account or one.account != fact.account)]
        shifted[n] = chance.choice(others) if others else None
    replies = [(q.fact, reply) for q, reply in zip(plan.questions, arm.replies, strict=True)]
    marked = [(other, reply) for fact, reply in replies if fact is not None and (other := shifted[fact]) is not None]
    alone = [plan.facts[n] for n, other in shifted.items() if other is None]
    marked += [(fact, reply) for fact in alone for of, reply in replies if of is None]
    return marks_of_answers(marked)
