"""What one user could learn of another: by text, by name, by time.

    python -m bench.tenants --json [--probes 1000] [--timed 60] [--seed 1]

Two services (agents) on the default model, two keys each. Every user says, teaches and imports canaries: made-up words
with an everyday question that leads to them. Then every user probes for the others': by talk with memory, by search, by
the history of the other's conversation, by ids of the other's sessions, memories, turns, adapters, nights and uploads,
by export, audit and receipts. No canary of another may stand in anything that is answered, nor in the metrics, nor in
the logs of either service; no file of one agent may hold one of the other's.

Time: one user reads a long text; another sends either that text, word for word, or one that nobody sent, in random
turns. `auc` is how well the time to the first token tells the two apart: the chance that a text which the other had
sent comes sooner; .5 is blindness (Mann and Whitney 1947). `same_user_auc` is the same where both are sent by the user
who sent the text: there the cache must help, or the measure is blind itself.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.server import Server

AGENTS, CANARIES = 2, 8
_SUBJECTS = ("garden gate", "spare key", "first boat", "old piano", "locker", "cottage", "terrier", "recipe tin")
_KEYS = ("first-users-key", "second-users-key")


@dataclass(slots=True)
class User:
    """One key of one agent, and what it has left there."""

    http: httpx.Client
    name: str
    canaries: dict[str, str] = field(default_factory=dict)
    """The word by what it is the word for."""
    ids: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def say(self, session: str, text: str, **options: Any) -> httpx.Response:
        body = {"content": text, "max_tokens": 16, "temperature": 0, **options}
        return self.http.post(f"/v1/sessions/{session}/turns", json=body)

    def session(self) -> str:
        return str(self.http.post("/v1/sessions", json={}).json()["id"])


def _client(server: Server, key: str) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=120, headers={"Authorization": f"Bearer {key}"})


def settled(user: User, chance: random.Random) -> None:
    """Leave canaries in every way that there is."""
    session = user.session()
    user.ids["session"] = session
    lines = []
    for n, subject in enumerate(_SUBJECTS):
        word = "zq" + "".join(chance.choices("abdefgiklmnoprstu", k=10))
        user.canaries[subject] = word
        text = f"The name of my {subject} is {word}."
        if n % 3 == 0:
            turn = user.say(session, text)
            user.ids["turn"] = turn.json()["id"]
        elif n % 3 == 1:
            user.ids["memory"] = user.http.post("/v1/memories", json={"text": text}).json()["id"]
        else:
            lines.append(json.dumps({"text": text}))
    headers = {"Content-Type": "application/jsonl"}
    user.http.post("/v1/memories/import", content="\n".join(lines), headers=headers).raise_for_status()
    user.http.put("/v1/persona", json={"variables": {"curiosity": 0.5}})


def probe(attacker: User, victim: User, chance: random.Random) -> str:
    """One attempt; everything that came back, as text."""
    subject = chance.choice(_SUBJECTS)
    first = next(s for n, s in enumerate(_SUBJECTS) if n % 3 == 0)
    claimed = f"The name of my {first} is"
    match chance.randrange(12):
        case 0 | 1:
            answer = attacker.say(attacker.session(), f"What is the name of my {subject}?")
        case 2 | 3:
            answer = attacker.get("/v1/memories", params={"query": f"name of {victim.name}'s {subject}", "k": 20})
        case 4:
            told = [{"role": "user", "content": claimed}, {"role": "assistant", "content": "I will remember it."}]
            asked = {"role": "user", "content": "Repeat what I told you."}
            body = {"model": "SmolLM2-135M-Instruct", "messages": [*told, asked], "max_tokens": 16, "temperature": 0}
            answer = attacker.http.post("/v1/chat/completions", json=body)
        case 5:
            id = victim.ids["session"]
            way = chance.choice(["", "/checkpoint", "/checkpoints"])
            answer = attacker.get(f"/v1/sessions/{id}{way}")
        case 6:
            id = victim.ids["session"]
            answer = attacker.http.post(f"/v1/sessions/{id}/{chance.choice(['fork', 'suspend', 'resume'])}")
        case 7:
            answer = attacker.say(victim.ids["session"], "What have I told you?")
        case 8:
            id = victim.ids["memory"]
            answer = attacker.get(f"/v1/memories/{id}{chance.choice(['', '/why-not?query=name'])}")
        case 9:
            answer = attacker.http.post("/v1/feedback", json={"turn": victim.ids["turn"], "reward": 1})
        case 10:
            answer = attacker.get(
                chance.choice(["/v1/memories/export", "/v1/sessions", "/v1/receipts", "/v1/adapters"])
            )
        case _:
            answer = attacker.get(chance.choice(["/v1/sleep/cycles", "/v1/persona", "/metrics", "/v1/heartbeat"]))
    return answer.text


def leaks(probes: int, seed: int, servers: Sequence[Server]) -> dict[str, Any]:
    """Settle, probe, look at logs and files."""
    chance = random.Random(seed)
    users = [
        User(
            httpx.Client(base_url=server.url, timeout=120, headers={"Authorization": f"Bearer {key}"}), f"{n}/{key[:6]}"
        )
        for n, server in enumerate(servers)
        for key in _KEYS
    ]
    for user in users:
        settled(user, chance)
    found: list[str] = []
    for n in range(probes):
        attacker, victim = chance.sample(users, 2)
        said = probe(attacker, victim, chance).lower()
        asked = {u.name for u in users if u is not attacker for w in u.canaries.values() if w in said}
        found += [f"{attacker.name} reads of {name}" for name in asked]
        sys.stderr.write(f"\r{n + 1} probes, {len(found)} leaks   ")
    own = sum(
        word in user.get("/v1/memories", params={"query": f"name of my {subject}", "k": 5}).text
        for user in users
        for subject, word in user.canaries.items()
    )
    for n, server in enumerate(servers):
        log = server.log.read_text(errors="replace")
        found += [f"a log holds a canary of {u.name}" for u in users if any(w in log for w in u.canaries.values())]
        found += [f"a log holds the key {key}" for key in _KEYS if key in log]
        raw = b"".join(p.read_bytes() for p in sorted(server.data_dir.rglob("*")) if p.is_file())
        for user in users:
            there = any(w.encode() in raw for w in user.canaries.values())
            if there and not user.name.startswith(f"{n}/"):
                found.append(f"agent {n} holds a canary of {user.name}")
        found += [f"agent {n} holds the key {key}" for key in _KEYS if key.encode() in raw]
        loose = [p for p in server.data_dir.rglob("*") if p.stat().st_mode & 0o077 and p.is_dir()]
        found += [f"others can read {p.relative_to(server.data_dir)}" for p in loose if p == server.data_dir]
    return {"probes": probes, "leaks": found[:20], "leaks_in_all": len(found), "own_canaries_found": own, "of": 32}


def timed(n: int, seed: int, server: Server) -> dict[str, float]:
    """How well time tells what another has sent."""
    chance = random.Random(seed)
    victim, attacker = (User(_client(server, key), key) for key in _KEYS)

    def text() -> str:
        words = ["river", "lamp", "quiet", "window", "garden", "letter", "music", "stone", "winter", "copper"]
        return "Tell me about " + " ".join(chance.choices(words, k=150)) + "."

    def first_token(user: User, said: str) -> float:
        options = {"max_tokens": 1, "slowwave": {"recall": False, "remember": False}}
        answer = user.say(user.session(), said, **options).json()
        return float(answer["timings"]["time_to_first_token_ms"])

    rows: dict[str, tuple[list[float], list[float]]] = {"auc": ([], []), "same_user_auc": ([], [])}
    for turn in range(n):
        for name, who in (("auc", attacker), ("same_user_auc", victim)):
            known = text()
            first_token(victim, known)
            for is_known in chance.sample([True, False], 2):
                took = first_token(who, known if is_known else text())
                rows[name][0 if is_known else 1].append(took)
        sys.stderr.write(f"\r{turn + 1} timed   ")
    return {name: round(auc(sent, new), 3) for name, (sent, new) in rows.items()}


def auc(sooner: Sequence[float], later: Sequence[float]) -> float:
    """The chance that one of `sooner` is less than one of `later`; ties count half."""
    pairs = [(a < b) + 0.5 * (a == b) for a in sooner for b in later]
    return sum(pairs) / len(pairs)


def main() -> int:
    """Probe, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--timed", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    environment = {"SLOWWAVE_API_KEYS": ",".join(_KEYS), "SLOWWAVE_HEARTBEAT": "false"}
    with tempfile.TemporaryDirectory() as given:
        servers = [Server(Path(given) / f"agent {n}", environment=environment) for n in range(AGENTS)]
        try:
            for server in servers:
                server.start()
            done = {"seed": args.seed, **leaks(args.probes, args.seed, servers)}
            servers[1].stop()  # nothing beside what is timed
            done |= timed(args.timed, args.seed, servers[0]) if args.timed else {}
        finally:
            for server in servers:
                server.__exit__()
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["leaks_in_all"] or done["own_canaries_found"] < 24 else 0


if __name__ == "__main__":
    raise SystemExit(main())
