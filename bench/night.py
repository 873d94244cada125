"""One night, from talk to waking, by the running service: what it taught, what it cost, and whether it was noticed.

    python -m bench.night --json [--seeds 1 2 3] [--folder DIR]

For each seed 25 facts of bench/nights/told.json with values of their own are told over HTTP in chat, small talk around
them; then `POST /v1/sleep`. While the night runs, short questions are asked and their time to first token is taken.
Afterwards, in new sessions and with `recall: false`: the facts in three wordings each that no rule or list of the
product was made from, fifty questions about what was never told, and the same with the base. Nothing here chose a
recipe. Then the peer, plain LoRA on the same transcript for as long as the night trained (bench/naive.py), is asked
the same. With --folder each seed's data directory is kept there, adapter and all, for those who want to ask it more.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.naive import naive
from bench.server import Server
from memory.not_told import abstains
from models.weights import resolve
from settings import Settings

TOLD = Path(__file__).parent / "nights" / "told.json"
FACTS, ANSWER_TOKENS = 25, 32
AT_ONCE = 8
"""Questions that are asked at the same time, where nothing is timed."""
_EVERY = 15.0
"""Seconds between two questions during a night."""


class Talker:
    """A client that talks, one session at a time."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=600)

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self.client.request(method, path, **options)
        if answer.is_error:
            said = f"{method} {path}: {answer.status_code} {answer.text[:300]}"
            raise httpx.HTTPStatusError(said, request=answer.request, response=answer)
        return answer.json()

    def session(self) -> str:
        return str(self.call("POST", "/v1/sessions", json={})["id"])

    def say(self, session: str, text: str, **options: Any) -> dict[str, Any]:
        body = {"content": text, "temperature": 0, **options}
        return dict(self.call("POST", f"/v1/sessions/{session}/turns", json=body))

    def ask(self, text: str, **ours: Any) -> dict[str, Any]:
        """Off the record: what is examined must not become what the next night learns."""
        ours = {"recall": False, "remember": False, **ours}
        return self.say(self.session(), text, max_tokens=ANSWER_TOKENS, slowwave=ours)

    def ask_all(self, texts: Sequence[str], **ours: Any) -> list[str]:
        """The replies to each by itself, some at the same time; how long any took says nothing."""
        with ThreadPoolExecutor(AT_ONCE) as hands:
            return [str(answer["text"]) for answer in hands.map(lambda text: self.ask(text, **ours), texts)]


def told(seed: int) -> tuple[list[dict[str, Any]], random.Random]:
    """The facts of a seed, each with its `value`, and the chance that goes on from there."""
    chance = random.Random(seed)
    data = json.loads(TOLD.read_text(encoding="utf-8"))
    return [{**f, "value": chance.choice(f["values"])} for f in chance.sample(data["facts"], FACTS)], chance


