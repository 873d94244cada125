"""Our own surface: sessions, their transcripts, and turns in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from agent.prompt import window_of
from agent.turn import TurnRequest
from memory.ids import new_id
from memory.transcripts import Entry
from models.language import Message
from web import replies
from web.context import OwnerDep, Service, ServiceDep
from web.errors import ApiError, api_error
from web.openai import IdempotencyKey, finished, start_turn
from web.schemas import (
    Deleted,
    NewSession,
    SessionDetail,
    SessionList,
    SessionSummary,
    SlowwaveOptions,
    TurnBody,
    TurnReply,
)
from web.turns import PING, STREAMED, EventStream, RunningTurn, event

router = APIRouter(prefix="/v1/sessions", tags=["Sessions"])

SessionId = Annotated[str, Path(pattern=r"^sess_[0-9a-z]{26}$", description="As `POST /v1/sessions` gave it.")]


@router.post("", status_code=201)
async def create_session(service: ServiceDep, owner: OwnerDep, body: NewSession | None = None) -> SessionSummary:
    """Begin a session."""
    at = service.awake.now()
    session = new_id("sess", at)
    model = service.awake.engine.model

    def work() -> SessionSummary:
        entries = []
        if body is not None and body.system:
            ids = tuple(model.chat_ids([Message(role="system", content=body.system)], reply=False) or ())
            entries = [Entry(id=new_id("msg", at), role="system", content=body.system, token_ids=ids, created_at=at)]
        transcripts = service.awake.transcripts
        transcripts.create(session, owner=owner, tokenizer=model.card.tokenizer, entries=entries, at=at)
        return replies.session_summary(transcripts.session(session, owner=owner))

    return await run_in_threadpool(work)


@router.get("")
async def list_sessions(
    service: ServiceDep,
    owner: OwnerDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[str | None, Query(pattern=r"^sess_[0-9a-z]{26}$", description="Page on from this one.")] = None,
) -> SessionList:
    """One's own sessions, last changed first."""
    rows = await run_in_threadpool(service.awake.transcripts.sessions, owner=owner, limit=limit + 1, before=before)
    suspended = service.checkpoints.suspended
    shown = [replies.session_summary(r, suspended=suspended(r.id, owner=owner)) for r in rows[:limit]]
    return SessionList(data=shown, has_more=len(rows) > limit)


@router.get("/{session}")
async def get_session(session: SessionId, service: ServiceDep, owner: OwnerDep) -> SessionDetail:
    """A session with its transcript."""

    def work() -> SessionDetail:
        row = service.awake.transcripts.session(session, owner=owner)
        entries = service.awake.transcripts.entries(session)
        return replies.session_detail(
            row,
            entries,
            len(window_of(entries).token_ids),
            suspended=service.checkpoints.suspended(session, owner=owner),
            unfinished=service.awake.transcripts.unfinished(session) is not None,
        )

    return await run_in_threadpool(work)


@router.delete("/{session}")
async def delete_session(session: SessionId, service: ServiceDep, owner: OwnerDep) -> Deleted:
    """Remove a session and its transcript."""

    def work() -> None:
        with service.awake.leases.hold(session):
            service.awake.transcripts.delete(session, owner=owner)
            service.checkpoints.drop(session, owner=owner)

    await run_in_threadpool(work)
    return Deleted(id=session)


@router.post("/{session}/fork", status_code=201)
async def fork_session(session: SessionId, service: ServiceDep, owner: OwnerDep) -> SessionSummary:
    """A new session that begins as all of this one, and shares what has been read of it."""
    at = service.awake.now()
    child = new_id("sess", at)

    def work() -> SessionSummary:
        service.awake.transcripts.fork(session, session=child, owner=owner, at=at)
        service.checkpoints.share(session, to=child, owner=owner)
        return replies.session_summary(service.awake.transcripts.session(child, owner=owner))

    return await run_in_threadpool(work)


@router.post(
    "/{session}/turns",
    response_model=TurnReply,
    responses=STREAMED,
)
async def take_session_turn(
    session: SessionId,
    body: TurnBody,
    request: Request,
    service: ServiceDep,
    owner: OwnerDep,
    idempotency_key: IdempotencyKey = None,
) -> Response | TurnReply:
    """Say something in a session. With `stream`, events `delta` (a piece of text), then `done` (the whole reply)."""
    options = body.slowwave or SlowwaveOptions()
    if options.session not in (None, session):
        raise ApiError(400, f"slowwave.session is not the session in the path, {session!r}.", param="slowwave.session")
    asked = TurnRequest(
        owner=owner,
        messages=(Message(role="user", content=body.content),),
        session=session,
        max_tokens=body.max_tokens or service.defaults.max_tokens,
        sampling=body.sampling(service.defaults),
        stop=body.stops(),
        ignore_eos=bool(body.ignore_eos),
        idempotency_key=idempotency_key,
        request_digest=body.digest(session),
        recall=options.recall is not False,
        remember=options.remember is not False,
        abstain=options.abstain is not False,
        adapter=service.sleep.adapter_asked_for(options.adapter, owner),
        persona=options.variables(),
        keep_partial=bool(body.stream),
    )
    running = await start_turn(service, asked)
    if body.stream:
        return EventStream(turn_events(service, running), running.cancel)
    return replies.turn_reply(finished(service, await running.wait(request)))


async def turn_events(service: Service, running: RunningTurn) -> AsyncIterator[bytes]:
    """A turn as server-sent events: its ids, its pieces, all of it."""
    yield event({"turn": running.turn, "session": running.session}, name="start")
    try:
        if running.result is not None:  # taken earlier, under the same idempotency key
            yield event({"text": running.result.text}, name="delta")
        async for delta in running.deltas():
            if delta is None:
                yield PING
            elif delta.text:
                yield event({"text": delta.text}, name="delta")
        assert running.result is not None
        yield event(replies.turn_reply(finished(service, running.result)).model_dump(), name="done")
    except Exception as error:
        yield event(api_error(error).body(), name="error")
