"""Every durable step of the service in turn made its last: is all that was acknowledged there, and nothing half done?

    python -m bench.steps --json [--kills 2000] [--failures 200] [--seed 1]

A life is a service in a process of its own, opened on the data directory that the last one left, and asked over its
HTTP application to do a dozen things: talk, teach, import, forget, suspend, export, take in, fork, promote an adapter,
roll it back, write its core self. `faults.c` stands between the process and the system, and at a step drawn beforehand
(any write, flush, truncation, renaming or removal below the data directory, SQLite's own too) the process is killed,
half of the time in the middle of the write. Then, and after every life that got to its end, what is on disk is compared
with what was acknowledged. The step that fails may have been done or not; everything before it is there.

`--failures`: as many lives more in which a flush, or a write, fails once with EIO or ENOSPC instead. Nothing is killed:
whatever the service says of it, it goes on, and what it acknowledged before and after is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import faults
from bench.faults import How
from bench.kill import Witness, violations
from consolidation.registry import digest_of_files
from memory.data_dir import database_files, database_path

ACTS = 12
"""Things that a life is asked to do."""
_GENERATION = 40
"""Lives on one data directory; then a new one is begun."""
_NEVER = 0
"""A step that does not come: steps are counted from one."""
_stopped: list[bool] = []
"""Not empty once somebody wants it to end: after the life under way."""
_LONGEST = 120.0
"""Seconds that a life may take: one that hangs has failed."""


@dataclass(slots=True)
class Known:
    """What the outside was told."""

    witness: Witness = field(default_factory=Witness)
    memories: dict[str, str] = field(default_factory=dict)
    """Text by id, of those that were taught and are not forgotten."""
    forgotten: dict[str, str] = field(default_factory=dict)
    in_doubt: list[Any] = field(default_factory=list)
    """What was asked for last, and not answered."""
    serving: set[str] = field(default_factory=lambda: {"none"})
    """The adapters that may serve: one, or two while a change of them is in doubt."""

    def hear(self, line: dict[str, Any]) -> None:
        """One line of what a life says: what it is about to ask, then what was answered."""
        act, about = line["act"], line.get("about", {})
        if line["said"] == "asking":
            self.in_doubt = [act, about]
            if act in ("promote", "roll back"):
                self.serving.add(about["to"])
            return
        self.in_doubt = []
        if not line["done"]:
            return
        if act == "talk":
            self.witness.saw(about["session"], about["text"], line["text"])
        elif act == "teach":
            self.memories[line["id"]] = about["text"]
        elif act == "import":
            self.memories.update(about["texts"])
        elif act == "forget":
            self.forgotten[about["id"]] = self.memories.pop(about["id"])
        elif act in ("promote", "roll back"):
            self.serving = {line["serves"]}


def wrong(folder: Path, known: Known) -> list[str]:
    """What is on disk against what was said."""
    import pysqlite3

    from models.state_file import BrokenStateFile, opened

    db = pysqlite3.connect(f"file:{database_path(folder)}?mode=ro", uri=True)
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'adapters'").fetchone():  # killed before it was made
        db.close()
        return ["the tables are gone"] if known.memories or known.witness.acknowledged else []
    found = violations(folder, known.witness)
    rows = dict(db.execute("SELECT id, text FROM experiences").fetchall())
    active = db.execute("SELECT id, digest FROM adapters WHERE status = 'active'").fetchall()
    db.close()
    doubted = known.in_doubt[1].get("id") if known.in_doubt and known.in_doubt[0] == "forget" else None
    found += [f"taught, and not there: {t}" for i, t in known.memories.items() if rows.get(i) != t and i != doubted]
    found += [f"forgotten, and there: {t}" for i, t in known.forgotten.items() if i in rows]
    if len(active) > 1:
        found.append(f"{len(active)} adapters are active")
    serves = active[0][0] if active else "none"
    if serves not in known.serving and not (
        known.in_doubt and known.in_doubt[0] == "promote"
    ):  # the new one's name is not known
        found.append(f"{serves} serves, and not {known.serving}")
    if active and digest_of_files(folder / "adapters" / serves) != active[0][1]:
        found.append(f"the files of {serves} are not those that were promoted")
    for state in folder.glob("checkpoints/*/*.state"):
        try:
            opened(state)
        except BrokenStateFile as error:
            found.append(f"{state.name}: {error}")
    return found


def settle(folder: Path, known: Known, *, doubt_all: bool = False) -> None:
    """What was in doubt is what it is now: it may not change any more. `doubt_all`: an act was refused half way."""
    import pysqlite3

    db = pysqlite3.connect(f"file:{database_path(folder)}?mode=ro", uri=True)
    if known.in_doubt and known.in_doubt[0] == "forget":
        id = known.in_doubt[1]["id"]
        if not db.execute("SELECT 1 FROM experiences WHERE id = ?", [id]).fetchone() and id in known.memories:
            known.forgotten[id] = known.memories.pop(id)
    if known.in_doubt or doubt_all:
        active = db.execute("SELECT id FROM adapters WHERE status = 'active'").fetchall()
        known.serving = {active[0][0] if active else "none"}
    db.close()
    known.in_doubt = []


def traces(folder: Path, known: Known) -> list[str]:
    """At the end of a life, which finished what was begun: no forgotten text in the database's files, no stray part."""
    raw = b"".join(f.read_bytes() for f in database_files(folder) if f.exists())
    found = [f"forgotten, and still in the files: {t}" for t in known.forgotten.values() if t.encode() in raw]
    strays = [p for p in folder.rglob("*") if p.name.endswith((".part", ".partial")) or p.name.startswith("proof.")]
    return found + [f"left behind: {p.relative_to(folder)}" for p in strays]