def run(seed: int, *, with_naive: bool, folder: Path) -> dict[str, Any]:
    """One seed."""
    facts, chance = told(seed)
    data = json.loads(TOLD.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    with Server(folder / "data") as server:
        talker = Talker(server.url)
        transcript = _tell(talker, facts, data["small_talk"], chance)
        idle = [talker.ask("What is a leap year?")["timings"]["time_to_first_token_ms"] for _ in range(8)]
        settle(talker)
        night, meanwhile = sleep(talker)
        asked = [(q, f["value"]) for f in facts for q in f["ask"]]
        answers = talker.ask_all([q for q, _ in asked])
        guesses = talker.ask_all(data["never_told"])
        with_store = talker.ask_all(data["never_told"], recall=True)
        recalled = talker.ask_all([q for q, _ in asked[::3]], recall=True)
        of_base = talker.ask_all([q for q, _ in asked[::5]], adapter="none")
    values = [f["value"] for f in facts]
    hits = [holds(a, v) for a, (_, v) in zip(answers, asked, strict=True)]
    invented = [invents(g, values) for g in guesses]
    row = {
        "seed": seed,
        "outcome": night["outcome"],
        "reasons": night["reasons"],
        "recall": statistics.mean(hits),
        "recall_of_base": statistics.mean(holds(a, v) for a, (_, v) in zip(of_base, asked[::5], strict=True)),
        "invented": statistics.mean(invented),
        "abstained": statistics.mean(abstains(g) for g in guesses),
        "invented_with_store": statistics.mean(invents(g, values) for g in with_store),
        "abstained_with_store": statistics.mean(abstains(g) for g in with_store),
        "recall_with_store": statistics.mean(holds(a, v) for a, (_, v) in zip(recalled, asked[::3], strict=True)),
        "drift": night["figures"].get("marks", {}).get("candidate", {}).get("drift"),
        "marks": night["figures"].get("marks"),
        "night_seconds": night["seconds"],
        "cost": night["figures"].get("cost"),
        "doses": night["figures"].get("doses"),
        "learnt": len(night["learnt"]),
        "first_token_ms": {"idle": statistics.median(idle), "asleep": statistics.median(meanwhile), "all": meanwhile},
        "missed": [f"{q} -> {a}" for (q, _), a, hit in zip(asked, answers, hits, strict=True) if not hit],
        "claimed": [f"{q} -> {g}" for q, g, bad in zip(data["never_told"], guesses, invented, strict=True) if bad],
    }
    sys.stderr.write(f"\n{json.dumps(row)}\n")  # the peer takes as long again, and may be cut off
    if with_naive:
        row["naive"] = naive(
            Path(resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location),
            transcript,
            asked,
            data["never_told"],
            values,
            seconds=night["figures"]["cost"]["training"],
            seed=seed,
        )
    return row


def _tell(
    talker: Talker, facts: list[dict[str, Any]], small_talk: list[str], chance: random.Random
) -> list[tuple[str, str]]:
    """Tell the facts; returns the transcript."""
    said: list[tuple[str, str]] = []
    session = talker.session()
    for n, fact in enumerate(facts):
        if n % 6 == 0:
            session = talker.session()
        texts = [chance.choice(small_talk)] if chance.random() < 0.5 else []
        for text in [*texts, fact["tell"].format(v=fact["value"])]:
            said.append((text, talker.say(session, text, max_tokens=24)["text"]))
    return said


def invents(guess: str, values: list[str]) -> bool:
    """Whether a reply to what was never told gives what was told of something else."""
    return not abstains(guess) and any(holds(guess, v) for v in values)


def settle(talker: Talker) -> None:
    """Wait: Until what was said has its salience."""
    for _ in range(120):
        waiting = [m for m in talker.call("GET", "/v1/memories", params={"k": 20})["data"] if m["salience"] is None]
        if not waiting:
            return
        time.sleep(0.5)


def sleep(talker: Talker, *, placebo: bool = False, every: float = _EVERY) -> tuple[dict[str, Any], list[float]]:
    """Sleep; returns the night, and the times to first token of questions asked meanwhile, in ms, `every` so often."""
    began = time.monotonic()
    night = talker.call("POST", "/v1/sleep", json={"placebo": placebo})
    meanwhile: list[float] = []
    asked = began
    while night["phase"] != "ended":
        time.sleep(0.5)
        if time.monotonic() - asked > every:
            asked = time.monotonic()
            meanwhile.append(talker.ask("What is a leap year?")["timings"]["time_to_first_token_ms"])
        night = talker.call("GET", f"/v1/sleep/cycles/{night['id']}")
        sys.stderr.write(f"\r{night['phase']} {night['progress'].get('step', '')}      ")
    return {**night, "seconds": round(time.monotonic() - began, 1)}, meanwhile


def holds(text: str, value: str) -> bool:
    """Whether a reply gives a value."""
    return bool(re.search(rf"\b{re.escape(value)}", text, re.IGNORECASE))


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--no-naive", action="store_true", help="leave the peer out")
    parser.add_argument("--folder", type=Path, help="keep what each seed left here")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    runs = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as passing:
            where = (args.folder or Path(passing)) / f"seed {seed}"
            runs.append(run(seed, with_naive=not args.no_naive, folder=where))
        sys.stderr.write(f"\n{json.dumps(runs[-1])}\n")
    means = {
        name: round(statistics.mean(r[name] for r in runs), 4)
        for name in ("recall", "invented", "invented_with_store", "abstained", "drift", "night_seconds")
    }
    sys.stdout.write(json.dumps({**means, "runs": runs}, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
