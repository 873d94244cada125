"""Memories over HTTP: teach, import, export, search with reasons, why not, verify, pin, release, forget; feedback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from agent.recollection import reasons_of
from consolidation.unlearning import mark_stale
from memory import feedback
from memory.errors import ImportRefused
from memory.experience import Experience, Offer, Outcome, Provenance
from memory.forgetting import forget, receipts
from memory.ids import new_id
from memory.recall import Hit
from web.context import OwnerDep, Service, ServiceDep
from web.memory_schemas import (
    MEMORY_ID,
    Changes,
    FeedbackBody,
    FeedbackReply,
    ImportReply,
    Memory,
    MemoryDetail,
    MemoryList,
    MemoryRecord,
    ReceiptList,
    ReceiptReply,
    SalienceReply,
    Taught,
    Teach,
    Trust,
    Verified,
    WhyNotReply,
    Wording,
)

router = APIRouter(prefix="/v1", tags=["Memory"])

JSON_LINES_SCHEMA = {"schema": {"type": "string"}}
JSON_LINES: dict[str, Any] = {"application/x-ndjson": JSON_LINES_SCHEMA}
MemoryId = Annotated[str, Path(pattern=MEMORY_ID, description="As `POST /v1/memories` gave it, or as it was given.")]
AsOf = Annotated[datetime | None, Query(description="Search memory as it was at this time.")]
K = Annotated[int, Query(ge=1, le=1000, description="How many.")]


@router.post("/memories", status_code=201)
async def teach(body: Teach, service: ServiceDep, owner: OwnerDep) -> Taught:
    """Teach one thing. What says the same as a memory is merged with it: `deduped` is true, `id` the kept one."""
    at = service.awake.now()
    offer = Offer(
        id=body.id or new_id("mem", at),
        text=body.text,
        at=_moment(body.at) or at,
        provenance=Provenance(speaker=body.speaker, session=body.session, channel="taught"),
        merge=body.session is None or body.id is None,
    )

    def work() -> Taught:
        outcome = service.memory.experiences.add([offer], owner=owner)[0]
        if body.supersedes is not None and outcome.id is not None:
            service.memory.experiences.supersede(body.supersedes, outcome.id, owner=owner)
        service.memory.recall.refresh(owner, [id for id in (outcome.replaced, body.supersedes) if id is not None])
        service.memory.nudge()
        return _taught(outcome)

    return await run_in_threadpool(work)


@router.post(
    "/memories/import",
    openapi_extra={"requestBody": {"required": True, "content": JSON_LINES | {"text/plain": JSON_LINES_SCHEMA}}},
)
async def import_memories(request: Request, service: ServiceDep, owner: OwnerDep) -> ImportReply:
    """Take in JSON lines as `export` gives them: all or, if a line is wrong, none."""
    body = await request.body()

    def work() -> ImportReply:
        records = [r for n, line in enumerate(body.split(b"\n"), 1) if (r := _record(n, line, service)) is not None]
        outcomes = service.memory.experiences.take_in(records, owner=owner)
        service.memory.recall.refresh(owner, [o.replaced for o in outcomes if o.replaced is not None])
        service.memory.nudge()
        counts: dict[str, int] = {}
        for outcome in outcomes:
            counts[outcome.fate] = counts.get(outcome.fate, 0) + 1
        return ImportReply(lines=len(records), fates=counts)

    return await run_in_threadpool(work)


@router.get(
    "/memories/export",
    response_class=StreamingResponse,
    responses={200: {"content": JSON_LINES}},
)
async def export_memories(service: ServiceDep, owner: OwnerDep) -> StreamingResponse:
    """All memories as JSON lines, oldest first. Imported elsewhere and exported again, they are the same bytes."""

    def lines() -> Iterator[str]:
        for record in service.memory.experiences.export(owner=owner):
            yield json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.get("/memories")
async def search_memories(
    service: ServiceDep,
    owner: OwnerDep,
    query: Annotated[str | None, Query(max_length=4096, description="None: list the newest.")] = None,
    k: K = 10,
    at: AsOf = None,
    before: Annotated[str | None, Query(pattern=MEMORY_ID, description="List those recorded earlier.")] = None,
    quarantined: Annotated[bool | None, Query(description="List only those that are, or are not.")] = None,
) -> MemoryList:
    """Search, each hit with its reasons, or list. Changes no count."""

    def work() -> MemoryList:
        if query is not None and query.strip():
            hits = service.memory.recall.search(query, owner=owner, k=k, as_of=_moment(at))
            return MemoryList(data=[found(hit) for hit in hits], has_more=False)
        rows = service.memory.experiences.newest(owner=owner, limit=k + 1, before=before, quarantined=quarantined)
        return MemoryList(data=[shown(one) for one in rows[:k]], has_more=len(rows) > k)

    return await run_in_threadpool(work)


@router.get("/memories/{id}")
async def get_memory(id: MemoryId, service: ServiceDep, owner: OwnerDep) -> MemoryDetail:
    """One memory, the other wordings of it, and how far its source is believed."""

    def work() -> MemoryDetail:
        one = service.memory.experiences.get(id, owner=owner)
        believed = feedback.trust(service.memory.store, one.provenance, owner=owner, at=service.awake.now())
        return MemoryDetail(
            **shown(one).model_dump(),
            trust=round(believed.in_source, 4),
            trust_in_entity=round(believed.in_entity, 4),
            wordings=[
                Wording(id=i, text=text, at=at.isoformat())
                for i, text, at in service.memory.experiences.wordings(one.id, owner=owner)
            ],
        )

    return await run_in_threadpool(work)


@router.patch("/memories/{id}")
async def change_memory(id: MemoryId, body: Changes, service: ServiceDep, owner: OwnerDep) -> Memory:
    """Pin or unpin; keep it out of the nights; release from quarantine.

    The text never changes: teach a new one that `supersedes` it. What becomes private and was learnt is unlearnt.
    """

    def work() -> Memory:
        if body.private:
            service.sleep.sleeper.interrupt(owner, "something became private; the next night does not learn it")
        one = service.memory.experiences.mark(
            id,
            owner=owner,
            pinned=body.pinned,
            private=body.private,
            release=body.quarantined is False,
            unlearn=lambda db, events: mark_stale(db, owner, events),
        )
        service.memory.recall.refresh(owner, [one.id])
        return shown(one)

    return await run_in_threadpool(work)


@router.delete("/memories/{id}")
async def forget_memory(id: MemoryId, service: ServiceDep, owner: OwnerDep) -> ReceiptReply:
    """Forget for good. The receipt lists all that was reached."""

    def work() -> ReceiptReply:
        service.sleep.sleeper.interrupt(owner, "something was forgotten meanwhile; the next night does not know it")

        def drop_states(of: str) -> int:
            if service.memory.aside.exists():
                shutil.rmtree(service.memory.aside)
            return service.awake.engine.drop_states(of) + service.checkpoints.drop_all(of) + service.backups.drop()

        receipt = forget(
            service.memory.store,
            id,
            owner=owner,
            at=service.awake.now(),
            drop_states=drop_states,
            files=service.memory.files,
            underway=service.awake.underway,
            also=lambda db, events: mark_stale(db, owner, events),
        )
        service.memory.recall.drop(owner)
        return ReceiptReply.model_validate(receipt, from_attributes=True)

    return await run_in_threadpool(work)


@router.get("/memories/{id}/why-not")
async def why_not(
    id: MemoryId,
    service: ServiceDep,
    owner: OwnerDep,
    query: Annotated[str, Query(min_length=1, max_length=4096)],
    k: K = 10,
    at: AsOf = None,
) -> WhyNotReply:
    """Why a memory is not among the `k` best for a question. Changes no count."""

    def work() -> WhyNotReply:
        reason = service.memory.recall.why_not(id, query, owner=owner, k=k, as_of=_moment(at))
        return WhyNotReply.model_validate(reason, from_attributes=True)

    return await run_in_threadpool(work)


@router.post("/memories/{id}/verify")
async def verify_memory(id: MemoryId, body: Verified, service: ServiceDep, owner: OwnerDep) -> Trust:
    """Say that a memory proved true or false: it moves the trust in its source."""
    at = service.awake.now()
    believed = await run_in_threadpool(feedback.confirm, service.memory.store, id, body.true, owner=owner, at=at)
    return Trust(
        source=believed.source,
        trust=round(believed.in_source, 4),
        entity=believed.entity,
        trust_in_entity=round(believed.in_entity, 4),
    )


@router.get("/receipts")
async def list_receipts(service: ServiceDep, owner: OwnerDep) -> ReceiptList:
    """What was forgotten, and what that reached; newest first."""
    rows = await run_in_threadpool(receipts, service.memory.store, owner=owner)
    return ReceiptList(data=rows)


@router.post("/feedback")
async def give_feedback(body: FeedbackBody, service: ServiceDep, owner: OwnerDep) -> FeedbackReply:
    """Say how good a turn was, in [-1, 1]; a later word replaces an earlier one."""
    at, moods = service.awake.now(), service.awake.moods

    def work() -> list[str]:
        feel = moods.rating(owner, body.turn, body.reward, at) if moods else lambda db: None
        return feedback.rate(service.memory.store, body.turn, body.reward, owner=owner, at=at, also=feel)

    ids = await run_in_threadpool(work)
    return FeedbackReply(turn=body.turn, reward=body.reward, memories=ids)


def shown(one: Experience) -> Memory:
    """A memory as it is listed."""
    where, salience = one.provenance, one.salience
    return Memory(
        id=one.id,
        text=one.text,
        speaker=where.speaker,
        session=where.session,
        at=one.at.isoformat(),
        channel=where.channel,
        author=where.author,
        turn=where.turn,
        copies=one.copies,
        pinned=one.pinned,
        private=one.private,
        quarantined=one.quarantined,
        superseded_by=one.superseded_by,
        accesses=one.accesses,
        salience=None if salience is None else SalienceReply.model_validate(salience, from_attributes=True),
    )


def found(hit: Hit) -> Memory:
    """A memory as it is found, with its reasons."""
    return shown(hit.experience).model_copy(update={"score": hit.score, "rank": hit.rank, "reasons": reasons_of(hit)})


def _taught(outcome: Outcome) -> Taught:
    return Taught(
        id=outcome.id,
        fate=outcome.fate,
        deduped=outcome.fate in ("known", "merged", "echo"),
        reason=outcome.reason,
        replaced=outcome.replaced,
    )


def _record(number: int, line: bytes, service: Service) -> dict[str, Any] | None:
    """One line of an import, or None for an empty one."""
    if not line.strip():
        return None
    try:
        record = MemoryRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ImportRefused(number, f"{where}: {first['msg']}" if where else str(first["msg"])) from error
    at = service.awake.now()
    moment = _moment(record.at) or at
    return record.model_dump(exclude_none=True) | {"id": record.id or new_id("mem", at), "at": moment.isoformat()}


def _moment(given: datetime | None) -> datetime | None:
    """A time with its zone; without one, it is UTC."""
    return given if given is None or given.tzinfo is not None else given.replace(tzinfo=UTC)