class Life:
    """What one process does, from the opening of the directory on. Runs in the child."""

    def __init__(
        self, http: Any, runtime: Any, scratch: Path, chance: random.Random, tell: Callable[..., None]
    ) -> None:
        self.http, self.runtime, self._scratch, self._chance = http, runtime, scratch, chance
        self.tell = tell
        self._sessions = [s["id"] for s in self._json("GET", "/v1/sessions")["data"]][:4]
        found = self._json("GET", "/v1/memories", params={"k": 20})["data"]
        self._taught: list[str] = [m["id"] for m in found if " lies in the " in m["text"]]

    def live(self, acts: int) -> None:
        """Do so many things."""
        ways: dict[Callable[[], None], int] = {
            self.talk: 5,
            self.teach: 3,
            self.take_lines: 1,
            self.forget: 2,
            self.suspend: 2,
            self.carry: 1,
            self.fork: 1,
            self.promote: 2,
            self.roll_back: 1,
            self.back_up: 1,
        }
        for act in self._chance.choices(list(ways), list(ways.values()), k=acts):
            act()

    def talk(self) -> None:
        session, text = self._session(), f"{self._word()} {'word ' * self._chance.randint(1, 30)}".strip()
        with self._asking("talk", session=session, text=text) as said:
            answer = self.http.post(f"/v1/sessions/{session}/turns", json={"content": text, "max_tokens": 4})
            said(answer, text=answer.json().get("text"))

    def teach(self) -> None:
        text = f"The {self._word()} lies in the {self._word()}."
        with self._asking("teach", text=text) as said:
            answer = self.http.post("/v1/memories", json={"text": text})
            self._taught.append(answer.json().get("id"))
            said(answer, id=self._taught[-1])

    def take_lines(self) -> None:
        texts = {f"m{self._chance.getrandbits(60)}": f"A {self._word()} costs {self._word()}." for _ in range(5)}
        lines = "\n".join(json.dumps({"id": id, "text": text, "speaker": "Ada"}) for id, text in texts.items())
        with self._asking("import", texts=texts) as said:
            headers = {"Content-Type": "application/jsonl"}
            said(self.http.post("/v1/memories/import", content=lines, headers=headers))

    def forget(self) -> None:
        gone = [id for id in self._taught if id]
        if not gone:
            return self.teach()
        id = self._chance.choice(gone)
        self._taught.remove(id)
        with self._asking("forget", id=id) as said:
            said(self.http.delete(f"/v1/memories/{id}"))
        return None

    def suspend(self) -> None:
        session = self._session()
        with self._asking("suspend", session=session) as said:
            said(self.http.post(f"/v1/sessions/{session}/suspend"))

    def carry(self) -> None:
        session = self._session()
        with self._asking("carry", session=session) as said:
            file = self.http.get(f"/v1/sessions/{session}/checkpoint", params={"codec": "lossless"})
            if file.status_code != 200:
                return said(file)
            headers = {"Content-Type": "application/octet-stream"}
            said(self.http.post("/v1/checkpoints", content=file.content, headers=headers))
        return None

    def fork(self) -> None:
        session = self._session()
        with self._asking("fork", session=session) as said:
            said(self.http.post(f"/v1/sessions/{session}/fork"))

    def promote(self) -> None:
        """What a night does once its exam is passed."""
        from bench import tiny
        from consolidation import journal

        access, store = self.runtime.service.sleep, self.runtime.service.memory.store
        made = tiny.adapter(
            self._scratch / f"made-{self._chance.getrandbits(40)}",
            {(1, "gate_proj"): (64, 128)},
            rank=2,
            seed=self._chance.getrandbits(20),
        )
        with self._asking("promote", to="") as said:
            now = datetime.now(UTC)
            for night in journal.newest(store, owner="local", limit=1):
                if night.phase != "ended":
                    journal.finish(store, night, "interrupted", [], at=now)
            night = journal.begin(store, owner="local", date="2026-11-28", asked=True, at=now)
            for phase in ("selecting", "dreaming", "training", "examining", "promoting"):
                night = journal.move(store, night, phase, at=now)
            adapter = access.registry.promote(made, night, [], base="tiny", at=now)
            access.wake("local", adapter)
            said(None, serves=adapter.id)

    def roll_back(self) -> None:
        lineage = {a["id"]: a for a in self._json("GET", "/v1/adapters")["data"]}
        active = self._json("GET", "/v1/adapters")["active"]
        parent = (lineage[active].get("parent") or "none") if active in lineage else "none"
        with self._asking("roll back", to=parent) as said:
            answer = self.http.post("/v1/adapters/rollback")
            said(answer, serves=answer.json().get("active"))

    def back_up(self) -> None:
        with self._asking("back up") as said:
            said(self.http.post("/v1/backups"))

    def _session(self) -> str:
        if not self._sessions or self._chance.random() < 0.2:
            made = self.http.post("/v1/sessions")
            if made.status_code >= 300 and self._sessions:  # the disk fails just then
                return str(self._chance.choice(self._sessions))
            self._sessions.append(made.json()["id"])
        return str(self._chance.choice(self._sessions))

    def _word(self) -> str:
        return "".join(self._chance.choices("bcdfghklmnprstvz", k=9))

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self.http.request(method, path, **options).json()

    @contextlib.contextmanager
    def _asking(self, act: str, **about: Any) -> Iterator[Callable[..., None]]:
        self.tell(said="asking", act=act, about=about)
        heard = False

        def said(answer: Any, **more: Any) -> None:
            nonlocal heard
            heard = True
            status = 200 if answer is None else answer.status_code
            why = answer.text[:300] if status >= 500 else ""
            self.tell(said="answered", act=act, about=about, done=status < 300, status=status, why=why, **more)

        try:
            yield said
        except Exception as error:  # what the act does beside HTTP; the service is asked on
            if heard:
                raise
            self.tell(said="answered", act=act, about=about, done=False, status=type(error).__name__)


