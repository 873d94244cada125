"""How the service is: health, metrics, and the page that people look at."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.staticfiles import StaticFiles

from memory.alarms import sounding
from web.context import Service, ServiceDep
from web.memory_schemas import MemoryAlarm
from web.schemas import Health

router = APIRouter(tags=["Status"])

PAGE = Path(__file__).parent / "page"
page_files = StaticFiles(directory=PAGE)

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/health", responses={503: {"model": Health}})
async def health(service: ServiceDep, response: Response) -> Health:
    """Whether the service answers (200), or why not yet or no longer (503)."""
    state = _state(service)
    if state.live:
        at = service.awake.now()
        alarms = await run_in_threadpool(sounding, service.memory.store, now=at)
        state.memory_alarms = [MemoryAlarm.model_validate(a, from_attributes=True) for a in alarms]
    if not state.ready:
        response.status_code = 503
        response.headers["Retry-After"] = "2"
    return state


@router.get("/health/live", responses={503: {"model": Health}})
async def live(service: ServiceDep, response: Response) -> Health:
    """Whether the process is worth keeping: 503 means that only a restart can help."""
    state = _state(service)
    if not state.live:
        response.status_code = 503
    return state


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(service: ServiceDep) -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGE / "index.html", headers=SECURITY_HEADERS)


def _state(service: Service) -> Health:
    engine = service.awake.engine
    stats = engine.stats()
    status: Literal["ok", "loading", "draining", "failed"]
    if engine.failure is not None:
        status = "failed"
    elif service.draining():
        status = "draining"
    else:
        status = "ok" if engine.alive else "loading"
    return Health(
        status=status,
        live=status != "failed",
        ready=status == "ok",
        model=service.model_name,
        version=service.version,
        detail=None if engine.failure is None else "the model has failed; the service's log says why",
        uptime_seconds=round((service.awake.now() - service.started_at).total_seconds(), 3),
        running=stats.running,
        waiting=stats.waiting,
    )
