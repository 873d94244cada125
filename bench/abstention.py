"""Whether it knows what it does not know: questions about facts that were told, and about facts that never were.

    python -m bench.abstention --json [--seeds 1 2 3] [--nights DIR]

For each seed 25 facts of bench/nights/told.json are told over HTTP, and asked for in three wordings each; beside them
questions about what was never told. With --nights, the data directories that `python -m bench.night --folder DIR` left
are asked instead, adapter and all. Every question is asked twice in new sessions, greedily: with `abstain: false`,
which gives the reply and its tokens' log-probabilities, and as it is by default. Scores: the confidence that decides
(agreement of drafts and their entropy), agreement alone, and the baseline, mean log-probability of the reply's tokens
(max-probability, length-normalised); a reply that says by itself that it does not know counts as least sure under all.
Scores are given of all replies, where one that was not compared with drafts counts as sure, since it is shown; and of
those alone that were. Then ordinary questions that ask for advice (bench/nights/advice.json), of which none should be
withheld. What chose the threshold was development.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.night import TOLD, Talker, holds, settle, told
from bench.night import _tell as tell
from bench.server import Server
from memory.not_told import abstains

ADVICE = Path(__file__).parent / "nights" / "advice.json"
TOKENS = 40
RISKS = (0.05, 0.10)


def rows_of(seed: int, folder: Path, *, slept: bool) -> list[dict[str, Any]]:
    """One seed's questions, as they were answered."""
    facts, chance = told(seed)
    data = json.loads(TOLD.read_text(encoding="utf-8"))
    names = {f["tell"] for f in facts}
    asked = [(q, f["value"]) for f in facts for q in f["ask"]]
    never = [(q, None) for q in data["never_told"]]
    never += [(q, None) for f in data["facts"] if f["tell"] not in names for q in f["ask"][:1]]
    with Server(folder / "data") as server:
        talker = Talker(server.url)
        if not slept:
            tell(talker, facts, data["small_talk"], chance)
            settle(talker)
        rows = []
        for n, (question, value) in enumerate([*asked, *never]):
            rows.append({"seed": seed, "question": question, **_ask(talker, question, value)})
            sys.stderr.write(f"\rseed {seed}: {n + 1} of {len(asked) + len(never)}")
        advice = json.loads(ADVICE.read_text(encoding="utf-8"))
        rows += [{"seed": seed, "question": q, "advice": True, **_ask(talker, q, None)} for q in advice]
    sys.stderr.write("\n")
    return rows


