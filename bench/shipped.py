"""Adapters that ship beside the program: how they are trained on lessons, and made ready."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.recipe import TARGETS, Recipe
from models.trainable import Trainable
from models.training import Progress, Trainer
from models.weights import resolve
from settings import Settings

_TOLD_EVERY = 20
"""Steps."""


def weights_of(given: str | None = None) -> Path:
    """Where the model's weights lie, the default model's if none is given."""
    return Path(given or resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location)


def loaded(device: str, given: str | None = None) -> tuple[Trainable, Path]:
    """The model to train, and where its weights lie."""
    weights = weights_of(given)
    return Trainable.load(weights, name="base", device=device, dtype="auto"), weights


def trainer(
    base: Trainable, *, rank: int, rate: float, batch: int = 8, layers: float = 1.0, start: Path | None = None
) -> Trainer:
    """One that has nothing to rehearse: what it makes only reads. `layers`: share of them, from the top."""
    recipe = Recipe(
        rank=rank,
        alpha=2 * rank,
        targets=TARGETS,
        trained_share=layers,
        learning_rate=rate,
        epochs=1,
        batch=batch,
        rehearsed=0,
        noise=0.0,
        kept=1.0,
        pack_tokens=2048,
    )
    return Trainer(base, recipe, start=start)


def learn(trainer: Trainer, lessons: Iterable[tuple[str, str]], out: Path) -> None:
    """Train on what is said and replied, in that order, and write the adapter."""
    began = time.monotonic()

    def each(progress: Progress) -> None:
        if progress.step % _TOLD_EVERY == 0 or progress.step == progress.steps:
            sys.stderr.write(f"{progress.step}/{progress.steps} {progress.loss:.3f} {time.monotonic() - began:.0f} s\n")

    trainer.train([trainer.row(said, reply) for said, reply in lessons], [], each=each)
    trainer.save(out)


def shipped(folder: Path, name: str, weights: Path, lessons: Sequence[Any], **others: Any) -> None:
    """Make a trained adapter's folder one that ships: half the size, no path of this machine, and what it is of."""
    file = folder / "adapter_model.safetensors"
    halve(file)
    placeless(folder / "adapter_config.json")
    (folder / "README.md").unlink(missing_ok=True)  # peft's, which says nothing
    about = {
        "base": json.loads((weights / "slowwave.json").read_text(encoding="utf-8"))["sha256"],
        "digest": hashlib.sha256(file.read_bytes()).hexdigest(),
        "lessons": hashlib.sha256(repr(lessons).encode()).hexdigest(),
        **others,
    }
    (folder / name).write_text(json.dumps(about, indent=2) + "\n")


def placeless(file: Path) -> None:
    """Without the path of the weights on this machine."""
    config = json.loads(file.read_text(encoding="utf-8")) | {"base_model_name_or_path": None}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def halve(file: Path) -> None:
    """To bfloat16: half the size, and what it was trained in."""
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
