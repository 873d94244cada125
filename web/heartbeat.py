"""The heartbeat over HTTP: its pace and why, its gauges, alarms, and the operator's switch."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from agent.conduct import CONSTRAINTS
from agent.core_self import Backups
from agent.governor import NOTHING
from agent.pulse import Pulse
from agent.signals import Signals, signals
from memory import beats
from memory.beats import GaugeAlarm
from web.context import ServiceDep
from web.errors import ApiError
from web.turns import PING, STREAMED, EventStream, event

router = APIRouter(prefix="/v1", tags=["Heartbeat"])


class Chore(BaseModel):
    """What became of something that it does by itself."""

    name: str
    outcome: Literal["done", "nothing to do", "refused", "failed", "waiting"]
    detail: str
    seconds: float


class Beat(BaseModel):
    """One beat, and why it came then."""

    n: int
    at: str
    interval_seconds: float
    decided_by: Literal["arena", "machine", "wish"]
    reason: str
    load: float
    worst: str
    did: list[Chore]


class Choice(BaseModel):
    """The agent's latest choice of its pace."""

    at: str
    choice: Literal["slower", "same", "faster"]
    factor: float
    """What its choices have come to: the resting interval is multiplied by it."""
    why: dict[str, Any]


class Alarm(BaseModel):
    """Sounds once a gauge has been above a bound for so long."""

    gauge: str
    bound: float
    seconds: float
    owner: Literal["operator", "agent"]
    sounding_seconds: float | None
    """None: it does not sound."""


class Limits(BaseModel):
    """The arena: what no wish exceeds."""

    least_seconds: float
    greatest_seconds: float
    resting_seconds: float
    beats_an_hour: float
    cpu_seconds_an_hour: float
    stopped: bool


class Constraint(BaseModel):
    """One of the eighteen constraints on what it does by itself."""

    number: int
    name: str
    kind: Literal["self", "mutual"]
    acts: list[str]
    bounds: list[str]
    otherwise: str


class CoreSelf(BaseModel):
    """The latest core self that was written, restored elsewhere and found the same."""

    path: str
    """On the service's machine."""
    age_seconds: float
    bytes: int


class Heartbeat(BaseModel):
    """How the heart is."""

    status: Literal["waiting", "beating", "stopped", "overdue", "none"]
    interval_seconds: float | None
    """Between the last beat and the next, as things are; None: there will be none."""
    reason: str
    decided_by: Literal["arena", "machine", "wish"]
    vitals: dict[str, float | None]
    gauges: dict[str, float]
    """Each as a share of what is borne."""
    worst: str
    load: float
    alarms: list[Alarm]
    beats: int
    """Since the service was started."""
    late: int
    restarts: int
    cpu_seconds_this_hour: float
    limits: Limits | None
    choice: Choice | None
    recent: list[Beat]
    """The newest first."""
    conduct: list[Constraint]
    core_self: CoreSelf | None = None
    """None: none was made yet."""


class AlarmAsked(BaseModel):
    """An alarm that an operator sets."""

    model_config = ConfigDict(extra="forbid")

    gauge: Annotated[str, Field(min_length=1, max_length=64)]
    bound: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
    seconds: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 60.0


class Switch(BaseModel):
    """What an operator may change while it beats."""

    model_config = ConfigDict(extra="forbid")

    stopped: bool | None = None
    alarm: AlarmAsked | None = None


_NONE = Heartbeat(
    status="none",
    interval_seconds=None,
    reason="the setting heartbeat is false",
    decided_by="arena",
    vitals={},
    gauges={},
    worst=NOTHING,
    load=0.0,
    alarms=[],
    beats=0,
    late=0,
    restarts=0,
    cpu_seconds_this_hour=0.0,
    limits=None,
    choice=None,
    recent=[],
    conduct=[],
)
_LISTEN_SECONDS = 0.2
Recent = Annotated[int, Query(ge=0, le=1000)]


@router.get("/heartbeat")
async def heartbeat(service: ServiceDep, recent: Recent = 20) -> Heartbeat:
    """The pace, and why; gauges, alarms, the latest beats."""
    if service.pulse is None:
        return _NONE
    return await run_in_threadpool(_shown, service.pulse, service.backups, recent)


@router.get("/heartbeat/events", response_class=Response, responses=STREAMED)
async def events(service: ServiceDep) -> Response:
    """The operator's: every look at the machine, every beat and how fast each reply came, as they happen; no texts.

    `missed` is sent where the reader was too slow. Ends when the service does.
    """
    if service.pulse is None:
        raise ApiError(409, "There is no heartbeat: the setting heartbeat is false.", code="no_heartbeat")
    gone = asyncio.Event()
    return EventStream(_heard(service.pulse.signals, lambda: gone.is_set() or service.draining()), gone.set)


