"""The record of administrative acts over HTTP, for whoever administers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from memory import audit
from memory.store import Store
from web.context import ServiceDep
from web.keys import Key

router = APIRouter(prefix="/v1", tags=["Audit"])


class Act(BaseModel):
    """One row: what was asked (`status` null), or what came of row `of`."""

    n: int
    at: str
    owner: str
    key: str
    act: str
    of: int | None
    status: int | None
    chain: str


class Record(BaseModel):
    """The latest acts, and whether the whole record is as it was written."""

    whole: bool
    broken_at: int | None
    entries: int
    head: str
    data: list[Act]


@router.get("/audit")
async def record(
    service: ServiceDep,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    before: Annotated[int | None, Query(ge=1, le=1 << 60)] = None,
) -> Record:
    """The latest administrative acts, newest first; every seal of the record is checked each time."""

    def work() -> Record:
        found = audit.verify(service.memory.store)
        rows = audit.newest(service.memory.store, limit=limit, before=before)
        return Record(
            whole=found.broken_at is None,
            broken_at=found.broken_at,
            entries=found.entries,
            head=found.head,
            data=[Act(**asdict(row)) for row in rows],
        )

    return await run_in_threadpool(work)


def recorder(store: Store, now: Callable[[], datetime]) -> Callable[[Key, str], Callable[[int], None]]:
    """What the guard calls before an act, on a thread that may wait; it gives what to call with the status after."""

    def asked(key: Key, act: str) -> Callable[[int], None]:
        row = audit.asked(store, act, owner=key.owner, key=key.name, at=now())
        return lambda status: audit.answered(store, row, act, status, owner=key.owner, key=key.name, at=now())

    return asked
