"""Every fault that a long-lived service meets, one suite: `make torture`, or

    python -m bench.torture [--json] [--scale 1.0] [--only 1 4 ...] [--seed 1] [--at-once 1]

A row of the table is a fault, how often it was injected, and how often a promise was broken: nothing acknowledged is
lost, nothing half done is adopted, the last promoted adapter (or one that may serve) answers, what is refused says so.
With --scale a fraction of it. Rows that are benches of their own are run as such. Long rows are done in parts, the
first by the seed that is given, each other by the next; with --at-once so many parts run beside each other, a processor
core and a half each. Two rows are apart, since they train: `bench.poison` (10, 11) and `bench.month` (thirty nights of
ordinary life).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as hour
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from bench import tiny
from bench.kill_nights import OPTIONS, fall_asleep
from bench.night import Talker
from bench.server import ROOT, Server


@dataclass(slots=True, kw_only=True)
class Found:
    """What came of a row."""

    injections: int
    violations: list[str] = field(default_factory=list)
    kills: int = 0
    """Of the injections, processes that were killed."""
    disk_full: int = 0
    inputs: int = 0
    """Of the injections, broken or hostile inputs."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a row is run with."""

    scale: float
    seed: int
    folder: Path

    def times(self, n: int) -> int:
        return max(1, round(n * self.scale))


