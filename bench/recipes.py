"""Which recipe teaches a night's facts best, costs least, and leaves the rest of the model alone.

    python -m bench.recipes --json [--recipes chosen naive ...] [--seeds 0 1]

Each night of bench/nights/development.json is told as chat; facts are read off it, dreamt on, and learnt by every
recipe from the same base. `recall`: questions about the facts, worded by hand and apart from the dreams' wordings,
whose greedy answer holds the value. `invented`: of questions about what was never told, those answered with a value
that was. `abstained`: those answered by saying so. `drift`: KL to the base on prompts and talk never rehearsed, nats
per token. These nights chose the recipe: they are for comparing, not for claiming.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from consolidation.accounts import accounts
from consolidation.clauses import Talk
from consolidation.dreams import dream
from consolidation.examples import Amounts, Dream, numbered
from consolidation.facts import Fact
from consolidation.night import BEGUN_AMOUNTS, IN_PRODUCTS
from consolidation.reading import read
from consolidation.rehearsal import Rehearsed, exchanges, prompts
from models.codebook_training import CodebookTrainer
from models.recipe import TARGETS, Recipe
from models.rows import Rehearsal
from models.trainable import Trainable
from models.training import Progress, Trainer
from models.weights import resolve
from nights import beginning_for
from settings import Settings

NIGHTS = Path(__file__).parent / "nights" / "development.json"
REPLY_TOKENS, ANSWER_TOKENS = 48, 32
ABSTAINS = re.compile(r"haven't|have not|not told|don't know|never (told|mention)|not mention|not sure", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A recipe with the examples that it is given."""

    recipe: Recipe = field(default_factory=Recipe)
    amounts: Amounts = field(default_factory=Amounts)
    rehearses: bool = True
    begun: bool = False
    """Whether training goes on from what is shipped to begin from."""


CANDIDATES = {
    "chosen": Candidate(amounts=Amounts(**BEGUN_AMOUNTS), begun=True),
    "from nothing": Candidate(),
    "naive": Candidate(
        recipe=Recipe(targets=TARGETS, trained_share=1.0, epochs=4, batch=16, rehearsed=0, noise=0.0),
        amounts=Amounts(counter_share=0.0),
        rehearses=False,
    ),
    "no counter-examples": Candidate(amounts=Amounts(counter_share=0.0)),
    "no rehearsal": Candidate(recipe=Recipe(rehearsed=0), rehearses=False),
    "attention too": Candidate(recipe=Recipe(targets=TARGETS)),
    "all layers": Candidate(recipe=Recipe(trained_share=1.0)),
    "rank 8": Candidate(recipe=Recipe(rank=8, alpha=16)),
    "rank 64": Candidate(recipe=Recipe(rank=64, alpha=128)),
    "large batch": Candidate(recipe=Recipe(batch=32, rehearsed=16)),
    "twelve wordings": Candidate(amounts=Amounts(questions=12)),
    "rsLoRA": Candidate(recipe=Recipe(method="rslora", alpha=16)),
    "DoRA": Candidate(recipe=Recipe(method="dora", kept=1.0)),
    "in the products alone": Candidate(recipe=Recipe(codebook=False), amounts=Amounts(**IN_PRODUCTS), begun=True),
    "full": Candidate(recipe=Recipe(method="full", learning_rate=1e-4)),
    "full, slower": Candidate(recipe=Recipe(method="full", learning_rate=3e-5)),
    "EWC": Candidate(recipe=Recipe(ewc_weight=0.01)),
    "EWC for rehearsal": Candidate(recipe=Recipe(ewc_weight=0.01, rehearsed=0)),
    "EWC for rehearsal, stronger": Candidate(recipe=Recipe(ewc_weight=0.1, rehearsed=0)),
}


def facts_in(messages: Sequence[str]) -> list[Fact]:
    """The facts that a conversation tells; a later one of the same key takes an earlier one's place."""
    talk, found = Talk(), {}
    for message in messages:
        told = read(message, talk)
        for fact, account in zip(told, accounts(told), strict=True):
            found[fact.key] = replace(fact, account=account)
    return list(found.values())


