"""The core self: small, signed, proven, and the same again on an empty machine."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from agent import core_self
from agent.core_self import Backups, create, prove, restore, verify
from agent.mood import Feeling, Mood
from agent.mood_file import packed, unpacked
from agent.senses import SENSES, Senses
from bench.server import Here, Server
from memory import core, data_dir, moods
from memory.binding import Binder
from memory.errors import CoreRefused
from memory.experiences import Experiences
from memory.moods import Event
from memory.pins import pin, pinned
from memory.recall import Recall
from memory.store import Store
from models import signature
from models.state_file import Block, write
from tests.test_cli import run
from tests.test_experiences import AT, EMBEDDER, WORDS, clock, said

ADAPTER = "adapter_01m8fm1kveynga0szqxrnnwtfs"
QUERIES = ["Where was the dragon on Monday?", "Which instrument does Clara play?", *WORDS[:8]]


@pytest.fixture(scope="module")
def feeling() -> Feeling:
    return Feeling()


def felt(feeling: Feeling, mood: Mood, seed: int, events: int) -> list[Mood]:
    chance, found = random.Random(seed), []
    at = mood.at or AT
    for _ in range(events):
        at += timedelta(seconds=chance.uniform(1, 500))
        mood = feeling.feel(mood, Senses(**{name: chance.uniform(-1, 1) for name in SENSES}), at).mood
        found.append(mood)
    return found


def lived(store: Store, feeling: Feeling) -> Recall:
    """An agent with memories, a mood, a pin, and an adapter that serves."""
    memories = Experiences(store, now=clock())
    memories.add([said(f"On Monday the {w} was in the {v}.", f"{w}-{v}", session=w, merge=False)
                  for w in WORDS for v in WORDS[:6]], owner="alice")  # fmt: skip
    memories.add([said("My sister Clara plays the bassoon.", "clara")], owner="alice")
    memories.add([said("My boat is called Wren.", "boat")], owner="bob")
    recall = Recall(store, EMBEDDER, now=lambda: AT + timedelta(days=2))
    while Binder(store, recall, EMBEDDER, now=clock()).embed_pending():
        pass
    mood = felt(feeling, feeling.begin(), 1, 50)[-1]
    event = Event(at=AT, kind="turn", turn="turn_1", values={}, senses={}, zone="mixed", updates=0)
    store.write(lambda db: moods.keep_within(db, "alice", packed(mood, feeling.digest), event, b""))
    pin(store, "alice", {"pleasure": 0.5}, at=AT)
    night = ["night_1", "alice", "2026-11-27", "ended", "promoted", 1, AT.isoformat(), AT.isoformat(), AT.isoformat()]

    def adapter(db: Any) -> None:
        db.execute(
            "INSERT INTO nights (id, owner, date, asked, phase, outcome, seed, started_at, phase_at, ended_at)"
            " VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?)",
            night,
        )
        db.execute(
            "INSERT INTO adapters (id, owner, night, base, status, digest, created_at)"
            " VALUES (?, 'alice', 'night_1', 'base', 'active', 'digest', ?)",
            [ADAPTER, AT.isoformat()],
        )

    store.write(adapter)
    return recall


@pytest.fixture
def made(store: Store, feeling: Feeling, tmp_path: Path) -> Callable[..., Path]:
    lived(store, feeling)
    folder = tmp_path / ADAPTER
    folder.mkdir()
    for name in core_self._FILES:
        (folder / name).write_bytes(random.Random(name).randbytes(5000))

    def make(path: Path = tmp_path / "core.slowwave", **other: Any) -> Path:
        options: dict[str, Any] = {
            "adapters": [(ADAPTER, folder)],
            "base": "base",
            "model": "tiny",
            "settings": {"temperament": ["openness=0.5"]},
            "note": "All is well.",
            "signer": signature.own(tmp_path / "key"),
            "at": AT,
        }
        create(path, store, **{**options, **other})
        return path

    return make


def test_restored_elsewhere_its_mood_and_memories_are_the_same(
    made: Callable[..., Path], store: Store, feeling: Feeling, tmp_path: Path
) -> None:
    found = restore(made(), tmp_path / "elsewhere", owner="a test")
    assert found.note == "All is well." and found.settings == {"temperament": ["openness=0.5"]}
    again = Store(data_dir.database_path(tmp_path / "elsewhere"))
    before, after = (unpacked(moods.kept(s, "alice") or b"", feeling.begin(), feeling.digest) for s in (store, again))
    for a, b in zip(felt(feeling, before, 2, 100), felt(feeling, after, 2, 100), strict=True):
        for name in ("state", "phases", "values", "levels"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    here, there = (Recall(s, EMBEDDER, now=lambda: AT + timedelta(days=2)) for s in (store, again))
    for owner in ("alice", "bob"):
        for query in QUERIES:
            hits, same = here.search(query, owner=owner, k=20), there.search(query, owner=owner, k=20)
            assert [(h.experience.id, h.score) for h in hits] == [(h.experience.id, h.score) for h in same]
            assert hits or owner == "bob"
    assert pinned(again, "alice") == {"pleasure": 0.5}
    for name in core_self._FILES:
        restored = tmp_path / "elsewhere" / "adapters" / ADAPTER / name
        assert restored.read_bytes() == (tmp_path / ADAPTER / name).read_bytes()
    again.close()


def test_what_does_not_fit_stays_behind_and_the_rest_is_kept(
    made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prove(made())
    monkeypatch.setattr(core_self, "MOST_BYTES", whole.nbytes - 1000)
    fewer = prove(made())
    assert fewer.counts["experiences"] < whole.counts["experiences"] and fewer.adapters == whole.adapters
    monkeypatch.setattr(core_self, "MOST_BYTES", 19_000)  # three quarters of it are less than the adapter
    assert prove(made(adapters=[])).adapters == ()
    monkeypatch.undo()
    (tmp_path / ADAPTER / "adapter_model.safetensors").unlink()
    without = prove(made())
    assert without.adapters == () and without.counts["adapters"] == 0 == without.counts["nights"]


def test_an_adapter_that_saw_what_is_forgotten_is_left_out(made: Callable[..., Path], store: Store) -> None:
    store.write(lambda db: db.execute("UPDATE adapters SET stale = 1"))
    assert prove(made()).adapters == ()


def test_every_owner_keeps_their_best_memories(store: Store, made: Callable[..., Path]) -> None:
    rows = core.taken(store, most=1)
    assert sorted(row["owner"] for row in rows["experiences"]) == [1, 2]


def test_what_is_proven_came_back_as_it_went_in(made: Callable[..., Path]) -> None:
    found = prove(made())
    assert found.counts["experiences"] > 50 and found.adapters == (ADAPTER,) and found.nbytes < core_self.MOST_BYTES


def test_any_flipped_bit_is_found(made: Callable[..., Path], tmp_path: Path) -> None:
    whole = made().read_bytes()
    chance = random.Random(3)
    for _ in range(60):
        bad = bytearray(whole)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        (tmp_path / "bad").write_bytes(bad)
        with pytest.raises(CoreRefused):
            verify(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CoreRefused):
        verify(tmp_path / "bad")


def forged(path: Path, key: Path, rows: object, **more: Block) -> Path:
    data = json.dumps(rows).encode()
    manifest = {
        "kind": core_self.KIND, "version": 1, "at": AT.isoformat(), "base": "", "model": "", "settings": {}, "note": "",
        "counts": {},
    }  # fmt: skip
    write(path, {"rows": Block.of("U8", (len(data),), memoryview(data)), **more}, manifest, signature.own(key))
    return path


@pytest.mark.parametrize(
    "rows",
    [
        {"sqlite_master": [{"type": "trigger"}]},
        {"owners": [{"n": 1, "name": "a", "evil": 1}]},
        {"owners": [{"n": "one", "name": "a"}]},
        {"owners": [{"n": 1, "name": {"base64": "!"}}]},
        {"owners": [{"n": 1, "name": ["list"]}]},
        {"moods": [{"owner": "a", "body": "text where bytes belong"}]},
        {"experiences": [{"n": 1, "owner": 99, "id": "x", "text": "an owner that there is not"}]},
        {"adapters": [{"id": ADAPTER}]},
        {"adapters": 5},
        {"adapters": [5]},
        {"owners": 5},
        {"owners": [{"n": 1 << 70, "name": "a"}]},
        {"owners": [{"n": 1, "name": "\ud800"}]},
        [],
        "rows",
    ],
)
def test_what_no_core_self_has_is_refused_and_leaves_the_place_empty(rows: object, tmp_path: Path) -> None:
    bad = forged(tmp_path / "bad", tmp_path / "key", rows)
    with pytest.raises(CoreRefused):
        restore(bad, tmp_path / "elsewhere", owner="a test")
    assert not data_dir.database_path(tmp_path / "elsewhere").exists()
    restore(forged(tmp_path / "good", tmp_path / "key", {}), tmp_path / "elsewhere", owner="a test")


def test_files_outside_its_adapters_are_refused(tmp_path: Path) -> None:
    for name in ("adapter_x.adapter_config.json", f"{ADAPTER}.evil.py", "slowwave.db"):
        block = Block.of("U8", (1,), memoryview(b"x"))
        with pytest.raises(CoreRefused):
            verify(forged(tmp_path / "bad", tmp_path / "key", {}, **{name: block}))


def test_only_an_empty_place_and_a_trusted_signer_will_do(made: Callable[..., Path], tmp_path: Path) -> None:
    file = made()
    signer = verify(file).signer
    assert signer is not None
    with pytest.raises(CoreRefused, match="trusted"):
        restore(file, tmp_path / "new", owner="a test", trusted=frozenset({"0" * 64}))
    restore(file, tmp_path / "new", owner="a test", trusted=frozenset({signer}))
    with pytest.raises(CoreRefused, match="empty"):
        restore(file, tmp_path / "new", owner="a test")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "slowwave.db-wal").write_bytes(b"what is left of another agent")
    with pytest.raises(CoreRefused, match="empty"):
        restore(file, tmp_path / "damaged", owner="a test")


def test_one_that_does_not_come_back_the_same_does_not_replace_the_one_before(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    backups = Backups(folder=tmp_path / "backups", write=lambda path: verify(made(path)), now=lambda: AT)
    assert backups.age() is None
    backups.make()
    first = backups.latest.read_bytes()
    assert backups.age() == 0.0
    numbered = {"owners": [{"n": 1, "name": 5}]}  # SQLite makes a text of it
    wrong = replace(backups, write=lambda path: verify(forged(path, tmp_path / "key", numbered)))
    with pytest.raises(CoreRefused, match="owners"):
        wrong.make()
    assert backups.latest.read_bytes() == first and not list(backups.folder.glob("*.part"))
    later = replace(backups, now=lambda: AT + timedelta(hours=2))
    assert later.age() == pytest.approx(7200)
    assert later.drop() == 1 and later.age() is None


def test_forgetting_takes_the_backups_too(tmp_path: Path) -> None:
    with Here(tmp_path / "data", model="scripted") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        id = client.post("/v1/memories", json={"text": "The safe opens with 4711."}).json()["id"]
        made = client.post("/v1/backups")
        assert made.status_code == 201
        path = Path(made.json()["path"])
        assert b"4711" in path.read_bytes()
        assert client.get("/v1/heartbeat").json()["core_self"]["bytes"] == path.stat().st_size
        assert client.delete(f"/v1/memories/{id}").status_code == 200
        assert not path.exists()
        assert client.get("/v1/heartbeat").json()["core_self"] is None


def test_from_the_terminal_it_is_made_checked_and_put_back(tmp_path: Path) -> None:
    with Server(tmp_path / "data", model="scripted") as server:
        httpx.post(f"{server.url}/v1/memories", json={"text": "My boat is called Wren."}, timeout=60)
        file = str(tmp_path / "core.slowwave")
        assert run("backup", "create", file, "--url", server.url).returncode == 0
        assert "1 memories" in run("backup", "verify", file).stdout
        elsewhere = str(tmp_path / "elsewhere")
        wary = ("--set", "require_signature=true", "--set", "trusted_signers=" + "0" * 64)
        refused = run("backup", "restore", file, "--data-dir", elsewhere, *wary)
        assert refused.returncode == 1 and "not of a key that is trusted here" in refused.stderr
        done = run("backup", "restore", file, "--data-dir", elsewhere)
        assert done.returncode == 0, done.stderr
        assert run("backup", "restore", file, "--data-dir", elsewhere).returncode == 1
    with Server(tmp_path / "elsewhere", model="scripted") as server:
        found = httpx.get(f"{server.url}/v1/memories", params={"query": "boat", "k": 3}, timeout=60).json()["data"]
        assert [m["text"] for m in found] == ["My boat is called Wren."]


def test_a_backup_made_while_something_is_forgotten_is_made_again_or_refused(tmp_path: Path) -> None:
    """Forgetting removes all backups at once, the one that was made a moment ago too: it was an error of the server."""
    answers: list[int] = []
    ended = threading.Event()
    with Here(tmp_path / "data", model="scripted") as server, httpx.Client(base_url=server.url, timeout=60) as http:

        def forget() -> None:
            with httpx.Client(base_url=server.url, timeout=60) as other:
                while not ended.is_set():
                    memory = other.post("/v1/memories", json={"text": "My boat is called Wren."}).json()
                    assert other.delete(f"/v1/memories/{memory['id']}").status_code == 200

        forgetting = threading.Thread(target=forget)
        forgetting.start()
        try:
            answers += [http.post("/v1/backups").status_code for _ in range(12)]
        finally:
            ended.set()
            forgetting.join()
    assert set(answers) <= {201, 409} and 201 in answers, answers
