"""Sessions that are put away, brought back, sent and received: suspend, resume, export, import.

A body of bytes is never held in memory: it goes to a file of its owner's as it comes, and is looked at there.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from agent.going_on import go_on, unfinished_in
from agent.moving import Imported, Seen
from models.kv_codec import Codec
from models.state_file import MOST_HEADER, BrokenStateFile, header_bytes, inspect
from web import replies
from web.checkpoint_schemas import (
    CheckpointEvent,
    CheckpointEvents,
    ImportReply,
    LookReply,
    NewUpload,
    ResumeBody,
    ResumeReply,
    SuspendReply,
    UploadReply,
)
from web.context import OwnerDep, Service, ServiceDep
from web.errors import ApiError
from web.openai import finished, start
from web.schemas import Deleted
from web.sessions import SessionId, turn_events
from web.turns import STREAMED, EventStream, RunningTurn, event

router = APIRouter(prefix="/v1", tags=["Checkpoints"])

OCTETS = "application/octet-stream"
_BYTES_IN: dict[str, Any] = {
    "requestBody": {"required": True, "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
}
UploadId = Annotated[str, "As `POST /v1/checkpoints/uploads` gave it."]
_UPLOAD = re.compile(r"upl_[0-9a-f]{32}")


@router.post("/sessions/{session}/suspend")
async def suspend_session(session: SessionId, service: ServiceDep, owner: OwnerDep) -> SuspendReply:
    """Put what has been read of a session into a file, and free its memory. Its next turn brings it back by itself.

    A reply that is being written stops between two tokens, and goes on with `resume`.
    """

    def work() -> SuspendReply:
        awake = service.awake
        awake.running.suspend(session, owner=owner, patience=awake.patience)
        with awake.leases.hold(session, patience=awake.patience):
            done = service.checkpoints.suspend(session, owner=owner)
            unfinished = awake.transcripts.unfinished(session) is not None
        return SuspendReply(
            session=session,
            state="suspended" if done.tokens else "open",
            tokens=done.tokens,
            bytes=done.nbytes,
            codec=done.codec,
            unfinished=unfinished,
            seconds=round(done.seconds, 6),
        )

    return await run_in_threadpool(work)


@router.post(
    "/sessions/{session}/resume",
    response_model=ResumeReply,
    responses=STREAMED,
)
async def resume_session(
    session: SessionId, request: Request, service: ServiceDep, owner: OwnerDep, body: ResumeBody | None = None
) -> Response | ResumeReply:
    """Bring a session's state back, and say how: exact, converted, rebuilt (read anew). An unfinished reply goes on.

    With `stream`, events `resumed`, `delta` (a piece of text), then `done` (the whole reply).
    """
    asked = body or ResumeBody()

    def work() -> ResumeReply:
        awake = service.awake
        awake.transcripts.session(session, owner=owner)
        with awake.leases.hold(session, patience=awake.patience):
            done = service.checkpoints.resume(session, owner=owner)
        unfinished = awake.transcripts.unfinished(session) is not None
        return replies.resume_reply(session, done, unfinished=unfinished)

    resumed = await run_in_threadpool(work)
    if not (asked.go_on and resumed.unfinished):
        return resumed
    await run_in_threadpool(unfinished_in, service.awake, session, owner=owner)
    take = partial(go_on, service.awake, session, owner=owner, changes=asked.changes(), persona=asked.persona)
    running = await start(service, take)
    if asked.stream:
        return EventStream(_resumed_events(service, resumed, running), running.cancel)
    reply = replies.turn_reply(finished(service, await running.wait(request)))
    return resumed.model_copy(update={"reply": reply, "unfinished": reply.finish_reason not in ("stop", "length")})


async def _resumed_events(service: Service, resumed: ResumeReply, running: RunningTurn) -> AsyncIterator[bytes]:
    yield event(resumed.model_dump(), name="resumed")
    async for one in turn_events(service, running):
        yield one


@router.get("/sessions/{session}/checkpoints")
async def list_checkpoints(session: SessionId, service: ServiceDep, owner: OwnerDep) -> CheckpointEvents:
    """What became of a session's state: suspended, resumed, exported, imported, evicted; the newest last."""

    def work() -> CheckpointEvents:
        service.awake.transcripts.session(session, owner=owner)
        return CheckpointEvents(data=[CheckpointEvent.of(one) for one in service.checkpoint_log(session)])

    return await run_in_threadpool(work)


