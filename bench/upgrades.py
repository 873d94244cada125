"""From every schema that there was to this one, killed on the way: all old or all new, and the same answers.

    python -m bench.upgrades --json [--kills 150] [--seed 1]

A directory that has been lived in (`bench.flips`) is put back to each earlier schema: its tables without what later
steps added. It is upgraded by opening it, undisturbed and killed at a step drawn from all durable ones (`faults.c`);
after a kill it is opened again. Then every row that was there is there, the full text finds what it found, nothing is
damaged, and a service answers from it. A schema of a later version is refused by name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pysqlite3
from sqlite_utils import Database

from bench import faults, tiny
from bench.faults import How
from bench.flips import contents, grown
from bench.steps import service
from memory import fulltext, integrity
from memory.data_dir import database_path
from memory.errors import DatabaseTooNew
from memory.experiences import experience_of, pages_of
from memory.migrations import migrations
from memory.store import Store


def put_back(current: Path, to: Path, before: str | None) -> None:
    """What a database would be if no step from `before` on had been made."""
    with (
        closing(pysqlite3.connect(str(current))) as new,
        closing(pysqlite3.connect(str(to), isolation_level=None)) as old,
    ):
        new.text_factory = old.text_factory = str
        db, whole = Database(old), Database(new)
        old.execute("PRAGMA journal_mode = WAL")
        old.execute("PRAGMA foreign_keys = OFF")
        migrations.apply(db, stop_before=before) if before else migrations.apply(db)
        rows_of = {t for t in db.table_names() if not t.startswith(("_", "sqlite_"))}
        for table in sorted(rows_of & set(contents(current))):
            names = [f'"{c.name}"' for c in db[table].columns if c.name in {d.name for d in whole[table].columns}]
            marks = ", ".join("?" for _ in names)
            for row in new.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall():
                old.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(names)}) VALUES ({marks})", row)
        if "owners" in rows_of:
            for (owner,) in new.execute("SELECT n FROM owners").fetchall():
                fulltext.create(db, owner)
                own = [experience_of(r) for r in whole.query("SELECT * FROM experiences WHERE owner = ?", [owner])]
                fulltext.add(db, owner, [pages_of(whole, owner, one) for one in own])


def opened_until(path: Path, at: int) -> tuple[bool, int]:
    """Open it in a process of its own that is killed before a step; whether it was, and how many steps it took."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            faults.arm(How.TORN if at % 2 else How.KILL, at, path.parent)
            Store(path).close()
            os.write(writing, str(faults.steps()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 32)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status), int(said or b"0")


def wrong(path: Path, before: dict[str, list[Any]], names: dict[str, list[str]]) -> list[str]:
    """After an upgrade: what is missing or damaged."""
    found = [f"damaged: {d.what}" for d in integrity.damages(path)]
    with closing(pysqlite3.connect(str(path))) as db:
        db.text_factory = bytes
        for table, rows in before.items():
            now = sorted(map(repr, db.execute(f"SELECT {', '.join(names[table])} FROM {table}").fetchall()))
            if table not in _MOVED and now != rows:
                found.append(f"{table}: {len(rows)} rows before, {len(now)} after, or others")
        db.text_factory = str
        pending = [m.name for m in migrations.pending(Database(db))]
    return found + ([f"steps are left: {pending}"] if pending else [])


_MOVED = ("sources",)
"""Tables whose rows a later step carries elsewhere."""


def run(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Every schema, and the kills shared out among them."""
    chance = random.Random(seed)
    model = tiny.save(folder / "tiny")
    home = folder / "data"
    grown(home, model, seed)
    with closing(pysqlite3.connect(str(database_path(home)))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    steps = [m.name for m in migrations.pending(Database(memory=True))]
    problems: list[str] = []
    killed, counts = 0, []
    for n, first_left_out in enumerate(steps[1:], 1):
        work = folder / f"schema {n}" / "data"
        work.mkdir(parents=True)
        shutil.copytree(home / "adapters", work / "adapters")
        path = database_path(work)
        put_back(database_path(home), path, first_left_out)
        with closing(pysqlite3.connect(str(path))) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        kept = path.with_name("kept")
        shutil.copy(path, kept)
        before = contents(path)
        with closing(pysqlite3.connect(str(path))) as db:
            names = {t: [r[1] for r in db.execute(f"PRAGMA table_info({t})").fetchall()] for t in before}
        names = {t: [f'"{c}"' for c in of if c in _columns(home, t)] for t, of in names.items()}
        before = _rows(path, names)
        _, all_steps = opened_until(path, 0)
        counts.append(all_steps)
        problems += [f"from {n}: {p}" for p in wrong(path, before, names)]
        for _ in range(kills // (len(steps) - 1)):
            for file in work.glob("slowwave.db*"):
                file.unlink()
            shutil.copy(kept, path)
            was, _ = opened_until(path, chance.randint(1, max(1, all_steps)))
            killed += was
            Store(path).close()
            problems += [f"from {n}, killed: {p}" for p in wrong(path, before, names)]
        kept.unlink()
        with service(work.parent, model) as (http, _):
            answers = [http.get(p).status_code for p in ("/v1/sessions", "/v1/memories?query=word", "/v1/adapters")]
            session = http.post("/v1/sessions").json()["id"]
            said = http.post(f"/v1/sessions/{session}/turns", json={"content": "Hello.", "max_tokens": 2})
            if [*answers, said.status_code] != [200] * 4:
                problems.append(f"from {n}: a service on it answers {answers}, {said.status_code}: {said.text[:200]}")
        sys.stderr.write(f"\rschema {n} of {len(steps) - 1}, {killed} kills, {len(problems)} problems   ")
    problems += _refused(home, folder)
    note = f"{len(steps) - 1} earlier schemas, {min(counts)} to {max(counts)} durable steps each"
    return {"kills": killed, "schemas": len(steps) - 1, "seed": seed, "problems": problems[:20], "note": note}


def _columns(home: Path, table: str) -> set[str]:
    with closing(pysqlite3.connect(str(database_path(home)))) as db:
        return {str(r[1]) for r in db.execute(f"PRAGMA table_info({table})").fetchall()}


def _rows(path: Path, names: dict[str, list[str]]) -> dict[str, list[Any]]:
    with closing(pysqlite3.connect(str(path))) as db:
        db.text_factory = bytes
        return {
            table: sorted(map(repr, db.execute(f"SELECT {', '.join(of)} FROM {table}").fetchall()))
            for table, of in names.items()
            if of
        }


def _refused(home: Path, folder: Path) -> list[str]:
    """A database that a later version has written."""
    path = folder / "later.db"
    shutil.copy(database_path(home), path)
    with closing(pysqlite3.connect(str(path))) as db:
        row = db.execute("SELECT * FROM _sqlite_migrations LIMIT 1").fetchone()
        columns = [c for _, c, *_ in db.execute("PRAGMA table_info(_sqlite_migrations)").fetchall()]
        later = dict(zip(columns, row, strict=True)) | {"name": "m999_of_a_later_version"}
        later.pop("id", None)
        marks = ", ".join("?" for _ in later)
        db.execute(f"INSERT INTO _sqlite_migrations ({', '.join(later)}) VALUES ({marks})", list(later.values()))
        db.commit()
    try:
        Store(path).close()
        return ["a database of a later version was opened"]
    except DatabaseTooNew:
        return []


def main() -> int:
    """Upgrade, kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    faults.preloaded("bench.upgrades")
    with tempfile.TemporaryDirectory() as given:
        done = run(args.kills, args.seed, Path(given))
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
