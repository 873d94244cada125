"""What a small model's states know of other people's wordings, before any night: what nights could make of them.

    python -m bench.states FOLDER [--beginning DIR] [--week week] --json

FOLDER is one that `bench.week --folder` has left. Its memory is read and dreamt on as a night would do it, all facts
new; then, where a reply begins, three quarters up the trained layers, by the beginning alone, each of the week's
questions is compared with all examples (cosine, as models/alignment.py compares them). `nearest`: whose the nearest
example is: the right fact's, another's, or a denial's; `among_facts`: the right one's where denials are left out;
`denied`: of questions about what was never told, those nearest to a denial. `recall_at`: the share of questions for
which the right fact weighs most (a Parzen window of .05), where the weight of denials is set so that so much of what
was never told is denied. What a night's adapter answers can be held against that; see docs/log.md, 2026-11-29.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.night import holds
from bench.week import WEEKS
from consolidation import notebook
from consolidation.dreams import dream
from consolidation.examples import AMOUNTS, Dream
from consolidation.facts import Fact
from consolidation.night import BEGUN_AMOUNTS
from consolidation.selection import LOOKED_AT, select
from memory.data_dir import database_path
from memory.experiences import Experiences
from memory.store import Store
from models.alignment import Scale
from models.recipe import Recipe
from models.trainable import Trainable
from models.training import Trainer
from models.tuned import middle
from models.weights import resolve
from nights import beginning_for
from settings import Settings

_WIDTH, _AT_ONCE, _SHARE = 0.05, 256, 0.75
_DENIED = (0.8, 0.9)
_DENIAL = ""
"""Stands for all denials where an answer would."""


def facts_of(data: Path) -> list[Fact]:
    """What a night would be taught of a directory's memory."""
    store = Store(database_path(data))
    try:
        with store.reading() as db:
            (owner,) = db.execute("SELECT name FROM owners ORDER BY n LIMIT 1").fetchone()
        day = Experiences(store, now=lambda: datetime.now(UTC)).newest(owner=str(owner), limit=LOOKED_AT)
        chosen = select(
            day,
            now=datetime.now(UTC),
            notes=notebook.kept(store, owner=str(owner)),
            revisions=notebook.revisions(store, owner=str(owner)),
        )
    finally:
        store.close()
    return [sourced.fact for sourced in chosen.facts]


def states(trainer: Trainer, questions: Sequence[str]) -> Tensor:
    """[questions, width]."""
    found = []
    below = middle(trainer.first, trainer.layers, _SHARE)
    with torch.no_grad():
        for at in range(0, len(questions), _AT_ONCE):
            found.append(trainer.states(questions[at : at + _AT_ONCE], below=below))
            sys.stderr.write(f"\r{at + len(found[-1])} of {len(questions)}   ")
    return torch.cat(found)


def compared(
    dreams: Sequence[Dream], learnt: Tensor, asked: Sequence[tuple[str, str]], wanted: Tensor, never: Tensor
) -> dict[str, Any]:
    """Whose the nearest examples are. `asked`: questions and values, as `wanted`'s rows."""
    scale = Scale.of(learnt)
    answers = [_DENIAL if d.strategy == "counter" else d.answer for d in dreams]
    denials = torch.tensor([a == _DENIAL for a in answers])
    like, unlike = scale(wanted) @ scale(learnt).T, scale(never) @ scale(learnt).T

    def right(answer: str, value: str) -> bool:
        return answer != _DENIAL and holds(answer, value)

    nearest = [answers[int(n)] for n in like.argmax(1)]
    of_facts = [answers[int(n)] for n in like.masked_fill(denials, -9).argmax(1)]
    kinds = Counter(
        "denied" if a == _DENIAL else "right" if right(a, v) else "wrong"
        for a, (_, v) in zip(nearest, asked, strict=True)
    )
    names = sorted(set(answers))
    of = torch.tensor([names.index(a) for a in answers])
    weights, unknown = (_weights(s, of, len(names)) for s in (like, unlike))
    correct = torch.tensor([[right(name, v) for name in names] for _, v in asked])
    at = {}
    for share in _DENIED:
        shift = _shift(unknown, share)
        chosen = _shifted(weights, shift).argmax(1)
        at[str(share)] = round(float(correct[torch.arange(len(chosen)), chosen].float().mean()), 3)
    return {
        "nearest": {kind: round(n / len(asked), 3) for kind, n in kinds.items()},
        "among_facts": round(sum(right(a, v) for a, (_, v) in zip(of_facts, asked, strict=True)) / len(asked), 3),
        "denied": round(float(denials[unlike.argmax(1)].float().mean()), 3),
        "recall_at": at,
    }


def _weights(likeness: Tensor, of: Tensor, names: int) -> Tensor:
    """[questions, answers]: the logarithm of each one's Parzen window; the first is denial."""
    return torch.stack([torch.logsumexp(likeness[:, of == n] / _WIDTH, 1) for n in range(names)], 1)


def _shifted(weights: Tensor, shift: float) -> Tensor:
    return torch.cat([weights[:, :1] + shift, weights[:, 1:]], 1)


def _shift(unknown: Tensor, share: float) -> float:
    """What is to be added to denial so that so much of what was never told is denied."""
    needed = (unknown[:, 1:].max(1).values - unknown[:, 0]).sort().values
    return float(needed[max(0, round(share * len(needed)) - 1)]) + 1e-4


def run(folder: Path, *, week: str, beginning: Path | None, seed: int) -> dict[str, Any]:
    """Read, dream, compare."""
    data = json.loads((WEEKS / f"{week}.json").read_text(encoding="utf-8"))
    weights = Path(resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location)
    facts = facts_of(folder / "data")
    dreams = dream(facts, seed=seed, amounts=replace(AMOUNTS, **BEGUN_AMOUNTS)).dreams
    start = beginning or beginning_for(weights)
    trainer = Trainer(
        Trainable.load(weights, name="base", device="cpu", dtype="auto"),
        Recipe(),
        start=None if start is None else Path(start),
    )
    correction = data["correction"]
    asked = [
        (question, said["value"])
        for d, day in enumerate(data["days"], 1)
        for i, fact in enumerate(day)
        for said in [correction if (d, i) == (correction["day"], correction["index"]) else fact]
        for question in said["ask"]
    ]
    learnt = states(trainer, [d.question for d in dreams])
    wanted = states(trainer, [q for q, _ in asked])
    never = states(trainer, data["never_told"])
    return {
        "facts": len(facts),
        "examples": len(dreams),
        "questions": len(asked),
        **compared(dreams, learnt, asked, wanted, never),
    }


def main() -> int:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--beginning", type=Path, help="an adapter's folder; else the one that ships")
    parser.add_argument("--week", default="week", choices=["week", "second_week", "third_week"], help="whose facts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    done = run(args.folder, week=args.week, beginning=args.beginning, seed=args.seed)
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
