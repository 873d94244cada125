"""Seven nights of fifteen facts by the running service: what is still known of each, and what it cost.

    python -m bench.week --json [--nights 7] [--forget-on 7] [--folder DIR] [--week third_week]

Every day 15 facts of bench/nights/week.json, or of another week there, are told over HTTP in chat, small talk around
them; on day 4 one of day 1 is corrected. Then `POST /v1/sleep`. After every night each night's facts are asked for in
wordings that nothing of the product was made from, in new sessions and with `recall: false`: row n of the matrix is
what is known after night n.
On one day, with --forget-on, a fact is forgotten before the night: after it, it and all others of before are asked for
again (a day after the last is a night without anything told). With --folder the week can be broken off, carried
elsewhere and gone on with, a night at a time: what is in DIR is not begun again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.night import Talker, holds, invents, settle, sleep
from bench.server import Server
from memory.not_told import abstains

WEEKS = Path(__file__).parent / "nights"
WEEK = WEEKS / "week.json"
_A_SESSION = 5
"""Facts told in one session."""
_FORGOTTEN = (2, 0)
"""Day and place of the fact that is forgotten."""


def run(*, nights: int, forget_on: int | None, seed: int, folder: Path, week: str = "week") -> dict[str, Any]:
    """The week, or the rest of it."""
    data = json.loads((WEEKS / f"{week}.json").read_text(encoding="utf-8"))
    days, correction = data["days"][:nights], data["correction"]
    folder.mkdir(parents=True, exist_ok=True)
    sofar = folder / "week.json"
    past = json.loads(sofar.read_text(encoding="utf-8")) if sofar.exists() else {"matrix": [], "nights": []}
    matrix, made, forgotten = past["matrix"], past["nights"], past.get("forgotten")
    with Server(folder / "data") as server:
        talker = Talker(server.url)
        _wake(talker)
        known = [[dict(f) for f in day] for day in days]
        last = max(nights, forget_on or 0)
        for n in range(last):
            told = [f["tell"] for f in days[n]] if n < nights else []
            if n + 1 == correction_day(correction):
                told.append(correction["tell"])
                known[correction["day"] - 1][correction["index"]] |= {
                    "value": correction["value"],
                    "ask": correction["ask"],
                }
            fact = known[_FORGOTTEN[0]].pop(_FORGOTTEN[1]) if n + 1 == forget_on else None
            if n < len(made):
                continue
            _tell(talker, told, data["small_talk"], random.Random(f"{seed}/{n}"))
            settle(talker)
            if fact is not None and forgotten is None:
                forgotten = _forget(talker, fact, known[:n])
                _keep(sofar, matrix, made, forgotten)
            night, _ = sleep(talker, every=float("inf"))
            if fact is not None and forgotten is not None:
                forgotten |= _after(talker, night, fact, known[:n])
            matrix.append([_recall(talker, facts) for facts in known[: n + 1]])
            made.append(
                {k: night[k] for k in ("outcome", "reasons", "seconds")} | {"cost": night["figures"].get("cost")}
            )
            made[-1]["doses"] = night["figures"].get("doses")
            made[-1]["drift"] = night["figures"].get("marks", {}).get("candidate", {}).get("drift")
            _keep(sofar, matrix, made, forgotten)
            sys.stderr.write(f"\nnight {n + 1}: {made[-1]} {matrix[-1]}\n")
        values = [f["value"] for facts in known for f in facts]
        guesses = talker.ask_all(data["never_told"])
        corrected = talker.ask_all(correction["ask"]) if nights >= correction_day(correction) else []
    return {
        "week": week,
        "recall_of_first": matrix[-1][0],
        "recall_of_all": statistics.mean(matrix[-1]),
        "drift": made[-1]["drift"],
        "invented": statistics.mean(invents(g, values) for g in guesses),
        "abstained": statistics.mean(abstains(g) for g in guesses),
        "corrected": [(holds(a, correction["value"]), holds(a, correction["old"])) for a in corrected],
        "forgotten": forgotten,
        "matrix": matrix,
        "nights": made,
    }


def _keep(file: Path, matrix: list[Any], made: list[Any], forgotten: dict[str, Any] | None) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"matrix": matrix, "nights": made, "forgotten": forgotten}), encoding="utf-8")
    part.replace(file)


def correction_day(correction: dict[str, Any]) -> int:
    """The day on which it is told."""
    return int(correction.get("told_on", 4))


def _wake(talker: Talker) -> None:
    """End a night that was cut off with the week, and that the service has taken up again: its day is told anew."""
    for night in talker.call("GET", "/v1/sleep/cycles")["data"]:
        if night["phase"] != "ended":
            talker.call("POST", f"/v1/sleep/cycles/{night['id']}/cancel")


def _tell(talker: Talker, told: list[str], small_talk: list[str], chance: random.Random) -> None:
    session = talker.session()
    for n, text in enumerate(told):
        if n and n % _A_SESSION == 0:
            session = talker.session()
        if chance.random() < 0.5:
            talker.say(session, chance.choice(small_talk), max_tokens=24)
        talker.say(session, text, max_tokens=24)


def _recall(talker: Talker, facts: list[dict[str, Any]]) -> float:
    asked = [(q, f["value"]) for f in facts for q in f["ask"]]
    replies = talker.ask_all([q for q, _ in asked])
    return statistics.mean(holds(reply, value) for reply, (_, value) in zip(replies, asked, strict=True))


def _forget(talker: Talker, fact: dict[str, Any], rest: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Forget one fact; what is known of it and of the rest before."""
    before = {"recall_before": _recall(talker, [fact]), "rest_before": _mean(talker, rest)}
    found = talker.call("GET", "/v1/memories", params={"query": fact["tell"], "k": 5})["data"]
    memory = next(m for m in found if m["text"] == fact["tell"])
    receipt = talker.call("DELETE", f"/v1/memories/{memory['id']}")
    return {**before, "waiting": receipt["waiting"]}


def _after(
    talker: Talker, night: dict[str, Any], fact: dict[str, Any], rest: list[list[dict[str, Any]]]
) -> dict[str, Any]:
    """What is known of it and of the rest after the night, and of it by the base."""
    of_base = talker.ask_all(fact["ask"], adapter="none")
    return {
        "outcome": night["outcome"],
        "reasons": night["reasons"],
        "recall": _recall(talker, [fact]),
        "recall_of_base": statistics.mean(holds(reply, fact["value"]) for reply in of_base),
        "rest": _mean(talker, rest),
        "unlearnt": night["figures"].get("marks", {}).get("candidate", {}).get("unlearnt"),
    }


def _mean(talker: Talker, days: list[list[dict[str, Any]]]) -> float:
    return statistics.mean(_recall(talker, facts) for facts in days)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--forget-on", type=int, metavar="DAY", help="forget one of the facts before that day's night")
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--folder", type=Path, help="keep the week here, to go on with it later")
    parser.add_argument("--week", default="week", choices=["week", "second_week", "third_week"], help="whose facts")
    args = parser.parse_args()
    if args.forget_on is not None and not _FORGOTTEN[0] + 1 < args.forget_on <= args.nights + 1:
        parser.error(f"--forget-on: the fact is told on day {_FORGOTTEN[0] + 1}, and the week has {args.nights}")
    with tempfile.TemporaryDirectory() as passing:
        folder = args.folder or Path(passing)
        done = run(nights=args.nights, forget_on=args.forget_on, seed=args.seed, folder=folder, week=args.week)
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
