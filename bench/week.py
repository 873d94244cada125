"""Seven nights of fifteen facts by the running service: what is still known of each, and what it cost.

    python -m bench.week --json [--nights 7] [--forget] [--folder DIR]

Every day 15 facts of bench/nights/week.json are told over HTTP in chat, small talk around them; on day 4 one of day 1
is corrected. Then `POST /v1/sleep`. After every night each night's facts are asked for in wordings that nothing of the
product was made from, in new sessions and with `recall: false`: row n of the matrix is what is known after night n.
Afterwards one fact is forgotten, one more night slept, and it and all others are asked for again. With --folder the
week can be broken off, carried elsewhere and gone on with, a night at a time: what is in DIR is not begun again.
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

WEEK = Path(__file__).parent / "nights" / "week.json"
_A_SESSION = 5
"""Facts told in one session."""
_FORGOTTEN = (2, 0)
"""Day and place of the fact that is forgotten."""


def run(*, nights: int, forget: bool, seed: int, folder: Path) -> dict[str, Any]:
    """The week, or the rest of it."""
    data = json.loads(WEEK.read_text(encoding="utf-8"))
    days, correction = data["days"][:nights], data["correction"]
    folder.mkdir(parents=True, exist_ok=True)
    sofar = folder / "week.json"
    past = json.loads(sofar.read_text(encoding="utf-8")) if sofar.exists() else {"matrix": [], "nights": []}
    matrix, made = past["matrix"], past["nights"]
    with Server(folder / "data") as server:
        talker = Talker(server.url)
        _wake(talker)
        known = [[dict(f) for f in day] for day in days]
        for n, day in enumerate(days):
            told = [f["tell"] for f in day]
            if n + 1 == correction_day(correction):
                told.append(correction["tell"])
                known[correction["day"] - 1][correction["index"]] |= {
                    "value": correction["value"],
                    "ask": correction["ask"],
                }
            if n < len(made):
                continue
            _tell(talker, told, data["small_talk"], random.Random(f"{seed}/{n}"))
            settle(talker)
            night, _ = sleep(talker)
            matrix.append([_recall(talker, facts) for facts in known[: n + 1]])
            made.append(
                {k: night[k] for k in ("outcome", "reasons", "seconds")} | {"cost": night["figures"].get("cost")}
            )
            made[-1]["drift"] = night["figures"].get("marks", {}).get("candidate", {}).get("drift")
            part = sofar.with_suffix(".part")
            part.write_text(json.dumps({"matrix": matrix, "nights": made}), encoding="utf-8")
            part.replace(sofar)
            sys.stderr.write(f"\nnight {n + 1}: {made[-1]} {matrix[-1]}\n")
        values = [f["value"] for facts in known for f in facts]
        guesses = talker.ask_all(data["never_told"])
        corrected = talker.ask_all(correction["ask"]) if nights >= correction_day(correction) else []
        done = {
            "recall_of_first": matrix[-1][0],
            "recall_of_all": statistics.mean(matrix[-1]),
            "drift": made[-1]["drift"],
            "invented": statistics.mean(invents(g, values) for g in guesses),
            "abstained": statistics.mean(abstains(g) for g in guesses),
            "corrected": [(holds(a, correction["value"]), holds(a, correction["old"])) for a in corrected],
            "matrix": matrix,
            "nights": made,
        }
        if forget:
            done["forgotten"] = _forget(talker, known)
    return done


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


def _forget(talker: Talker, known: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Forget one fact, sleep, and ask for it, for the rest, and for it of the base."""
    day, place = _FORGOTTEN
    fact = known[day][place]
    rest = [[f for f in facts if f is not fact] for facts in known]
    before = statistics.mean(_recall(talker, facts) for facts in rest)
    found = talker.call("GET", "/v1/memories", params={"query": fact["tell"], "k": 5})["data"]
    memory = next(m for m in found if m["text"] == fact["tell"])
    receipt = talker.call("DELETE", f"/v1/memories/{memory['id']}")
    was = _recall(talker, [fact])
    night, _ = sleep(talker)
    return {
        "outcome": night["outcome"],
        "reasons": night["reasons"],
        "waiting": receipt["waiting"],
        "recall_before_the_night": was,
        "recall": _recall(talker, [fact]),
        "recall_of_base": statistics.mean(
            holds(reply, fact["value"]) for reply in talker.ask_all(fact["ask"], adapter="none")
        ),
        "rest_before": before,
        "rest": statistics.mean(_recall(talker, facts) for facts in rest),
        "unlearnt": night["figures"].get("marks", {}).get("candidate", {}).get("unlearnt"),
    }


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--forget", action="store_true", help="one night more, without one of the facts")
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--folder", type=Path, help="keep the week here, to go on with it later")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        done = run(nights=args.nights, forget=args.forget, seed=args.seed, folder=args.folder or Path(passing))
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
