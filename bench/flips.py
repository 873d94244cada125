"""Bits that a disk has turned, in every kind of file: are they seen, is the file named, and does it serve again?

    python -m bench.flips --json [--flips 1000] [--seed 1]

A service on a tiny model lives for a while (`bench.steps`): sessions, memories, adapters of which one serves, suspended
states, a core self. Then it is killed, so that its log is still there. Each flip takes that directory anew and changes
one bit, a run of bytes or the length of one file, and `mending.broken` looks at it. What it does not name must be the
same by what it holds: every row of every table, every tensor, every value. Every eighth flip that was seen is mended
(`slowwave doctor --repair`) and opened: the service must answer, with the adapter that may serve, and what can be read
of the database must still be there; where nothing can (its first page is gone), the backup must be named.

`unseen` counts, by table, flips of the database that changed a row and that nothing noticed: numbers, dates and vectors
carry no digest of their own. Text of memories and messages does; one unseen there is a violation. `log, its end lost`:
the last commits were in the broken part, which nothing tells from what a crash leaves.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pysqlite3

from bench.steps import Known, Life, service
from consolidation.registry import digest_of_files
from memory.data_dir import database_path

_KINDS = ("database", "log", "weights", "state", "backup")
_SHARES = (0.5, 0.1, 0.15, 0.15, 0.1)
_MENDED = 8
_MOST_LOST = 0.35
"""Of all rows, the most that one broken page of so small a database may cost."""
_WORDS = {"experiences": "text", "messages": "content"}


def grown(home: Path, model: Path, seed: int) -> Known:
    """A directory that has been lived in, as a kill leaves it."""
    known = Known()
    source = home.parent / "living"
    source.mkdir()
    with service(source, model) as (http, runtime), tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        life = Life(http, runtime, Path(scratch), random.Random(seed), lambda **line: known.hear(line))
        runtime.service.memory.store.fold_log()
        for act in (life.promote, life.promote, life.take_lines, life.teach, life.talk, life.talk, life.back_up):
            act()
        life.live(60)
        life.promote()
        for _ in range(3):
            session = http.post("/v1/sessions").json()["id"]
            text = "A long story of a lighthouse and its keeper. " * 4
            http.post(f"/v1/sessions/{session}/turns", json={"content": text, "max_tokens": 4})
            assert http.post(f"/v1/sessions/{session}/suspend").status_code == 200
        life.back_up()
        shutil.copytree(source / "data", home)
    return known


def contents(path: Path) -> dict[str, list[Any]]:
    """Every row that the house has written, by table; what is made from others left out."""
    with closing(pysqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        db.text_factory = bytes
        names = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'"
        ).fetchall()
        own = [n.decode() for (n,) in names if not n.startswith((b"turn_", b"window_", b"sqlite_", b"_"))]
        return {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}").fetchall())) for name in own}


def chosen(home: Path, kind: str, chance: random.Random) -> Path:
    """A file of a kind."""
    match kind:
        case "database":
            return database_path(home)
        case "log":
            return database_path(home).with_name("slowwave.db-wal")
        case "weights":
            with closing(pysqlite3.connect(str(database_path(home)))) as db:
                (id,) = db.execute("SELECT id FROM adapters WHERE status = 'active'").fetchone()
            return home / "adapters" / str(id) / "adapter_model.safetensors"
        case "state":
            return chance.choice(sorted(home.glob("checkpoints/*/*.state")))
        case _:
            return chance.choice(sorted(home.glob("backups/*.slowwave")))


def turned(path: Path, chance: random.Random) -> None:
    """Change a file as disks do."""
    raw = bytearray(path.read_bytes())
    at = chance.randrange(len(raw))
    match chance.randrange(10):
        case 0:
            del raw[at:]
        case 1:
            n = chance.choice([8, 512, 4096])
            raw[at : at + n] = bytes(len(raw[at : at + n]))
        case 2:
            n = chance.choice([8, 512])
            raw[at : at + n] = chance.randbytes(len(raw[at : at + n]))
        case _:
            raw[at] ^= 1 << chance.randrange(8)
    path.write_bytes(raw)


@contextmanager
def _copy(home: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=home.parent) as given:
        to = Path(given) / "data"
        shutil.copytree(home, to)
        yield to


def run(flips: int, seed: int, folder: Path, *, mended: int = _MENDED) -> dict[str, Any]:
    """All of them; every `mended`-th that is seen is mended."""
    from bench import tiny
    from mending import broken

    chance = random.Random(seed)
    model = tiny.save(folder / "tiny")
    home = folder / "data"
    known = grown(home, model, seed)
    whole = contents(database_path(home))
    counts: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    problems: list[str] = [f"whole, and called broken: {b.what}" for b in broken(home)]
    for n in range(flips):
        kind = chance.choices(_KINDS, _SHARES)[0]
        with _copy(home) as data:
            file = chosen(data, kind, chance)
            before = file.read_bytes()
            turned(file, chance)
            if file.read_bytes() == before:
                continue
            counts[kind] += 1
            found = list(broken(data))
            named = any(b.path in (file, file.parent, database_path(data)) for b in found)
            counts[f"{kind}, seen"] += named
            counts["seen"] += named
            before_these = len(problems)
            if not named:
                problems += _same(kind, data, whole, unseen, counts)
            elif counts["seen"] % mended == 0:
                problems += [f"{n}, {kind}: {p}" for p in _mended(data, model, whole, known, counts)]
            for problem in problems[before_these:]:
                sys.stderr.write(f"\n{n}, {kind}: {problem}\n")
        sys.stderr.write(f"\r{n + 1} of {flips}, {len(problems)} problems, {dict(unseen)} unseen   ")
    return {"flips": flips, "seed": seed, **counts, "unseen": dict(unseen), "problems": problems[:20]}


def _same(kind: str, data: Path, whole: dict[str, list[Any]], unseen: Counter[str], counts: Counter[str]) -> list[str]:
    """What was not named: nothing that is read may differ."""
    if kind not in ("database", "log"):
        return [f"a {kind} was changed, and nobody saw"]
    now = contents(database_path(data))
    changed = [table for table in whole if now.get(table) != whole[table]]
    if not changed:
        counts[f"{kind}, harmless"] += 1
        return []
    if kind == "log":
        counts["log, its end lost"] += 1
        return []
    found = []
    for table in changed:
        unseen[table] += 1
        if table in _WORDS and _words(now, table) != _words(whole, table):
            found.append(f"words of {table} were changed, and nobody saw")
    return found


def _words(rows: dict[str, list[Any]], table: str) -> list[str]:
    """The letters of the texts, as far as a digest covers them."""
    place = {"experiences": 3, "messages": 5}[table]
    return sorted(str(eval(row)[place]).lower() for row in rows[table])


def _mended(data: Path, model: Path, whole: dict[str, list[Any]], known: Known, counts: Counter[str]) -> list[str]:
    """Mend, look, open."""
    from mending import NOTHING_READ, broken, mend

    done = list(mend(data, at=datetime.now(UTC)))
    counts["mended"] += 1
    found = [] if done else ["nothing was mended"]
    left = [b for b in broken(data) if not b.lasting]
    found += [f"still broken: {b.path.name}: {b.what}" for b in left]
    now = contents(database_path(data))
    kept, all_rows = sum(map(len, now.values())), sum(map(len, whole.values()))
    counts["rows lost at most"] = max(counts["rows lost at most"], all_rows - kept)
    if not any(now[table] for table in _WORDS) and any(NOTHING_READ in d.done for d in done):
        counts["nothing could be read, and the backup was named"] += 1
    elif kept < all_rows * (1 - _MOST_LOST):
        found.append(f"{all_rows - kept} of {all_rows} rows are lost: {[d.done for d in done][:2]}")
    home = data.parent
    with service(home, model) as (http, runtime):
        said = http.get("/v1/adapters").json()["active"]
        if said != "none":
            registry = runtime.service.sleep.registry
            if digest_of_files(registry.folder_of(said)) != registry.digest_of(said):
                found.append(f"{said} is said to serve, and its files are not what was promoted")
        session = http.post("/v1/sessions").json()["id"]
        answer = http.post(f"/v1/sessions/{session}/turns", json={"content": "Hello.", "max_tokens": 2})
        if answer.status_code != 200 or answer.json()["adapter"] != said:
            found.append(f"after mending it answers {answer.status_code}: {answer.text[:200]}")
        for path in ("/v1/sessions", "/v1/memories?query=word", "/v1/memories/export", "/v1/audit"):
            if http.get(path).status_code != 200:
                found.append(f"after mending {path} answers {http.get(path).status_code}")
    return found


def main() -> int:
    """Flip, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as given:
        done = run(args.flips, args.seed, Path(given))
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