@contextlib.contextmanager
def service(home: Path, model: Path, **settings: Any) -> Iterator[tuple[Any, Any]]:
    """A client of an application in this very process, and its runtime; the data is in `home`/data."""
    from starlette.testclient import TestClient

    from service import create_app, open_runtime
    from settings import Settings

    usual = {"embedding": "none", "sleep_at": "none", "heartbeat": False, "mood": False, "threads": 1}
    chosen = Settings(
        data_dir=home / "data", cache_dir=home.parent / "cache", model=str(model), **{**usual, **settings}
    )
    with open_runtime(chosen) as runtime:
        runtime.engine.wait_until_loaded(60)
        with TestClient(create_app(runtime), base_url="http://127.0.0.1") as http:
            yield http, runtime


def live(model: Path, folder: Path, *, seed: int, fault: tuple[How, int], pipe: int) -> None:
    """A whole life; does not return. The fault counts from before the directory is opened."""

    def tell(**line: Any) -> None:
        os.write(pipe, json.dumps(line).encode() + b"\n")

    code = 1
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # gone with the lives, also of one that is killed
        try:
            faults.arm(fault[0], fault[1], folder / "data")
            with service(folder, model) as (http, runtime):
                Life(http, runtime, Path(scratch), random.Random(seed), tell).live(ACTS)
            tell(said="end", steps=faults.steps())
            code = 0
        except BaseException as error:
            if not isinstance(error, SystemExit):
                tell(said="fell", why="".join(traceback.format_exception(error))[-1500:])
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            os._exit(code)


