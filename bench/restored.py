"""A backup made while others talk, restored elsewhere: does the agent answer as it did?

    python -m bench.restored --json [--backups 3] [--clients 4] [--no-night] [--seed 1]

One user tells things (bench/nights/told.json) and sleeps, so that an adapter serves. Then clients of another user talk,
teach and forget without a pause, and backups are made meanwhile (`POST /v1/backups`). Each is restored on an empty
directory by `slowwave backup restore`, and a second service begun there. Both are asked the same of what the first user
told, greedily: by the weights alone, and with memory. Counted is how many replies are the same to the letter, and of
the other user's acknowledged memories from before the backup was asked for, how many came along.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx

from bench.night import TOLD, Talker, settle, sleep, told
from bench.server import ROOT, Server

_KEYS = ("the-key-of-who-told", "the-key-of-who-talks")
_SET = {
    "SLOWWAVE_API_KEYS": f"{_KEYS[0]} scopes=chat+memory+export+admin,{_KEYS[1]} scopes=chat+memory+export",
    "SLOWWAVE_HEARTBEAT": "false",
}
_FACTS = 12


def run(*, backups: int, clients: int, night: bool, seed: int, folder: Path) -> dict[str, Any]:
    """Tell, sleep, talk, back up, restore, ask."""
    facts, chance = told(seed)
    facts = facts[:_FACTS]
    rows: list[dict[str, Any]] = []
    with Server(folder / "first", environment=_SET) as first:
        who = _talker(first, _KEYS[0])
        session = who.session()
        for fact in facts:
            who.say(session, fact["tell"].format(v=fact["value"]), max_tokens=8)
        settle(who)
        outcome = sleep(who)[0]["outcome"] if night else None
        asked = [q for fact in facts for q in fact["ask"][:2]]
        before = _answers(who, asked)
        load = _Load(first, clients, chance)
        try:
            made = []
            for _ in range(backups):
                load.go_on(12)
                kept = list(load.taught)
                made.append((_backup(who), kept))
        finally:
            load.end()
        after = _answers(who, asked)
    for n, (backup, kept) in enumerate(made):
        file, there = folder / f"{n}.slowwave", folder / f"restored {n}"
        file.write_bytes(backup)
        command = [sys.executable, "-m", "cli", "backup", "restore", str(file), "--data-dir", str(there)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            rows.append({"problem": done.stderr.strip()[-300:]})
            continue
        with Server(there, environment=_SET) as second:
            again = _answers(_talker(second, _KEYS[0]), asked)
            lines = _talker(second, _KEYS[1]).client.get("/v1/memories/export").text
            rows.append(
                {
                    "same": sum(one == other for one, other in zip(before, again, strict=True)),
                    "asked": len(before),
                    "memories": sum(text in lines for text in kept),
                    "of": len(kept),
                    "bytes": len(backup),
                }
            )
        sys.stderr.write(f"{rows[-1]}\n")
    problems = [
        str(row) for row in rows if "problem" in row or row["same"] != row["asked"] or row["memories"] != row["of"]
    ]
    return {
        "seed": seed,
        "night": outcome,
        "turns_meanwhile": load.turns,
        "refused": load.refused[:5],
        "unmoved_by_others": before == after,
        "backups": rows,
        "problems": problems,
    }


def _talker(server: Server, key: str) -> Talker:
    talker = Talker(server.url)
    talker.client.headers["Authorization"] = f"Bearer {key}"
    return talker


def _backup(who: Talker) -> bytes:
    """Another one where somebody forgot something meanwhile: that removes what is backed up."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return Path(who.call("POST", "/v1/backups")["path"]).read_bytes()


def _answers(who: Talker, asked: list[str]) -> list[str]:
    """By heart, then with memory; off the record."""
    return [*who.ask_all(asked), *(who.ask(text, recall=True)["text"] for text in asked)]


class _Load:
    """Clients that talk, teach and forget until they are told to end."""

    def __init__(self, server: Server, clients: int, chance: random.Random) -> None:
        self.taught: list[str] = []
        self.turns, self.refused = 0, list[str]()
        self._ended, self._more = threading.Event(), threading.Condition()
        small = json.loads(TOLD.read_text(encoding="utf-8"))["small_talk"]
        self._threads = [
            threading.Thread(target=self._talk, args=(_talker(server, _KEYS[1]), small, chance.random()))
            for _ in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def go_on(self, turns: int) -> None:
        """Wait until there were so many more turns."""
        with self._more:
            wanted = self.turns + turns
            self._more.wait_for(lambda: self.turns >= wanted or bool(self.refused), 300)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _talk(self, talker: Talker, small: list[str], seed: float) -> None:
        chance = random.Random(seed)
        session = talker.session()
        while not self._ended.is_set():
            try:
                talker.say(session, chance.choice(small), max_tokens=8)
                word = "".join(chance.choices("abdefgiklmnoprstu", k=10))
                text = f"The password of my boat number {chance.randrange(10_000)} is {word}."
                memory = talker.call("POST", "/v1/memories", json={"text": text})
                if chance.random() < 0.2:
                    talker.call("DELETE", f"/v1/memories/{memory['id']}")
                    text = ""
            except httpx.HTTPError as error:
                self.refused.append(str(error))
                return
            with self._more:
                self.turns += 1
                if text:
                    self.taught.append(text)
                self._more.notify_all()


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backups", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--no-night", action="store_true", help="no adapter: memory and the base alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = run(
            backups=args.backups,
            clients=args.clients,
            night=not args.no_night,
            seed=args.seed,
            folder=Path(folder),
        )
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["problems"] or done["refused"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
