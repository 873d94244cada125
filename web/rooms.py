"""Rooms over HTTP, for operators alone: how much was thought and not said, and, on the record, what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from memory import rooms as kept
from memory.rooms import Room
from web.context import OwnerDep, ServiceDep

router = APIRouter(prefix="/v1", tags=["Rooms"])


class Size(BaseModel):
    """How much an owner's room holds."""

    room: Room
    owner: str
    thoughts: int
    characters: int
    latest: str


class Look(BaseModel):
    """Somebody's having read in a room."""

    at: str
    by: str
    room: Room
    owner: str | None
    """Whose thoughts they asked for; None: everybody's."""
    shown: int


class Rooms(BaseModel):
    """All rooms, and the latest looks into them."""

    sizes: list[Size]
    looks: list[Look]


class Thought(BaseModel):
    """One thing that was not said."""

    owner: str
    session: str
    turn: str
    at: str
    text: str


class Thoughts(BaseModel):
    """What was not said, the newest first."""

    room: Room
    data: list[Thought]


Limit = Annotated[int, Query(ge=1, le=kept.KEPT)]
Whose = Annotated[str | None, Query(min_length=1, max_length=200)]


@router.get("/rooms")
async def rooms(service: ServiceDep, limit: Limit = 20) -> Rooms:
    """The operator's: how much there is in each room, and who looked. No thought is shown, so this is no look."""
    sizes = await run_in_threadpool(kept.sizes, service.memory.store)
    looks = await run_in_threadpool(lambda: kept.looks(service.memory.store, limit=limit))
    return Rooms(
        sizes=[Size(**{**asdict(size), "latest": size.latest.isoformat()}) for size in sizes],
        looks=[Look(**{**asdict(look), "at": look.at.isoformat()}) for look in looks],
    )


@router.get("/rooms/{room}")
async def look(service: ServiceDep, owner: OwnerDep, room: Room, whose: Whose = None, limit: Limit = 20) -> Thoughts:
    """The operator's: what was thought and not said. The look is recorded, and never deleted."""
    found = await run_in_threadpool(
        lambda: kept.look(service.memory.store, room, by=owner, owner=whose, limit=limit, at=service.awake.now())
    )
    return Thoughts(room=room, data=[Thought(**{**asdict(one), "at": one.at.isoformat()}) for one in found])