def run(
    night: list[dict[str, Any]], never_told: Sequence[str], candidate: Candidate, *, seed: int, device: str
) -> dict[str, Any]:
    """Teach one night by one recipe, and examine it."""
    facts = facts_in([row["told"] for row in night])
    dreamt = dream(facts, seed=seed, amounts=candidate.amounts)
    source = resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir)
    base = Trainable.load(source.location, name="base", device=device, dtype="auto")
    start = beginning_for(Path(source.location)) if candidate.begun else None
    trainer = CodebookTrainer(base, replace(candidate.recipe, seed=seed), start=Path(start) if start else None)
    rehearsed = [*prompts(), *exchanges()]
    rehearsals = rehearsals_of(trainer, [r for r in rehearsed if not r.held_back]) if candidate.rehearses else []
    rows = rows_of(trainer, dreamt.dreams)
    denied = {row for row, of in zip(rows, dreamt.dreams, strict=True) if of.strategy == "counter"}
    asked_for = dict(zip(rows, numbered(dreamt.dreams), strict=True))
    done = trainer.learn(rows, rehearsals, denied=denied, asked_for=asked_for, each=show)
    trained = {d.question.lower() for d in dreamt.dreams}
    asked = [(q, row["value"]) for row in night for q in row["questions"] if q.lower() not in trained]
    unanswerable = [q for q in never_told if q.lower() not in trained]
    answers = trainer.replies([q for q, _ in asked], most=ANSWER_TOKENS)
    guesses = trainer.replies(unanswerable, most=ANSWER_TOKENS)
    values = [v for row in night for v in row["value"]]
    apart = [r for r in rehearsed if r.held_back][:80]
    return {
        "facts": len(facts),
        "examples": len(dreamt.dreams),
        "questions": len(asked),
        "recall": share(holds(a, v) for a, (_, v) in zip(answers, asked, strict=True)),
        "invented": share(not ABSTAINS.search(g) and holds(g, values) for g in guesses),
        "abstained": share(bool(ABSTAINS.search(g)) for g in guesses),
        "drift": trainer.drift(held(trainer, apart)),
        "steps": done.steps,
        "tokens": done.tokens,
        "seconds": round(done.seconds, 1),
        "missed": [f"{q} -> {a}" for a, (q, v) in zip(answers, asked, strict=True) if not holds(a, v)],
        "claimed": [f"{q} -> {g}" for q, g in zip(unanswerable, guesses, strict=True) if not ABSTAINS.search(g)],
    }


def rows_of(trainer: Trainer, dreams: Sequence[Dream]) -> list[Any]:
    """Rows to train on."""
    return [trainer.row(d.question, d.answer) for d in dreams]


def rehearsals_of(trainer: Trainer, texts: Sequence[Rehearsed]) -> list[Rehearsal]:
    """What is rehearsed, with what the base makes of it."""
    return trainer.judged_by_base(held(trainer, texts))


def held(trainer: Trainer, texts: Sequence[Rehearsed]) -> list[Any]:
    """Rows of texts, the base's own reply where they have none."""
    unanswered = [t for t in texts if t.reply is None]
    replies = dict(
        zip(unanswered, trainer.replies([t.said for t in unanswered], most=REPLY_TOKENS, who="base"), strict=True)
    )
    return [trainer.row(t.said, t.reply or replies[t]) for t in texts if t.reply or replies[t].strip()]


def holds(text: str, values: Sequence[str]) -> bool:
    """Whether a reply gives one of the values."""
    return any(re.search(rf"\b{re.escape(v)}", text, re.IGNORECASE) for v in values)


def share(hits: Iterable[bool]) -> float:
    """Of all."""
    found = list(hits)
    return round(sum(found) / max(1, len(found)), 3)


def show(progress: Progress) -> None:
    """How far the training is."""
    if progress.step % 20 == 0:
        sys.stderr.write(f"\r{progress.step}/{progress.steps} loss {progress.loss:.3f} {progress.seconds:.0f} s   ")
        sys.stderr.flush()


def main() -> int:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["chosen", "naive"], choices=list(CANDIDATES), metavar="NAME")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--nights", nargs="*", type=int, help="which, from 0; all by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    told = json.loads(NIGHTS.read_text(encoding="utf-8"))
    results: dict[str, Any] = {}
    for name in args.recipes:
        runs = []
        for seed in args.seeds:
            for n, night in enumerate(told["nights"]):
                if args.nights is None or n in args.nights:
                    runs.append(
                        {"night": n, "seed": seed}
                        | run(night, told["never_told"], CANDIDATES[name], seed=seed, device=args.device)
                    )
                    sys.stderr.write(
                        f"\n{name}: { ({k: v for k, v in runs[-1].items() if not isinstance(v, list)}) }\n"
                    )
        measures = ("recall", "invented", "abstained", "drift", "tokens", "seconds")
        results[name] = {m: round(statistics.mean(r[m] for r in runs), 4) for m in measures} | {"runs": runs}
    sys.stdout.write(json.dumps(results, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
