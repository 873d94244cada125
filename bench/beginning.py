"""Train what a night begins from (models/alignment.py) on consolidation/texts/tellings.jsonl, or see how it compares.

    python -m bench.beginning train OUT [--device cuda] [--steps 250]
    python -m bench.beginning try [FOLDER]

One lesson in four is the exam's (consolidation/counter_examples.py) and not trained on; `found` tells of those, and of
the questions of bench/nights, of how many two wordings find each other. Without FOLDER `try` asks the base.
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
from models.trainable import Trainable
from models.training import Recipe, Trainer
from models.weights import resolve
from settings import Settings

NIGHTS = Path(__file__).parent / "nights"
_TRIED, _DRIFT = 200, 60


def lessons() -> list[Lesson]:
    """What may be trained on: none that the exam asks."""
    return [
        Lesson(asks=t.ask, near=t.never)
        for n, t in enumerate(tellings())
        if not for_the_exam(n) and len(t.ask) > 1 and t.never
    ]


def _trainer(device: str, start: Path | None = None) -> tuple[Trainer, Path]:
    weights = Path(resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location)
    base = Trainable.load(weights, name="base", device=device, dtype="auto")
    return Trainer(base, Recipe(), start=start), weights


def train(out: Path, *, device: str, how: Alignment) -> dict[str, Any]:
    """Write the folder of a beginning. Its name is to carry the digest of its file."""
    trainer, weights = _trainer(device)
    began = time.monotonic()
    curve: list[tuple[int, float]] = []

    def each(step: int, contrast: float) -> None:
        curve.append((step, round(contrast, 3)))
        if step % 10 == 0:
            sys.stderr.write(f"{step}/{how.steps} {contrast:.3f} {time.monotonic() - began:.0f} s\n")

    scale = align(trainer, lessons(), how, each=each)
    trainer.save(out)
    shipped(out, "beginning.json", weights, lessons(), alignment=asdict(how))
    return {"seconds": round(time.monotonic() - began, 1), **_compared(trainer, scale, how), "curve": curve[9::10]}


def attempt(folder: Path | None, *, device: str, how: Alignment) -> dict[str, Any]:
    """How often two wordings find each other, and what it costs."""
    base, _ = _trainer(device)
    below = middle(base, how.share)
    with torch.no_grad():
        scale = Scale.of(base.states([lesson.asks[0] for lesson in lessons()[:800]], below=below))
    return _compared(base if folder is None else _trainer(device, folder)[0], scale, how)


def _compared(trainer: Trainer, scale: Scale, how: Alignment) -> dict[str, Any]:
    apart = [t for n, t in enumerate(tellings()) if for_the_exam(n) and len(t.ask) > 1][:_TRIED]
    week = json.loads((NIGHTS / "week.json").read_text(encoding="utf-8"))
    sets = {
        "lessons apart": [(t.ask[0], t.ask[-1]) for t in apart],
        "week": [(f["ask"][0], f["ask"][-1]) for day in week["days"] for f in day],
    }
    texts = [t for t in [*prompts(), *exchanges()] if t.held_back][:_DRIFT]
    return {
        "found": {name: round(found(trainer, pairs, scale, share=how.share), 3) for name, pairs in sets.items()},
        "drift": round(trainer.drift(held(trainer, texts)), 4),
    }


def main() -> int:
    """Train or try."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "try"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=Alignment().steps)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    how = replace(Alignment(), steps=args.steps, seed=args.seed)
    if args.what == "train":
        if args.folder is None:
            parser.error("train needs a folder")
        done = train(args.folder, device=args.device, how=how)
    else:
        done = attempt(args.folder, device=args.device, how=how)
    sys.stdout.write(json.dumps(done) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