def _bench(name: str, *options: str | int) -> dict[str, Any]:
    """Run another bench; what it printed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SLOWWAVE_BENCH_MOUNTED")}
    command = [sys.executable, "-m", f"bench.{name}", "--json", *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        return {"failed": f"bench.{name} ended with {done.returncode}: {done.stderr.strip()[-300:]}"}


def steps(given: Given) -> Found:
    """Every write, flush, truncation, renaming and removal: see bench/steps.py."""
    done = _bench("steps", "--kills", given.times(2200), "--failures", given.times(300), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    kills, failures = done["kills"], done["failures"]
    problems = [str(p) for p in (*kills["problems"], *failures["problems"])]
    note = f"{kills['acts answered'] + failures['acts answered']} acts acknowledged; {failures['lives']} failed steps"
    killed = kills.get("killed", 0)
    return Found(injections=killed + failures["lives"], violations=problems, kills=killed, note=note)


def server_killed(given: Given) -> Found:
    """SIGKILL at random moments: see bench/kill.py."""
    done = _bench("kill", "--kills", given.times(40), "--clients", 4, "--model", "scripted", "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    kills = int(done["kills"])
    return Found(
        injections=kills, kills=kills, violations=done["violations"], note=f"{done['acknowledged_turns']} turns"
    )


def nights_killed(given: Given) -> Found:
    """See bench/kill_nights.py."""
    done = _bench("kill_nights", "--kills", given.times(30), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    kills = int(done["kills"])
    return Found(injections=kills, kills=kills, violations=done["problems"], note=f"met {done['met']}")


def worker_out_of_memory(given: Given) -> Found:
    """Its address space is bounded to less than torch needs."""
    found, n = [], given.times(4)
    model = str(tiny.save(given.folder / "tiny"))
    options = [*OPTIONS, "--set", "sleep_memory_mib=256"]
    with Server(given.folder / "data", model=model, options=options, environment=_cache(given)) as server:
        talker = Talker(server.url)
        for i in range(n):
            talker.say(talker.session(), f"My boat number {i} is called Wren{i}.", max_tokens=2)
            night = _slept(talker)
            if night["outcome"] != "failed" or not night["reasons"]:
                found.append(f"a worker without memory ended as {night['outcome']}: {night['reasons']}")
            if talker.call("GET", "/v1/adapters")["active"] != "none":
                found.append("something was promoted")
            talker.say(talker.session(), "Hello.", max_tokens=1)
    return Found(injections=n, violations=found, note=str(night["reasons"])[:90])


def disk_full(given: Given) -> Found:
    """See bench/full_disk.py."""
    done = _bench("full_disk", "--events", given.times(500), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    events = int(done["events"])
    return Found(injections=events, disk_full=events, violations=done["problems"], note=f"of {done['asked']} acts")


def flipped(given: Given) -> Found:
    """See bench/flips.py."""
    done = _bench("flips", "--flips", given.times(1000), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    lost = done.get("log, its end lost", 0)
    note = f"{done['mended']} mended and opened; rows changed unseen {done['unseen']}; ends of logs lost {lost}"
    return Found(injections=done["flips"], violations=done["problems"], note=note)


def clocks(given: Given) -> Found:
    """Random looks by clocks that jump hours and days, in zones with and without summer time."""
    from consolidation.schedule import Day, Plan, due

    chance, found, n = random.Random(given.seed), [], given.times(3000)
    zones = ("America/New_York", "Europe/Lisbon", "Australia/Lord_Howe", "Asia/Kolkata", "UTC", "Pacific/Apia")
    day = Day(new=9, salience=3.0, quiet=timedelta(hours=1))
    nights = 0
    for _ in range(n):
        plan = Plan(at=hour(chance.randrange(24), chance.choice([0, 30])))
        zone = ZoneInfo(chance.choice(zones))
        now = datetime(2026, chance.randrange(1, 13), chance.randrange(1, 28), tzinfo=UTC)
        had: list[str] = []
        for _ in range(60):
            jump = chance.choice([1 / 60, 1 / 60, 0.5, 1, -1, 24, -24, 3])
            now += timedelta(hours=jump)
            zone = ZoneInfo(chance.choice(zones)) if chance.random() < 0.02 else zone
            begun = due(plan, day, now=now, zone=zone, had=had)
            if begun is not None:
                date = begun[0].isoformat()
                if date in had:
                    found.append(f"{date} twice, at {now} in {zone}")
                had.append(date)
                nights += 1
    return Found(injections=n * 60, violations=found, note=f"{nights} nights begun")


def second_server(given: Given) -> Found:
    """It must say who holds the directory, and leave the first one alone."""
    found, n = [], given.times(10)
    with Server(given.folder / "data", model="scripted") as server:
        slowest = 0.0
        for _ in range(n):
            command = [sys.executable, "-m", "cli", "serve", "--data-dir", str(server.data_dir), "--port", "0"]
            began = time.monotonic()
            done = subprocess.run(
                [*command, "--model", "scripted"], capture_output=True, text=True, cwd=ROOT, check=False
            )
            slowest = max(slowest, time.monotonic() - began)
            assert server.process is not None
            if done.returncode == 0 or str(server.process.pid) not in done.stderr:
                found.append(f"ended with {done.returncode}: {done.stderr[-200:]}")
        if httpx.get(f"{server.url}/health").status_code != 200:
            found.append("the first one is gone")
    return Found(injections=n, violations=found, note=f"refused within {slowest:.1f} s, imports and all")


def hostile_files(given: Given) -> Found:
    """See bench/fuzz.py."""
    done = _bench("fuzz", "--mutations", given.times(100_000), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    n, bad = int(done["mutations"]), [str(b) for b in done["bad"]]
    return Found(injections=n, inputs=n, violations=bad, note=f"slowest {done['slowest_ms']} ms")


def hostile_inputs(given: Given) -> Found:
    """See bench/fuzz_inputs.py."""
    done = _bench("fuzz_inputs", "--inputs", given.times(20_000), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    n = int(done["inputs"])
    return Found(injections=n, inputs=n, violations=[str(b) for b in done["bad"]], note=str(done["by_kind"]))


def tenants(given: Given) -> Found:
    """See bench/tenants.py."""
    done = _bench("tenants", "--probes", given.times(1000), "--timed", given.times(60), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    note = f"AUC of time to first token {done['auc']}; of one's own text {done['same_user_auc']}"
    return Found(injections=done["probes"], violations=done["leaks"], note=note)


def clients_gone(given: Given) -> Found:
    """Sockets that are abandoned in the middle of a stream."""
    found: list[str] = []
    n, slowest = given.times(100), 0.0
    with Server(given.folder / "data", options=["--set", "max_reply_tokens=900"]) as server:
        for i in range(n):
            session = httpx.post(f"{server.url}/v1/sessions", json={}).json()["id"]
            body = {"content": f"Tell me a very long story, number {i}.", "stream": True, "max_tokens": 900}
            with (
                httpx.Client(base_url=server.url, timeout=60) as http,
                http.stream("POST", f"/v1/sessions/{session}/turns", json=body) as stream,
            ):
                for line in stream.iter_lines():
                    if line.startswith("event: delta"):
                        break
            began = time.monotonic()
            while httpx.get(f"{server.url}/health").json()["running"] and time.monotonic() - began < 5:
                time.sleep(0.01)
            took = time.monotonic() - began
            slowest = max(slowest, took)
            if took > 1:
                found.append(f"cancelled after {took:.1f} s")
    return Found(injections=n, violations=found, note=f"slot free after {slowest * 1000:.0f} ms at most")


def stopped(given: Given) -> Found:
    """SIGTERM while somebody is answered and a night is under way; then on again."""
    found, n = [], given.times(8)
    model = str(tiny.save(given.folder / "tiny"))
    options = [*OPTIONS, "--set", "drain_seconds=10"]
    server = Server(given.folder / "data", model=model, options=options, environment=_cache(given))
    slowest = 0.0
    for i in range(n):
        server.start()
        talker = Talker(server.url)
        talker.say(talker.session(), f"My boat number {i} is called Wren{i}.", max_tokens=2)
        told: list[str] = []

        def talk(talker: Talker = talker, told: list[str] = told) -> None:
            said = talker.say(talker.session(), "And on.", max_tokens=200, ignore_eos=True)
            told.append(said["finish_reason"])

        fall_asleep(talker)
        talking = threading.Thread(target=talk)
        talking.start()
        time.sleep(0.3)
        began = time.monotonic()
        code = server.stop(60)
        slowest = max(slowest, time.monotonic() - began)
        talking.join()
        if code != 0:
            found.append(f"it ended with {code}")
        if told not in (["length"], ["stop"]):
            found.append(f"the reply under way ended as {told}")
    server.start()
    talker = Talker(server.url)
    until = time.monotonic() + 120
    while any(c["phase"] != "ended" for c in talker.call("GET", "/v1/sleep/cycles")["data"]):
        if time.monotonic() > until:
            found.append("a night that was stopped did not go on")
            break
        time.sleep(0.2)
    server.stop()
    return Found(injections=n, violations=found, note=f"down within {slowest:.1f} s")


def reservoir(given: Given) -> Found:
    """Senses that are not finite, huge, or of the wrong shape, among ordinary ones."""
    from agent.errors import ReservoirRefused
    from agent.reservoir import Echo
    from agent.senses import SENSES

    chance = np.random.default_rng(given.seed)
    echo, ticks = Echo(len(SENSES)), 0
    found: list[str] = []
    state, refused = echo.rest, 0
    wanted = given.times(1_000_000)
    while ticks < wanted and not found:
        senses = chance.uniform(-1, 1, len(SENSES)) * chance.choice([0.1, 1.0, 1e6])
        if chance.random() < 0.05:
            senses[chance.integers(len(senses))] = chance.choice([math.nan, math.inf, -math.inf])
        seconds = float(chance.choice([0.0, 0.1, 30, 3600, -5, 1e9, math.nan, math.inf]))
        try:
            state = echo.moved(state, senses, seconds)
        except ReservoirRefused:
            refused += 1
        ticks += _ticks(echo, seconds)
        if not (np.isfinite(state).all() and np.abs(state).max() <= 1.0):
            found.append(f"after {ticks} steps the state is out of range")
    return Found(injections=ticks, violations=found, note=f"{refused} events refused")


def _ticks(echo: Any, seconds: float) -> int:
    """Steps of all pools that such an event takes, at most 40 a pool and stretch; see `Echo`."""
    longest = seconds if math.isfinite(seconds) and seconds > 0 else 1e9
    return sum(2 * min(40, max(1, math.ceil(longest * 2 / pool.tau))) for pool in echo.pools)


def migrations(given: Given) -> Found:
    """See bench/upgrades.py."""
    done = _bench("upgrades", "--kills", given.times(150), "--seed", given.seed)
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    return Found(injections=done["kills"], kills=done["kills"], violations=done["problems"], note=done["note"])


def swaps(given: Given) -> Found:
    """Adapters promoted, rolled back and activated while four clients talk: each reply names exactly one that was."""
    found: list[str] = []
    n = given.times(100)
    model = str(tiny.save(given.folder / "tiny"))
    replies: list[str] = []
    with Server(given.folder / "data", model=model, options=OPTIONS, environment=_cache(given)) as server:
        talker = Talker(server.url)
        for i in range(2):
            talker.say(talker.session(), f"My boat number {i} is called Wren{i}.", max_tokens=2)
            night = _slept(talker)
            if night["outcome"] != "promoted":
                return Found(injections=0, violations=[f"a night for it ended as {night['outcome']}"])
        names = [a["id"] for a in talker.call("GET", "/v1/adapters")["data"]]
        ended = threading.Event()

        def talk(seed: int) -> None:
            mine = Talker(server.url)
            while not ended.is_set():
                try:
                    said = mine.say(mine.session(), f"Hello {seed}.", max_tokens=6, slowwave={"remember": False})
                    replies.append(said["adapter"])
                except httpx.HTTPError as error:
                    found.append(f"a reply failed: {error}")

        clients = [threading.Thread(target=talk, args=(i,)) for i in range(4)]
        for client in clients:
            client.start()
        chance = random.Random(given.seed)
        for _ in range(n):
            wanted = chance.choice([*names, "none", "back"])
            if wanted == "back":
                wanted = talker.call("POST", "/v1/adapters/rollback")["active"]
            else:
                talker.call("POST", f"/v1/adapters/{wanted}/activate")
            said = talker.say(talker.session(), "And now?", max_tokens=1, slowwave={"remember": False})["adapter"]
            if said != wanted:
                found.append(f"{wanted} was activated, {said} answers")
        ended.set()
        for client in clients:
            client.join()
    found += [f"a reply names {name}" for name in set(replies) - {*names, "none"}]
    note = f"{len(replies)} replies meanwhile, by {len(set(replies))} adapters"
    return Found(injections=n, violations=found, note=note)


def soak(given: Given) -> Found:
    """Eight clients that talk, stream and hang up; what the process holds must not grow."""
    done = _bench("soak", "--clients", 8, "--seconds", given.times(600), "--model", "scripted")
    if "failed" in done:
        return Found(injections=0, violations=[done["failed"]])
    held = done["resident_mib"]
    grown = held["end"] / held["after_a_third"] - 1
    violations = [*done["problems"], *([f"memory grew by {grown:.0%}"] if grown > 0.15 else [])]
    return Found(injections=sum(done["turns"].values()), violations=violations, note=f"{held} MiB")


def _cache(given: Given) -> dict[str, str]:
    return {"SLOWWAVE_CACHE_DIR": str(given.folder / "cache")}


def _slept(talker: Talker) -> dict[str, Any]:
    fall_asleep(talker)
    while True:
        night = talker.call("GET", "/v1/sleep/cycles")["data"][0]
        if night["phase"] == "ended":
            return dict(talker.call("GET", f"/v1/sleep/cycles/{night['id']}"))
        time.sleep(0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault."""

    told: str
    inject: Callable[[Given], Found]
    parts: int = 1
    """So many runs of a share each: what takes long can be done beside itself."""


