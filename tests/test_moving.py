"""Sessions that travel: exported here, taken in elsewhere; and all that is not taken in."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.server import Here, Server
from models.state_file import FORMAT
from tests.test_going_on import ASK, call, cut, session_of

LONG = "Once upon a time there was a lighthouse keeper who counted waves. " * 6
Http = httpx.Client


@pytest.fixture(scope="module")
def here(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("here") / "data", model=str(tiny_folder)) as started:
        yield started


@pytest.fixture(scope="module")
def there(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("there") / "data", model=str(tiny_folder)) as started:
        yield started


@pytest.fixture
def a(here: Server) -> Iterator[Http]:
    with httpx.Client(base_url=here.url, timeout=120) as client:
        yield client


@pytest.fixture
def b(there: Server) -> Iterator[Http]:
    with httpx.Client(base_url=there.url, timeout=120) as client:
        yield client


def say(http: Http, session: str, text: str) -> dict[str, Any]:
    body = {"content": text, "max_tokens": 12, "seed": 7, "slowwave": {"recall": False}}
    return call(http, "POST", f"/v1/sessions/{session}/turns", json=body)


def begun(http: Http, text: str = LONG) -> str:
    session = session_of(http)
    say(http, session, text)
    return session


def exported(http: Http, session: str, codec: str = "lossless") -> bytes:
    answer = http.get(f"/v1/sessions/{session}/checkpoint", params={"codec": codec})
    assert answer.status_code == 200, answer.text
    return answer.content


def sent(http: Http, raw: bytes) -> httpx.Response:
    return http.post("/v1/checkpoints", content=raw, headers={"Content-Type": "application/octet-stream"})


def taken_in(http: Http, raw: bytes) -> dict[str, Any]:
    answer = sent(http, raw)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


@pytest.mark.parametrize("codec", ["none", "lossless", "bf16", "int8", "int4"])
def test_a_session_goes_on_elsewhere(a: Http, b: Http, codec: str) -> None:
    session = begun(a)
    raw = exported(a, session, codec)
    done = taken_in(b, raw)
    exact = codec in ("none", "lossless")
    assert done["how"] == ("exact" if exact else "converted") and done["messages"] == 2 and done["tokens"] > 100
    assert done["signature"] == "unknown"
    arrived = done["session"]
    mine, theirs = (call(h, "GET", f"/v1/sessions/{s}")["transcript"] for h, s in ((a, session), (b, arrived)))
    assert [(e["role"], e["content"]) for e in mine] == [(e["role"], e["content"]) for e in theirs]
    back = call(b, "POST", f"/v1/sessions/{arrived}/resume")
    assert back["how"] == done["how"] and back["tokens"] == done["tokens"]
    assert (back["deviation"] is None) == exact and (exact or back["deviation"] < 0.1)
    one, other = say(a, session, "And then?"), say(b, arrived, "And then?")
    assert other["timings"]["cached_tokens"] >= done["tokens"]
    if exact:
        assert one["text"] == other["text"]
    log = call(b, "GET", f"/v1/sessions/{arrived}/checkpoints")["data"]
    assert [e["event"] for e in log] == ["imported", "resumed"] and log[0]["codec"] == codec


def test_a_reply_goes_on_elsewhere_in_its_middle(here: Server, a: Http, b: Http) -> None:
    body = {**ASK, "temperature": 1.0, "seed": 31}
    whole = call(a, "POST", f"/v1/sessions/{session_of(a)}/turns", json=body)["text"]
    session = session_of(a)
    cut(here, a, session, body, after=9)
    arrived = taken_in(b, exported(a, session))["session"]
    back = call(b, "POST", f"/v1/sessions/{arrived}/resume")
    assert (back["how"], back["reply"]["text"]) == ("exact", whole)
    assert call(a, "POST", f"/v1/sessions/{session}/resume")["reply"]["text"] == whole, "and here too"


def test_to_export_disturbs_nothing_and_gives_the_same_file_twice(a: Http) -> None:
    session, other = begun(a, f"1 {LONG}"), begun(a, f"1 {LONG}")
    raw = exported(a, session)
    assert exported(a, session) == raw
    assert say(a, session, "On.")["text"] == say(a, other, "On.")["text"]
    assert exported(a, session) != raw
    call(a, "POST", f"/v1/sessions/{other}/suspend")
    done = taken_in(a, exported(a, other))
    assert (done["how"], done["signature"]) == ("exact", "own")
    assert call(a, "GET", f"/v1/sessions/{other}")["state"] == "suspended"


def test_what_nothing_was_read_of_travels_as_its_transcript(a: Http, b: Http) -> None:
    session = str(call(a, "POST", "/v1/sessions", json={"system": "Be brief."})["id"])
    done = taken_in(b, exported(a, session))
    assert (done["how"], done["tokens"]) == ("rebuilt", 0)
    assert call(b, "GET", f"/v1/sessions/{done['session']}")["transcript"][0]["content"] == "Be brief."


def test_ranges_and_pieces(a: Http, b: Http) -> None:
    session = begun(a)
    path = f"/v1/sessions/{session}/checkpoint"
    whole = a.get(path)
    seal = whole.headers["ETag"]
    half = len(whole.content) // 2
    rest = a.get(path, headers={"Range": f"bytes={half}-", "If-Range": seal})
    assert rest.status_code == 206 and whole.content[:half] + rest.content == whole.content
    upload = call(b, "POST", "/v1/checkpoints/uploads", json={"bytes": len(whole.content)})["upload"]
    at = f"/v1/checkpoints/uploads/{upload}"
    octets = {"Content-Type": "application/octet-stream"}
    assert b.post(f"{at}/import").status_code == 409, "nothing is here yet"
    call(b, "PATCH", at, content=whole.content[:half], headers={**octets, "Upload-Offset": "0"})
    again = b.patch(at, content=whole.content[:half], headers={**octets, "Upload-Offset": "0"})
    assert again.status_code == 409 and str(half) in again.json()["error"]["message"]
    assert call(b, "GET", at)["offset"] == half
    call(b, "PATCH", at, content=rest.content, headers={**octets, "Upload-Offset": str(half)})
    assert call(b, "POST", f"{at}/import")["how"] == "exact"
    assert b.get(at).status_code == 404
    other = call(b, "POST", "/v1/checkpoints/uploads", json={"bytes": 10})["upload"]
    call(b, "DELETE", f"/v1/checkpoints/uploads/{other}")
    assert b.get(f"/v1/checkpoints/uploads/{other}").status_code == 404
    assert b.get("/v1/checkpoints/uploads/..%2f..%2fslowwave.db").status_code == 404


def test_a_look_tells_what_would_become_of_it_and_changes_nothing(a: Http, b: Http) -> None:
    raw = exported(a, begun(a))
    before = call(b, "GET", "/v1/sessions")["data"]
    seen = call(b, "POST", f"/v1/checkpoints/look?bytes={len(raw)}", content=raw[: 1 << 20])
    assert seen["how"] == "exact" and seen["signature"] == "unknown" and seen["refused"] is None
    assert len(seen["signer"]) == 64 and seen["manifest"]["session"]["messages"] == 2
    assert b.post(f"/v1/checkpoints/look?bytes={len(raw) - 1}", content=raw[: 1 << 20]).status_code == 400
    assert call(b, "GET", "/v1/sessions")["data"] == before


def test_only_known_signers_where_that_is_asked_for(a: Http, tiny_folder: Path, tmp_path: Path) -> None:
    raw = exported(a, begun(a))
    signer = call(a, "POST", f"/v1/checkpoints/look?bytes={len(raw)}", content=raw[: 1 << 20])["signer"]
    with (
        Here(tmp_path / "strict", model=str(tiny_folder), environment={"SLOWWAVE_REQUIRE_SIGNATURE": "true"}) as strict,
        httpx.Client(base_url=strict.url, timeout=60) as http,
    ):
        answer = sent(http, raw)
        assert answer.status_code == 403 and signer in answer.json()["error"]["message"]
        stripped = sent(http, unsigned(raw))
        assert stripped.status_code == 403 and "unsigned" in stripped.json()["error"]["message"]
        assert not call(http, "GET", "/v1/sessions")["data"]
    env = {"SLOWWAVE_REQUIRE_SIGNATURE": "true", "SLOWWAVE_TRUSTED_SIGNERS": signer}
    with (
        Here(tmp_path / "trusting", model=str(tiny_folder), environment=env) as trusting,
        httpx.Client(base_url=trusting.url, timeout=60) as http,
    ):
        assert taken_in(http, raw)["signature"] == "trusted"


# What is not taken in


def parts(file: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    (n,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + n])
    data = file[8 + n :]
    table = {name: e for name, e in header.items() if name != "__metadata__"}
    return header, {name: data[slice(*e["data_offsets"])] for name, e in table.items()}


def made(header: dict[str, Any], blocks: dict[str, bytes], manifest: dict[str, Any]) -> bytes:
    """A forger's file: lengths, digests and seal are right, and there is no signature."""
    table, at = {}, 0
    for name, raw in blocks.items():
        was = header.get(name, {"dtype": "U8", "shape": [len(raw)]})
        size = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "I8": 1, "U8": 1}[was["dtype"]]
        shape = was["shape"] if len(raw) == size * int(_product(was["shape"])) else [len(raw) // size]
        table[name] = {"dtype": was["dtype"], "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    digests = {name: hashlib.sha256(raw).hexdigest() for name, raw in blocks.items()}
    text = json.dumps({**manifest, "digests": digests})
    seal = hashlib.sha256(json.dumps([FORMAT, text, table], sort_keys=True).encode()).hexdigest()
    raw = json.dumps({"__metadata__": {"format": FORMAT, "manifest": text, "sha256": seal}, **table}).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(blocks.values())


def _product(shape: list[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def forged(raw: bytes, change: Callable[[dict[str, bytes], dict[str, Any]], None]) -> bytes:
    header, blocks = parts(raw)
    manifest = json.loads(header["__metadata__"]["manifest"])
    change(blocks, manifest)
    return made(header, blocks, manifest)


def unsigned(raw: bytes) -> bytes:
    return forged(raw, lambda blocks, manifest: None)


def entry(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def changed(blocks: dict[str, bytes], _: dict[str, Any]) -> None:
        body = json.loads(blocks["transcript"])
        change(body)
        blocks["transcript"] = json.dumps(body).encode()

    return changed


def drop(name: str) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def dropped(blocks: dict[str, bytes], _: dict[str, Any]) -> None:
        del blocks[name]

    return dropped


ODD: dict[str, Callable[[dict[str, bytes], dict[str, Any]], None]] = {
    "no transcript": drop("transcript"),
    "no ids": drop("transcript_ids"),
    "no tokens": drop("token_ids"),
    "a layer too few": drop("keys.000"),
    "a transcript that is no JSON": lambda b, m: b.update(transcript=b"{"),
    "a transcript 100,000 lists deep": lambda b, m: b.update(transcript=b"[" * 100_000),
    "another role": entry(lambda t: t["entries"][0].update(role="root")),
    "another status": entry(lambda t: t["entries"][0].update(status="?")),
    "a content that is a number": entry(lambda t: t["entries"][0].update(content=7)),
    "half a surrogate pair": entry(lambda t: t["entries"][0].update(content="\ud800")),
    "more ids than there are": entry(lambda t: t["entries"][0].update(tokens=1 << 40)),
    "fewer ids than there are": entry(lambda t: t["entries"][0].update(tokens=1)),
    "ids below nothing": entry(lambda t: t["entries"][0].update(tokens=-1)),
    "no date": entry(lambda t: t["entries"][0].update(created_at="soon")),
    "a date without a zone": entry(lambda t: t["entries"][0].update(created_at="2026-01-01T00:00:00")),
    "a window from nowhere": entry(lambda t: t["entries"][0].update(kept_from=3)),
    "one key more": entry(lambda t: t["entries"][0].update(code="import os")),
    "entries that are no list": entry(lambda t: t.update(entries={})),
    "an unfinished reply of nothing": entry(lambda t: t.update(unfinished={}, turn={})),
    "ids outside of the vocabulary": lambda b, m: b.update(
        transcript_ids=struct.pack("<i", 1 << 30) + b["transcript_ids"][4:]
    ),
    "ids below zero": lambda b, m: b.update(transcript_ids=struct.pack("<i", -5) + b["transcript_ids"][4:]),
    "tokens of another session": lambda b, m: b.update(token_ids=b["token_ids"][4:] + b["token_ids"][:4]),
    "an unknown codec": lambda b, m: m["codec"].update(name="zip"),
    "a codec that is a list": lambda b, m: m.update(codec=[]),
    "no identity": lambda b, m: m.pop("identity") and None,
    "an identity that is a text": lambda b, m: m.update(identity="all"),
    "numbers that are none": lambda b, m: b.update({"keys.000": b["keys.000"][:-4] + struct.pack("<f", float("nan"))}),
    "a layer that is short": lambda b, m: b.update({"values.001": b["values.001"][:-256]}),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_refused_before_anything_changes(
    here: Server, there: Server, a: Http, b: Http, name: str
) -> None:
    raw = forged(exported(a, begun(a), "none"), ODD[name])
    before = call(b, "GET", "/v1/sessions")["data"]
    files = sorted((there.data_dir / "checkpoints").rglob("*"))
    began = time.monotonic()
    answer = sent(b, raw)
    assert answer.status_code == 400 and time.monotonic() - began < 1.0, answer.text
    assert answer.json()["error"]["message"].startswith("This file is not taken in: ")
    assert call(b, "GET", "/v1/sessions")["data"] == before
    left = [p for p in (there.data_dir / "checkpoints").rglob("*") if p not in files and p.is_file()]
    assert not left


def test_what_belongs_elsewhere_is_read_anew(a: Http, b: Http) -> None:
    for part in ("weights", "adapter", "layout"):
        session = begun(a, f"{part} {LONG}")
        raw = exported(a, session)
        want = say(a, session, "And then?")["text"]
        done = taken_in(b, forged(raw, lambda blocks, m, part=part: m["identity"].update({part: "0" * 64})))  # type: ignore[misc]
        assert done["how"] == "rebuilt" and done["tokens"] == 0, part
        reply = say(b, done["session"], "And then?")
        assert reply["timings"]["cached_tokens"] < 40, "its numbers are not used"
        assert reply["text"] == want


def test_ids_that_say_something_else_than_the_transcript_are_not_believed(a: Http, b: Http) -> None:
    def lie(t: dict[str, Any]) -> None:
        t["entries"][0]["content"] = "I never said a word about waves."

    done = taken_in(b, forged(exported(a, begun(a)), entry(lie)))
    assert (done["how"], done["why"]) == ("rebuilt", "its token ids do not say what its transcript says")


def test_another_tokenizers_session_is_read_anew(a: Http, b: Http) -> None:
    def other(blocks: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["identity"]["tokenizer"] = "0" * 64
        entry(lambda t: t.update(tokenizer="0" * 64))(blocks, manifest)

    done = taken_in(b, forged(exported(a, begun(a)), other))
    assert done["how"] == "rebuilt" and say(b, done["session"], "Hm?")["text"]


def test_too_large_and_cut_off(a: Http, tiny_folder: Path, tmp_path: Path) -> None:
    raw = exported(a, begun(a), "none")
    with (
        Here(tmp_path / "small", model=str(tiny_folder), environment={"SLOWWAVE_CHECKPOINT_MOST_MIB": "1"}) as small,
        httpx.Client(base_url=small.url, timeout=60) as http,
    ):
        assert sent(http, raw + bytes(1 << 20)).status_code == 413
        assert http.post("/v1/checkpoints/uploads", json={"bytes": 1 << 40}).status_code == 413
        assert sent(http, raw[:-10]).status_code == 400
        assert sent(http, b"").status_code == 400
        uploads = list((small.data_dir / "checkpoints").rglob("upl_*"))
        assert not uploads


def test_a_start_clears_what_was_passing_through(tiny_folder: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "data", model="scripted") as server, httpx.Client(base_url=server.url, timeout=60) as http:
        session = begun(http)
        raw = exported(http, session)
        call(http, "POST", "/v1/checkpoints/uploads", json={"bytes": len(raw)})
        assert list((server.data_dir / "checkpoints").rglob("upl_*"))
        server.kill()
        server.start()
        assert not [p for p in (server.data_dir / "checkpoints").rglob("*") if p.is_file()]


def test_many_at_once_are_many_sessions(a: Http, b: Http, there: Server) -> None:
    raw = exported(a, begun(a))
    got: list[str] = []

    def one() -> None:
        with httpx.Client(base_url=there.url, timeout=60) as http:
            got.append(taken_in(http, raw)["session"])

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 6