def _ask(talker: Talker, question: str, value: str | None) -> dict[str, Any]:
    model = talker.call("GET", "/v1/models")["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": TOKENS}
    began = time.monotonic()
    plain = talker.call("POST", "/v1/chat/completions", json={**body, "logprobs": True, "slowwave": {"abstain": False}})
    between = time.monotonic()
    doubted = talker.call("POST", "/v1/chat/completions", json=body)
    ended = time.monotonic()
    said, shown = (str(r["choices"][0]["message"]["content"]) for r in (plain, doubted))
    tokens = (plain["choices"][0]["logprobs"] or {"content": []})["content"]
    doubt = doubted["slowwave"]["doubt"]
    return {
        "value": value,
        "said": said,
        "shown": shown,
        "right": value is not None and holds(said, value),
        "shown_right": value is not None and holds(shown, value),
        "declines": abstains(said),
        "doubt": doubt,
        "probability": float(np.exp(np.mean([t["logprob"] for t in tokens]))) if tokens else 0.0,
        "seconds": between - began,
        "seconds_doubted": ended - between,
    }


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the rows of one condition come to."""
    asked = [r for r in rows if not r.get("advice")]
    answerable, unanswerable = [r for r in asked if r["value"]], [r for r in asked if not r["value"]]
    right = [r for r in answerable if r["right"]]
    advice = [r for r in rows if r.get("advice")]
    found = {
        "answerable": len(answerable),
        "unanswerable": len(unanswerable),
        "judged": sum(r["doubt"] is not None for r in asked),
        "right_without": len(right) / len(answerable),
        "right_with": statistics.mean(r["shown_right"] for r in answerable),
        "silenced_of_answerable": statistics.mean(_withheld(r) for r in answerable),
        "silenced_of_right": statistics.mean(_withheld(r) for r in right) if right else None,
        "answered_of_unanswerable_without": statistics.mean(not r["declines"] for r in unanswerable),
        "answered_of_unanswerable_with": statistics.mean(not abstains(r["shown"]) for r in unanswerable),
        "advice_withheld": statistics.mean(_withheld(r) for r in advice) if advice else None,
        "seconds": {
            "without": statistics.median(r["seconds"] for r in asked if r["doubt"]),
            "with": statistics.median(r["seconds_doubted"] for r in asked if r["doubt"]),
        },
    }
    compared = [r for r in asked if r["doubt"] is not None]
    found["of_all"], found["of_compared"] = _scores(asked), _scores(compared)
    return found


def _scores(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What each score is worth on the same rows."""
    could, good = np.array([bool(r["value"]) for r in rows]), np.array([r["right"] for r in rows])
    found = {}
    for name, score in (("confidence", _confidence), ("agreement", _agreement), ("max_probability", _probability)):
        scores = np.array([score(r) for r in rows])
        found[name] = {
            "auroc_answerable": auroc(scores[could], scores[~could]),
            "auroc_right": auroc(scores[good], scores[~good]),
            **{f"coverage_at_{risk:.0%}": coverage(scores, good, risk) for risk in RISKS},
        }
    return found


def _withheld(row: dict[str, Any]) -> bool:
    return row["doubt"] is not None and row["doubt"]["decision"] == "withheld"


def _confidence(row: dict[str, Any]) -> float:
    return _of_drafts(row, "confidence")


def _agreement(row: dict[str, Any]) -> float:
    return _of_drafts(row, "agreement")


def _of_drafts(row: dict[str, Any], name: str) -> float:
    """One that was not compared counts as sure: it is shown."""
    if row["declines"]:
        return -1.0
    return 1.0 if row["doubt"] is None else float(row["doubt"][name])


def _probability(row: dict[str, Any]) -> float:
    return -1.0 if row["declines"] else float(row["probability"])


def auroc(above: Any, below: Any) -> float:
    """P(a score of `above` exceeds one of `below`), ties half."""
    pairs = np.sign(above[:, None] - below[None, :])
    return float((pairs + 1).mean() / 2)


def coverage(scores: Any, right: Any, risk: float) -> float:
    """The largest share of questions, the surest first and equals together, of which at most `risk` are wrong."""
    best = 0
    for least in np.unique(scores):
        taken = scores >= least
        if (~right[taken]).mean() <= risk:
            best = max(best, int(taken.sum()))
    return best / len(scores)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--nights", type=Path, help="what bench.night --folder left; without it, no night is slept")
    parser.add_argument("--rows", type=Path, help="write every question's row here, as JSON lines")
    parser.add_argument("--again", type=Path, help="ask nothing; take the figures from such rows")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.again:
        rows = [json.loads(line) for line in options.again.read_text(encoding="utf-8").splitlines()]
        report = {"seeds": sorted({r["seed"] for r in rows}), **figures(rows)}
        print(json.dumps(report, indent=None if options.json else 2))
        return
    with tempfile.TemporaryDirectory(prefix="slowwave-abstention-") as scratch:
        for seed in options.seeds:
            folder = (options.nights or Path(scratch)) / f"seed {seed}"
            folder.mkdir(parents=True, exist_ok=True)
            rows += rows_of(seed, folder, slept=options.nights is not None)
            if options.rows:
                options.rows.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    report = {"after_a_night": options.nights is not None, "seeds": options.seeds, **figures(rows)}
    print(json.dumps(report, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
