"""Thirty days of ordinary life with the default model: does anything run away?

    python -m bench.month --json [--nights 30] [--facts 3] [--folder DIR] [--seed 1]

Every day somebody tells a few things (bench/nights/week.json, in turn), talks of this and that, asks the agent what it
knows of three things told before, praises or blames some of its replies, and lets it sleep. What the agent says is
remembered as its own words, and asked for again on later days: if it learnt from itself, this is where it would show.
After every night: `drift` (KL to the base on what is never rehearsed, of the candidate), `persona_drift`, `norm`,
`invented` (of questions about what was never told, answered with a value that was told), what lies on disk, how many
adapters, how much the service holds in memory, and `own_words`: of what the serving adapter was taught, how much the
agent had said itself. After every fifth, `recall` of all that was told. With --folder it can be broken off and gone on
with elsewhere, a night at a time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pysqlite3

from bench.night import Talker, holds, invents, settle, sleep
from bench.server import Server
from bench.week import WEEK
from memory.data_dir import database_path
from memory.not_told import abstains

_NEVER_TOLD = 50
_ASKED_A_DAY = 3
_RECALL_EVERY = 5
BOUNDS = {"drift": 0.08, "persona_drift": 0.2, "invented": 0.15, "disk_mib": 400.0}
"""What no night may exceed; the first three are the exam's own bars, measured here from without."""


def run(nights: int, *, facts: int, seed: int, folder: Path, model: str, options: Sequence[str]) -> dict[str, Any]:
    """The month, or the rest of it."""
    week = json.loads(WEEK.read_text(encoding="utf-8"))
    told = [fact for day in week["days"] for fact in day]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "month.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    with Server(folder / "data", model=model, options=options) as server:
        talker = Talker(server.url)
        for night in talker.call("GET", "/v1/sleep/cycles")["data"]:
            if night["phase"] != "ended":
                talker.call("POST", f"/v1/sleep/cycles/{night['id']}/cancel")
        for n in range(len(rows), nights):
            chance = random.Random(f"{seed}/{n}")
            known, new = told[: n * facts], told[n * facts : (n + 1) * facts]
            _live(talker, known, new, week["small_talk"], chance)
            settle(talker)
            night, _ = sleep(talker, every=float("inf"))
            row = _looked_at(talker, server, night, [*known, *new], week["never_told"][:_NEVER_TOLD])
            if (n + 1) % _RECALL_EVERY == 0:
                row["recall"] = _recall(talker, [*known, *new])
            rows.append({"night": n + 1, "told": len(known) + len(new), **row})
            part = file.with_suffix(".part")
            part.write_text(json.dumps(rows), encoding="utf-8")
            part.replace(file)
            sys.stderr.write(f"\n{rows[-1]}\n")
    return found(rows, seed)


def found(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The month in a few words: how far each figure went, and where it went beyond its bound."""
    went: dict[str, Any] = {}
    for name, bound in BOUNDS.items():
        values = [row[name] for row in rows if row[name] is not None]
        third = max(1, len(values) // 3)
        went[name] = {
            "bound": bound,
            "most": max(values, default=None),
            "first_third": statistics.mean(values[:third]) if values else None,
            "last_third": statistics.mean(values[-third:]) if values else None,
            "beyond": [row["night"] for row in rows if row[name] is not None and row[name] > bound],
        }
    return {
        "seed": seed,
        "nights": len(rows),
        "outcomes": [row["outcome"] for row in rows],
        "own_words": sum(row["own_words"] for row in rows),
        **went,
        "rows": list(rows),
    }


def _live(
    talker: Talker, known: list[dict[str, Any]], new: list[dict[str, Any]], small_talk: list[str], chance: random.Random
) -> None:
    """One day."""
    session = talker.session()
    for fact in new:
        talker.say(session, chance.choice(small_talk), max_tokens=24)
        talker.say(session, fact["tell"], max_tokens=24)
    for fact in chance.sample(known, min(_ASKED_A_DAY, len(known))):
        said = talker.say(session, chance.choice(fact["ask"]), max_tokens=32)  # on the record: its own words are kept
        good = holds(said["text"], fact["value"])
        talker.call("POST", "/v1/feedback", json={"turn": said["id"], "reward": 1.0 if good else -1.0})


def _looked_at(
    talker: Talker, server: Server, night: dict[str, Any], told: list[dict[str, Any]], never_told: list[str]
) -> dict[str, Any]:
    guesses = talker.ask_all(never_told)
    values = [fact["value"] for fact in told]
    marks = night["figures"].get("marks", {}).get("candidate", {})
    served = night["outcome"] == "promoted"
    adapters = talker.call("GET", "/v1/adapters")
    return {
        "outcome": night["outcome"],
        "reasons": night["reasons"],
        "seconds": night["seconds"],
        **{name: marks.get(name) if served else None for name in ("drift", "persona_drift", "norm")},
        "invented": statistics.mean(invents(g, values) for g in guesses),
        "abstained": statistics.mean(abstains(g) for g in guesses),
        "own_words": _own_words(server.data_dir, str(adapters["active"])),
        "disk_mib": sum(f.stat().st_size for f in server.data_dir.rglob("*") if f.is_file()) / 2**20,
        "adapters": len(adapters["data"]),
        "resident_mib": server.resident_bytes() / 2**20,
    }


def _own_words(data: Path, adapter: str) -> int:
    """Of what an adapter was taught, how much nobody but the agent had said."""
    db = pysqlite3.connect(f"file:{database_path(data)}?mode=ro", uri=True)
    try:
        sql = (
            "SELECT count(*) FROM learnt l JOIN experiences e ON e.id = l.experience"
            " WHERE l.adapter = ? AND e.author <> 'user'"
        )
        return int(db.execute(sql, [adapter]).fetchone()[0])
    finally:
        db.close()


def _recall(talker: Talker, facts: list[dict[str, Any]]) -> float:
    replies = talker.ask_all([fact["ask"][0] for fact in facts])
    return statistics.mean(holds(reply, fact["value"]) for reply, fact in zip(replies, facts, strict=True))


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--facts", type=int, default=3, help="told a day")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the month here, to go on with it later")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--set", dest="options", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    options = [word for option in args.options for word in ("--set", option)]
    with tempfile.TemporaryDirectory() as passing:
        done = run(
            args.nights,
            facts=args.facts,
            seed=args.seed,
            folder=args.folder or Path(passing),
            model=args.model,
            options=options,
        )
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if any(done[name]["beyond"] for name in BOUNDS) or done["own_words"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
