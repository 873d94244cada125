"""Kills and full disks while states are written and files come in: old state or new, and the session goes on."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.turn import TurnRequest, take_turn
from bench.server import Server
from models.language import Message
from models.sampling import Sampling
from models.state_file import opened
from service import open_runtime
from settings import Settings
from tests.test_going_on import call
from tests.test_moving import begun, exported, say

ROUNDS = 1


@contextmanager
def full_disk() -> Iterator[None]:
    """Every flush to the disk fails, as it does where there is no room."""
    flush = os.fsync

    def full(fd: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    os.fsync = full
    try:
        yield
    finally:
        os.fsync = flush


def test_a_full_disk_leaves_the_session_in_memory_and_no_file(tmp_path: Path) -> None:
    settings = Settings(model="scripted", data_dir=tmp_path / "data", embedding="none", sleep_at="none")
    with open_runtime(settings) as runtime:
        runtime.engine.wait_until_loaded(30)
        awake, service = runtime.service.awake, runtime.service

        def turn(text: str, session: str | None = None) -> Any:
            message = Message(role="user", content=text)
            sampling = Sampling(temperature=0.0)
            return take_turn(
                awake,
                TurnRequest(owner="local", messages=(message,), session=session, max_tokens=8, sampling=sampling),
            )

        session = turn("something long to read " * 20).session
        with full_disk(), pytest.raises(OSError, match="No space"):
            service.checkpoints.suspend(session, owner="local")
        assert not list((tmp_path / "data" / "checkpoints").rglob("*.*")), "nothing is left behind"
        assert turn("and?", session).timings.cached_tokens > 100, "it is in memory as before"
        file = service.moving.export(session, owner="local")
        upload = tmp_path / "upl"
        upload.write_bytes(file.read_bytes())
        before = awake.transcripts.sessions(owner="local", limit=100)
        with full_disk(), pytest.raises(OSError, match="No space"):
            service.moving.take_in(upload, owner="local")
        assert awake.transcripts.sessions(owner="local", limit=100) == before
        assert not [p for p in (tmp_path / "data" / "checkpoints").rglob("*.state") if p.parent.name != "exports"]


@pytest.mark.parametrize("what", ["suspend", "import"])
def test_a_kill_leaves_the_old_or_the_new_and_the_session_goes_on(tiny_folder: Path, tmp_path: Path, what: str) -> None:
    chance = random.Random(4)
    with Server(tmp_path / "data", model=str(tiny_folder)) as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            session = begun(http)
            raw = exported(http, session, "none")
            known = 1
        for n in range(ROUNDS):
            answers: list[httpx.Response] = []

            def act(answers: list[httpx.Response] = answers) -> None:
                with httpx.Client(base_url=server.url, timeout=60) as http:
                    try:
                        if what == "suspend":
                            answers.append(http.post(f"/v1/sessions/{session}/suspend"))
                        else:
                            octets = {"Content-Type": "application/octet-stream"}
                            answers.append(http.post("/v1/checkpoints", content=raw, headers=octets))
                    except httpx.TransportError:
                        pass

            acting = threading.Thread(target=act)
            acting.start()
            time.sleep(chance.uniform(0.0, 0.04))
            server.kill()
            acting.join()
            server.start()
            with httpx.Client(base_url=server.url, timeout=60) as http:
                listed = call(http, "GET", "/v1/sessions")["data"]
                assert len(listed) in (known, known + 1)
                if answers and what == "import":
                    assert len(listed) == known + 1, "what was acknowledged is there"
                known = len(listed)
                for path in (server.data_dir / "checkpoints").glob("*/*.state"):
                    opened(path)  # whole, or not there
                if answers and what == "suspend":
                    assert call(http, "GET", f"/v1/sessions/{session}")["state"] == "suspended"
                newest = listed[0]["id"] if what == "import" else session
                detail = call(http, "GET", f"/v1/sessions/{newest}")
                assert len(detail["transcript"]) >= 2, "all of it, or none"
                assert say(http, newest, f"On, {n}.")["text"]
            assert not list((server.data_dir / "checkpoints").rglob("*.part"))