async def _heard(told: Signals, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    with told.listen("events") as reader:
        yield PING
        while not ended():
            found = reader.pop()
            for signal in signals(found):
                ago = round(time.monotonic() - signal.at, 3)
                yield event({"ago_seconds": ago, **signal.values}, name=signal.kind)
            if found.missed:
                yield event({"records": found.missed}, name="missed")
            await asyncio.sleep(_LISTEN_SECONDS)


@router.put("/heartbeat")
async def switch(service: ServiceDep, asked: Switch) -> Heartbeat:
    """The operator's: stop it or let it beat, and set an alarm. What the agent does cannot reach this."""
    pulse = service.pulse
    if pulse is None:
        raise ApiError(409, "There is no heartbeat: the setting heartbeat is false.", code="no_heartbeat")
    if asked.alarm is not None:
        alarm = GaugeAlarm(
            gauge=asked.alarm.gauge, bound=asked.alarm.bound, seconds=asked.alarm.seconds, owner="operator"
        )
        known = (await run_in_threadpool(pulse.gauges)).gauges
        if alarm.gauge not in known:
            raise ApiError(
                400, f"There is no gauge {alarm.gauge!r}; there are {', '.join(known)}.", param="alarm", code="no_gauge"
            )
        await run_in_threadpool(beats.set_alarm, pulse.store, alarm, at=service.awake.now())
    if asked.stopped is not None:
        await run_in_threadpool(lambda: pulse.switch(stopped=asked.stopped is True))
    return await run_in_threadpool(_shown, pulse, service.backups, 20)


@router.post("/backups", status_code=201)
async def back_up(service: ServiceDep) -> CoreSelf:
    """The operator's: write the core self now, restore it elsewhere, compare, and keep it on the service's machine."""
    for _ in range(_TRIES):
        await run_in_threadpool(service.backups.make)
        if (found := _latest(service.backups)) is not None:
            return found
    raise ApiError(
        409, "Something was forgotten meanwhile, which removes all backups. Ask again.", code="forgotten_meanwhile"
    )


_TRIES = 5
"""Backups that forgetting may remove as soon as they are made."""


def _shown(pulse: Pulse, backups: Backups, recent: int) -> Heartbeat:
    now = pulse.gauges()
    chosen = beats.chosen(pulse.store)
    arena = pulse.watch.heart.arena
    return Heartbeat(
        status=now.status,
        interval_seconds=now.due.interval if math.isfinite(now.due.interval) else None,
        reason=now.due.reason,
        decided_by=now.due.decided_by,
        vitals=asdict(now.vitals) if now.vitals else {},
        gauges=dict(now.gauges),
        worst=now.pace.worst,
        load=now.pace.load,
        alarms=[
            Alarm(
                gauge=a.gauge,
                bound=a.bound,
                seconds=a.seconds,
                owner=a.owner,
                sounding_seconds=pulse.sounding.get(a.gauge),
            )
            for a in beats.alarms(pulse.store)
        ],
        beats=now.beats,
        late=now.late,
        restarts=now.restarts,
        cpu_seconds_this_hour=sum(seconds for _, seconds in now.pace.spent),
        limits=Limits(
            least_seconds=arena.least,
            greatest_seconds=arena.greatest,
            resting_seconds=arena.resting,
            beats_an_hour=arena.beats_an_hour,
            cpu_seconds_an_hour=arena.cpu_seconds_an_hour,
            stopped=arena.stopped,
        ),
        choice=chosen
        and Choice(at=chosen.at.isoformat(), choice=chosen.choice, factor=chosen.factor, why=dict(chosen.why)),
        recent=[
            Beat(
                n=beat.n,
                at=beat.at.isoformat(),
                interval_seconds=beat.interval,
                decided_by=beat.decided_by,
                reason=beat.reason,
                load=beat.load,
                worst=beat.worst,
                did=[Chore(**done) for done in beat.did],
            )
            for beat in beats.latest(pulse.store, most=recent)
        ],
        conduct=[
            Constraint(
                number=c.number,
                name=c.name,
                kind=c.kind,
                acts=sorted(c.acts),
                bounds=[str(b) for b in c.bounds],
                otherwise=c.otherwise,
            )
            for c in CONSTRAINTS
        ],
        core_self=_latest(backups),
    )


def _latest(backups: Backups) -> CoreSelf | None:
    kept = backups.kept()
    if kept is None:
        return None
    age, nbytes = kept
    return CoreSelf(path=str(backups.latest), age_seconds=age, bytes=nbytes)
