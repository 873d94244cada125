"""Many clients for minutes: does anything fail, and does memory stay flat?

    python -m bench.soak --clients 16 --seconds 300 --json

Every client talks in a session of its own, some streaming, some not, some hanging up in the middle; after a few turns
it begins a new one. Prints one JSON object; exit status 1 if there was an error other than 503 or 429 with Retry-After.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from bench.server import Server

WORDS = ["river", "lamp", "quiet", "seven", "window", "garden", "letter", "music", "stone", "winter", "copper"]


def talk(url: str, until: float, seed: int, counts: collections.Counter[str], problems: list[str]) -> None:
    """One client, until the time is over."""
    rng = random.Random(seed)
    with httpx.Client(base_url=url, timeout=120) as client:
        while time.monotonic() < until:
            session = client.post("/v1/sessions", json={}).json()["id"]
            for _ in range(rng.randint(1, 6)):
                if time.monotonic() >= until:
                    return
                text = " ".join(rng.choices(WORDS, k=rng.randint(3, 60)))
                body = {"content": f"Tell me about {text}", "max_tokens": rng.choice([8, 32, 96]), "seed": seed}
                kind = rng.choice(["whole", "stream", "hang up"])
                try:
                    _turn(client, session, body, kind, rng, counts, problems)
                except httpx.HTTPError as error:
                    problems.append(f"{kind}: {type(error).__name__}: {error}")


def _turn(
    client: httpx.Client,
    session: str,
    body: dict[str, Any],
    kind: str,
    rng: random.Random,
    counts: collections.Counter[str],
    problems: list[str],
) -> None:
    path = f"/v1/sessions/{session}/turns"
    with client.stream("POST", path, json={**body, "stream": kind != "whole"}) as answer:
        if answer.status_code in (429, 503, 409) and "retry-after" in answer.headers:
            counts[f"status {answer.status_code}"] += 1
            answer.read()
            time.sleep(float(answer.headers["retry-after"]))
            return
        if answer.status_code != 200:
            problems.append(f"{kind}: {answer.status_code} {answer.read()[:200]!r}")
            return
        lines, last, most = 0, "", rng.randint(1, 20) if kind == "hang up" else 1 << 30
        for line in answer.iter_lines():
            lines += bool(line)
            last = line or last
            if lines > most:
                counts["hung up"] += 1
                return
        if kind == "stream" and '"finish_reason"' not in last:
            problems.append(f"a stream ended with {last[:200]!r}")
            return
    counts[kind] += 1


def main() -> int:
    """Run, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "data", model=args.model) as server:
        began = time.monotonic()
        until = began + args.seconds
        threads = [
            threading.Thread(target=talk, args=(server.url, until, seed, counts, problems))
            for seed in range(args.clients)
        ]
        for thread in threads:
            thread.start()
        memory = []
        while any(t.is_alive() for t in threads):
            memory.append((round(time.monotonic() - began, 1), round(server.resident_bytes() / 2**20)))
            time.sleep(min(5.0, args.seconds / 20))
        for thread in threads:
            thread.join()
        generated = (
            httpx.get(f"{server.url}/metrics").text.split("\nslowwave_generation_tokens_total ")[1].split("\n")[0]
        )
    warm = [mib for at, mib in memory if at >= args.seconds / 3]
    report = {
        "clients": args.clients,
        "seconds": args.seconds,
        "turns": dict(counts),
        "problems": problems[:20],
        "tokens_generated": float(generated),
        "resident_mib": {"after_a_third": warm[0], "end": warm[-1], "most": max(mib for _, mib in memory)},
        "resident_mib_over_time": memory,
    }
    print(json.dumps(report, indent=None if args.json else 2))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
