"""SIGKILL at random moments while clients chat: is every acknowledged turn there, and no half one?

    python -m bench.kill --kills 200 --clients 4 --json

Clients talk through both surfaces, streaming and not. After every kill the service is started again on the same data,
and every turn that any client was ever told is done is compared, word for word, with the transcript. Exit status 1 on
any violation; the seed that is printed repeats the kill times.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pysqlite3
from rich.console import Console
from rich.progress import track

from bench.server import Server
from memory.data_dir import database_path


@dataclass
class Witness:
    """What clients were told."""

    acknowledged: list[tuple[str, str, str]] = field(default_factory=list)
    """Session, what was said, what was replied."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def saw(self, session: str, said: str, replied: str) -> None:
        """Remember an acknowledged turn."""
        with self.lock:
            self.acknowledged.append((session, said, replied))


def chat(server: Server, witness: Witness, rng: random.Random, tokens: int) -> None:
    """Talk until the service is gone."""
    url, history, session = server.url, [], None
    model = httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
    with httpx.Client(base_url=url, timeout=60) as client:
        while True:
            said = f"{rng.random():.12f} " + "word " * rng.randint(1, 40)
            said = said.strip()
            way = rng.choice(["stateless", "stateless stream", "session", "session stream"])
            if way.startswith("session"):
                session = session or client.post("/v1/sessions").json()["id"]
                body: dict[str, Any] = {"content": said, "max_tokens": tokens, "stream": "stream" in way}
                replied = _session_turn(client, session, body)
                if replied is not None:
                    witness.saw(session, said, replied)
                continue
            history.append({"role": "user", "content": said})
            body = {"model": model, "messages": history, "max_tokens": tokens, "stream": "stream" in way}
            done = _completion(client, body)
            if done is None:
                return
            witness.saw(done[0], said, done[1])
            history.append({"role": "assistant", "content": done[1]})
            if len(history) > 8:
                history = []


def _session_turn(client: httpx.Client, session: str, body: dict[str, Any]) -> str | None:
    path = f"/v1/sessions/{session}/turns"
    if not body["stream"]:
        answer = client.post(path, json=body)
        return answer.json()["text"] if answer.status_code == 200 else None
    with client.stream("POST", path, json=body) as stream:
        name = ""
        for line in stream.iter_lines():
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
            if line.startswith("data: ") and name == "done":
                return str(json.loads(line.removeprefix("data: "))["text"])
    return None


def _completion(client: httpx.Client, body: dict[str, Any]) -> tuple[str, str] | None:
    if not body["stream"]:
        answer = client.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            return None
        reply = answer.json()
        return reply["slowwave"]["session"], reply["choices"][0]["message"]["content"]
    text, session = "", ""
    with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        for line in stream.iter_lines():
            if line == "data: [DONE]":
                return session, text
            if line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                text += (chunk["choices"][0]["delta"].get("content") or "") if chunk.get("choices") else ""
                session = chunk.get("slowwave", {}).get("session", session)
    return None


def _until_killed(*args: Any) -> None:
    try:
        chat(*args)
    except httpx.HTTPError:
        return  # the service was killed: what this client had not been told is lost to it


def violations(data_dir: Path, witness: Witness) -> list[str]:
    """What the database holds against what was told, and against itself."""
    found = []
    db = pysqlite3.connect(f"file:{database_path(data_dir)}?mode=ro", uri=True)
    check = db.execute("PRAGMA integrity_check").fetchone()[0]
    if check != "ok":
        found.append(f"integrity_check: {check}")
    if db.execute("PRAGMA foreign_key_check").fetchall():
        found.append("foreign_key_check: dangling rows")
    kept: dict[str, Counter[tuple[str, str]]] = {}
    previous: tuple[str, str, str | None] | None = None
    rows = db.execute("SELECT session, role, content, turn, status FROM messages ORDER BY session, position").fetchall()
    for session, role, content, turn, status in rows:
        if role == "assistant":
            if previous is None or previous[0] != session:
                found.append(f"{session}: a reply without its question")
            elif status == "complete":
                kept.setdefault(session, Counter())[(previous[1], content)] += 1
        elif previous is not None and previous[0] == session and previous[2] is not None and role == "user":
            found.append(f"{session}: a question of a turn without its reply")
        previous = (session, content, turn if role == "user" else None)
    turns = db.execute(
        "SELECT t.id, count(m.id) FROM turns t LEFT JOIN messages m ON m.turn = t.id"
        " AND m.role NOT IN ('compaction', 'note') GROUP BY t.id HAVING count(m.id) <> 2"
    ).fetchall()
    found += [f"turn {turn} has {n} messages" for turn, n in turns]
    db.close()
    for session, said, replied in witness.acknowledged:
        if kept.get(session, Counter())[(said, replied)] < 1:
            found.append(f"{session}: acknowledged, but not there: {said[:40]!r} -> {replied[:40]!r}")
    return found


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    witness, found = Witness(), []
    during = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "data", model=args.model)
        for _ in track(range(args.kills), "killing", console=Console(file=sys.stderr)):
            server.start()
            clients = [
                threading.Thread(target=_until_killed, args=(server, witness, random.Random(rng.random()), args.tokens))
                for _ in range(args.clients)
            ]
            for client in clients:
                client.start()
            time.sleep(rng.uniform(0.05, 2.0))
            running = httpx.get(f"{server.url}/health").json()["running"]
            during["replies under way"] += running
            during["kills with a reply under way"] += running > 0
            server.kill()
            for client in clients:
                client.join()
            found += violations(server.data_dir, witness)
            if found:
                break
        server.start()  # once more, and from the database as the last kill left it
        found += violations(server.data_dir, witness)
        server.stop()
    report = {
        "seed": args.seed,
        "kills": args.kills,
        "model": args.model,
        "acknowledged_turns": len(witness.acknowledged),
        **during,
        "violations": found[:20],
    }
    print(json.dumps(report, indent=None if args.json else 2))
    return 1 if found or not witness.acknowledged else 0


if __name__ == "__main__":
    raise SystemExit(main())
