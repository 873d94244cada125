"""The persona over HTTP: its variables, and pins for experiments."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from agent.mood import named
from memory.pins import pin, pinned
from web.context import OwnerDep, Service, ServiceDep
from web.errors import ApiError

router = APIRouter(prefix="/v1", tags=["Persona"])

Value = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class MoodEvent(BaseModel):
    """What moved a mood, and where its variables were afterwards."""

    at: str
    kind: Literal["turn", "feedback"]
    turn: str
    values: dict[str, float]
    senses: dict[str, float]
    """What was felt, each in [-1, 1]."""
    zone: str
    """How much the last events agreed: scattered, mixed, in step."""


class Mood(BaseModel):
    """How the agent feels towards an owner now; the newest event first."""

    values: dict[str, float]
    levels: dict[str, float]
    """Of five; what a variable that acts is in the next reply."""
    rest: dict[str, float]
    """Where each comes back to."""
    coherence: float | None
    """The oscillators' order parameter, at the last event."""
    zone: str
    taught: int
    """Words of feedback that it learnt from."""
    trace: list[MoodEvent]


class Forced(BaseModel):
    """What forcing a variable to 1 against -1 changes, in standard deviations of what it claims to change."""

    effect: float
    low: float
    high: float
    """The effect's 95 % interval."""
    placebo: float
    """The largest effect of random directions as long."""
    spearman: float
    """Of five levels with what they came to."""
    surprise: float
    """How much more surprising replies are to the model left alone, as a share."""
    prompts: int
    kept: bool
    """Whether it passes."""
    at: str


class Variables(BaseModel):
    """Every variable that acts on replies, in [-1, 1], 0 at rest; and those of them that are held where they are."""

    variables: dict[str, float]
    pinned: dict[str, float]
    mood: Mood | None = None
    """None: nothing moves one here."""
    causality: dict[str, Forced] = {}
    """What forcing each was found to change on this model, by `slowwave persona test`."""


class Pins(BaseModel):
    """Variables to hold at a value, or to let go of (null)."""

    model_config = ConfigDict(strict=True, extra="forbid")

    variables: dict[str, Value | None] = Field(max_length=64, examples=[{"pleasure": 0.5}, {"pleasure": None}])


@router.get("/persona")
async def read_persona(
    service: ServiceDep, owner: OwnerDep, trace: Annotated[int, Query(ge=0, le=1000)] = 20
) -> Variables:
    """The variables, which are pinned, and the mood that moves the others with what moved it last."""
    return await run_in_threadpool(_variables, service, owner, trace)


@router.put("/persona")
async def pin_persona(body: Pins, service: ServiceDep, owner: OwnerDep) -> Variables:
    """Pin variables for an experiment, or let go of them. It counts from the next reply on."""

    def work() -> Variables:
        unknown = sorted(set(body.variables) - set(service.awake.persona.variables))
        if unknown:
            there = ", ".join(service.awake.persona.variables) or "none: this model cannot be steered"
            raise ApiError(
                400, f"There is no variable {unknown[0]!r}; there are {there}.", param="variables", code="no_variable"
            )
        pin(service.memory.store, owner, body.variables, at=service.awake.now())
        return _variables(service, owner, 0)

    return await run_in_threadpool(work)


def _variables(service: Service, owner: str, trace: int) -> Variables:
    persona = service.awake.persona
    held = {name: value for name, value in pinned(service.memory.store, owner).items() if name in persona.variables}
    return Variables(
        variables=persona.values(owner),
        pinned=held,
        mood=_mood(service, owner, trace),
        causality={
            name: Forced(**asdict(act)) for name, act in persona.measured().items() if name in persona.variables
        },
    )


def _mood(service: Service, owner: str, trace: int) -> Mood | None:
    moods = service.awake.moods
    if moods is None:
        return None
    now = moods.of(owner, service.awake.now())
    return Mood(
        values=named(now.values),
        levels=named(now.levels),
        rest=named(moods.feeling.rest),
        coherence=now.orders[-1] if now.orders else None,
        zone=now.zone,
        taught=now.updates,
        trace=[
            MoodEvent(
                at=event.at.isoformat(),
                kind=event.kind,
                turn=event.turn,
                values=dict(event.values),
                senses=dict(event.senses),
                zone=event.zone,
            )
            for event in moods.trace(owner, most=trace)
        ],
    )
