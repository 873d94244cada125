"""The HTTP surface against a service in another process: the letter of it, and what it refuses."""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.server import Server

CHAT = "/v1/chat/completions"


@pytest.fixture
def client(scripted_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=scripted_server.url, timeout=30) as made:
        yield made


def body(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **more}


def events(answer: httpx.Response) -> list[str]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [b for b in answer.text.split("\n\n") if b]
    return [b.removeprefix("data: ") for b in blocks if not b.startswith(":")]


def test_a_completion_has_openais_shape(client: httpx.Client) -> None:
    reply = client.post(CHAT, json=body()).json()
    assert reply["object"] == "chat.completion" and reply["id"].startswith("chatcmpl-")
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "You said: hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert reply["slowwave"]["session"].startswith("sess_") and reply["slowwave"]["adapter"] == "none"


def test_a_stream_is_to_the_letter(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=body("héllo 🦙", stream=True, stream_options={"include_usage": True}))
    *chunks, done = events(answer)
    assert done == "[DONE]"
    parsed = [json.loads(c) for c in chunks]
    assert len({c["id"] for c in parsed}) == 1 and {c["object"] for c in parsed} == {"chat.completion.chunk"}
    assert parsed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *deltas, last, usage = parsed
    assert "".join(c["choices"][0]["delta"]["content"] for c in deltas) == "You said: héllo 🦙"
    assert all(c["choices"][0]["finish_reason"] is None and c["usage"] is None for c in deltas)
    assert last["choices"][0]["finish_reason"] == "stop" and last["choices"][0]["delta"] == {}
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == len("You said: héllo 🦙".encode()) + 1


def test_without_being_asked_a_stream_has_no_usage(client: httpx.Client) -> None:
    *chunks, _ = events(client.post(CHAT, json=body(stream=True)))
    assert all("usage" not in json.loads(c) for c in chunks)


def test_parameters_of_openais_that_are_not_used_are_ignored(client: httpx.Client) -> None:
    extra: dict[str, Any] = {
        "user": "u",
        "logit_bias": {"1": 2},
        "service_tier": "auto",
        "store": True,
        "metadata": {},
        "n": 1,
        "top_k": None,
    }
    assert client.post(CHAT, json=body(**extra)).status_code == 200


