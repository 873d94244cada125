"""A reply that is suspended in its middle goes on with the same next token; branches of it go their own ways."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.server import Server

ASK = {"content": "Tell me of the sea. " * 12, "max_tokens": 400, "ignore_eos": True, "slowwave": {"recall": False}}


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("going-on")
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


def session_of(http: httpx.Client) -> str:
    return str(call(http, "POST", "/v1/sessions", json={})["id"])


def streamed(
    http: httpx.Client, path: str, body: dict[str, Any], *, after: int = 0, then: Any = None
) -> dict[str, Any]:
    """A turn as a stream; `then` is called once `after` pieces of it are here. Returns what came."""
    pieces, done, name = [], {}, ""
    with http.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                if name == "delta":
                    pieces.append(data["text"])
                    if len(pieces) == after and then is not None:
                        then()
                elif name in ("done", "error", "resumed"):
                    done[name] = data
    return {"text": "".join(pieces), **done}


def cut(server: Server, http: httpx.Client, session: str, body: dict[str, Any], *, after: int) -> dict[str, Any]:
    """A turn that is suspended once `after` pieces of its reply are here."""
    replies: list[dict[str, Any]] = []

    threads: list[threading.Thread] = []
    with httpx.Client(base_url=server.url, timeout=60) as other:  # made before: that takes longer than many tokens
        other.get("/health/live")

        def begin() -> None:
            path = f"/v1/sessions/{session}/suspend"
            threads.append(threading.Thread(target=lambda: replies.append(call(other, "POST", path))))
            threads[0].start()

        came = streamed(http, f"/v1/sessions/{session}/turns", body, after=after, then=begin)
        threads[0].join()
    assert replies[0]["unfinished"], "it had come to its end before it could be suspended"
    assert came["done"]["finish_reason"] == "suspended" and came["done"]["text"] == came["text"]
    return came


@pytest.mark.parametrize("how", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 11, "top_p": 0.9}])
@pytest.mark.parametrize(("after", "restart"), [(1, False), (60, False), (7, True)])
def test_the_rest_is_what_it_would_have_been(
    server: Server, http: httpx.Client, how: dict[str, Any], after: int, restart: bool
) -> None:
    body = {**ASK, **how, "frequency_penalty": 0.3}
    whole = call(http, "POST", f"/v1/sessions/{session_of(http)}/turns", json=body)
    session = session_of(http)
    begun = cut(server, http, session, body, after=after)
    assert whole["text"].startswith(begun["text"]) and len(begun["text"]) < len(whole["text"])
    shown = call(http, "GET", f"/v1/sessions/{session}")
    assert shown["unfinished"] and shown["transcript"][-1]["content"] == begun["text"]
    if restart:
        server.kill()
        server.start()
    with httpx.Client(base_url=server.url, timeout=120) as later:
        back = call(later, "POST", f"/v1/sessions/{session}/resume")
        assert back["how"] == "exact" and not back["unfinished"]
        assert back["reply"]["text"] == whole["text"] and back["reply"]["finish_reason"] == whole["finish_reason"]
        assert back["reply"]["timings"]["prefill_tokens"] <= 1, "nothing is read again but the last token"
        shown = call(later, "GET", f"/v1/sessions/{session}")
        assert shown["transcript"][-1]["content"] == whole["text"] and not shown["unfinished"]
        assert shown["transcript"][-1]["status"] == "complete"
        assert call(later, "POST", f"/v1/sessions/{session}/resume")["how"] == "open"


def test_it_can_be_suspended_again_and_again_and_streams_only_what_is_new(server: Server, http: httpx.Client) -> None:
    body = {**ASK, "temperature": 0.8, "seed": 3}
    whole = call(http, "POST", f"/v1/sessions/{session_of(http)}/turns", json=body)["text"]
    session = session_of(http)
    text = cut(server, http, session, body, after=5)["text"]
    for _ in range(3):
        threads: list[threading.Thread] = []

        def suspend() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as other:
                call(other, "POST", f"/v1/sessions/{session}/suspend")

        def begin(threads: list[threading.Thread] = threads) -> None:
            threads.append(threading.Thread(target=suspend))
            threads[0].start()

        more = streamed(http, f"/v1/sessions/{session}/resume", {}, after=4, then=begin)
        threads[0].join()
        text += more["text"]
        if more["done"]["finish_reason"] != "suspended":
            break
    else:
        text += streamed(http, f"/v1/sessions/{session}/resume", {})["text"]
    assert text == whole


def test_a_next_turn_leaves_it_as_it_is(server: Server, http: httpx.Client) -> None:
    session = session_of(http)
    begun = cut(server, http, session, {**ASK, "temperature": 0.0}, after=3)
    call(http, "POST", f"/v1/sessions/{session}/turns", json={"content": "And now?", "max_tokens": 4})
    shown = call(http, "GET", f"/v1/sessions/{session}")
    assert not shown["unfinished"] and shown["transcript"][1]["content"] == begun["text"]
    assert shown["transcript"][1]["status"] == "interrupted"
    back = call(http, "POST", f"/v1/sessions/{session}/resume")
    assert back["reply"] is None


def test_to_bring_back_is_not_to_go_on(server: Server, http: httpx.Client) -> None:
    session = session_of(http)
    cut(server, http, session, {**ASK, "temperature": 0.0}, after=3)
    back = call(http, "POST", f"/v1/sessions/{session}/resume", json={"continue": False})
    assert back["how"] == "exact" and back["unfinished"] and back["reply"] is None
    again = call(http, "POST", f"/v1/sessions/{session}/resume")
    assert again["how"] == "open" and again["reply"]["finish_reason"] == "length"
    for wrong in ({"continue": 3}, {"temperature": 9}, {"more": 1}):
        assert http.post(f"/v1/sessions/{session}/resume", json=wrong).status_code == 400


def test_branches_of_a_reply_part_by_their_seeds_and_share_what_came_before(server: Server, http: httpx.Client) -> None:
    body = {**ASK, "temperature": 1.0, "seed": 5}
    whole = call(http, "POST", f"/v1/sessions/{session_of(http)}/turns", json=body)["text"]
    session = session_of(http)
    begun = cut(server, http, session, body, after=6)["text"]
    forks = [str(call(http, "POST", f"/v1/sessions/{session}/fork")["id"]) for _ in range(3)]
    texts = {}
    for n, fork in enumerate(forks):
        changes = {} if n == 0 else {"seed": 100 + n}
        back = call(http, "POST", f"/v1/sessions/{fork}/resume", json=changes)
        texts[n] = back["reply"]["text"]
        assert back["how"] == "exact", "each has its parent's file"
        assert ("a fork has it in memory" in back["why"]) == (n > 0), "and all together the memory of one"
        assert back["reply"]["session"] == fork
    assert texts[0] == whole, "the one that changes nothing goes on as the first would have"
    assert len(set(texts.values())) == 3 and all(t.startswith(begun) for t in texts.values())
    assert call(http, "GET", f"/v1/sessions/{session}")["unfinished"], "the first still waits"


def test_branches_that_go_on_at_once_are_each_what_they_would_have_been(server: Server, http: httpx.Client) -> None:
    body = {**ASK, "temperature": 1.0, "seed": 8}
    whole = call(http, "POST", f"/v1/sessions/{session_of(http)}/turns", json=body)["text"]
    session = session_of(http)
    cut(server, http, session, body, after=9)
    forks = [str(call(http, "POST", f"/v1/sessions/{session}/fork")["id"]) for _ in range(6)]
    with ThreadPoolExecutor(len(forks)) as pool:
        backs = list(pool.map(lambda f: call(http, "POST", f"/v1/sessions/{f}/resume", json={}), forks))
    assert {(b["how"], b["reply"]["text"]) for b in backs} == {("exact", whole)}


def test_a_code_point_that_was_cut_in_two_comes_whole(server: Server, http: httpx.Client) -> None:
    """The tiny model writes bytes at random, most of them parts of code points: cut it everywhere."""
    body = {**ASK, "temperature": 1.5, "seed": 21, "max_tokens": 40}
    whole = call(http, "POST", f"/v1/sessions/{session_of(http)}/turns", json=body)["text"]
    for after in range(1, 12):
        session = session_of(http)
        try:
            begun = cut(server, http, session, body, after=after)
        except AssertionError:
            continue
        rest = streamed(http, f"/v1/sessions/{session}/resume", {})
        assert begun["text"] + rest["text"] == whole == rest["done"]["text"]
