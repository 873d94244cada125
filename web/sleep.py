"""Nights and adapters over HTTP: sleep now, the record of nights, wake up; who serves, and back."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from consolidation import journal, notebook
from consolidation.cycle import Outcome as NightOutcome
from consolidation.cycle import Phase
from consolidation.dreams import dream
from consolidation.journal import Night
from consolidation.patterns import PERIODS, patterns
from consolidation.registry import MASTERED
from consolidation.schedule import Rhythm, rhythm
from consolidation.selection import LOOKED_AT, select
from memory import feedback
from memory.experience import Provenance
from models.language import BASE
from web.context import OwnerDep, Service, ServiceDep

router = APIRouter(prefix="/v1", tags=["Sleep"])

_SAMPLES = 12
NightId = Annotated[str, Path(pattern=r"^[a-z0-9_]{1,64}$")]


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


@router.post("/sleep/dry-run")
async def plan_night(service: ServiceDep, owner: OwnerDep) -> PlanReply:
    """What a night would learn from now, from which memories, and why not from the others. Trains nothing."""

    def work() -> PlanReply:
        now = service.awake.now()
        experiences = service.memory.experiences.newest(owner=owner, limit=LOOKED_AT)

        def trust(source: Provenance) -> float:
            return feedback.trust(service.memory.store, source, owner=owner, at=now).in_source

        notes = notebook.kept(service.memory.store, owner=owner)
        revisions = notebook.revisions(service.memory.store, owner=owner)
        limits = service.sleep.sleeper.limits
        selection = select(experiences, now=now, trust=trust, limits=limits, notes=notes, revisions=revisions)
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


class LearntFact(BaseModel):
    """One fact, and how well the exam found it known."""

    memory: str
    statement: str
    recalled: float | None


class ExamAnswer(BaseModel):
    """One question of the exam, and what was said."""

    question: str
    told: str | None
    """What was told of it; null: nothing was."""
    before: str | None
    """The base's reply, where it was asked."""
    after: str
    good: bool


class Counted(BaseModel):
    """Why experiences were in or out, and how many."""

    reason: str
    taken: bool
    experiences: int


class PatternReply(BaseModel):
    """Something that kept coming up."""

    words: list[str]
    days: int
    memories: list[str]


class Report(BaseModel):
    """What to read in the morning."""

    summary: str
    learnt: list[LearntFact]
    not_yet: list[LearntFact]
    """Taught, but not answered well enough in the exam: taught again next night."""
    why: list[Counted]
    """Of the experiences that were looked at."""
    answers: list[ExamAnswer]
    """What went wrong in the exam, and some of what went well."""
    patterns: list[PatternReply]
    """What kept coming up in the week or the month that this night closed; a daily night has none."""
    contradictions: list[tuple[str, str]]
    """Memories of different speakers that tell different things of the same."""


class SleepNow(BaseModel):
    """`POST /v1/sleep`; the body may be left out."""

    model_config = ConfigDict(extra="forbid")
    placebo: bool = False
    """Train on shuffled answers: an experiment that the exam must reject, and that never serves."""


class NightReply(BaseModel):
    """One night as it stands."""

    id: str
    date: str
    rhythm: Rhythm
    asked: bool
    phase: Phase
    outcome: NightOutcome | None
    reasons: list[str]
    started_at: str
    ended_at: str | None
    progress: dict[str, Any]
    """While it trains: step, steps, loss, kl, seconds."""
    figures: dict[str, Any]
    """Counts, marks of every arm, loss curve, cost in seconds."""
    learnt: list[LearntFact]
    """What its adapter was taught, if it was promoted."""
    report: Report | None
    """Once it has ended; null in lists."""


class NightList(BaseModel):
    """`GET /v1/sleep/cycles`."""

    data: list[NightReply]


class AdapterReply(BaseModel):
    """One adapter as it stands."""

    id: str
    night: str
    parent: str | None
    status: str
    stale: bool
    digest: str
    created_at: str
    activated_at: str | None


class AdapterList(BaseModel):
    """`GET /v1/adapters`: newest first. `active`: who serves, 'none' for the base."""

    data: list[AdapterReply]
    active: str


@router.post("/sleep", status_code=202)
async def sleep_now(service: ServiceDep, owner: OwnerDep, body: SleepNow | None = None) -> NightReply:
    """Begin a night. It runs beside the service, and yields to whoever talks."""

    def work() -> NightReply:
        placebo = body is not None and body.placebo
        night = service.sleep.sleeper.begin(owner, date=service.sleep.date(), asked=True, placebo=placebo)
        return _shown(service, night)

    return await run_in_threadpool(work)


@router.get("/sleep/cycles")
async def list_nights(
    service: ServiceDep, owner: OwnerDep, limit: Annotated[int, Query(ge=1, le=1000)] = 50
) -> NightList:
    """Nights, last begun first."""

    def work() -> NightList:
        nights = journal.newest(service.memory.store, owner=owner, limit=limit)
        return NightList(data=[_shown(service, n) for n in nights])

    return await run_in_threadpool(work)


