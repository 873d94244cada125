"""A data directory on an encrypted file system (gocryptfs): is anything readable, is anything lost, what does it cost?

    python -m bench.at_rest --json [--kills 5] [--writes 200] [--seed 1]

The service (tiny random model) runs twice, in a plain directory and in one that gocryptfs encrypts, as
docs/operations.md sets it up. It is told canaries, in chat and as memories; a session is suspended, a night is
promoted, a backup is made. Then both processes are killed with -9, the service's and the file system's; the directory
is opened again, `slowwave doctor` looks at it, and every canary that was acknowledged is asked for. That, `--kills`
times. At the end all bytes and names that lie on the disk are searched for the canaries: `readable` is how many of them
stand there (in the plain directory all, or the search could not find them). `writes_a_second` is how many memories a
client adds, each on the disk before it is acknowledged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import tiny
from bench.kill_nights import OPTIONS, fall_asleep
from bench.night import Talker
from bench.server import ROOT, Server

_EACH = 6
"""Canaries between two kills, of each kind."""


class Encrypted:
    """A directory that gocryptfs encrypts. `at` is where it is open."""

    def __init__(self, folder: Path) -> None:
        self.stored, self.at, self._passphrase = folder / "stored", folder / "open", folder / "passphrase"
        self.stored.mkdir(parents=True)
        self.at.mkdir()
        self._passphrase.write_text("only of this bench\n")
        self._gocryptfs("-init", str(self.stored))
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Mount it."""
        command = ["gocryptfs", "-q", "-fg", "-passfile", str(self._passphrase), str(self.stored), str(self.at)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while not self.at.is_mount():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("gocryptfs did not open the directory; is there a /dev/fuse?")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; what it had not written is gone, as when the machine stops."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        subprocess.run(["fusermount3", "-uz", str(self.at)], check=False, capture_output=True)

    def _gocryptfs(self, *arguments: str) -> None:
        command = ["gocryptfs", "-q", "-scryptn", "10", "-passfile", str(self._passphrase), *arguments]
        subprocess.run(command, check=True, capture_output=True)


class Plain:
    """The control: the same, as it is."""

    def __init__(self, folder: Path) -> None:
        self.stored = self.at = folder / "stored"
        self.stored.mkdir(parents=True)

    def open(self) -> None:
        """There is nothing to do."""

    def kill(self) -> None:
        """There is nothing to kill."""


def run(where: Plain | Encrypted, *, model: str, kills: int, writes: int, seed: int) -> dict[str, Any]:
    """Tell, kill, look, as often as that."""
    chance = random.Random(seed)
    told: list[str] = []
    lost: set[str] = set()
    problems: list[str] = []
    rates: list[float] = []
    with _opened(where):
        for n in range(kills):
            server = Server(where.at / "data", model=model, options=OPTIONS, environment=_environment(where))
            server.start()
            talker = Talker(server.url)
            told += _told(talker, chance)
            rates.append(_writes_a_second(talker, writes, chance))
            if n == 0:
                problems += _slept(talker)
            server.kill()
            where.kill()
            where.open()
            problems += _faults(where.at / "data")
            server.start()
            lost |= _lost(Talker(server.url), told)
            server.stop()
    readable = _readable(where.stored, told)
    return {
        "canaries": len(told),
        "lost": len(lost),
        "readable": len(readable),
        "kills": kills,
        "problems": problems,
        "writes_a_second": round(statistics.median(rates), 1),
        "writes_a_second_spread": [round(min(rates), 1), round(max(rates), 1)],
    }


@contextmanager
def _opened(where: Plain | Encrypted) -> Iterator[None]:
    where.open()
    try:
        yield
    finally:
        where.kill()


def _environment(where: Plain | Encrypted) -> dict[str, str]:
    """What is converted lies apart: it is no secret."""
    return {"SLOWWAVE_CACHE_DIR": str(where.stored.parent / "cache")}


def _told(talker: Talker, chance: random.Random) -> list[str]:
    """Canaries that were acknowledged; the session that heard of them is suspended."""
    words = ["".join(chance.choices("bcdfghklmnprstvz", k=14)) for _ in range(2 * _EACH)]
    session = talker.session()
    for word in words[:_EACH]:
        talker.say(session, f"My boat is called {word.title()}.", max_tokens=2)
    for word in words[_EACH:]:
        talker.call("POST", "/v1/memories", json={"text": f"The {word} lies in the drawer."})
    talker.call("POST", f"/v1/sessions/{session}/suspend")
    return words


def _writes_a_second(talker: Talker, writes: int, chance: random.Random) -> float:
    texts = [f"Thing {chance.getrandbits(60):x} is on shelf {n}." for n in range(writes)]
    began = time.monotonic()
    for text in texts:
        talker.call("POST", "/v1/memories", json={"text": text})
    return writes / (time.monotonic() - began)


def _slept(talker: Talker) -> list[str]:
    fall_asleep(talker)
    while (night := talker.call("GET", "/v1/sleep/cycles")["data"][0])["phase"] != "ended":
        time.sleep(0.2)
    talker.call("POST", "/v1/backups")
    return [] if night["outcome"] == "promoted" else [f"the night ended as {night['outcome']}: {night['reasons']}"]


def _faults(data: Path) -> list[str]:
    command = [sys.executable, "-m", "cli", "doctor", "--json", "--data-dir", str(data)]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)
    return [f"{one['name']}: {one['found']}" for one in found["findings"] if one["level"] == "fault"]


def _lost(talker: Talker, told: list[str]) -> set[str]:
    """Those of which no memory says anything any more."""
    kept = talker.client.get("/v1/memories/export").text.lower()
    return {word for word in told if word not in kept}


def _readable(folder: Path, told: list[str]) -> set[str]:
    """Those that stand in what lies on the disk, in a file or in its name."""
    found: set[str] = set()
    for path in folder.rglob("*"):
        held = str(path).lower().encode() + (path.read_bytes().lower() if path.is_file() else b"")
        found |= {word for word in told if word.encode() in held}
    return found


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--writes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    with contextlib.ExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        model = str(tiny.save(folder / "tiny"))
        both: dict[str, Plain | Encrypted] = {"plain": Plain(folder / "p"), "encrypted": Encrypted(folder / "e")}
        done = {
            name: run(where, model=model, kills=args.kills, writes=args.writes, seed=args.seed)
            for name, where in both.items()
        }
    ratio = done["encrypted"]["writes_a_second"] / done["plain"]["writes_a_second"]
    sys.stdout.write(json.dumps({**done, "writes_ratio": round(ratio, 3)}, indent=None if args.json else 2) + "\n")
    plain, encrypted = done["plain"], done["encrypted"]
    bad = plain["lost"] or encrypted["lost"] or plain["problems"] or encrypted["problems"] or encrypted["readable"]
    return 1 if bad or plain["readable"] < plain["canaries"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
