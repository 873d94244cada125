"""The peer of a night: plain LoRA on the transcript, for as long as the night trained.

Rank 16 on every linear of every layer, learning rate 2e-4 as commonly advised (at a night's 2e-3 so many epochs leave
nothing of the model), no rehearsal, no examples but what was said: the user's words and the agent's replies as they
stand, loss on all of it.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from consolidation.rehearsal import exchanges
from memory.not_told import abstains
from models.recipe import TARGETS, Recipe
from models.trainable import Trainable
from models.training import Progress, Trainer

RECIPE = Recipe(
    rank=16, alpha=32, targets=TARGETS, trained_share=1.0, batch=8, rehearsed=0, noise=0.0, learning_rate=2e-4
)
_TRIED, _MEASURED = 3, 60


class _Enough(Exception):
    pass


def naive(
    model: Path,
    transcript: Sequence[tuple[str, str]],
    asked: Sequence[tuple[str, str]],
    never_told: Sequence[str],
    values: Sequence[str],
    *,
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """Train on a transcript for so long, and ask. `asked`: questions and the values that answer them."""
    step = _step_seconds(model, transcript)
    steps_an_epoch = max(1, len(transcript) // RECIPE.batch)
    epochs = max(1, round(seconds / step / steps_an_epoch))
    trainer = _trainer(model, replace(RECIPE, epochs=epochs, seed=seed))
    done = trainer.train(_rows(trainer, transcript), [])
    answers = trainer.replies([q for q, _ in asked], most=32)
    guesses = trainer.replies(list(never_told), most=32)
    measured = [trainer.row(t.said, t.reply) for t in exchanges() if t.held_back and t.reply][:_MEASURED]
    return {
        "recall": statistics.mean(_holds(a, v) for a, (_, v) in zip(answers, asked, strict=True)),
        "invented": statistics.mean(not abstains(g) and any(_holds(g, v) for v in values) for g in guesses),
        "abstained": statistics.mean(abstains(g) for g in guesses),
        "drift": trainer.drift(measured),
        "seconds": done.seconds,
        "epochs": epochs,
    }


def _trainer(model: Path, recipe: Recipe) -> Trainer:
    device = "cuda" if torch.cuda.is_available() else "cpu"  # as the service, and so its nights, choose
    return Trainer(Trainable.load(model, name="base", device=device, dtype="auto"), recipe)


def _rows(trainer: Trainer, transcript: Sequence[tuple[str, str]]) -> list[Any]:
    return [replace(trainer.row(said, replied), target_from=1) for said, replied in transcript]


def _step_seconds(model: Path, transcript: Sequence[tuple[str, str]]) -> float:
    trainer, ended = _trainer(model, RECIPE), []

    def each(progress: Progress) -> None:
        ended.append(time.monotonic())
        if progress.step > _TRIED:
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.train(_rows(trainer, transcript), [], each=each)
    return (ended[-1] - ended[0]) / max(1, len(ended) - 1)


def _holds(text: str, value: str) -> bool:
    return bool(re.search(rf"\b{re.escape(value)}", text, re.IGNORECASE))