ROWS: dict[str, Row] = {
    "1": Row(told="killed at any durable step; a flush or write that fails", inject=steps, parts=8),
    "1b": Row(told="the service killed among chatting clients", inject=server_killed),
    "2": Row(told="a night killed in each phase and in promotion", inject=nights_killed, parts=3),
    "3": Row(told="a night's process out of memory", inject=worker_out_of_memory),
    "4": Row(told="disk full", inject=disk_full),
    "5": Row(told="flipped bits, zeroed and cut files", inject=flipped, parts=4),
    "6": Row(told="clock jumps, summer time, zones", inject=clocks),
    "7": Row(told="a second service on the directory", inject=second_server),
    "9": Row(told="hostile checkpoint files", inject=hostile_files, parts=4),
    "9b": Row(told="hostile adapters, models, imports, settings", inject=hostile_inputs, parts=2),
    "12": Row(told="one user probing for another", inject=tenants),
    "13": Row(told="clients gone in mid-stream", inject=clients_gone),
    "14": Row(told="SIGTERM in chat and sleep", inject=stopped),
    "15": Row(told="a reservoir fed with anything", inject=reservoir),
    "16": Row(told="killed while the schema is upgraded", inject=migrations, parts=2),
    "17": Row(told="adapters changed under chat", inject=swaps),
    "18": Row(told="ten minutes of clients that talk and hang up", inject=soak),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What came of one run of a row."""

    row: str
    seed: int
    found: Found
    seconds: float


def inject(name: str, scale: float, seed: int) -> Part:
    """One part of a row."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = ROWS[name].inject(Given(scale=scale / ROWS[name].parts, seed=seed, folder=Path(folder)))
        except Exception as error:  # a row that cannot be run has not passed
            found = Found(injections=0, violations=[f"{type(error).__name__}: {error}"])
    return Part(row=name, seed=seed, found=found, seconds=time.monotonic() - began)


def parts(only: Sequence[str], *, scale: float, seed: int, at_once: int) -> Iterator[Part]:
    """All parts of those rows, the longest rows' first, as they end."""
    wanted = [(name, scale, seed + n) for name in only for n in range(ROWS[name].parts)]
    if at_once == 1:
        yield from (inject(*one) for one in wanted)
        return
    with ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn")) as hands:
        for done in as_completed([hands.submit(inject, *one) for one in sorted(wanted, key=_longest_first)]):
            yield done.result()


def _longest_first(part: tuple[str, float, int]) -> tuple[bool, int]:
    name = part[0]
    return name not in ("18", "12"), -ROWS[name].parts  # these two cannot be parted


def together(found: Sequence[Part]) -> dict[str, Any]:
    """A row's parts as one row of the table."""
    found = sorted(found, key=lambda part: part.seed)
    row = Found(
        injections=sum(p.found.injections for p in found),
        violations=[f"seed {p.seed}: {v}" for p in found for v in p.found.violations],
        kills=sum(p.found.kills for p in found),
        disk_full=sum(p.found.disk_full for p in found),
        inputs=sum(p.found.inputs for p in found),
        note=" | ".join(p.found.note for p in found),
    )
    name = found[0].row
    seeds = [p.seed for p in found]
    return {
        "row": name,
        "fault": ROWS[name].told,
        **asdict(row),
        "seeds": seeds,
        "parts": f"{len(found)} of {ROWS[name].parts}",
        "seconds": round(sum(p.seconds for p in found)),
    }


def summed(done: Sequence[Part], *, scale: float, seed: int) -> dict[str, Any]:
    """The table, of all parts that ended."""
    rows = [together(of) for name in ROWS if (of := [part for part in done if part.row == name])]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "scale": scale,
        "injections": sum(r["injections"] for r in rows),
        "kills": sum(r["kills"] for r in rows),
        "disk_full": sum(r["disk_full"] for r in rows),
        "inputs": sum(r["inputs"] for r in rows),
        "violations": sum(len(r["violations"]) for r in rows),
        "rows": rows,
    }


