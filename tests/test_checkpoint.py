"""Suspend and resume over HTTP, with a tiny random Llama: the same reply as if nothing had been in between."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.checkpoint import bytes_of
from bench.server import Server
from memory.store import Store

LONG = "Once upon a time there was a lighthouse keeper who counted waves. " * 6


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("suspending")
    with Server(folder / "data", model=str(tiny_folder)) as started:
        yield started


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def call(http: httpx.Client, method: str, path: str, **more: Any) -> dict[str, Any]:
    answer = http.request(method, path, **more)
    assert answer.status_code < 300, answer.text
    return dict(answer.json())


def say(http: httpx.Client, session: str, text: str) -> dict[str, Any]:
    body = {"content": text, "max_tokens": 12, "seed": 7, "slowwave": {"recall": False}}
    return call(http, "POST", f"/v1/sessions/{session}/turns", json=body)


def begun(http: httpx.Client, text: str = LONG) -> str:
    session = str(call(http, "POST", "/v1/sessions", json={})["id"])
    say(http, session, text)
    return session


def twins(http: httpx.Client, n: int) -> tuple[str, str]:
    """Two sessions in which the same was said."""
    text = f"{n} {LONG}"
    return begun(http, text), begun(http, text)


def suspended(http: httpx.Client, session: str) -> dict[str, Any]:
    done = call(http, "POST", f"/v1/sessions/{session}/suspend")
    assert done["state"] == "suspended" and done["tokens"] > 100 and done["bytes"] > done["tokens"]
    return done


def files(server: Server) -> list[Path]:
    return sorted((server.data_dir / "checkpoints").rglob("*.state"))


def test_a_suspended_session_goes_on_as_if_it_had_not_been(server: Server, http: httpx.Client) -> None:
    session, other = twins(http, 1)
    done = suspended(http, session)
    assert [f.stem for f in files(server)] == [session]
    assert call(http, "GET", f"/v1/sessions/{session}")["state"] == "suspended"
    back = call(http, "POST", f"/v1/sessions/{session}/resume")
    assert (back["how"], back["tokens"]) == ("exact", done["tokens"]) and not files(server)
    assert call(http, "POST", f"/v1/sessions/{session}/resume")["how"] == "open"
    assert call(http, "GET", f"/v1/sessions/{session}")["state"] == "open"
    reply, same = say(http, session, "And then?"), say(http, other, "And then?")
    assert reply["text"] == same["text"] and reply["timings"]["cached_tokens"] >= done["tokens"]


def test_a_turn_brings_it_back_by_itself_after_a_kill(server: Server, http: httpx.Client) -> None:
    session, other = twins(http, 2)
    done = suspended(http, session)
    server.kill()
    server.start()
    with httpx.Client(base_url=server.url, timeout=120) as after:
        reply = say(after, session, "And then?")
        assert reply["timings"]["cached_tokens"] >= done["tokens"], "nothing else is in memory after a start"
        assert reply["text"] == say(after, other, "And then?")["text"]
    assert not files(server)


def test_what_is_broken_is_read_anew(server: Server, http: httpx.Client) -> None:
    session, other = twins(http, 3)
    suspended(http, session)
    [file] = files(server)
    raw = bytearray(file.read_bytes())
    raw[-100] ^= 1
    file.write_bytes(raw)
    back = call(http, "POST", f"/v1/sessions/{session}/resume")
    assert back["how"] == "rebuilt" and "not what was written" in back["why"] and not files(server)
    assert say(http, session, "And then?")["text"] == say(http, other, "And then?")["text"]


def test_a_file_of_another_session_is_not_used(server: Server, http: httpx.Client) -> None:
    session, stranger = begun(http, f"4 {LONG}"), begun(http, f"five {LONG}")
    suspended(http, session)
    suspended(http, stranger)
    mine, theirs = (next(f for f in files(server) if f.stem == s) for s in (session, stranger))
    theirs.replace(mine)
    back = call(http, "POST", f"/v1/sessions/{session}/resume")
    assert (back["how"], back["why"]) == ("rebuilt", "the session's context is another since")


def test_nothing_stays_of_what_is_deleted_or_forgotten(server: Server, http: httpx.Client) -> None:
    session, other = begun(http, f"6 {LONG}"), begun(http, f"My cat is called Zanzibar. {LONG}")
    suspended(http, session)
    call(http, "DELETE", f"/v1/sessions/{session}")
    assert not files(server)
    suspended(http, other)
    found = call(http, "GET", "/v1/memories", params={"query": "cat Zanzibar"})["data"]
    receipt = call(http, "DELETE", f"/v1/memories/{found[0]['id']}")
    assert receipt["kv_states"] > 0 and not files(server)
    assert call(http, "POST", f"/v1/sessions/{other}/resume")["how"] == "open"


def test_what_nothing_was_read_of_has_no_file(server: Server, http: httpx.Client) -> None:
    session = call(http, "POST", "/v1/sessions", json={})["id"]
    done = call(http, "POST", f"/v1/sessions/{session}/suspend")
    assert (done["state"], done["tokens"]) == ("open", 0) and not files(server)
    for verb in ("suspend", "resume"):
        assert http.post(f"/v1/sessions/sess_{'0' * 26}/{verb}").status_code == 404


def test_a_start_removes_what_a_kill_left_and_all_after_a_forgetting_that_was_cut_off(tiny_folder: Path) -> None:
    with Server(tiny_folder.parent / "cut-off", model="scripted") as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            session = begun(http, LONG)
            suspended(http, session)
            [file] = files(server)
        server.kill()
        part = file.with_name(f".{file.name}.77.part")
        part.write_bytes(b"half")
        server.start()
        assert files(server) == [file] and not part.exists()
        server.kill()
        store = Store(server.data_dir / "slowwave.db")  # rows deleted, nothing else: killed just then
        row = ["rcpt_1", datetime.now(UTC).isoformat(), "{}"]
        cut_off = "INSERT INTO receipts (id, owner, at, body) SELECT ?, max(n), ?, ? FROM owners"
        store.write(lambda db: db.execute(cut_off, row))
        store.close()
        server.start()
        assert not files(server)


def test_a_file_that_goes_while_somebody_looks_is_one_that_is_not_there(tmp_path: Path) -> None:
    """Forgetting removes states while sessions are resumed and the budget is counted."""
    gone = tmp_path / "a.state"
    assert bytes_of(gone) is None
    gone.write_bytes(b"123")
    assert bytes_of(gone) == 3
