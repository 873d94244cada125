"""Train who has second thoughts about what an adapter says (models/judge.py), or see how well it does.

    python -m bench.judge train OUT [--device cuda] [--more FILE ...] [--first FOLDER]
    python -m bench.judge try FOLDER [--device cuda] [--json] [--more FILE ...]

Its lessons are the beginning's (bench/beginning.py): what a message tells, by itself or with what else it tells, and
questions that it answers. What does not answer is near: questions about the same message that it leaves open, others of
its parts, and, for more than half, what a codebook would take for the answer, the nearest of other messages by states
(hard negatives, as rankers are trained on: Xiong et al. 2021). Many a lesson tells what another asks for, another dog's
name; so a first judge is trained without those (or is the one of --first), and a pair of which each may answer the
other's question, as it sees it, is no negative. `try` asks lessons that were not trained on: `told_apart`, how often a
question that each answers is judged likelier than one near to it, of any two and of each own pair; `from_others`, the
same beside the nearest of other lessons, of which some do answer; `by_states`, of the first two, by what nights begin
from, which never sees question and answer together.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from bench.shipped import learn, loaded, shipped, trainer
from bench.told import messages
from consolidation.counter_examples import for_the_exam
from consolidation.notes import Telling
from models.judge import ABOUT, NO, YES, Rule, prompt
from models.recipe import Recipe
from models.training import Trainer
from models.tuned import middle
from nights import beginning_for

_FIRST_ROWS, _ROWS = 60_000, 96_000
"""Half of them answer. Of the first judge, and of the one that is kept."""
_SIZE: dict[str, Any] = {"rank": 32, "rate": 6e-4, "batch": 64}
_RULE = Rule(weight=1.0, least=-1.0, reach=4.0)
"""Chosen by seven days of bench/nights/week.json, by what nights' entries made of them."""
_MINED, _NEAR, _BESIDE = 0.55, 0.4, 0.4
"""Of what does not answer: what a codebook would find, what is near to the message; of that, what other parts tell."""
_ALONE, _WITH_OTHERS = 0.45, 0.25
"""So often what is told stands by itself; and so often with another message's, where its own tells no more."""
_LONG = 28
"""Words of what is known, if three parts tell it."""
_CANDIDATES, _WORDINGS, _PROBES = 8, 3, 2
"""Of each lesson, so many others are the nearest, by so many of their questions, to so many of its own."""
_MAY_ANSWER = -1.0
_TRIED, _KNOWN, _AT_ONCE, _PACKED = 600, 3, 300, 8192


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one part of a message tells."""

    message: int
    part: Telling
    others: tuple[Telling, ...]
    """What else the message tells."""

    @property
    def near(self) -> list[str]:
        """Questions that the message leaves open."""
        answered = {question for part in (self.part, *self.others) for question in part.ask}
        return [question for question in self.part.never if question not in answered] or list(self.part.never)

    @property
    def beside(self) -> list[str]:
        """Questions that its other parts answer."""
        return [question for part in self.others for question in part.ask[:2]]


Mined = dict[int, list[tuple[str, int]]]
"""Of each lesson, by place, its questions and who else is near to them."""


def lessons(more: Sequence[Path], *, apart: bool) -> list[Lesson]:
    """Those to be trained on, or those held back (by message, as the beginning's)."""
    found = []
    for n, message in enumerate(messages(more)):
        for part in message if for_the_exam(n) == apart else ():
            if part.tell and len(part.ask) > _KNOWN and part.never:
                others = tuple(other for other in message if other is not part and other.tell)
                found.append(Lesson(message=n, part=part, others=others))
    return found


def train(
    out: Path,
    *,
    device: str,
    more: Sequence[Path],
    rows: int = _ROWS,
    first_rows: int = _FIRST_ROWS,
    first: Path | None = None,
) -> None:
    """Write the judge's folder. Its name is to carry the digest of its file."""
    given = lessons(more, apart=False)
    if first is None:
        learn(trainer(loaded(device)[0], **_SIZE), list(_rows(given, {}, first_rows)), out / "first")
    mined = _mined(given, Trainer(loaded(device)[0], Recipe(pack_tokens=_PACKED), start=first or out / "first"), device)
    if first is None:
        for file in (out / "first").iterdir():
            file.unlink()
        (out / "first").rmdir()
    base, weights = loaded(device)
    learn(trainer(base, **_SIZE), list(_rows(given, mined, rows)), out)
    shipped(out, ABOUT, weights, [one.part.tell for one in given], rows=rows, **asdict(_RULE))


def _rows(given: Sequence[Lesson], mined: Mined, many: int) -> Iterator[tuple[str, str]]:
    """What is asked and what the judge is to say, by turns yes and no."""
    chance, order = random.Random(0), list(range(len(given)))
    for turn in range(many // 2):
        if turn % len(order) == 0:
            chance.shuffle(order)
        n = order[turn % len(order)]
        one = given[n]
        yield prompt(chance.choice(one.part.ask), _known(one, given, chance)), YES
        drawn = chance.random()
        if drawn < _MINED and mined.get(n):
            question, other = chance.choice(mined[n])
            yield prompt(question, _known(given[other], given, chance)), NO
        elif drawn < _MINED + _NEAR and one.beside and chance.random() < _BESIDE:
            yield prompt(chance.choice(one.beside), one.part.tell or ""), NO
        elif drawn < _MINED + _NEAR:
            yield prompt(chance.choice(one.near), _known(one, given, chance)), NO
        else:
            yield prompt(chance.choice(chance.choice(given).part.ask), _known(one, given, chance)), NO


def _known(one: Lesson, given: Sequence[Lesson], chance: random.Random) -> str:
    """What is told, by itself or among others: an adapter says all that a message told it."""
    told = one.part.tell or ""
    others = [other.tell or "" for other in one.others]
    if chance.random() < _ALONE or (not others and chance.random() > _WITH_OTHERS):
        return told
    others = others or [chance.choice(given).part.tell or ""]
    some = [told, *chance.sample(others, min(len(others), chance.choice((1, 1, 2))))]
    if len(" ".join(some).split()) > _LONG:
        some = some[:2]
    chance.shuffle(some)
    return " ".join(some)


def _mined(given: Sequence[Lesson], first: Trainer, device: str, *, keep: int = _CANDIDATES) -> Mined:
    """What a codebook would take for the answer to some of each lesson's questions, and the first judge would not."""
    near = [(n, question, other) for n, question, others in _nearest(given, device, keep=keep) for other in others]
    told = [one.part.tell or "" for one in given]
    leanings = first.leanings([prompt(q, told[m]) for _, q, m in near], to=YES, rather_than=NO)
    doubtful = sorted({(n, m) for (n, _, m), of in zip(near, leanings, strict=True) if of > _MAY_ANSWER})
    back = first.leanings([prompt(given[m].part.ask[0], told[n]) for n, m in doubtful], to=YES, rather_than=NO)
    alike = {pair for pair, of in zip(doubtful, back, strict=True) if of > _MAY_ANSWER}
    found: Mined = {}
    for (n, question, m), of in zip(near, leanings, strict=True):
        if of <= _MAY_ANSWER or (n, m) not in alike:
            found.setdefault(n, []).append((question, m))
    return found


def _nearest(given: Sequence[Lesson], device: str, *, keep: int) -> Iterator[tuple[int, str, list[int]]]:
    """Of some questions of each lesson: whose it is, and the lessons of other messages that are nearest by states."""
    reader, below = _reader(device)
    of = torch.tensor([n for n, one in enumerate(given) for _ in one.part.ask[:_WORDINGS]])
    known = _states(reader, [q for one in given for q in one.part.ask[:_WORDINGS]], below)
    mean, deviation = known.mean(0), known.std(0) + 1e-3
    known = F.normalize((known - mean) / deviation, dim=-1)
    probes = [
        (n, question)
        for n, one in enumerate(given)
        for question in random.Random(n).sample(one.part.ask, min(_PROBES, len(one.part.ask)))
    ]
    for start in range(0, len(probes), _AT_ONCE):
        some = probes[start : start + _AT_ONCE]
        asked = F.normalize((_states(reader, [q for _, q in some], below) - mean) / deviation, dim=-1)
        order = of[(asked @ known.T).argsort(dim=-1, descending=True)[:, : 8 * keep].cpu()].tolist()
        for (n, question), nearest in zip(some, order, strict=True):
            others = [m for m in dict.fromkeys(nearest) if given[m].message != given[n].message]
            yield n, question, others[:keep]


def attempt(folder: Path, *, device: str, more: Sequence[Path], many: int = _TRIED) -> dict[str, Any]:
    """How well lessons are judged that were held back, and told apart by states."""
    some = lessons(more, apart=True)[-many:]
    judge = Trainer(loaded(device)[0], Recipe(pack_tokens=_PACKED), start=folder)
    told = [one.part.tell or "" for one in some]
    answered, near = [one.part.ask[_KNOWN] for one in some], [one.part.never[0] for one in some]
    yes = judge.leanings(list(map(prompt, answered, told)), to=YES, rather_than=NO)
    no = judge.leanings(list(map(prompt, near, told)), to=YES, rather_than=NO)
    mined = [(question, m) for _, question, others in _nearest(some, device, keep=1) for m in others]
    others = judge.leanings([prompt(q, told[m]) for q, m in mined], to=YES, rather_than=NO)
    return {
        "lessons": len(some),
        "told_apart": {"of any two": _told_apart(yes, no), "of its own": _own(yes, no)},
        "from_others": _told_apart(yes, others),
        "by_states": _by_states(some, device),
    }


def _by_states(some: Sequence[Lesson], device: str) -> dict[str, float]:
    """The nearest of other wordings (cosine), of the same questions."""
    reader, below = _reader(device)
    known = torch.stack([_states(reader, [one.part.ask[n] for one in some], below) for n in range(_KNOWN)])
    mean, deviation = known.flatten(0, 1).mean(0), known.flatten(0, 1).std(0) + 1e-3

    def nearest(questions: Sequence[str]) -> list[float]:
        asked = _states(reader, questions, below)
        one, other = (F.normalize((of - mean) / deviation, dim=-1) for of in (known, asked))
        return list((one * other).sum(-1).amax(0).tolist())

    yes, no = nearest([one.part.ask[_KNOWN] for one in some]), nearest([one.part.never[0] for one in some])
    return {"of any two": _told_apart(yes, no), "of its own": _own(yes, no)}


def _reader(device: str) -> tuple[Trainer, int]:
    """What nights begin from, and the layer that its codebook is at."""
    base, weights = loaded(device)
    beginning = beginning_for(weights)
    assert beginning is not None, "nothing to begin from ships with this model"
    reader = Trainer(base, Recipe(), start=Path(beginning))
    return reader, middle(reader.first, reader.layers)


def _states(reader: Trainer, questions: Sequence[str], below: int) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [reader.states(questions[n : n + _AT_ONCE], below=below) for n in range(0, len(questions), _AT_ONCE)]
        )


def _told_apart(yes: Sequence[float], no: Sequence[float]) -> float:
    one, other = torch.tensor(yes), torch.tensor(no)
    return round(float((one[:, None] > other[None]).float().mean()), 3)


def _own(yes: Sequence[float], no: Sequence[float]) -> float:
    return round(sum(a > b for a, b in zip(yes, no, strict=True)) / len(yes), 3)


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--more", type=Path, nargs="+", default=(), help="further lessons, as for bench.beginning")
    parser.add_argument("--first", type=Path, help="a judge to find hard negatives by")
    parser.add_argument("--many", type=int, default=_TRIED, help="lessons that are tried")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    if args.first and args.what != "train":
        parser.error("--first is for train")
    if args.what == "train":
        train(args.folder, device=args.device, more=args.more, first=args.first)
        return 0
    found = attempt(args.folder, device=args.device, more=args.more, many=args.many)
    sys.stdout.write(json.dumps(found, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
