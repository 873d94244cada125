"""The persona over HTTP: its variables, and pins for experiments."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from memory.pins import pin, pinned
from web.context import OwnerDep, Service, ServiceDep
from web.errors import ApiError

router = APIRouter(prefix="/v1", tags=["Persona"])

Value = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


class Variables(BaseModel):
    """Every variable that acts on replies, in [-1, 1], 0 at rest; and those of them that are held where they are."""

    variables: dict[str, float]
    pinned: dict[str, float]


class Pins(BaseModel):
    """Variables to hold at a value, or to let go of (null)."""

    model_config = ConfigDict(strict=True, extra="forbid")

    variables: dict[str, Value | None] = Field(max_length=64, examples=[{"pleasure": 0.5}, {"pleasure": None}])


@router.get("/persona")
async def read_persona(service: ServiceDep, owner: OwnerDep) -> Variables:
    """The variables, and which are pinned."""
    return await run_in_threadpool(_variables, service, owner)


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
        return _variables(service, owner)

    return await run_in_threadpool(work)


def _variables(service: Service, owner: str) -> Variables:
    known = service.awake.persona.variables
    held = {name: value for name, value in pinned(service.memory.store, owner).items() if name in known}
    return Variables(variables=service.awake.persona.values(owner), pinned=held)
