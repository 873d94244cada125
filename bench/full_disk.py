"""A disk that is full just when something is asked for: is it said, does reading go on, and is nothing lost?

    python -m bench.full_disk --json [--events 500] [--seed 1]

The data directory lies on a small tmpfs of its own (in a mount namespace; root or user namespaces are needed). Before
each act of `bench.steps` all of it but a few random pages is filled; the act is asked for, then a session is read and
memory is searched; then the room is given back. An event is an act that was refused for want of room: over HTTP that
is a 507. After every 25th the directory is compared with what was acknowledged; after every 100th the service is opened
anew while there is no room at all: it opens and answers, or says why not, and once there is room it opens.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.steps import Known, Life, service, settle, wrong

_MIB = 32
_INSIDE = "SLOWWAVE_BENCH_MOUNTED"
_REFUSED = {"507", "OSError", "StorageFull"}
"""What an act may answer for want of room: over HTTP, and where it is asked for in Python."""
_MEANT = {"404", "409"}


def inside(module: str) -> None:
    """Run `python -m module` again where it may mount, unless it is there. Raises: SystemExit: nobody may here."""
    if os.environ.get(_INSIDE):
        return
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode != 0:
        raise SystemExit("this needs mount namespaces: run it as root, or allow user namespaces")
    os.execvpe(alone[0], [*alone, sys.executable, "-m", module, *sys.argv[1:]], {**os.environ, _INSIDE: "1"})


def mount(folder: Path, mib: int) -> None:
    """An empty tmpfs of so many MiB."""
    folder.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", str(folder).encode(), b"tmpfs", 0, f"size={mib}m".encode()) != 0:
        raise SystemExit(f"cannot mount a tmpfs: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def full(folder: Path, left: int) -> Iterator[None]:
    """No more than `left` bytes of room, for the time of the context."""
    ballast = folder.parent / "ballast"
    fd = os.open(ballast, os.O_CREAT | os.O_WRONLY)
    try:
        size = 0
        while (room := os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - left) > 0:
            with contextlib.suppress(OSError):  # somebody wrote meanwhile
                os.posix_fallocate(fd, size, room)
                size += room
        yield
    finally:
        os.close(fd)
        ballast.unlink()


def run(events: int, *, seed: int, folder: Path) -> dict[str, Any]:
    """Until so many acts were refused."""
    from bench import tiny

    chance = random.Random(seed)
    model = tiny.save(folder / "tiny")
    home = folder / "small"
    mount(home, _MIB)
    (home / "data").mkdir(mode=0o700)
    known, problems = Known(), list[str]()
    counts: Counter[str] = Counter()
    while counts["refused"] < events and len(problems) < 10:
        problems += _opened_while_full(home, model, counts)
        with service(home, model) as (http, runtime), tempfile.TemporaryDirectory(dir=folder) as scratch:
            life = Life(
                http, runtime, Path(scratch), random.Random(chance.getrandbits(40)), lambda **line: known.hear(line)
            )
            life.live(8)
            before = counts["refused"]
            while counts["refused"] - before < min(100, events - before) and len(problems) < 10:
                problems += _event(life, known, home, chance, counts)
                if counts["asked"] % 25 == 0:
                    problems += wrong(home / "data", known)
                if problems:
                    sys.stderr.write(f"\n{problems[-1]}\n")
                sys.stderr.write(f"\r{counts['refused']} refused of {counts['asked']}, {len(problems)} problems   ")
    return {"events": counts["refused"], **counts, "seed": seed, "problems": problems[:10]}


def _event(life: Life, known: Known, home: Path, chance: random.Random, counts: Counter[str]) -> list[str]:
    """One act without room, and what can still be read; then with room again."""
    heard: list[str] = []
    whys: list[str] = []

    def hear(**line: Any) -> None:
        if line["said"] == "answered":
            heard.append(str(line["status"]))
            whys.append(f"{line['act']}: {line.get('why', '')}")
        known.hear(line)

    life.tell = hear
    life.runtime.service.memory.store.fold_log()  # so that the log has no room of its own
    found = []
    with full(home / "data", chance.choice([0, 4096, 16384, 65536, 262144])):
        life.live(1)
        counts["asked"] += 1
        for path in ("/v1/sessions", "/v1/memories?query=word", "/v1/adapters", "/health"):
            status = life.http.get(path).status_code
            if status != 200:
                found.append(f"{path} answered {status} while the disk was full")
    if known.in_doubt or any(status in _REFUSED for status in heard):
        settle(home / "data", known, doubt_all=True)
    for status, why in zip(heard, whys, strict=True):
        if status in _REFUSED:
            counts["refused"] += 1
            counts[f"answered {status}"] += 1
        elif not status.startswith("2") and status not in _MEANT:
            found.append(f"without room it answered {status}: {why}")
    life.talk()  # with room again
    if not heard[-1].startswith("2"):
        found.append(f"with room again talk answered {heard[-1]}")
    return found


def _opened_while_full(home: Path, model: Path, counts: Counter[str]) -> list[str]:
    """A start without any room."""
    from memory.errors import MemoryFault

    if not (home / "data" / "slowwave.db").exists():
        return []
    try:
        with full(home / "data", 0), service(home, model) as (http, _):
            status = http.get("/v1/sessions").status_code
            counts["starts without room"] += 1
            return [] if status == 200 else [f"opened without room, it answers {status}"]
    except (MemoryFault, OSError) as refused:
        counts[f"starts refused: {type(refused).__name__}"] += 1
        return []


def main() -> int:
    """Fill, ask, look, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    inside("bench.full_disk")
    with tempfile.TemporaryDirectory() as given:
        try:
            done = run(args.events, seed=args.seed, folder=Path(given))
        finally:
            subprocess.run(["umount", "-l", str(Path(given) / "small")], check=False)
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
