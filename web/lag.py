"""How late the event loop is: a loop that is held up keeps everybody waiting, and only itself can tell."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from agent.pulse import Lag


def measured(lag: Lag) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """What has an application measure its loop for as long as it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_measure(lag))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return lifespan


async def _measure(lag: Lag) -> None:
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(lag.every)
        lag.seconds, lag.said_at = max(0.0, loop.time() - began - lag.every), time.monotonic()
