"""Train what a night begins from (models/alignment.py) on consolidation/texts/tellings.jsonl, or see how it compares.

    python -m bench.beginning train OUT [--device cuda] [--steps 250] [--more bench/lessons.jsonl]
    python -m bench.beginning try [FOLDER] [--more bench/lessons.jsonl]

One lesson in four is the exam's (consolidation/counter_examples.py) and not trained on; `found` tells of those, and of
the questions of bench/nights, of how many two wordings find each other. Without FOLDER `try` asks the base. --more has
further lessons, in as different words as their author could find; what ships was trained without (docs/log.md,
2026-11-29).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.recipes import held
from bench.writer import shipped
from consolidation.counter_examples import for_the_exam
from consolidation.notes import tellings
from consolidation.rehearsal import exchanges, prompts
from models.alignment import Alignment, Lesson, Scale, align, found, middle
from models.recipe import Recipe
from models.trainable import Trainable
from models.training import Trainer
from models.weights import resolve
from settings import Settings

NIGHTS = Path(__file__).parent / "nights"
_TRIED, _DRIFT = 200, 60
_PACKED, _PACKED_ON_GPU = 1024, 16384
"""Tokens of questions in one pass: a GPU waits for Python where they are few."""


def lessons(more: Path | None = None, *, apart: bool = False) -> list[Lesson]:
    """What may be trained on: none that the exam asks. `apart`: the others."""
    rows = [] if more is None else map(json.loads, more.read_text(encoding="utf-8").splitlines())
    asked = [(t.ask, t.never) for t in tellings()] + [(tuple(r["ask"]), tuple(r["never"])) for r in rows]
    return [
        Lesson(asks=asks, near=near)
        for n, (asks, near) in enumerate(asked)
        if for_the_exam(n) == apart and len(asks) > 1 and near
    ]


def _trainer(device: str, start: Path | None = None) -> tuple[Trainer, Path]:
    weights = Path(resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location)
    base = Trainable.load(weights, name="base", device=device, dtype="auto")
    return Trainer(base, Recipe(pack_tokens=_PACKED if device == "cpu" else _PACKED_ON_GPU), start=start), weights


def train(out: Path, *, device: str, how: Alignment, more: Path | None = None) -> dict[str, Any]:
    """Write the folder of a beginning. Its name is to carry the digest of its file."""
    trainer, weights = _trainer(device)
    began = time.monotonic()
    curve: list[tuple[int, float]] = []

    def each(step: int, contrast: float) -> None:
        curve.append((step, round(contrast, 3)))
        if step % 100 == 0:
            trainer.save(out)  # what is cut off has left something
        if step % 10 == 0:
            sys.stderr.write(f"{step}/{how.steps} {contrast:.3f} {time.monotonic() - began:.0f} s\n")

    taught = lessons(more)
    scale = align(trainer, taught, how, each=each)
    trainer.save(out)
    shipped(out, "beginning.json", weights, taught, alignment=asdict(how))
    return {
        "seconds": round(time.monotonic() - began, 1),
        **_compared(trainer, scale, how, more),
        "curve": curve[9::10],
    }


def attempt(folder: Path | None, *, device: str, how: Alignment, more: Path | None = None) -> dict[str, Any]:
    """How often two wordings find each other, and what it costs."""
    base, _ = _trainer(device)
    below = middle(base, how.share)
    with torch.no_grad():
        scale = Scale.of(base.states([lesson.asks[0] for lesson in lessons()[:800]], below=below))
    return _compared(base if folder is None else _trainer(device, folder)[0], scale, how, more)


def _compared(trainer: Trainer, scale: Scale, how: Alignment, more: Path | None) -> dict[str, Any]:
    week = json.loads((NIGHTS / "week.json").read_text(encoding="utf-8"))
    sets = {
        "lessons apart": _pairs(lessons(apart=True)),
        "lessons": _pairs(lessons()),
        "week": [(f["ask"][0], f["ask"][-1]) for day in week["days"] for f in day],
    }
    if more is not None:
        known = len(lessons()), len(lessons(apart=True))
        sets |= {"more": _pairs(lessons(more)[known[0] :]), "more apart": _pairs(lessons(more, apart=True)[known[1] :])}
    texts = [t for t in [*prompts(), *exchanges()] if t.held_back][:_DRIFT]
    return {
        "found": {name: round(found(trainer, pairs, scale, share=how.share), 3) for name, pairs in sets.items()},
        "drift": round(trainer.drift(held(trainer, texts)), 4),
    }


def _pairs(some: list[Lesson]) -> list[tuple[str, str]]:
    """Two wordings of each of a few."""
    return [(one.asks[0], one.asks[-1]) for one in some[:_TRIED]]


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=Alignment().steps)
    parser.add_argument("--batch", type=int, default=Alignment().batch)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", type=Path, help="further lessons, lines of tellings")
    args = parser.parse_args()
    how = replace(Alignment(), steps=args.steps, batch=args.batch, seed=args.seed)
    if args.what == "train":
        if args.folder is None:
            parser.error("train needs a folder")
        done = train(args.folder, device=args.device, how=how, more=args.more)
    else:
        done = attempt(args.folder, device=args.device, how=how, more=args.more)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