@router.get(
    "/sessions/{session}/checkpoint",
    response_class=FileResponse,
    responses={200: {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}},
)
async def export_session(
    session: SessionId,
    service: ServiceDep,
    owner: OwnerDep,
    codec: Annotated[
        Codec, Query(description="How keys and values are written; docs/checkpoint-format.md.")
    ] = "lossless",
) -> FileResponse:
    """All of a session in one file, for another machine. Ranges may be asked for; the ETag is the file's seal."""

    def work() -> tuple[Path, str]:
        awake = service.awake
        awake.running.suspend(session, owner=owner, patience=awake.patience)
        with awake.leases.hold(session, patience=awake.patience):
            path = service.moving.export(session, owner=owner, codec=codec)
        return path, inspect(path).seal

    path, seal = await run_in_threadpool(work)
    headers = {"ETag": f'"{seal}"', "Cache-Control": "no-store"}
    return FileResponse(path, media_type=OCTETS, filename=f"{session}.slowwave", headers=headers)


@router.post("/checkpoints", status_code=201, openapi_extra=_BYTES_IN)
async def import_session(request: Request, service: ServiceDep, owner: OwnerDep) -> ImportReply:
    """Take in a session that was exported, here or elsewhere. Refused with the reason before anything changes."""
    path = _new_upload(service, owner)
    try:
        await _receive(request, service, owner, path, offset=0, total=_length(request))
        return _imported(await run_in_threadpool(service.moving.take_in, path, owner=owner))
    except BrokenStateFile as error:
        raise _broken(error) from error
    finally:
        path.unlink(missing_ok=True)


@router.post("/checkpoints/look", openapi_extra=_BYTES_IN)
async def look_at_checkpoint(
    request: Request,
    service: ServiceDep,
    owner: OwnerDep,
    bytes_in_all: Annotated[int, Query(alias="bytes", ge=0, le=1 << 48, description="Of the whole file.")],
) -> LookReply:
    """What a file says of itself, and what would become of it here, by its beginning. Nothing changes."""
    beginning = bytearray()
    async for piece in request.stream():
        beginning += piece[: MOST_HEADER + 8 - len(beginning)]

    def work() -> Seen:
        return service.moving.look(bytes(beginning), bytes_in_all, owner=owner)

    try:
        return LookReply.of(await run_in_threadpool(work))
    except BrokenStateFile as error:
        raise _broken(error) from error


@router.post("/checkpoints/uploads", status_code=201)
async def begin_upload(body: NewUpload, service: ServiceDep, owner: OwnerDep) -> UploadReply:
    """Begin to send a file in pieces, so that a broken connection costs one piece."""
    if body.bytes > service.most_checkpoint_bytes:
        raise _too_large(service)
    path = _new_upload(service, owner)
    path.with_suffix(".size").write_text(str(body.bytes))
    path.touch(mode=0o600)
    return UploadReply(upload=path.stem, offset=0, bytes=body.bytes)


@router.get("/checkpoints/uploads/{upload}")
async def get_upload(upload: UploadId, service: ServiceDep, owner: OwnerDep) -> UploadReply:
    """How much of an upload is here: go on from `offset`."""
    path, size = _upload(service, owner, upload)
    return UploadReply(upload=upload, offset=path.stat().st_size, bytes=size)


@router.patch("/checkpoints/uploads/{upload}", openapi_extra=_BYTES_IN)
async def send_piece(
    upload: UploadId,
    request: Request,
    service: ServiceDep,
    owner: OwnerDep,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0, description="Where this piece belongs.")],
) -> UploadReply:
    """The next piece of an upload. What came before a connection broke is kept."""
    path, size = _upload(service, owner, upload)
    here = path.stat().st_size
    if offset != here:
        raise ApiError(409, f"{here} bytes of this upload are here; go on from there.", code="wrong_offset")
    try:
        await _receive(request, service, owner, path, offset=offset, total=size)
    except BrokenStateFile as error:
        path.unlink(missing_ok=True)
        raise _broken(error) from error
    return UploadReply(upload=upload, offset=path.stat().st_size, bytes=size)


