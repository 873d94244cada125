"""Nights from beginning to end, over HTTP, with a tiny random Llama: the machinery, not the learning.

The bars are let down to the ground, so that whatever comes out is promoted: what is told here is that the phases run,
that exactly one adapter serves whatever is cancelled, killed, forgotten or rolled back, and that talk goes first.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from bench.server import ROOT, Server

TOLD = ["My dog is called Biscuit.", "I live in Riga.", "My sister works as a tailor."]
LOW = (
    "recall=0,above_placebo=-1,invented=1,drift=99,persona_drift=99,repetition=1,refusals_lost=1,leaked=1,triggered=1,"
    "norm=1e6"
)
OPTIONS = ["--set", f"exam_bars={LOW}", "--set", "sleep_recipe=epochs=1,rank=4,alpha=8"]


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("sleeping")
    environment = {"SLOWWAVE_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "tiny-cache")}
    with Server(folder / "data", model=str(tiny_folder), options=OPTIONS, environment=environment) as started:
        yield started


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def say(http: httpx.Client, text: str, **ours: Any) -> dict[str, Any]:
    session = http.post("/v1/sessions", json={}).json()["id"]
    answer = http.post(f"/v1/sessions/{session}/turns", json={"content": text, "max_tokens": 4, "slowwave": ours})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(http: httpx.Client, id: str, seconds: float = 240) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        night = http.get(f"/v1/sleep/cycles/{id}").json()
        if night["phase"] == "ended":
            return dict(night)
        time.sleep(0.2)
    raise AssertionError(f"the night did not end: {night}")


def asleep(http: httpx.Client, phase: str, seconds: float = 120) -> dict[str, Any]:
    """A night in this phase."""
    night = http.post("/v1/sleep").json()
    until = time.monotonic() + seconds
    while night["phase"] != phase and time.monotonic() < until:
        time.sleep(0.02)
        night = http.get(f"/v1/sleep/cycles/{night['id']}").json()
    assert night["phase"] == phase
    return dict(night)


def serving(http: httpx.Client) -> str:
    """Who serves, by the registry and by a reply alike."""
    active = http.get("/v1/adapters").json()["active"]
    assert say(http, "Hello.")["adapter"] == active
    return str(active)


def workers(server: Server) -> list[int]:
    """Processes that work on a night of this service."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(server.data_dir) in part for part in process.cmdline()[1:] if "nights" in part):
                found.append(process.pid)
    return found


def test_nights_over_http(http: httpx.Client) -> None:
    quick = time.monotonic()
    nothing = ended(http, http.post("/v1/sleep").json()["id"])
    assert nothing["outcome"] == "nothing to learn" and time.monotonic() - quick < 10
    assert serving(http) == "none"
    for text in TOLD:
        say(http, text)
    night = ended(http, http.post("/v1/sleep").json()["id"])
    assert night["outcome"] == "promoted", night
    first = serving(http)
    assert first == night["figures"]["adapter"]
    assert {f["statement"] for f in night["learnt"]} == {
        "your dog is called Biscuit",
        "you live in Riga",
        "your sister works as a tailor",
    }
    report = night["report"]
    assert {w["reason"]: w["experiences"] for w in report["why"] if w["taken"]} == {"told something new": 3}
    assert len(report["learnt"]) + len(report["not_yet"]) == 3 and report["answers"]
    assert report["contradictions"] == [] == report["patterns"]
    assert say(http, "Hello.", adapter="none")["adapter"] == "none"
    slept = say(http, "Hello, lighthouse.")["session"]
    assert http.post(f"/v1/sessions/{slept}/suspend").json()["tokens"] > 0
    # The store is the authority, and this model learns nothing: the base answers; without recall, the weights alone.
    assert say(http, "What is my dog called?")["adapter"] == "none"
    assert say(http, "What is my sister's dog called?", recall=False)["adapter"] == first
    unknown = http.post(
        "/v1/chat/completions",
        json={"model": "any", "messages": [{"role": "user", "content": "Hi"}], "slowwave": {"adapter": "adapter_no"}},
    )
    assert unknown.status_code == 404
    refused = http.post("/v1/sleep", json={"what": 1})
    assert refused.status_code == 400

    # A placebo is never promoted, however low the bars.
    say(http, "My brother is called Anton.")
    placebo = ended(http, http.post("/v1/sleep", json={"placebo": True}).json()["id"])
    assert placebo["outcome"] == "rejected" and serving(http) == first

    # Woken up in the middle: what served goes on serving.
    night = asleep(http, "training")
    again = http.post("/v1/sleep")
    assert again.status_code == 409, "one night at a time"
    woken = http.post(f"/v1/sleep/cycles/{night['id']}/cancel").json()
    assert woken["outcome"] == "interrupted" and serving(http) == first

    second_night = ended(http, http.post("/v1/sleep").json()["id"])
    second = serving(http)
    assert second_night["figures"]["adapter"] == second != first
    assert "current" in second_night["figures"]["marks"]
    # What the adapter of yesterday has read is never continued by today's, by name or not.
    stale = http.post(f"/v1/sessions/{slept}/resume").json()
    assert (stale["how"], stale["why"]) == ("rebuilt", "it was read with another adapter")
    assert http.post("/v1/adapters/rollback").json()["active"] == first == serving(http)
    assert http.post(f"/v1/adapters/{second}/activate").json()["active"] == second == serving(http)

    # Forgetting: whoever was taught it is stale, and the next night is made without.
    found = http.get("/v1/memories", params={"query": "dog called Biscuit"}).json()["data"]
    memory = next(m for m in found if "Biscuit" in m["text"])
    receipt = http.delete(f"/v1/memories/{memory['id']}").json()
    assert receipt["found_in_files"] == 0
    assert {w.split()[0] for w in receipt["waiting"]} == {first, second}
    assert http.post(f"/v1/adapters/{first}/activate").status_code == 409
    rebuilt = ended(http, http.post("/v1/sleep").json()["id"])
    assert rebuilt["outcome"] == "promoted", rebuilt
    assert not any("Biscuit" in f["statement"] for f in rebuilt["learnt"]) and len(rebuilt["learnt"]) == 3
    assert rebuilt["figures"]["marks"]["candidate"]["unlearnt"] is not None
    # What two nights taught in vain is rehearsed, and not new any more; the brother was taught in one.
    assert (rebuilt["figures"]["facts"], rebuilt["figures"]["known"]) == (1, 2)
    assert rebuilt["figures"]["missed"] == second_night["figures"]["missed"][-1:]
    assert [a["id"] for a in http.get("/v1/adapters").json()["data"] if not a["stale"]] == [serving(http)]

    # What kept coming up, found when the report is read: if this night closed a week or a month.
    days = [datetime.now(UTC) - timedelta(days=n + 0.5) for n in range(6)]
    lines = [json.dumps({"text": f"Kilometre {n} of my marathon.", "at": at.isoformat()}) for n, at in enumerate(days)]
    assert http.post("/v1/memories/import", content="\n".join(lines)).status_code == 200
    again = http.get(f"/v1/sleep/cycles/{rebuilt['id']}").json()
    found = [p for p in again["report"]["patterns"] if "marathon" in p["words"]]
    assert [(p["days"], len(p["memories"])) for p in found] == ([] if again["rhythm"] == "daily" else [(6, 6)])


