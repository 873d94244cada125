"""Train who judges whether something known answers a question (agent/judging.py), or see how well it does.

    python -m bench.judge train OUT [--device cuda] [--more FILE ...]
    python -m bench.judge try FOLDER [--device cuda] [--json] [--more FILE ...]

Its lessons are the beginning's (bench/beginning.py): what a message tells, with questions that it answers, and with
near ones that it does not, other parts' of the same message, and some of other lessons. `try` asks lessons that were
not trained on, each with one question that it answers and one near to it: `told_apart`, how often the first is judged
likelier than the second, of any two and of each own pair; `by_states`, the same by what nights begin from, which never
sees question and fact together (the nearest of three other wordings). `least` is where one in fifty of what answers is
turned away; `let_through`, what does not answer and is not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from agent.judging import ABOUT, NO, YES, least, prompt
from bench.shipped import learn, loaded, shipped, trainer
from bench.told import messages
from consolidation.counter_examples import for_the_exam
from consolidation.notes import Telling
from models.recipe import Recipe
from models.training import Trainer
from models.tuned import middle
from nights import beginning_for

_ROWS = 60_000
"""Half of them answer."""
_NEAR = 0.8
"""Of what does not, so many ask for something near."""
_TURNED_AWAY = 0.02
_TRIED, _KNOWN, _AT_ONCE = 600, 3, 300

Lesson = tuple[Telling, tuple[str, ...]]
"""What is told, and questions near to it that it does not answer."""


def lessons(more: Sequence[Path], *, apart: bool) -> list[Lesson]:
    """Those to be trained on, or those held back (by message, as the beginning's)."""
    found = []
    for n, message in enumerate(messages(more)):
        for one in message if for_the_exam(n) == apart else ():
            beside = (q for other in message if other is not one for q in other.ask[:2])
            if one.tell and len(one.ask) > _KNOWN and one.never:
                found.append((one, (*one.never, *beside)))
    return found


def train(out: Path, *, device: str, more: Sequence[Path], rows: int = _ROWS) -> None:
    """Write the judge's folder. Its name is to carry the digest of its file."""
    base, weights = loaded(device)
    given, chance = lessons(more, apart=False), random.Random(0)
    made: list[tuple[str, str]] = []
    for n in range(rows // 2):
        one, near = given[n % len(given)]
        other = chance.choice(near) if chance.random() < _NEAR else chance.choice(chance.choice(given)[0].ask)
        made += [(prompt(chance.choice(one.ask), one.tell or ""), YES), (prompt(other, one.tell or ""), NO)]
    chance.shuffle(made)
    judge = trainer(base, rank=32, rate=6e-4, batch=64)
    out.mkdir(parents=True, exist_ok=True)
    learn(judge, made, out)
    yes, _ = _judged(judge, lessons(more, apart=True)[-_TRIED:])
    taught = [one.tell for one, _ in given]
    shipped(out, ABOUT, weights, taught, rows=rows, least=_least(yes))


def attempt(folder: Path, *, device: str, more: Sequence[Path], many: int = _TRIED) -> dict[str, Any]:
    """How well lessons are judged that were held back, and told apart by states."""
    some = lessons(more, apart=True)[-many:]
    judged = _judged(Trainer(loaded(device)[0], Recipe(), start=folder), some)
    bar = least(folder)
    return {
        "lessons": len(some),
        "told_apart": _told_apart(*judged),
        "by_states": _told_apart(*_by_states(some, device)),
        "least": bar,
        "turned_away": statistics.mean(yes < bar for yes in judged[0]),
        "let_through": statistics.mean(no >= bar for no in judged[1]),
    }


def _judged(judge: Trainer, some: Sequence[Lesson]) -> tuple[list[float], list[float]]:
    """How far yes is likelier than no, of a question that each answers and of one that it does not."""
    answered = [prompt(one.ask[_KNOWN], one.tell or "") for one, _ in some]
    near = [prompt(one.never[0], one.tell or "") for one, _ in some]
    yes, no = (judge.leanings(prompts, to=YES, rather_than=NO) for prompts in (answered, near))
    return yes, no


def _by_states(some: Sequence[Lesson], device: str) -> tuple[list[float], list[float]]:
    """The nearest of other wordings (cosine), of the same questions."""
    base, weights = loaded(device)
    beginning = beginning_for(weights)
    assert beginning is not None, "nothing to begin from ships with this model"
    reader = Trainer(base, Recipe(), start=Path(beginning))
    below = middle(reader.first, reader.layers)

    def states(questions: Sequence[str]) -> torch.Tensor:
        parts = [questions[n : n + _AT_ONCE] for n in range(0, len(questions), _AT_ONCE)]
        with torch.no_grad():
            return torch.cat([reader.states(part, below=below) for part in parts])

    known = torch.stack([states([one.ask[n] for one, _ in some]) for n in range(_KNOWN)])
    mean, deviation = known.flatten(0, 1).mean(0), known.flatten(0, 1).std(0) + 1e-3

    def nearest(questions: Sequence[str]) -> list[float]:
        one, other = (F.normalize((of - mean) / deviation, dim=-1) for of in (known, states(questions)))
        return list((one * other).sum(-1).amax(0).tolist())

    return nearest([one.ask[_KNOWN] for one, _ in some]), nearest([one.never[0] for one, _ in some])


def _told_apart(yes: Sequence[float], no: Sequence[float]) -> dict[str, float]:
    one, other = torch.tensor(yes), torch.tensor(no)
    return {
        "of any two": round(float((one[:, None] > other[None]).float().mean()), 3),
        "of its own": round(float((one > other).float().mean()), 3),
    }


def _least(yes: Sequence[float]) -> float:
    return sorted(yes)[int(_TURNED_AWAY * len(yes))]


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="further lessons, as for bench.beginning")
    parser.add_argument("--many", type=int, default=_TRIED, help="lessons that are tried")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    if args.what == "train":
        train(args.folder, device=args.device, more=args.more)
        return 0
    found = attempt(args.folder, device=args.device, more=args.more, many=args.many)
    sys.stdout.write(json.dumps(found, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