def run(lives: int, *, ways: tuple[How, ...], seed: int, folder: Path) -> dict[str, Any]:
    """So many lives, each with a fault of one of these ways at a step of its own."""
    from bench import tiny

    chance = random.Random(seed)
    model = tiny.save(folder / "tiny")
    counts: Counter[str] = Counter()
    problems: list[dict[str, Any]] = []
    usual = 0
    known = Known()
    home = folder / "0"
    lived = 0
    for n in range(lives):
        if _stopped:
            break
        if n % _GENERATION == 0:
            shutil.rmtree(home, ignore_errors=True)
            known, home = Known(), folder / str(n)
            home.mkdir()
        life_seed = chance.getrandbits(40)
        if not usual:  # how many steps a life has, once
            usual = _one(model, home, life_seed, (How.KILL, _NEVER), known, counts)["steps"]
        how = chance.choice(ways)
        at = chance.randint(1, max(2, usual // (3 if how in (How.FLUSH_FAILS, How.WRITE_FAILS) else 1)))
        ended = _one(model, home, chance.getrandbits(40), (how, at), known, counts)
        found = [] if ended["how"] != "hung" else ["it hung"]
        if ended["how"] == "fell" and how not in (How.FLUSH_FAILS, How.WRITE_FAILS):
            found.append(f"it fell: {ended['why']}")
        found += wrong(home / "data", known) if database_path(home / "data").exists() else []
        if ended["how"] == "ended":
            found += traces(home / "data", known)
        counts[ended["how"]] += 1
        if ended["how"] == "fell":
            counts[f"fell: {ended['why'].strip().splitlines()[-1][:90]}"] += 1
            sys.stderr.write(f"\n{ended['why']}\n")
        if found:
            doubt = list(known.in_doubt)
            sys.stderr.write(f"\n{found}\n")
            problems.append({"life": n, "seed": seed, "how": how.name, "at": at, "doubt": doubt, "found": found[:4]})
            known, home = Known(), folder / f"{n}-after"
            home.mkdir()
        elif known.in_doubt:
            settle(home / "data", known)
        lived = n + 1
        sys.stderr.write(f"\r{lived} of {lives}, {len(problems)} problems, {dict(counts)}   ")
    return {"lives": lived, "steps_in_a_life": usual, **counts, "seed": seed, "problems": problems}


def _one(
    model: Path, home: Path, seed: int, fault: tuple[How, int], known: Known, counts: Counter[str]
) -> dict[str, Any]:
    """Live once, and hear what it says. `how`: ended, killed, fell, hung."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 2)
        live(model, home, seed=seed, fault=fault, pipe=writing)
    os.close(writing)
    said: dict[str, Any] = {"how": "killed", "steps": 0}
    late = False
    until = time.monotonic() + _LONGEST
    os.set_blocking(reading, False)
    raw = b""
    while True:
        try:
            piece = os.read(reading, 1 << 16)
        except BlockingIOError:
            if time.monotonic() > until:
                late = True
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
            continue
        if not piece:
            break
        raw += piece
    os.close(reading)
    os.waitpid(pid, 0)
    for line in raw.splitlines():
        try:
            heard = json.loads(line)
        except ValueError:
            continue
        if heard["said"] == "end":
            said = {"how": "ended", "steps": heard["steps"]}
        elif heard["said"] == "fell":
            said = {"how": "fell", "steps": 0, "why": heard["why"]}
        else:
            known.hear(heard)
            if heard["said"] == "answered":
                counts["acts answered"] += heard["done"]
                counts["acts refused"] += not heard["done"]
    return {"how": "hung", "steps": 0} if late else said


def _stop(*_: object) -> None:
    _stopped.append(True)


def main() -> int:
    """Kill, look, print; Ctrl-C or SIGTERM prints what was found until then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--failures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    faults.preloaded("bench.steps")
    __import__("service")  # before the first life, which is a copy of this process
    for caught in (signal.SIGINT, signal.SIGTERM):
        signal.signal(caught, _stop)

    done = {}
    with tempfile.TemporaryDirectory() as given:
        for name, lives, ways in (
            ("kills", args.kills, (How.KILL, How.TORN)),
            ("failures", args.failures, (How.FLUSH_FAILS, How.WRITE_FAILS)),
        ):
            where = Path(given) / name
            where.mkdir()
            done[name] = run(lives, ways=ways, seed=args.seed, folder=where) if lives else {}
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if any(one.get("problems") for one in done.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
