"""Replies suspended at random points and continued in a new process: is the rest what it would have been?

    python -m bench.suspends --json [--points 500] [--model tiny | SmolLM2-135M-Instruct]

Many sessions at a time, in a window so small that it is often compacted, some old, each with a twin at a second
service, whose last reply is never suspended; the session's is, after a random number of pieces (none: while its prompt
is being read), while the others are being written or cut, too. Then the service is killed or stopped, started anew, and
all go on at once. Greedy and sampled, with stop strings and penalties. "tiny" is a
random Llama whose bytes are mostly parts of code points. Exit code 1 if any text differs.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.server import Server
from bench.tiny import save

_AT_ONCE, _TRIES = 25, 60
_WORDS = "sea wave light stone wind salt rope lamp night gull ship tide sand storm keeper stair".split()


def run(points: int, model: str, seed: int, context: int) -> dict[str, Any]:
    """All rounds."""
    counts: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        served = str(save(Path(folder) / "tiny")) if model == "tiny" else model
        environment = {"SLOWWAVE_CONTEXT_TOKENS": str(context), "SLOWWAVE_EMBEDDING": "none"}
        with (
            Server(Path(folder) / "data", model=served, environment=environment) as server,
            Server(Path(folder) / "twins", model=served, environment=environment) as twins,
        ):
            n = -1
            while counts["cut"] < points:  # those that had ended before do not count
                n += 1
                chance = random.Random(f"{seed} {n}")
                cases = [_case(chance, n * _AT_ONCE + k) for k in range(_AT_ONCE)]
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    wanted = list(pool.map(lambda case: _unsuspended(twins.url, case), cases))
                    begun = list(pool.map(_begin, [server.url] * _AT_ONCE, cases, wanted))
                    server.kill() if chance.random() < 0.5 else server.stop()
                    server.start()
                    done = list(pool.map(lambda b: _go_on(server.url, b), begun))
                for case, one in zip(cases, done, strict=True):
                    counts.update(one["kinds"])
                    if one["text"] != one["wanted"]:
                        wrong.append({"case": case, **one})
                        sys.stderr.write(f"\n{json.dumps(wrong[-1])}\n")  # the run may be cut off
                sys.stderr.write(f"\r{counts['cut']} points, {len(wrong)} wrong")
    return {"points": counts["cut"], "kinds": dict(counts), "wrong": wrong}


def _case(chance: random.Random, n: int) -> dict[str, Any]:
    sampled = {"temperature": chance.choice([0.7, 1.0, 1.4]), "seed": chance.randrange(1 << 31), "top_p": 0.95}
    return {
        "turns": [" ".join(chance.choices(_WORDS, k=chance.randrange(3, 40))) for _ in range(chance.randrange(0, 5))],
        "last": f"{n} " + " ".join(chance.choices(_WORDS, k=chance.randrange(3, 40))),
        "after": chance.choice([0, 0, 0, 1, 2, 3, *range(4, 16)]),
        "how": {
            **(chance.choice([{"temperature": 0.0}, sampled])),
            "max_tokens": chance.randrange(80, 180),  # long enough not to have ended before
            "ignore_eos": chance.random() < 0.8,
            "frequency_penalty": chance.choice([0.0, 0.5]),
            **({"stop": ["gh", "e s", "\n\n"]} if chance.random() < 0.3 else {}),
        },
    }


def _unsuspended(url: str, case: dict[str, Any]) -> str:
    """The twin's whole reply."""
    with httpx.Client(base_url=url, timeout=600) as client:
        return str(_turn(client, _older(client, case), case["last"], case["how"])["text"])


def _begin(url: str, case: dict[str, Any], wanted: str) -> dict[str, Any]:
    """The session with its reply cut off."""
    with httpx.Client(base_url=url, timeout=600) as client:
        session = _older(client, case)
        kinds = ["sampled" if case["how"]["temperature"] else "greedy"]
        body = {"content": case["last"], "slowwave": {"recall": False}, **case["how"]}
        reply, pieces = cut_off(client, url, session, body, after=case["after"])
        ended = reply["finish_reason"] != "suspended"
        kinds.append("ended before" if ended else "cut")
        kinds += ["before the first token"] if not ended and not pieces else []
        kinds += ["after a compaction"] if reply["compacted"] else []
        kinds += ["bytes of a code point held back"] if not ended and _held(reply["text"], wanted) else []
        return {"session": session, "wanted": wanted, "text": reply["text"], "ended": ended, "kinds": kinds}


def _held(shown: str, wanted: str) -> bool:
    """Whether what comes next is more than a byte, or no whole code point: some of it may have been there already."""
    following = wanted[len(shown) : len(shown) + 1]
    return len(following.encode()) > 1


def _go_on(url: str, begun: dict[str, Any]) -> dict[str, Any]:
    if begun["ended"]:
        return begun
    with httpx.Client(base_url=url, timeout=600) as client:
        answer = client.post(f"/v1/sessions/{begun['session']}/resume")
        answer.raise_for_status()
        back = answer.json()
        shown = begun["text"]
        assert back["reply"]["text"].startswith(shown), (shown, back["reply"]["text"])
        return {**begun, "text": back["reply"]["text"], "kinds": [*begun["kinds"], f"came back {back['how']}"]}


def _older(client: httpx.Client, case: dict[str, Any]) -> str:
    session = str(client.post("/v1/sessions", json={}).json()["id"])
    for text in case["turns"]:
        _turn(client, session, text, {"temperature": 0.0, "max_tokens": 24, "ignore_eos": True})
    return session


def _turn(client: httpx.Client, session: str, text: str, how: dict[str, Any]) -> dict[str, Any]:
    body = {"content": text, "slowwave": {"recall": False}, **how}
    answer = client.post(f"/v1/sessions/{session}/turns", json=body)
    answer.raise_for_status()
    return dict(answer.json())


def cut_off(
    client: httpx.Client, url: str, session: str, body: dict[str, Any], *, after: int
) -> tuple[dict[str, Any], int]:
    """A turn that is suspended after so many pieces; how it ended, and how many came."""
    suspending: list[threading.Thread] = []

    def suspend() -> None:
        with httpx.Client(base_url=url, timeout=60) as other:
            for _ in range(_TRIES):
                answer = other.post(f"/v1/sessions/{session}/suspend")
                if answer.status_code != 409:  # a slow machine is still at the reply's last step: come back, it says
                    break
                time.sleep(int(answer.headers["Retry-After"]))
            answer.raise_for_status()

    def begin() -> None:
        if not suspending:
            suspending.append(threading.Thread(target=suspend))
            suspending[0].start()

    pieces, name, done = 0, "", {}
    with client.stream("POST", f"/v1/sessions/{session}/turns", json={**body, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
                pieces += name == "delta"
                if pieces >= after:
                    begin()
                if name in ("done", "error"):
                    done = data
    for thread in suspending:
        thread.join()
    return done, pieces


def main() -> int:
    """Suspend, go on, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--context", type=int, default=640, help="tokens of the window: small, so that it fills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    report = run(args.points, args.model, args.seed, args.context)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
