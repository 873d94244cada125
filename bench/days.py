"""Many days and nights in a hurry: does anything grow that should not?

    python -m bench.days --json [--minutes 120] [--seed 1]

A service with a tiny random model, whose exam lets everything pass so that nights are promoted. A day is forty turns by
four clients, a third of them streamed, some hung up on; memories are taught, recalled and forgotten, sessions
suspended, resumed, carried out and in; then the service sleeps while one client talks on. After every day: memory of
the process, open files, threads, what lies on disk by folder, the time to the first token while awake. The first fifth
of the days is warming up; of the rest the first and the last third are compared. What is told stays told, so the
database grows by its rows: `bytes_a_row` is what has to stay level, and so have all folders beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from bench import tiny
from bench.kill_nights import OPTIONS, fall_asleep
from bench.night import Talker
from bench.server import Server

_CLIENTS, _TURNS = 4, 10
_MOST = {"resident_mib": 1.15, "open_files": 1.2, "threads": 1.2, "adapters": 1.2, "bytes_a_row": 1.2}
"""The last third over the first, at most."""


def run(minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """As many days as fit."""
    model = str(tiny.save(folder / "tiny"))
    options = [*OPTIONS, "--set", "checkpoint_mib=64", "--set", "suspend_idle_minutes=0"]
    environment = {"SLOWWAVE_CACHE_DIR": str(folder / "cache"), "SLOWWAVE_MOOD": "true"}
    days: list[dict[str, Any]] = []
    problems: list[str] = []
    until = time.monotonic() + minutes * 60
    with Server(folder / "data", model=model, options=options, environment=environment) as server:
        talker = Talker(server.url)
        while time.monotonic() < until:
            first = _day(server, random.Random(f"{seed}/{len(days)}"), problems)
            night = _night(talker, problems)
            days.append({"outcome": night["outcome"], "first_token_ms": first, **_held(server, talker)})
            sys.stderr.write(f"\rday {len(days)}: {days[-1]}, {len(problems)} problems   ")
    return {"minutes": minutes, "seed": seed, **found(days), "problems": problems[:20], "by_day": days}


def found(days: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last third of the days over the first, without those that warmed it up."""
    warm = days[len(days) // 5 :]
    third = max(1, len(warm) // 3)
    grown: dict[str, Any] = {}
    for name in ("resident_mib", "open_files", "threads", "adapters", "bytes_a_row", "first_token_ms"):
        first, last = (statistics.median(day[name] for day in some) for some in (warm[:third], warm[-third:]))
        grown[name] = {"first_third": first, "last_third": last, "ratio": round(last / max(first, 1e-9), 3)}
    outcomes = [day["outcome"] for day in days]
    return {
        "days": len(days),
        "nights": {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
        "grown": grown,
        "beyond": [name for name, most in _MOST.items() if grown[name]["ratio"] > most],
    }


def _day(server: Server, chance: random.Random, problems: list[str]) -> float:
    """Forty turns; the median time to the first token, in ms."""
    seeds = [chance.getrandbits(40) for _ in range(_CLIENTS)]

    def client(seed: int) -> list[float]:
        talker, mine = Talker(server.url), random.Random(seed)
        try:
            return _talks(talker, mine)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}"[:300])
            return []

    with ThreadPoolExecutor(_CLIENTS) as hands:
        return statistics.median([ms for of_one in hands.map(client, seeds) for ms in of_one] or [0.0])


def _talks(talker: Talker, chance: random.Random) -> list[float]:
    session, first = talker.session(), []
    for _ in range(_TURNS):
        word = "".join(chance.choices("bcdfghklmnprstvz", k=9))
        kind = chance.choice(["say", "say", "say", "tell", "teach", "hang up"])
        if kind == "hang up":
            body = {"content": f"On and on about {word}.", "max_tokens": 60, "stream": True, "ignore_eos": True}
            with talker.client.stream("POST", f"/v1/sessions/{session}/turns", json=body) as stream:
                next(stream.iter_lines(), None)
            session = talker.session()
            continue
        if kind == "teach":
            id = talker.call("POST", "/v1/memories", json={"text": f"The {word} lies in the drawer."})["id"]
            if chance.random() < 0.7:
                talker.call("DELETE", f"/v1/memories/{id}")
            continue
        text = f"My {word} is called {word.title()}." if kind == "tell" and chance.random() < 0.2 else f"About {word}."
        first.append(talker.say(session, text, max_tokens=12)["timings"]["time_to_first_token_ms"])
    talker.call("POST", f"/v1/sessions/{session}/suspend")
    file = talker.client.get(f"/v1/sessions/{session}/checkpoint", params={"codec": "lossless"})
    if file.status_code == 200:
        headers = {"Content-Type": "application/octet-stream"}
        talker.call("POST", "/v1/checkpoints", content=file.content, headers=headers)
    talker.say(session, "And on.", max_tokens=4)
    return first


def _night(talker: Talker, problems: list[str]) -> dict[str, Any]:
    """Sleep, while one client talks on."""
    ended = threading.Event()

    def talk() -> None:
        while not ended.wait(3.0):
            try:
                talker.ask("Are you asleep?")
            except Exception as error:
                problems.append(f"asleep: {type(error).__name__}: {error}"[:300])

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        fall_asleep(talker)
        while True:
            night: dict[str, Any] = talker.call("GET", "/v1/sleep/cycles")["data"][0]
            if night["phase"] == "ended":
                break
            time.sleep(0.3)
    finally:
        ended.set()
        talking.join()
    if night["outcome"] in ("failed", "interrupted"):
        problems.append(f"a night ended as {night['outcome']}: {night['reasons']}")
    return night


def _held(server: Server, talker: Talker) -> dict[str, Any]:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    of: dict[str, int] = {}
    for file in server.data_dir.rglob("*"):
        if file.is_file():
            part = file.relative_to(server.data_dir).parts[0]
            of[part] = of.get(part, 0) + file.stat().st_size
    rows = sum(
        float(line.split()[1])
        for line in talker.client.get("/metrics").text.splitlines()
        if line.startswith("slowwave_memory_rows ")
    )
    folders = [p for p in (server.data_dir / "adapters").iterdir() if p.is_dir()]
    return {
        "resident_mib": round(server.resident_bytes() / 2**20),
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
        "adapters": len(folders),
        "memories": rows,
        "bytes_a_row": round(of.get("slowwave.db", 0) / max(1.0, rows)),
        "disk": of,
    }


def main() -> int:
    """Live, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = run(args.minutes, args.seed, Path(folder))
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["problems"] or done["beyond"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
