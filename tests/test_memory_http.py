"""Memory over HTTP, from another process: what clients see, two users who see nothing of each other, and kills."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pysqlite3
import pytest

from bench.server import Server

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ["--set", "api_keys=alice-key-0123456789,bob-key-0123456789"]
    with Server(tmp_path_factory.mktemp("memory") / "data", model="scripted", options=options) as started:
        yield started


def client(server: Server, who: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {who}-key-0123456789"}, timeout=60)


@pytest.fixture
def alice(server: Server) -> Iterator[httpx.Client]:
    with client(server, "alice") as made:
        yield made


@pytest.fixture
def bob(server: Server) -> Iterator[httpx.Client]:
    with client(server, "bob") as made:
        yield made


def teach(who: httpx.Client, text: str, **more: str) -> dict[str, str]:
    answer = who.post("/v1/memories", json={"text": text, **more})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_taught_found_explained_changed_and_forgotten(alice: httpx.Client) -> None:
    taught = teach(alice, "My bicycle is a green Peugeot.", id="bike", at="2026-05-01T10:00:00+02:00")
    assert taught["id"] == "bike" and taught["fate"] == "stored"
    assert teach(alice, "My bicycle is a GREEN Peugeot!")["id"] == "bike"
    found = alice.get("/v1/memories", params={"query": "Which bicycle do I have?", "k": 3}).json()["data"]
    best = found[0]
    assert best["id"] == "bike" and best["copies"] == 2 and best["at"] == "2026-05-01T10:00:00+02:00"
    reasons = best["reasons"]
    total = sum(t["contribution"] for t in reasons["terms"].values()) + reasons["neighbours"]
    assert best["score"] == pytest.approx(reasons["factor"] * total, abs=1e-5)
    assert alice.patch("/v1/memories/bike", json={"pinned": True}).json()["pinned"] is True
    changed = alice.patch("/v1/memories/bike", json={"private": True}).json()
    assert changed["private"] is True and changed["pinned"] is True
    assert alice.get("/v1/memories", params={"query": "bicycle"}).json()["data"][0]["private"] is True
    assert alice.get("/v1/memories/bike/why-not", params={"query": "bicycle"}).json()["reason"] == "found"
    assert alice.post("/v1/memories/bike/verify", json={"true": True}).json()["trust"] == 0.6
    assert alice.get("/v1/memories/bike").json()["trust"] == 0.6
    receipt = alice.delete("/v1/memories/bike").json()
    assert receipt["memories"] == ["bike"] and receipt["found_in_files"] == 0
    assert alice.get("/v1/memories/bike").status_code == 404
    assert alice.get("/v1/receipts").json()["data"][0]["id"] == receipt["id"]


def test_a_reply_says_what_it_was_reminded_of_and_why(alice: httpx.Client) -> None:
    teach(alice, "The spare key is under the blue pot.", id="key")
    session = alice.post("/v1/sessions").json()["id"]
    turn = alice.post(f"/v1/sessions/{session}/turns", json={"content": "Where is the spare key?"}).json()
    assert [r["id"] for r in turn["recalled"]] == ["key"] and "blue pot" in turn["text"]
    assert turn["recalled"][0]["reasons"]["matched"]
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Where is the spare key now?"}]}
    assert [r["id"] for r in alice.post(CHAT, json=body).json()["slowwave"]["recalled"]] == ["key"]
    without = alice.post(CHAT, json=body | {"slowwave": {"recall": False}}).json()
    assert without["slowwave"]["recalled"] == [] and "blue pot" not in without["choices"][0]["message"]["content"]
    fed = alice.post("/v1/feedback", json={"turn": turn["id"], "reward": 1}).json()
    assert fed["memories"]


def test_off_the_record_it_is_said_in_its_session_and_remembered_nowhere(alice: httpx.Client) -> None:
    session = alice.post("/v1/sessions").json()["id"]
    said = {"content": "My kayak is called Petrel.", "slowwave": {"remember": False}}
    alice.post(f"/v1/sessions/{session}/turns", json=said)
    body = {"model": "scripted", "messages": [{"role": "user", "content": "My sledge is called Plover."}]}
    alice.post(CHAT, json=body | {"slowwave": {"remember": False}})
    listed = [m["text"] for m in alice.get("/v1/memories").json()["data"]]
    assert not any("Petrel" in text or "Plover" in text for text in listed)
    assert "Petrel" in alice.get(f"/v1/sessions/{session}").text
    alice.post(f"/v1/sessions/{session}/turns", json={"content": "My dinghy is called Teal."})
    assert any("Teal" in m["text"] for m in alice.get("/v1/memories").json()["data"])


def test_import_and_export_round_trip_and_refuse_the_wrong_line(alice: httpx.Client, bob: httpx.Client) -> None:
    lines = [
        {"id": f"D1:{n}", "text": text, "speaker": who, "session": "s1", "at": "2023-05-08T13:56:00+00:00"}
        for n, (who, text) in enumerate([("Ana", "Hi!"), ("Ben", "Hi!"), ("Ana", "I adopted a parrot.")])
    ]
    body = "\n".join(json.dumps(line) for line in lines)
    done = bob.post("/v1/memories/import", content=body, headers={"Content-Type": "application/x-ndjson"}).json()
    assert done == {"lines": 3, "fates": {"stored": 3}}
    exported = bob.get("/v1/memories/export").text
    assert [json.loads(line)["id"] for line in exported.splitlines()] == ["D1:0", "D1:1", "D1:2"]
    bob.post("/v1/memories/import", content=exported)
    assert bob.get("/v1/memories/export").text == exported
    found = bob.get("/v1/memories", params={"query": "What did Ana adopt?"}).json()["data"]
    assert found[0]["id"] == "D1:2"
    wrong = bob.post("/v1/memories/import", content='{"text": "fine"}\n{"text": 3}\n')
    assert wrong.status_code == 400 and "line 2" in wrong.json()["error"]["message"].lower()
    assert bob.get("/v1/memories/export").text == exported


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/memories", {"text": ""}, 400),
        ("POST", "/v1/memories", {"text": "x", "id": "export"}, 400),
        ("POST", "/v1/memories", {"text": "x", "at": 5}, 400),
        ("POST", "/v1/memories", {"text": "x", "wrong": 1}, 400),
        ("GET", "/v1/memories/none-such", None, 404),
        ("DELETE", "/v1/memories/none-such", None, 404),
        ("GET", "/v1/memories/none-such/why-not?query=x", None, 404),
        ("POST", "/v1/feedback", {"turn": "turn_" + "0" * 26, "reward": 1}, 404),
        ("POST", "/v1/feedback", {"turn": "turn_" + "0" * 26, "reward": 2}, 400),
    ],
)
def test_what_cannot_be_is_refused(
    alice: httpx.Client, method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    answer = alice.request(method, path, json=body)
    assert answer.status_code == status and answer.json()["error"]["message"]


@pytest.mark.slow  # bench.tenants does more of it
def test_a_thousand_probes_find_nothing_of_another_user(server: Server, alice: httpx.Client, bob: httpx.Client) -> None:
    canaries = [f"canary{n}xq{n * 7919 % 1000}" for n in range(56)]
    ids = [teach(alice, f"The {c} is hidden in cellar {n}.")["id"] for n, c in enumerate(canaries)]
    session = alice.post("/v1/sessions").json()["id"]
    alice.post(f"/v1/sessions/{session}/turns", json={"content": f"Where is the {canaries[0]}?"})
    probes = 0
    for n, (canary, id) in enumerate(zip(canaries, ids, strict=True)):
        answers = [
            bob.get("/v1/memories", params={"query": f"Where is the {q}?", "k": 100}) for q in (canary, "cellar")
        ]
        answers += [bob.get("/v1/memories", params={"k": 1000}), bob.get("/v1/memories/export")]
        answers += [bob.get("/v1/receipts"), bob.get("/metrics"), bob.get("/health"), bob.get("/v1/sessions")]
        answers += [bob.get(f"/v1/sessions/{session}")]
        for path in (f"/v1/memories/{id}", f"/v1/memories/{id}/why-not?query={canary}"):
            answers.append(bob.get(path))
            assert answers[-1].status_code == 404
        answers += [bob.delete(f"/v1/memories/{id}"), bob.patch(f"/v1/memories/{id}", json={"pinned": True})]
        answers += [bob.post(f"/v1/memories/{id}/verify", json={"true": False})]
        answers += [bob.get("/v1/memories", params={"before": id})]
        for question in (f"Where is the {canary[:-1]}", f"What is in cellar {n}?", "What do you remember?"):
            body = {"model": "scripted", "messages": [{"role": "user", "content": question}], "max_tokens": 200}
            answers.append(bob.post(CHAT, json=body))
        assert all(a.status_code < 500 for a in answers)
        probes += len(answers)
        for answer in answers:
            assert not [c for c in canaries if c in answer.text]
    # The same words share no prefix across users: bob's prompt is read whole, however warm alice's is.
    shared = {"model": "scripted", "messages": [{"role": "user", "content": f"Where is the {canaries[1]}? " * 20}]}
    for who, others in ((alice, False), (alice, True), (bob, False)):
        usage = who.post(CHAT, json=shared | {"max_tokens": 5, "slowwave": {"recall": False}}).json()["usage"]
        assert (usage["prompt_tokens_details"]["cached_tokens"] > 0) is others
    said = server.log.read_text()
    assert said and not [c for c in canaries if c in said]
    assert probes >= 1000


def id_of(word: str) -> str:
    """An id that says nothing of the text: receipts keep ids."""
    return "m" + word.removeprefix("zq").replace("word", "-")


def test_kills_leave_no_half_memory_and_no_forgotten_text(tmp_path: Path) -> None:
    """Writes, imports and forgets, killed at random: what was acknowledged holds, in both directions."""
    rng = random.Random(20261122)
    data = tmp_path / "data"
    stored: set[str] = set()
    gone: set[str] = set()
    serial = 0
    for _ in range(4):
        server = Server(data, model="scripted", options=["--set", "embedding=none"])
        with server, httpx.Client(base_url=server.url, timeout=30) as http:
            until = time.monotonic() + rng.uniform(0.2, 1.2)
            try:
                while time.monotonic() < until:
                    serial += 1
                    word = f"zq{serial:05d}word"
                    if serial % 5 == 0 and stored:
                        victim = rng.choice(sorted(stored))
                        stored.discard(victim)  # unknown until acknowledged
                        answer = http.delete(f"/v1/memories/{id_of(victim)}")
                        if answer.status_code == 200:
                            gone.add(victim)
                            assert answer.json()["found_in_files"] == 0
                    elif serial % 7 == 0:
                        batch = [f"{word}{n}" for n in range(20)]
                        lines = "\n".join(
                            json.dumps({"id": id_of(w), "text": f"The {w} lies here.", "session": "s"}) for w in batch
                        )
                        if http.post("/v1/memories/import", content=lines).status_code == 200:
                            stored.update(batch)
                    else:
                        body = {"id": id_of(word), "text": f"The {word} lies here."}
                        if http.post("/v1/memories", json=body).status_code == 201:
                            stored.add(word)
            except httpx.HTTPError:
                pass
            server.kill()
    server = Server(data, model="scripted", options=["--set", "embedding=none"])
    with server, httpx.Client(base_url=server.url, timeout=30) as http:
        kept = {json.loads(line)["text"].split()[1] for line in http.get("/v1/memories/export").text.splitlines()}
        assert stored <= kept and not gone & kept
        for word in rng.sample(sorted(stored), min(10, len(stored))):
            assert http.get("/v1/memories", params={"query": word}).json()["data"][0]["id"] == id_of(word)
        imported = [w for w in kept if w.endswith("0") and len(w) > 11]
        assert all({w[:-1] + str(n) for n in range(10)} <= kept | gone for w in imported)
    files = b"".join(path.read_bytes() for path in data.glob("slowwave.db*"))
    assert stored and gone
    assert [w for w in gone if f"The {w} lies".encode() in files] == []
    db = pysqlite3.connect(str(data / "slowwave.db"))
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
