"""API keys: who is let in, who one is, what one is good for, how often one may ask; and what is put on record."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pysqlite3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.server import ROOT, Server
from memory import audit
from memory.store import Store
from web.keys import LOCAL_OWNER, Keyring, keys_of, parsed
from web.scopes import SCOPES, needed, on_record

AT = datetime(2026, 11, 28, tzinfo=UTC)


def test_without_keys_everybody_is_local_and_may_all() -> None:
    ring = Keyring([])
    found = ring.presented(None)
    assert found is not None and found.owner == LOCAL_OWNER and found.scopes == SCOPES
    assert not ring.required


def test_a_key_opens_in_clear_or_by_digest() -> None:
    digest = hashlib.sha256(b"correcthorse").hexdigest()
    for lines in (["correcthorse"], [f"sha256:{digest}"], ["another-key", "correcthorse"]):
        ring = Keyring(keys_of(lines))
        found = ring.presented("Bearer correcthorse")
        assert found is not None and found.owner == f"key-{digest[:16]}"
        for wrong in (
            None,
            "",
            "correcthorse",
            "Basic correcthorse",
            "Bearer correcthors",
            "Bearer ",
            f"Bearer {digest}",
        ):
            assert ring.presented(wrong) is None


@pytest.mark.parametrize(
    "key", ["short", "sha256:abc", "sha256:" + "g" * 64, "", "a-good-key scopes=all", "a-good-key scopes=",
            "a-good-key user=Ada", "a-good-key user=../x", "a-good-key user=" + "a" * 65, "a-good-key chat"],
)  # fmt: skip
def test_impossible_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"API key|scopes are|after a key"):
        parsed(key)


def test_what_a_key_is_good_for() -> None:
    assert parsed("a-good-key").scopes == SCOPES - {"admin"}
    assert parsed("a-good-key scopes=chat+memory").scopes == {"chat", "memory"}
    assert [k.scopes == SCOPES for k in keys_of(["first-key", "second-key", "the-api-key"], "the-api-key")] == [
        False,
        False,
        True,
    ]
    assert keys_of(["only-one-key"])[0].scopes == SCOPES
    assert keys_of(["only-one-key scopes=chat"])[0].scopes == {"chat"}


def test_keys_of_one_user_open_the_same_so_that_a_key_can_be_changed() -> None:
    old, new, other = keys_of(["the-old-key user=ada", "the-new-key user=ada scopes=chat", "the-old-key-2"])
    assert old.owner == new.owner == "user-ada" != other.owner
    assert old.name != new.name


def test_a_quota_refills_with_time_and_is_each_owners_own() -> None:
    now = [0.0]
    ring = Keyring([], requests_per_minute=2, clock=lambda: now[0])
    assert [ring.seconds_until_allowed("a") for _ in range(3)] == [0.0, 0.0, 30.0]
    assert ring.seconds_until_allowed("b") == 0.0
    now[0] = 29.0
    assert ring.seconds_until_allowed("a") == pytest.approx(1.0)
    now[0] = 30.0
    assert ring.seconds_until_allowed("a") == 0.0


def test_every_route_takes_a_scope_and_what_is_on_record_is_a_route(scripted_server: Server) -> None:
    """A route that somebody adds and that no scope guards fails here."""
    paths = httpx.get(f"{scripted_server.url}/openapi.json").json()["paths"]
    acts = 0
    for path, operations in paths.items():
        for method in map(str.upper, operations):
            real = path.replace("{model}", "a/b")
            for name in ("session", "id", "room", "upload"):
                real = real.replace(f"{{{name}}}", "x_1")
            assert path in ("/health", "/health/live", "/metrics") or needed(method, real) in SCOPES, (method, path)
            acts += on_record(method, real)
    assert acts == 17, "a route was added or left: is it an administrative act?"


def test_a_key_reaches_what_it_is_good_for_and_every_act_is_on_record(tmp_path: Path) -> None:
    lines = ["chat-key-1 scopes=chat user=ada", "memory-key-2 scopes=memory user=ada", "export-key-3 scopes=export",
             "admin-key-4 scopes=admin"]  # fmt: skip
    (tmp_path / "keys").write_text("\n".join(lines))
    (tmp_path / "keys").chmod(0o600)
    server = Server(tmp_path / "data", model="scripted", options=["--set", f"api_key_file={tmp_path / 'keys'}"])
    may = {
        "chat-key-1": ("POST /v1/sessions", "GET /v1/persona", "GET /v1/heartbeat", "GET /metrics"),
        "memory-key-2": ("GET /v1/memories", "GET /v1/adapters", "GET /v1/receipts", "POST /v1/adapters/rollback"),
        "export-key-3": ("GET /v1/memories/export",),
        "admin-key-4": ("PUT /v1/heartbeat", "GET /v1/rooms/thoughts", "POST /v1/backups", "GET /v1/audit"),
    }
    with server, httpx.Client(base_url=server.url, timeout=60) as http:
        for key in may:
            headers = {"Authorization": f"Bearer {key}"}
            for whose, acts in may.items():
                for act in acts:
                    method, path = act.split()
                    body = {"json": {"stopped": False}} if act == "PUT /v1/heartbeat" else {}
                    status = http.request(method, path, headers=headers, **body).status_code  # type: ignore[arg-type]
                    fine = key == whose or path == "/metrics"
                    assert (status < 300) == fine and (fine or status == 403), (key, act, status)
        ada = {"Authorization": "Bearer memory-key-2"}
        made = http.post("/v1/memories", json={"text": "My boat is called Wren."}, headers=ada).json()["id"]
        assert http.delete(f"/v1/memories/{made}", headers=ada).status_code == 200
        admin = {"Authorization": "Bearer admin-key-4"}
        found = http.get("/v1/audit", params={"limit": 200}, headers=admin).json()
        assert found["whole"] and found["entries"] == len(found["data"])
        by = {row["n"]: row for row in found["data"]}
        ended = {row["of"]: row["status"] for row in found["data"] if row["of"]}
        asked = [row for row in by.values() if row["of"] is None]
        assert {row["n"] for row in asked} == set(ended), "every act has its end"
        forgotten = next(row for row in asked if row["act"] == f"DELETE /v1/memories/{made}")
        assert ended[forgotten["n"]] == 200 and forgotten["owner"] == "user-ada"
        refused = [row for row in asked if row["act"] == "POST /v1/backups" and ended[row["n"]] == 403]
        assert len(refused) == 3, "who tried without the scope is on record"
        said = json.dumps(found) + server.log.read_text()
        assert not any(line.split()[0] in said for line in lines) and "Wren" not in said
        environment = {**os.environ, "SLOWWAVE_URL": server.url, "SLOWWAVE_API_KEY": "admin-key-4"}

        def terminal(*options: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "cli", "audit", "--json", *options]
            return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)

        assert terminal("--head", found["head"]).returncode == 0
        assert terminal("--head", "0" * 64).returncode == 1
    raw = (tmp_path / "data" / "slowwave.db").read_bytes()
    assert not any(line.split()[0].encode() in raw for line in lines), "no key in the database"


def test_an_act_that_cannot_be_put_on_record_is_not_done(tmp_path: Path) -> None:
    with Server(tmp_path / "data", model="scripted") as server, httpx.Client(base_url=server.url, timeout=30) as http:
        made = http.post("/v1/memories", json={"text": "My boat is called Wren."}).json()["id"]
        db = pysqlite3.connect(str(tmp_path / "data" / "slowwave.db"), isolation_level=None)
        db.execute("CREATE TRIGGER nothing_more BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END")
        assert http.delete(f"/v1/memories/{made}").status_code == 500
        assert http.get(f"/v1/memories/{made}").status_code == 200
        db.execute("DROP TRIGGER nothing_more")
        db.close()
        assert http.delete(f"/v1/memories/{made}").status_code == 200


@given(st.data())
def test_whatever_is_changed_in_the_record_is_found(data: st.DataObject) -> None:
    chain, entries = audit.START, []
    for n in range(1, 9):
        status = None if n % 2 else 200
        one = audit.Entry(n=n, at=f"t{n}", owner="o", key="k", act=f"act {n}", of=n - 1 if status else None,
                          status=status, chain="")  # fmt: skip
        chain = one.sealed(chain)
        entries.append(audit.Entry(**{**{f: getattr(one, f) for f in one.__slots__}, "chain": chain}))
    assert audit.verified(iter(entries)) == audit.Verified(entries=8, head=chain, broken_at=None)
    at = data.draw(st.integers(0, 6))
    if data.draw(st.booleans()):
        changed = [*entries[:at], *entries[at + 1 :]]
    else:
        name = data.draw(st.sampled_from(["at", "owner", "key", "act"]))
        kept = {f: getattr(entries[at], f) for f in entries[at].__slots__}
        changed = [*entries]
        changed[at] = audit.Entry(**{**kept, name: kept[name] + "x"})
    assert audit.verified(iter(changed)).broken_at == at + 1


def test_no_row_of_the_record_can_be_changed_or_removed(tmp_path: Path) -> None:
    store = Store(tmp_path / "x.db")
    row = audit.asked(store, "POST /v1/backups", owner="o", key="k", at=AT)
    audit.answered(store, row, "POST /v1/backups", 201, owner="o", key="k", at=AT)
    for change in ("UPDATE audit SET act = 'nothing'", "DELETE FROM audit"):
        with pytest.raises(pysqlite3.IntegrityError, match="never"):
            store.write(lambda db, change=change: db.execute(change))  # type: ignore[misc]
    assert audit.verify(store).entries == 2
    store.close()