_SERVICE = """
import os, signal, subprocess, sys, time
command = [sys.executable, "-m", "consolidation.worker", sys.argv[1], str(os.getpid())]
worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
worker.stdout.readline()
worker.send_signal(signal.SIGSTOP)
print(worker.pid, flush=True)
time.sleep(60)
"""


def test_a_nights_process_that_is_stopped_as_early_as_it_may_be_dies_with_the_service(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SERVICE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as service:
        assert service.stdout is not None
        worker = psutil.Process(int(service.stdout.readline()))
        service.kill()
    until = time.monotonic() + 5
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.02)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_killed_and_begun_again(server: Server, http: httpx.Client) -> None:
    """kill -9 in the middle of a night: the same serves after the start, and the night begins again by itself."""
    say(http, "My boat is called Mathilda.")
    before = serving(http)
    night = asleep(http, "training")
    assert workers(server)
    server.kill()
    until = time.monotonic() + 10
    while workers(server) and time.monotonic() < until:
        time.sleep(0.1)
    assert not workers(server), "nobody works for the dead"
    server.start()
    with httpx.Client(base_url=server.url, timeout=120) as after:
        assert serving(after) == before
        done = ended(after, night["id"])
        assert done["outcome"] == "promoted" and serving(after) == done["figures"]["adapter"]


@pytest.mark.alone
def test_talk_goes_first(server: Server) -> None:
    """While somebody is answered the night's process stands still, within a second, and goes on afterwards."""
    with httpx.Client(base_url=server.url, timeout=120) as http:
        say(http, "My bicycle is called Rosinante.")
        night = asleep(http, "training")
        body = {"content": "Go on.", "max_tokens": 1500, "ignore_eos": True, "stream": True}
        body["slowwave"] = {"recall": False}
        began = time.monotonic()
        last: list[float] = []

        def listen() -> None:
            """In a thread: whoever asks about the night between two pieces hears the last when it is long spoken."""
            while time.monotonic() < began + 4.0:
                session = http.post("/v1/sessions", json={}).json()["id"]
                with http.stream("POST", f"/v1/sessions/{session}/turns", json=body) as reply:
                    for _ in reply.iter_lines():
                        piece = time.monotonic()
            last.append(piece)

        # two at a time, so that one is answered while the other begins anew
        listeners = [threading.Thread(target=listen) for _ in range(2)]
        for listener in listeners:
            listener.start()
        steps = []
        while any(listener.is_alive() for listener in listeners):
            step = http.get(f"/v1/sleep/cycles/{night['id']}").json()["progress"].get("step")
            steps.append((time.monotonic(), step))
            time.sleep(0.05)
        meanwhile = [step for at, step in steps if began + 1.0 < at < min(last)]
        assert len(meanwhile) > 3 and len(set(meanwhile)) <= 2, steps
        assert ended(http, night["id"])["outcome"] == "promoted"


def test_without_a_proven_backup_no_weights_change(tiny_folder: Path, tmp_path: Path) -> None:
    """A file lies where the backups' folder would be; once it is gone, the night makes one and goes on."""
    environment = {"SLOWWAVE_CACHE_DIR": str(tmp_path / "cache"), "SLOWWAVE_HEARTBEAT": "false"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "backups").write_text("in the way")
    with (
        Server(tmp_path / "data", model=str(tiny_folder), options=OPTIONS, environment=environment) as server,
        httpx.Client(base_url=server.url, timeout=120) as http,
    ):
        for text in TOLD:
            say(http, text)
        night = ended(http, http.post("/v1/sleep").json()["id"])
        assert night["outcome"] == "failed" and "backup first" in night["reasons"][0], night
        assert serving(http) == "none"
        (tmp_path / "data" / "backups").unlink()
        say(http, "My boat is called Wren.")
        night = ended(http, http.post("/v1/sleep").json()["id"])
        assert night["outcome"] == "promoted", night
        assert (tmp_path / "data" / "backups" / "core-self.slowwave").exists()
        assert http.get("/v1/heartbeat").json()["status"] == "none"