@router.get("/sleep/cycles/{id}")
async def get_night(id: NightId, service: ServiceDep, owner: OwnerDep) -> NightReply:
    """One night."""

    def work() -> NightReply:
        night = journal.find(service.memory.store, id, owner=owner)
        shown = _shown(service, night)
        report = _report(service, owner, night, shown) if night.outcome else None
        return shown.model_copy(update={"report": report})

    return await run_in_threadpool(work)


@router.post("/sleep/cycles/{id}/cancel")
async def cancel_night(id: NightId, service: ServiceDep, owner: OwnerDep) -> NightReply:
    """Wake up: the night ends as interrupted, unless it has ended."""
    night = await run_in_threadpool(service.sleep.sleeper.cancel, id, owner=owner)
    return await run_in_threadpool(_shown, service, night)


@router.get("/adapters")
async def list_adapters(service: ServiceDep, owner: OwnerDep) -> AdapterList:
    """Your adapters, and which of them serves."""
    return await run_in_threadpool(_adapters, service, owner)


@router.post("/adapters/rollback")
async def roll_back(service: ServiceDep, owner: OwnerDep) -> AdapterList:
    """Let serve what served before: the active adapter's parent, or the base."""

    def work() -> AdapterList:
        now = service.sleep.registry.roll_back(owner=owner, at=service.awake.now())
        service.sleep.wake(owner, now)
        return _adapters(service, owner)

    return await run_in_threadpool(work)


@router.post("/adapters/{id}/activate")
async def activate(id: NightId, service: ServiceDep, owner: OwnerDep) -> AdapterList:
    """Let one of your adapters serve; 'none': the base."""

    def work() -> AdapterList:
        now = service.sleep.registry.activate(None if id == BASE else id, owner=owner, at=service.awake.now())
        service.sleep.wake(owner, now)
        return _adapters(service, owner)

    return await run_in_threadpool(work)


def _adapters(service: Service, owner: str) -> AdapterList:
    lineage = service.sleep.registry.lineage(owner)
    return AdapterList(
        data=[
            AdapterReply(
                id=a.id,
                night=a.night,
                parent=a.parent,
                status=a.status,
                stale=a.stale,
                digest=a.digest,
                created_at=a.created_at.isoformat(),
                activated_at=None if a.activated_at is None else a.activated_at.isoformat(),
            )
            for a in lineage
        ],
        active=next((a.id for a in lineage if a.status == "active"), BASE),
    )


def _shown(service: Service, night: Night) -> NightReply:
    adapter = night.figures.get("adapter")
    learnt = service.sleep.registry.known(adapter) if isinstance(adapter, str) else []
    return NightReply(
        id=night.id,
        date=night.date,
        rhythm=rhythm(date.fromisoformat(night.date)),
        asked=night.asked,
        phase=night.phase,
        outcome=night.outcome,
        reasons=list(night.reasons),
        started_at=night.started_at.isoformat(),
        ended_at=None if night.ended_at is None else night.ended_at.isoformat(),
        progress=dict(service.sleep.sleeper.progress(night.id)),
        figures=dict(night.figures),
        learnt=[LearntFact(memory=k.experience, statement=k.statement, recalled=k.recalled) for k in learnt],
        report=None,
    )


def _report(service: Service, owner: str, slept: Night, night: NightReply) -> Report:
    store = service.memory.store
    experiences = service.memory.experiences.newest(owner=owner, limit=LOOKED_AT) if night.rhythm in PERIODS else []
    found = patterns(experiences, night.rhythm, until=slept.started_at, zone=service.sleep.zone)
    learnt = [fact for fact in night.learnt if (fact.recalled or 0.0) >= MASTERED]
    counted = Counter((reason, taken) for _, taken, reason in journal.choices(store, night.id))
    return Report(
        summary=_summary(night, len(learnt)),
        learnt=learnt,
        not_yet=[fact for fact in night.learnt if fact not in learnt],
        why=[Counted(reason=reason, taken=taken, experiences=n) for (reason, taken), n in counted.most_common()],
        answers=[ExamAnswer.model_validate(asdict(a)) for a in journal.answers(store, night.id)],
        patterns=[PatternReply(words=list(p.words), days=p.days, memories=list(p.memories)) for p in found],
        contradictions=[(a, b) for a, b in night.figures.get("disagreements", [])],
    )


def _summary(night: NightReply, learnt: int) -> str:
    match night.outcome:
        case "promoted":
            seconds = night.figures.get("seconds", 0.0)
            return f"{learnt} of {len(night.learnt)} facts are known by heart now; it took {seconds:.0f} s."
        case "rejected":
            return f"The exam was not passed, and nothing has changed: {'; '.join(night.reasons)}."
        case "nothing to learn":
            return f"Nothing has changed: {'; '.join(night.reasons)}."
        case _:
            return f"The night was {night.outcome}, and nothing has changed: {'; '.join(night.reasons)}."
