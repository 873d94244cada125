"""What stands between a night and another hand's questions: what is read, what is learnt, or how it was asked for?

    python -m bench.wordings --json [--days 1 2] [--seeds 1] [--device cuda]

The facts of some days of bench/nights/week.json, three questions each by a hand that no rule of the product was made
from. One of a fact's three is asked; of the other two none, one or both join the examples that the night dreams by
itself (the writer's reading and questions, the chosen recipe), as they stand and put in some other ways. Each of the
three is asked in turn. `read`: of the facts, those whose value some example answers with. `recall` by how many of a
person's questions the night was given; `given`: recall of the very questions it was given; `denied`: of what is asked,
answered as never told. These facts have been looked at: for finding causes, not for claiming.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from dataclasses import replace
from typing import Any

from bench.entries import replies_to, tell
from bench.recipes import ANSWER_TOKENS, held, holds, rehearsals_of, share, show
from bench.shipped import loaded
from bench.week import WEEK
from consolidation import listing
from consolidation.clauses import Talk
from consolidation.dreams import dream
from consolidation.facts import Fact
from consolidation.phrasing import WHOLE
from consolidation.reading import read
from consolidation.rehearsal import exchanges, prompts
from memory.not_told import abstains
from models.recipe import Recipe
from models.training import Trainer

_PUT_AGAIN = 3
"""Ways in which a person's question joins the examples beside the way it stands."""


def run(days: list[int], seed: int, device: str) -> dict[str, Any]:
    """One seed: seven nights, one of them given nothing."""
    week = json.loads(WEEK.read_text(encoding="utf-8"))
    told = [fact for day in days for fact in week["days"][day - 1]]
    facts = _read([fact["tell"] for fact in told], seed, device)
    nights = [((0, 1, 2), 0), *(((n,), given) for given in (1, 2) for n in range(3))]
    rows = [_night(told, facts, week["never_told"], asked, given, seed, device) for asked, given in nights]
    found: dict[str, Any] = {"seed": seed, "facts": len(facts), "read": rows[0]["read"], "nights": rows}
    for given in range(3):
        of = [r for r in rows if r["given"] == given]
        names = ("recall", "recall_of_given", "denied", "invented", "drift")
        found[f"given {given}"] = {n: round(statistics.mean(r[n] for r in of), 4) for n in names if n in of[0]}
    return found


def _read(messages: list[str], seed: int, device: str) -> list[Fact]:
    """The facts as a night reads them: by rule, and by reader and writer."""
    talk, facts = Talk(), {}
    for message, of_one in zip(messages, replies_to(messages, seed=seed, device=device), strict=True):
        for fact in read(message, talk, listing.noted(message, *of_one)):
            facts[fact.key] = fact
    return list(facts.values())


def _night(
    told: list[dict[str, Any]],
    facts: list[Fact],
    never_told: list[str],
    asked: tuple[int, ...],
    given: int,
    seed: int,
    device: str,
) -> dict[str, Any]:
    """A night that is given some of each fact's questions that are not asked for."""
    chance = random.Random(seed)
    dreamt = dream(facts, seed=seed).dreams
    examples = [(d.question, d.answer) for d in dreamt]
    joined: list[tuple[str, str]] = []
    for fact in told:
        answer = next((d.answer for d in dreamt if d.facts and holds(d.answer, [fact["value"]])), None)
        for question in [q for n, q in enumerate(fact["ask"]) if n not in asked][:given]:
            joined.append((question, fact["value"]))
            if answer is not None:
                ways = chance.sample(WHOLE, _PUT_AGAIN)
                examples += [(question, answer), *((way.format(q=question), answer) for way in ways)]
    chance.shuffle(examples)
    trainer = Trainer(loaded(device)[0], replace(Recipe(), seed=seed))
    texts = [*prompts(), *exchanges()]
    rehearsals = rehearsals_of(trainer, [t for t in texts if not t.held_back])
    trainer.train([trainer.row(q, a) for q, a in examples], rehearsals, each=show)
    values = [fact["value"] for fact in told]
    questions = [(fact["ask"][n], fact["value"]) for n in asked for fact in told]
    answers = trainer.replies([q for q, _ in questions], most=ANSWER_TOKENS)
    guesses = trainer.replies(never_told, most=ANSWER_TOKENS)
    row: dict[str, Any] = {
        "asked": asked,
        "given": given,
        "examples": len(examples),
        "read": share(any(holds(d.answer, [v]) for d in dreamt if d.facts) for v in values),
        "recall": share(holds(a, [v]) for a, (_, v) in zip(answers, questions, strict=True)),
        "denied": share(abstains(a) for a in answers),
        "invented": share(not abstains(g) and holds(g, values) for g in guesses),
        "drift": trainer.drift(held(trainer, [t for t in texts if t.held_back][:80])),
    }
    if joined:
        again = trainer.replies([q for q, _ in joined], most=ANSWER_TOKENS)
        row["recall_of_given"] = share(holds(a, [v]) for a, (_, v) in zip(again, joined, strict=True))
    tell(json.dumps(row))
    return row


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--seeds", nargs="*", type=int, default=[1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    runs = [run(args.days, seed, args.device) for seed in args.seeds]
    sys.stdout.write(json.dumps(runs, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