def test_content_parts_and_developer_messages_are_understood(client: httpx.Client) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
    ]
    reply = client.post(CHAT, json=body() | {"messages": messages}).json()
    assert reply["choices"][0]["message"]["content"] == "You said: one two"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"slowwave": {"recal": True}}, "slowwave.recal"),
        ({"slowwave": {"persona": {"warmth": 1.0}}}, "slowwave.persona"),
        ({"slowwave": {"session": "../../etc/passwd"}}, "slowwave.session"),
    ],
)
def test_wrong_requests_are_refused_by_name(client: httpx.Client, wrong: dict[str, Any], param: str) -> None:
    answer = client.post(CHAT, json=body() | wrong)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param) and error["message"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"", {}, 400, "not valid"),
        (b"\xff\xfe{}", {}, 400, "not UTF-8"),
        (b"{", {}, 400, "not valid JSON"),
        (b'{"model": NaN}', {}, 400, "not valid JSON"),
        (b"null", {}, 400, "not valid"),
        (b'"text"', {}, 400, "not valid"),
        (b"[" * 100_000 + b"]" * 100_000, {}, 400, "not valid JSON"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, {}, 400, "not valid JSON"),
        (b'{"model": "\\ud800"}', {}, 400, "not valid JSON"),
        (b"x" * (10 << 20), {}, 413, "larger than"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "text/plain"),
        (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "form"),
    ],
)
def test_hostile_bodies_are_refused(
    client: httpx.Client, content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    before = len(client.get("/v1/sessions", params={"limit": 1000}).json()["data"])
    for path in (CHAT, "/v1/sessions"):
        if path == "/v1/sessions" and content in (b"", b"null"):
            continue  # a session may begin without a word
        answer = client.post(path, content=content, headers={"Content-Type": "application/json", **headers})
        assert answer.status_code == status and said in answer.json()["error"]["message"]
    assert len(client.get("/v1/sessions", params={"limit": 1000}).json()["data"]) == before


def test_an_oversized_chunked_body_is_refused(client: httpx.Client) -> None:
    answer = client.post(CHAT, content=(b"x" * 65536 for _ in range(160)), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_deep_json_within_the_depth_that_is_read_is_still_the_wrong_shape(client: httpx.Client) -> None:
    nested: Any = "x"
    for _ in range(100):
        nested = [nested]
    assert client.post(CHAT, json=body() | {"messages": nested}).status_code == 400


def test_unknown_things_are_not_found(client: httpx.Client) -> None:
    unknown = "sess_" + "0" * 26
    for method, path in [
        ("GET", "/v1/nothing"),
        ("GET", f"/v1/sessions/{unknown}"),
        ("DELETE", f"/v1/sessions/{unknown}"),
        ("POST", f"/v1/sessions/{unknown}/fork"),
        ("GET", "/v1/models/gpt-4"),
    ]:
        answer = client.request(method, path)
        assert answer.status_code == 404 and answer.json()["error"]["message"]
    assert client.post(f"/v1/sessions/{unknown}/turns", json={"content": "x"}).status_code == 404
    assert client.post(CHAT, json=body() | {"model": "gpt-4"}).json()["error"]["code"] == "model_not_found"
    assert client.delete("/v1/models").status_code == 405


def test_a_session_from_birth_to_deletion(client: httpx.Client) -> None:
    session = client.post("/v1/sessions", json={"system": "Be brief."}).json()["id"]
    first = client.post(f"/v1/sessions/{session}/turns", json={"content": "one"}).json()
    second = client.post(f"/v1/sessions/{session}/turns", json={"content": "two"}).json()
    assert first["text"] == "You said: one" and first["session"] == session
    assert second["timings"]["cached_tokens"] > 0
    assert second["timings"]["prefill_tokens"] < first["usage"]["prompt_tokens"]
    shown = client.get(f"/v1/sessions/{session}").json()
    assert [e["role"] for e in shown["transcript"]] == ["system", "user", "assistant", "user", "assistant"]
    assert shown["context_tokens"] == sum(e["tokens"] for e in shown["transcript"])
    child = client.post(f"/v1/sessions/{session}/fork").json()
    assert child["parent"] == session and child["messages"] == 5
    assert session in [s["id"] for s in client.get("/v1/sessions", params={"limit": 1000}).json()["data"]]
    assert client.delete(f"/v1/sessions/{session}").json() == {"id": session, "deleted": True}
    assert client.get(f"/v1/sessions/{session}").status_code == 404
    assert client.post(f"/v1/sessions/{child['id']}/turns", json={"content": "three"}).status_code == 200


def test_a_turn_streams_its_pieces_and_then_itself(client: httpx.Client) -> None:
    session = client.post("/v1/sessions").json()["id"]
    answer = client.post(f"/v1/sessions/{session}/turns", json={"content": "hi", "stream": True})
    named = [(b.split("\n")[0], json.loads(b.split("data: ")[1])) for b in answer.text.split("\n\n") if b]
    assert [n for n, _ in named] == ["event: start", *["event: delta"] * (len(named) - 2), "event: done"]
    assert "".join(d["text"] for n, d in named if n == "event: delta") == named[-1][1]["text"] == "You said: hi"


def test_the_openai_surface_can_name_a_session(client: httpx.Client) -> None:
    session = client.post("/v1/sessions").json()["id"]
    for text in ("one", "two"):
        reply = client.post(
            CHAT, json=body(text, slowwave={"session": session, "recall": False, "adapter": "none"})
        ).json()
        assert reply["slowwave"]["session"] == session
    assert client.get(f"/v1/sessions/{session}").json()["messages"] == 4


def test_a_retry_with_its_idempotency_key_is_the_same_turn(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first = client.post(CHAT, json=body("once"), headers=headers).json()
    again = client.post(CHAT, json=body("once"), headers=headers).json()
    assert first["id"] == again["id"] and first["slowwave"]["session"] == again["slowwave"]["session"]
    assert client.get(f"/v1/sessions/{first['slowwave']['session']}").json()["messages"] == 2
    assert client.post(CHAT, json=body("other"), headers=headers).status_code == 400
    *chunks, _ = events(client.post(CHAT, json=body("once", stream=True), headers=headers))
    parsed = [json.loads(c) for c in chunks]
    assert {c["id"] for c in parsed} == {first["id"]}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in parsed) == "You said: once"
    session = client.post("/v1/sessions").json()["id"]
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    turns = [
        client.post(f"/v1/sessions/{session}/turns", json={"content": "x"}, headers=headers).json() for _ in range(3)
    ]
    assert len({t["id"] for t in turns}) == 1 and client.get(f"/v1/sessions/{session}").json()["messages"] == 2


def test_strangers_are_turned_away_at_the_door(client: httpx.Client) -> None:
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert client.post(CHAT, json=body(), headers={"Host": "evil.example:8000"}).status_code == 421
    assert client.post(CHAT, json=body(), headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post(CHAT, json=body(), headers={"Origin": "null"}).status_code == 403
    assert client.get("/health", headers={"Host": "[::1"}).status_code == 421
    assert client.post(CHAT, json=body(), headers={"Origin": "http://["}).status_code == 403
    assert client.post(CHAT, json=body(), headers={"Origin": str(client.base_url).rstrip("/")}).status_code == 200


def test_health_and_metrics_speak_of_what_happened(client: httpx.Client) -> None:
    state = client.get("/health").json()
    assert state["ready"] and state["live"] and state["status"] == "ok"
    client.post(CHAT, json=body())
    text = client.get("/metrics").text
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "time_to_first_token_seconds_bucket",
        "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket",
        "request_queue_time_seconds_bucket",
        "prompt_tokens_total",
        "generation_tokens_total",
        "kv_cache_usage_perc",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        'request_success_total{finished_reason="stop"}',
    ):
        assert f"slowwave_{name}" in text


def start(folder: Path, *options: str, **environment: str) -> Server:
    server = Server(folder / "data", model="scripted", options=options, environment=environment)
    server.start()
    return server


def test_keys_quota_and_queue(tmp_path: Path) -> None:
    options = ["--set", "key_requests_per_minute=20"]
    with start(tmp_path, *options, SLOWWAVE_API_KEYS="alice-key-1,bobby-key-2") as server:
        alice, bob = ({"Authorization": f"Bearer {k}"} for k in ("alice-key-1", "bobby-key-2"))
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/").status_code == 200
        for path in ("/v1/models", "/v1/sessions", "/metrics"):
            assert httpx.get(server.url + path).status_code == 401
            assert httpx.get(server.url + path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        reply = httpx.post(server.url + CHAT, json=body("my secret"), headers=alice).json()
        session = reply["slowwave"]["session"]
        assert httpx.get(f"{server.url}/v1/sessions/{session}", headers=bob).status_code == 404
        assert httpx.get(f"{server.url}/v1/sessions", headers=bob).json()["data"] == []
        history = [{"role": "user", "content": "my secret"}, {"role": "assistant", "content": "You said: my secret"}]
        stolen = body() | {"messages": [*history, {"role": "user", "content": "go on"}]}
        stolen_reply = httpx.post(server.url + CHAT, json=stolen, headers=bob).json()
        assert stolen_reply["slowwave"]["session"] != session
        assert stolen_reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        answers = [httpx.get(f"{server.url}/v1/models", headers=bob) for _ in range(30)]
        refused = [a for a in answers if a.status_code == 429]
        assert refused and all(int(a.headers["retry-after"]) >= 1 for a in refused)
        assert httpx.get(f"{server.url}/v1/models", headers=alice).status_code == 200


def test_a_full_service_says_when_to_come_back(tmp_path: Path) -> None:
    with start(tmp_path, "--set", "max_batch=1", "--set", "max_waiting=1", "--set", "max_reply_tokens=4096") as server:
        with ThreadPoolExecutor(24) as pool:
            answers = list(
                pool.map(
                    lambda n: httpx.post(server.url + CHAT, json=body(f"{n} " + "x" * 3000), timeout=60), range(24)
                )
            )
        codes = [a.status_code for a in answers]
        assert set(codes) <= {200, 503} and 200 in codes and 503 in codes
        assert all(a.headers["retry-after"] for a in answers if a.status_code == 503)


def test_a_client_that_goes_away_cancels_its_reply(client: httpx.Client) -> None:
    def running() -> float:
        return float(client.get("/metrics").text.split("\nslowwave_num_requests_running ")[1].split("\n")[0])

    long = json.dumps(body("x" * 7000, stream=True, max_tokens=8000)).encode()
    address = (client.base_url.host, client.base_url.port or 80)
    for abrupt in (long, long.replace(b'"stream": true', b'"stream": false')):
        with socket.create_connection(address) as raw:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            raw.sendall(f"{head}Content-Length: {len(abrupt)}\r\n\r\n".encode() + abrupt)
            deadline = time.monotonic() + 10
            while not running() and time.monotonic() < deadline:
                pass
        deadline = time.monotonic() + 10
        while running() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert running() == 0
    cancelled = client.get("/metrics").text.split('request_success_total{finished_reason="cancelled"} ')
    assert len(cancelled) == 2


def test_a_reply_that_outlasts_the_drain_is_marked(tmp_path: Path) -> None:
    server = start(tmp_path, "--set", "drain_seconds=0")
    session = httpx.post(f"{server.url}/v1/sessions").json()["id"]
    path = f"{server.url}/v1/sessions/{session}/turns"
    ask = {"content": "x" * 3500, "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", path, json=ask, timeout=60) as stream:
        lines = stream.iter_lines()
        while "delta" not in next(lines):
            pass
        assert server.stop() == 0
        rest = list(lines)
    assert any('"code":"interrupted"' in line for line in rest)
    server.start()
    *_, question, reply = httpx.get(f"{server.url}/v1/sessions/{session}").json()["transcript"]
    assert question["content"] == "x" * 3500 and question["status"] == "complete"
    assert reply["status"] == "interrupted" and 0 < len(reply["content"]) < 3500
    again = httpx.post(f"{server.url}/v1/sessions/{session}/turns", json={"content": "and now?"}, timeout=60)
    assert again.json()["text"] == "You said: and now?"
    server.stop()


def test_a_page_that_may_ask_can_read_the_answer(tmp_path: Path) -> None:
    allowed = {"Origin": "http://localhost:3000"}
    with start(tmp_path, SLOWWAVE_ALLOWED_ORIGINS="http://localhost:3000", SLOWWAVE_API_KEY="page-key-1") as server:
        preflight = {
            **allowed,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = httpx.options(server.url + CHAT, headers=preflight)
        assert answer.status_code == 200 and "authorization" in answer.headers["access-control-allow-headers"]
        refused = httpx.post(server.url + CHAT, json=body(), headers=allowed)
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == allowed["Origin"]


def test_a_second_service_on_the_same_data_is_refused(scripted_server: Server) -> None:
    second = Server(scripted_server.data_dir, model="scripted", log=scripted_server.data_dir.with_suffix(".second.log"))
    with pytest.raises(RuntimeError, match="in use by"):
        second.start()
    assert second.process is not None and second.process.returncode == 1
    assert httpx.get(f"{scripted_server.url}/health").status_code == 200