@router.post("/checkpoints/uploads/{upload}/import", status_code=201)
async def import_upload(upload: UploadId, service: ServiceDep, owner: OwnerDep) -> ImportReply:
    """Take in the session whose file is here whole."""
    path, size = _upload(service, owner, upload)
    if path.stat().st_size != size:
        raise ApiError(409, f"{path.stat().st_size} of {size} bytes are here; send the rest.", code="upload_incomplete")
    try:
        done = await run_in_threadpool(service.moving.take_in, path, owner=owner)
    except BrokenStateFile as error:
        raise _broken(error) from error
    path.with_suffix(".size").unlink(missing_ok=True)
    return _imported(done)


@router.delete("/checkpoints/uploads/{upload}")
async def end_upload(upload: UploadId, service: ServiceDep, owner: OwnerDep) -> Deleted:
    """Throw away what came of an upload."""
    path, _ = _upload(service, owner, upload)
    path.unlink(missing_ok=True)
    path.with_suffix(".size").unlink(missing_ok=True)
    return Deleted(id=upload)


def _new_upload(service: Service, owner: str) -> Path:
    folder = service.checkpoints.uploads(owner)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"upl_{secrets.token_hex(16)}"


def _upload(service: Service, owner: str, upload: str) -> tuple[Path, int]:
    path = service.checkpoints.uploads(owner) / upload
    if not _UPLOAD.fullmatch(upload) or not path.exists():
        raise ApiError(404, f"There is no upload {upload!r}.", param="upload", code="upload_not_found")
    return path, int(path.with_suffix(".size").read_text())


async def _receive(
    request: Request, service: Service, owner: str, path: Path, *, offset: int, total: int | None
) -> None:
    """Append the request's body to a file, and look at its header as soon as that is here: what will be refused need
    not be sent to its end.

    Raises:
        BrokenStateFile: it is none.
        ApiError: it is refused, or too large.
    """
    most = service.most_checkpoint_bytes if total is None else total
    if most > service.most_checkpoint_bytes:
        raise _too_large(service)
    looked = False
    with open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        size = offset
        async for piece in request.stream():
            if size + len(piece) > most:
                file.flush()
                raise (
                    _too_large(service)
                    if total is None
                    else ApiError(400, f"More than the {total} bytes that were named.", code="body_too_long")
                )
            await run_in_threadpool(file.write, piece)
            size += len(piece)
            if not looked and size >= 8:
                file.flush()
                looked = _looked(service, owner, path, size, total)
        file.flush()
    if total is not None and not looked and size >= 8:
        _looked(service, owner, path, size, total)


def _looked(service: Service, owner: str, path: Path, size: int, total: int | None) -> bool:
    """Whether the header was here to be looked at."""
    with path.open("rb") as file:
        wanted = header_bytes(file.read(8))
        if size < wanted or total is None:
            return False
        file.seek(0)
        seen = service.moving.look(file.read(wanted), total, owner=owner)
    if seen.refused:
        raise ApiError(403, f"The file is not taken in: {seen.refused}.", code="checkpoint_refused")
    return True


def _length(request: Request) -> int | None:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _broken(error: BrokenStateFile) -> ApiError:
    return ApiError(400, f"This file is not taken in: {error}.", code="checkpoint_broken")


def _too_large(service: Service) -> ApiError:
    most = service.most_checkpoint_bytes
    return ApiError(413, f"The file is larger than {most} bytes, the most that is taken in.", code="body_too_large")


def _imported(done: Imported) -> ImportReply:
    return ImportReply(
        session=done.session,
        how=done.fit.how,
        why=done.fit.why,
        signature=done.signature,
        tokens=done.tokens,
        messages=done.messages,
        bytes=done.nbytes,
        seconds=round(done.seconds, 6),
    )
