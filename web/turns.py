"""A turn that is taken on a worker thread, seen from the event loop: its pieces, its end, its client's going away."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agent.control import TurnControl
from agent.turn import TurnResult
from models.errors import EngineFull
from models.generation import Delta

PING_SECONDS = 10.0
"""Silence after which a stream says that it is alive."""


@dataclass(frozen=True, slots=True)
class _Started:
    turn: str
    session: str


class TurnPool:
    """Threads to take turns on, and no line before them: what finds no thread is refused."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="turn")
        self._free = threading.BoundedSemaphore(threads)

    def run(self, work: Callable[[], None]) -> None:
        """Run `work` on a thread of its own.

        Raises:
            EngineFull: all threads are taken.
        """
        if not self._free.acquire(blocking=False):
            raise EngineFull("more turns are under way than can wait")

        def then_free() -> None:
            try:
                work()
            finally:
                self._free.release()

        self._executor.submit(then_free)

    def close(self) -> None:
        """Wait for the turns under way."""
        self._executor.shutdown()


class RunningTurn:
    """A turn under way. `turn` and `session` are its ids; iterate for its deltas; then `result` is there."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[_Started | Delta | TurnResult | Exception] = asyncio.Queue()
        self._control = TurnControl()
        self.turn = self.session = ""
        self.result: TurnResult | None = None

    @classmethod
    async def start(cls, take: Callable[..., TurnResult], pool: TurnPool) -> RunningTurn:
        """Hand the turn to a thread; returns once it is in line, or has been found to be taken already.

        `take`: `take_turn` or `go_on`, but for who hears of it and the hold on it.

        Raises:
            what `take` raises before it is in line.
        """
        running = cls()
        loop = asyncio.get_running_loop()

        def tell(event: _Started | Delta | TurnResult | Exception) -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody listens any more
                loop.call_soon_threadsafe(running._events.put_nowait, event)

        def work() -> None:
            try:
                result = take(
                    on_start=lambda turn, session: tell(_Started(turn, session)),
                    on_delta=tell,
                    control=running._control,
                )
                tell(result)
            except Exception as error:  # carried over to whoever awaits the turn
                tell(error)

        pool.run(work)
        try:
            first = await running._events.get()
        except asyncio.CancelledError:
            running.cancel()
            raise
        if isinstance(first, Exception):
            raise first
        if isinstance(first, TurnResult):
            running.turn, running.session, running.result = first.id, first.session, first
        elif isinstance(first, _Started):
            running.turn, running.session = first.turn, first.session
        return running

    def cancel(self) -> None:
        """End the reply before its next token."""
        self._control.cancel()

    async def deltas(self) -> AsyncIterator[Delta | None]:
        """The pieces of the reply; None whenever nothing came for a while.

        Raises:
            what its taking raises once it is in line.
        """
        while self.result is None:
            try:
                event = await asyncio.wait_for(self._events.get(), PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            if isinstance(event, Exception):
                raise event
            if isinstance(event, TurnResult):
                self.result = event
            elif isinstance(event, Delta):
                yield event

    async def wait(self, request: Request) -> TurnResult:
        """The result. The turn is cancelled if the client goes away first."""
        gone = asyncio.create_task(_disconnected(request.receive, self.cancel))
        try:
            async for _ in self.deltas():
                pass
        finally:
            gone.cancel()
        assert self.result is not None
        return self.result


STREAMED: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "description": "One of the stream's events.",
                    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
                    "required": ["data"],
                }
            }
        }
    }
}
"""How the API's document describes a route that can stream."""


class EventStream(Response):
    """Server-sent events from `events`; `cancel` is called once the client has gone away."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], cancel: Callable[[], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.create_task(_disconnected(receive, self._cancel))
        try:
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except (OSError, asyncio.CancelledError):
            self._cancel()
            raise
        finally:
            gone.cancel()


def event(data: dict[str, Any] | str, *, name: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


PING = b": ping\n\n"


async def _disconnected(receive: Receive, then: Callable[[], None]) -> None:
    message: Awaitable[Any] = receive()
    while (await message)["type"] != "http.disconnect":
        message = receive()
    then()
