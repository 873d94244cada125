"""A data directory that a disk has damaged: what is broken is named, put aside, and it serves again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pysqlite3
import pytest

from bench.flips import contents, grown, run, turned
from bench.server import ROOT
from memory import integrity
from memory.data_dir import database_path, owned
from memory.errors import DataDirInUse
from mending import broken, mend

AT = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture(scope="module")
def life(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("life") / "data"
    grown(home, tiny_folder, 3)
    return home


@pytest.fixture
def lived_in(life: Path, tmp_path: Path) -> Path:
    shutil.copytree(life, tmp_path / "data")
    return tmp_path / "data"


def doctor(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "doctor", "--json", "--data-dir", str(home), "--set", "model=scripted"]
    return subprocess.run([*command, *options], capture_output=True, text=True, cwd=ROOT)


def test_flipped_bits_are_seen_and_mended(tmp_path: Path) -> None:
    found = run(20, seed=5, folder=tmp_path, mended=4)
    assert found["problems"] == [] and found["mended"] >= 2, found
    for kind in ("weights", "state", "backup"):
        assert found.get(kind, 0) == found.get(f"{kind}, seen", 0)


def test_from_the_terminal_what_is_broken_is_named_and_put_aside(lived_in: Path) -> None:
    assert not list(broken(lived_in))
    state = sorted(lived_in.glob("checkpoints/*/*.state"))[0]
    turned(state, random.Random(1))
    with closing(pysqlite3.connect(str(database_path(lived_in)))) as db:
        (active,) = db.execute("SELECT id FROM adapters WHERE status = 'active'").fetchone()
    (lived_in / "adapters" / active / "adapter_model.safetensors").write_bytes(b"")
    told = json.loads(doctor(lived_in).stdout)
    faults = [f["found"] for f in told["findings"] if f["level"] == "fault"]
    assert not told["healthy"] and any(str(state) in f for f in faults) and any(active in f for f in faults)
    mended = json.loads(doctor(lived_in, "--repair").stdout)
    assert mended["healthy"] and any("serves" in one["done"] for one in mended["repaired"])
    kept = [p.name for p in (lived_in / "broken").rglob("*")]
    assert state.name in kept and active in kept and not state.exists()
    with closing(pysqlite3.connect(str(database_path(lived_in)))) as db:
        assert db.execute("SELECT id FROM adapters WHERE status = 'active'").fetchall() != [(active,)]
    assert json.loads(doctor(lived_in, "--repair").stdout)["repaired"] == [], "there is nothing left to mend"


def test_changed_words_are_found_and_not_recalled(lived_in: Path) -> None:
    with closing(pysqlite3.connect(str(database_path(lived_in)), isolation_level=None)) as db:
        (id,) = db.execute("SELECT id FROM experiences WHERE quarantined IS NULL LIMIT 1").fetchone()
        db.execute("UPDATE experiences SET text = text || ' otherwise' WHERE id = ?", [id])
        (message,) = db.execute("SELECT id FROM messages WHERE role = 'user' LIMIT 1").fetchone()
        db.execute("UPDATE messages SET content = 'never said' WHERE id = ?", [message])
    found = integrity.damages(database_path(lived_in))
    assert {(d.kind, d.id) for d in found} == {("memory", id), ("message", message)}
    assert len(list(mend(lived_in, at=AT))) >= 2
    with closing(pysqlite3.connect(str(database_path(lived_in)))) as db:
        assert "disk" in db.execute("SELECT quarantined FROM experiences WHERE id = ?", [id]).fetchone()[0]


def test_a_change_of_punctuation_alone_is_found(lived_in: Path) -> None:
    with closing(pysqlite3.connect(str(database_path(lived_in)), isolation_level=None)) as db:
        (id,) = db.execute("SELECT id FROM experiences WHERE quarantined IS NULL LIMIT 1").fetchone()
        db.execute("UPDATE experiences SET text = text || '!' WHERE id = ?", [id])
    assert [(d.kind, d.id) for d in integrity.damages(database_path(lived_in))] == [("memory", id)]


def test_a_table_that_says_otherwise_of_itself_is_made_anew(lived_in: Path) -> None:
    """A turned bit in a table's own description is no broken page, and every write would have failed."""
    path = database_path(lived_in)
    with closing(pysqlite3.connect(str(path), isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA writable_schema = ON")
        wrong = "replace(sql, 'REFERENCES sessions', 'REFERENCES secsions')"
        db.execute(f"UPDATE sqlite_master SET sql = {wrong} WHERE name = 'turns'")
    before = contents(path)
    assert [d.kind for d in integrity.damages(path) if "says of turns" in d.what] == ["pages"]
    assert list(mend(lived_in, at=AT)) and integrity.damages(path) == []
    assert contents(path) == before


def test_what_can_be_read_of_a_database_is_saved(lived_in: Path, tmp_path: Path) -> None:
    path = database_path(lived_in)
    with closing(pysqlite3.connect(str(path))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = contents(path)
    raw = bytearray(path.read_bytes())
    with closing(pysqlite3.connect(str(path))) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'turns_by_session'").fetchone()
    raw[(page - 1) * 4096 : page * 4096] = bytes(4096)
    path.write_bytes(raw)
    done = list(mend(lived_in, at=AT))
    assert done and integrity.damages(path) == []
    assert contents(path) == before, "an index held nothing of its own"
    assert (lived_in / "broken").is_dir()


def test_nobody_mends_what_is_in_use(lived_in: Path) -> None:
    with owned(lived_in, owner="a service"), pytest.raises(DataDirInUse):
        list(mend(lived_in, at=AT))