def run(only: Sequence[str], *, scale: float, seed: int, at_once: int = 1, keep: Path | None = None) -> dict[str, Any]:
    """Those rows. `keep`: where the table stands after every part: a run that is broken off has shown something."""
    done: list[Part] = []
    for part in parts(only, scale=scale, seed=seed, at_once=at_once):
        done.append(part)
        found = part.found
        told = f"{part.row} {ROWS[part.row].told} (seed {part.seed}, {part.seconds:.0f} s)"
        sys.stderr.write(f"{told}: {found.injections}, {len(found.violations)} violations. {found.note}\n")
        for violation in found.violations[:3]:
            sys.stderr.write(f"    {violation[:300]}\n")
        if keep is not None:
            aside = keep.with_suffix(".part")
            aside.write_text(json.dumps(summed(done, scale=scale, seed=seed)), encoding="utf-8")
            aside.replace(keep)
    return summed(done, scale=scale, seed=seed)


def main() -> int:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="parts that run beside each other")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the table here after every part")
    args = parser.parse_args()
    done = run(args.only, scale=args.scale, seed=args.seed, at_once=args.at_once, keep=args.keep)
    if args.json:
        sys.stdout.write(json.dumps(done) + "\n")
    else:
        table = Table("row", "fault", "injections", "violations", "seconds", "")
        for row in done["rows"]:
            counts = (str(row["injections"]), str(len(row["violations"])), str(row["seconds"]))
            table.add_row(row["row"], row["fault"], *counts, row["note"])
        Console().print(table)
        totals = {k: done[k] for k in ("injections", "kills", "disk_full", "inputs", "violations")}
        Console().print(f"{totals}, seed {args.seed}")
    return 1 if done["violations"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
