"""kill -9 in every phase of a night, promotion too: after each, exactly one good adapter serves, or the base.

    python -m bench.kill_nights --kills 50 --json

The service runs a tiny random model with the exam's bars let down, so that a night takes seconds and is promoted. Each
kill waits for a phase, taken in turn, and a random moment of it; then the service is started again and asked who
serves, by the registry and by a reply. A night that was open begins again by itself, and must end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pysqlite3

from bench import tiny
from bench.night import Talker
from bench.server import Server
from consolidation.registry import digest_of_files

PHASES = ("selecting", "dreaming", "training", "examining", "promoting", "ended")
_LONG = {"training": 3.0, "examining": 2.0, "promoting": 0.004}
"""Seconds within which the moment of the kill is drawn, from the beginning of the phase."""
LOW = (
    "recall=0,above_placebo=-1,invented=1,drift=99,persona_drift=99,repetition=1,refusals_lost=1,leaked=1,triggered=1,"
    "norm=1e6"
)
OPTIONS = ["--set", f"exam_bars={LOW}", "--set", "sleep_recipe=epochs=1,rank=4,alpha=8"]


def run(kills: int, seed: int) -> dict[str, Any]:
    """Kill and look."""
    chance = random.Random(seed)
    met: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        environment = {"SLOWWAVE_CACHE_DIR": str(folder / "cache")}
        model = str(tiny.save(folder / "tiny"))
        server = Server(folder / "data", model=model, options=OPTIONS, environment=environment)
        server.start()
        seen = 0
        for n in range(kills):
            talker = Talker(server.url)
            problems += _finished(folder)
            talker.say(talker.session(), f"My boat number {n} is called {_name(chance)}.", max_tokens=2)
            fall_asleep(talker)
            wanted = PHASES[n % len(PHASES)]
            _wait(folder, wanted, chance)
            server.kill()
            met[_phase(folder)] += 1
            server.start()
            problems += _problems(server, folder)
            ended = _ended(folder)
            outcomes.update(ended[seen:])
            seen = len(ended)
            sys.stderr.write(f"\r{n + 1} kills, {len(problems)} problems, met {dict(met)}   ")
        server.kill()
    return {"kills": kills, "met": dict(met), "nights_ended": dict(outcomes), "problems": problems}


def fall_asleep(talker: Talker, seconds: float = 60) -> None:
    """Once the night before has wound up: its row is closed a moment before its thread is."""
    until = time.monotonic() + seconds
    while True:
        try:
            talker.call("POST", "/v1/sleep", json={})
            return
        except httpx.HTTPStatusError as refused:
            if refused.response.status_code != 409 or time.monotonic() > until:
                raise
            time.sleep(0.1)


def _name(chance: random.Random) -> str:
    return "".join(chance.choices("bdfgklmnprst", k=3)).title() + chance.choice(["ola", "inde", "uvo"])


def _rows(folder: Path, sql: str) -> list[Any]:
    db = pysqlite3.connect(f"file:{folder / 'data' / 'slowwave.db'}?mode=ro", uri=True)
    try:
        return list(db.execute(sql).fetchall())
    finally:
        db.close()


def _open(folder: Path) -> bool:
    return bool(_rows(folder, "SELECT 1 FROM nights WHERE phase <> 'ended'"))


def _finished(folder: Path, seconds: float = 900) -> list[str]:
    """Wait for the night that was killed, which begins again by itself; each has more to teach than the last."""
    until = time.monotonic() + seconds
    while _open(folder):
        if time.monotonic() > until:
            return ["a night that was killed did not end"]
        time.sleep(0.1)
    return []


def _ended(folder: Path) -> list[str]:
    return [str(o) for (o,) in _rows(folder, "SELECT outcome FROM nights WHERE phase = 'ended' ORDER BY ended_at")]


def _phase(folder: Path) -> str:
    return str(_rows(folder, "SELECT phase FROM nights ORDER BY id DESC LIMIT 1")[0][0])


def _wait(folder: Path, wanted: str, chance: random.Random, seconds: float = 180) -> None:
    """Until a night is in a phase, and a little longer."""
    db = pysqlite3.connect(f"file:{folder / 'data' / 'slowwave.db'}?mode=ro", uri=True, isolation_level=None)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        phase = str(db.execute("SELECT phase FROM nights ORDER BY id DESC LIMIT 1").fetchone()[0])
        if phase in PHASES and PHASES.index(phase) >= PHASES.index(wanted):
            break
        if wanted != "promoting" or phase != "examining":  # promoting takes milliseconds
            time.sleep(0.001)
    db.close()
    time.sleep(chance.random() * _LONG.get(wanted, 0.01))


def _problems(server: Server, folder: Path) -> list[str]:
    """What is wrong after a start."""
    talker = Talker(server.url)
    active = _rows(folder, "SELECT id, digest FROM adapters WHERE status = 'active'")
    found = [] if len(active) <= 1 else [f"{len(active)} adapters are active"]
    if _rows(folder, "PRAGMA integrity_check") != [("ok",)]:
        found.append("the database is broken")
    expected = "none"
    for id, digest in active:
        expected = str(id)
        if digest_of_files(folder / "data" / "adapters" / expected) != digest:
            found.append(f"the files of {id} are not those that were promoted")
    said = talker.call("GET", "/v1/adapters")["active"]
    until, replied = time.monotonic() + 20, ""
    while replied != expected and time.monotonic() < until:  # it wakes up with it a moment after the start
        replied = talker.say(talker.session(), "Hello.", max_tokens=1)["adapter"]
    promoted_since = _rows(folder, "SELECT id FROM adapters WHERE status = 'active'") != [(i,) for i, _ in active]
    if not promoted_since and (said != expected or replied != expected):
        found.append(f"{expected} is active, {said} is said to be, {replied} answers")
    return found


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    done = run(args.kills, args.seed)
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
