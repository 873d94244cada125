"""Train the reviser (consolidation/revisions.py) on consolidation/texts/revisions.jsonl, or see how it judges.

    python -m bench.reviser train OUT [--device cuda] [--epochs 2] [--start FOLDER --rows 2560]
    python -m bench.reviser try FOLDER [--json]

Beside its lessons it learns that what takes back one thing leaves others as they are (messages of other lessons), and
from the writer's lessons: whatever two messages of consolidation/texts/tellings.jsonl tell, the one does not take back
the other, however near it lies in meaning. One lesson in ten, and one telling in ten, is held
back: they decide how far a reply has to lean to a revision to be taken for one (`least`, kept with the adapter), and
`try` says how well they are told apart.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.shipped import learn, loaded, shipped, trainer
from consolidation import revisions
from consolidation.notes import tellings
from models.embedding import SentenceEncoder, find
from models.recipe import Recipe
from models.training import Trainer

Floats = np.ndarray[Any, np.dtype[Any]]
_HELD_BACK = 10
_WRONG, _WRONG_NEAR = 0.03, 0.001
"""Shares of what is no revision that may be taken for one: of lessons made to look like one, and of other talk."""
_NEAR = 6
"""Tellings that are looked at beside each."""
_SAME = 5
"""So many lessons that are nearest to a message may be about the same."""


def train(
    out: Path,
    *,
    device: str,
    epochs: int,
    layers: float,
    rank: int,
    rate: float,
    unrelated: float,
    start: Path | None = None,
    rows: int | None = None,
) -> None:
    """Write the reviser's folder. Its name is to carry the digest of its file.

    `start`: another's, to go on from; `rows`: so many examples at most, by chance.
    """
    base, weights = loaded(device)
    chance = random.Random(0)
    given = [*_given(held=False), *(_stands(*pair) for pair in _elsewhere(held=False))]
    near = _near_tellings(held=False)
    asked: list[tuple[str, str]] = []
    for _ in range(epochs):
        some = [*given, *(_stands(*pair) for pair in chance.sample(near, round(unrelated * len(given))))]
        asked += chance.sample(some, len(some))
    asked = asked[:rows]
    made = trainer(base, rank=rank, rate=rate, batch=16, layers=layers, start=start)
    learn(made, asked, out)
    least = _bar(*_judged(made))
    shipped(out, revisions.ABOUT, weights, revisions.lessons(), epochs=epochs, least=least)


def _is_held(n: int) -> bool:
    return n % _HELD_BACK == _HELD_BACK - 1


def _given(*, held: bool) -> list[tuple[str, str]]:
    """What the reviser is asked, and its answer, lesson by lesson."""
    made = []
    for n, lesson in enumerate(revisions.lessons()):
        if _is_held(n) is held:
            made += [
                (revisions.prompt(lesson.tell, say), revisions.written(lesson.value, new))
                for say, new in lesson.revising
            ]
            made += [_stands(lesson.tell, say) for say in lesson.others]
    return made


def _elsewhere(*, held: bool) -> list[tuple[str, str]]:
    """Messages that take something back, each behind what another lesson tells: nothing of that has changed.

    Half of those by chance, half near in meaning, though not the nearest, which may be of just the same.
    """
    lessons = [lesson for n, lesson in enumerate(revisions.lessons()) if _is_held(n) is held]
    says = [(n, say) for n, lesson in enumerate(lessons) for say, _ in lesson.revising]
    alike = _vectors([say for _, say in says]) @ _vectors([lesson.tell for lesson in lessons]).T
    chance = random.Random(1)
    made = []
    for (own, say), row in zip(says, alike, strict=True):
        near = [int(n) for n in np.argsort(-row) if n != own]
        of = chance.choice(near[_SAME : _SAME + 30] if chance.random() < 0.5 else near[_SAME:])
        made.append((lessons[of].tell, say))
    return made


def _stands(earlier: str, later: str) -> tuple[str, str]:
    return revisions.prompt(earlier, later), revisions.STANDS


def _near_tellings(*, held: bool) -> list[tuple[str, str]]:
    """Pairs of messages of different people: each with those nearest to it in meaning."""
    says = list(dict.fromkeys(t.say for n, t in enumerate(tellings()) if t.tell and _is_held(n) is held))
    vectors = _vectors(says)
    alike = vectors @ vectors.T - 2 * np.eye(len(says), dtype=np.float32)
    return [(says[j], says[i]) for i in range(len(says)) for j in np.argsort(-alike[i])[:_NEAR]]


def _vectors(texts: Sequence[str]) -> Floats:
    folder = find()
    if folder is None:
        raise SystemExit("bench.reviser: no sentence encoder; `slowwave doctor` says how to get one")
    return SentenceEncoder(folder).embed(texts)


def attempt(folder: Path, *, device: str) -> dict[str, Any]:
    """How what is held back is judged."""
    revising, others, elsewhere, near = _judged(Trainer(loaded(device)[0], Recipe(), start=folder))
    return {
        "revising": len(revising),
        "others": len(others),
        "auroc": _auroc(revising, others),
        "auroc_elsewhere": _auroc(revising, elsewhere),
        "near": len(near),
        "at": {
            str(bar): {
                "seen": float((revising > bar).mean()),
                "wrongly": float((others > bar).mean()),
                "wrongly_elsewhere": float((elsewhere > bar).mean()),
                "wrongly_of_near": float((near > bar).mean()),
            }
            for bar in (revisions.least(folder), -2, 0, 1, 2, 3, 4, 6)
        },
    }


def _judged(trainer: Trainer) -> tuple[Floats, Floats, Floats, Floats]:
    """Leanings to a revision of what is held back: lessons that are one, others, those of something else, tellings."""
    given = _given(held=True)
    leaning = _leanings(trainer, [q for q, _ in given])
    changed = np.array([a != revisions.STANDS for _, a in given])
    near = _leanings(trainer, [revisions.prompt(*pair) for pair in _near_tellings(held=True)])
    elsewhere = _leanings(trainer, [revisions.prompt(*pair) for pair in _elsewhere(held=True)])
    return leaning[changed], leaning[~changed], elsewhere, near


def _bar(revising: Floats, others: Floats, elsewhere: Floats, near: Floats) -> float:
    """The least leaning at which few enough are taken for a revision and are none."""
    most = ((others, _WRONG), (elsewhere, _WRONG), (near, _WRONG_NEAR))
    right = (bar for bar in np.sort(revising) if all((of > bar).mean() <= wrong for of, wrong in most))
    return round(float(next(right, revising.max())), 3)


def _leanings(trainer: Trainer, asked: Sequence[str]) -> Floats:
    return np.array(trainer.leanings(asked, to=revisions.REVISED, rather_than=revisions.STANDS))


def _auroc(above: Floats, below: Floats) -> float:
    """Probability that one of the former lies above one of the latter."""
    return float((above[:, None] > below[None]).mean() + (above[:, None] == below[None]).mean() / 2)


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--layers", type=float, default=1.0, help="share of the layers, from the top")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--unrelated", type=float, default=0.5, help="pairs of tellings, to each lesson's pair")
    parser.add_argument("--start", type=Path, help="a reviser to go on from")
    parser.add_argument("--rows", type=int, help="examples at most")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    if args.what == "train":
        train(
            args.folder,
            device=args.device,
            epochs=args.epochs,
            layers=args.layers,
            rank=args.rank,
            rate=args.rate,
            unrelated=args.unrelated,
            start=args.start,
            rows=args.rows,
        )
        return 0
    done = attempt(args.folder, device=args.device)
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
