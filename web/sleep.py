"""Nights over HTTP. So far only what one would learn; see docs/sleep.md."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from consolidation.dreams import dream
from consolidation.selection import select
from memory import feedback
from memory.experience import Provenance
from web.context import OwnerDep, ServiceDep

router = APIRouter(prefix="/v1/sleep", tags=["Sleep"])

_LOOKED_AT = 2000
"""The latest experiences that a night chooses from."""
_SAMPLES = 12


class PlannedFact(BaseModel):
    """One fact that a night would learn."""

    subject: str
    relation: str
    value: str
    statement: str
    memory: str
    priority: float


class PlannedChoice(BaseModel):
    """Whether an experience is learnt from, and why."""

    memory: str
    taken: bool
    reason: str


class Example(BaseModel):
    """One training example."""

    question: str
    answer: str
    strategy: str


class PlanReply(BaseModel):
    """`POST /v1/sleep/dry-run`."""

    facts: list[PlannedFact]
    choices: list[PlannedChoice]
    examples: dict[str, int]
    """How many, by strategy."""
    samples: list[Example]
    exam: list[str]
    """Some of the questions of the exam; none of them is trained on."""


@router.post("/dry-run")
async def plan_night(service: ServiceDep, owner: OwnerDep) -> PlanReply:
    """What a night would learn from now, from which memories, and why not from the others. Trains nothing."""

    def work() -> PlanReply:
        now = service.awake.now()
        experiences = service.memory.experiences.newest(owner=owner, limit=_LOOKED_AT)

        def trust(source: Provenance) -> float:
            return feedback.trust(service.memory.store, source, owner=owner, at=now).in_source

        selection = select(experiences, now=now, trust=trust)
        night = dream([s.fact for s in selection.facts], seed=now.toordinal()) if selection.facts else None
        dreams = () if night is None else night.dreams
        return PlanReply(
            facts=[
                PlannedFact(
                    subject=s.fact.subject,
                    relation=s.fact.relation,
                    value=s.fact.value,
                    statement=s.fact.statement,
                    memory=s.experience.id,
                    priority=round(s.priority, 4),
                )
                for s in selection.facts
            ],
            choices=[PlannedChoice(memory=c.experience, taken=c.taken, reason=c.reason) for c in selection.choices],
            examples=dict(Counter(d.strategy for d in dreams)),
            samples=[Example(question=d.question, answer=d.answer, strategy=d.strategy) for d in dreams[:_SAMPLES]],
            exam=[] if night is None else [q.text for q in night.questions[:_SAMPLES]],
        )

    return await run_in_threadpool(work)
