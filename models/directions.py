"""Directions of traits in a model's own activations: found by contrast, once a model, and kept in a file.

Mean residual, after each layer, over the words of replies that have a trait, less that over replies to the same that
have its opposite (Rimsky et al. 2024). The replies are given texts, read as if the model had said them: a small model
hardly follows a description of a manner, but it knows the manner when it reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.errors import SteeringRefused
from models.language import LanguageModel, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two replies to the same: one has the trait, the other its opposite."""

    said: str
    high: str
    low: str


def find(
    model: Callable[[], LanguageModel],
    contrasts: Mapping[str, Sequence[Contrast]],
    *,
    run: Callable[[Callable[[], Tensor]], Tensor],
    each: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """The direction of each trait, float32 [layers, hidden], from low to high.

    `run` does a piece of work where the model may be read; `each` is called after every text.

    Raises:
        SteeringRefused: the model has no residuals to look at.
    """

    def read(said: str, reply: str) -> Tensor:
        chat = model().chat_ids([Message(role="user", content=said)]) or []
        ids = [*chat, *model().encode(reply)]
        found: Tensor = run(lambda: model().residuals(ids, start=len(chat)))
        each()
        return found

    found: dict[str, Tensor] = {
        trait: torch.stack([read(c.said, c.high) - read(c.said, c.low) for c in pairs]).mean(0)
        for trait, pairs in contrasts.items()
    }
    return found


def placebo(direction: Tensor, *, seed: int = 0) -> Tensor:
    """A random direction, as long as `direction` after every layer."""
    noise = torch.randn(direction.shape, generator=torch.Generator().manual_seed(seed))
    lengths: Tensor = direction.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    return noise * lengths


def name_of(weights: str, contrasts: Mapping[str, Sequence[Contrast]]) -> str:
    """A file's name that says of which weights and of which texts the directions are."""
    told = json.dumps([weights, {t: [asdict(c) for c in pairs] for t, pairs in contrasts.items()}], sort_keys=True)
    return f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.safetensors"


def keep(directions: Mapping[str, Tensor], file: Path) -> None:
    """Write them, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as made:
        made.write(save({trait: direction.contiguous() for trait, direction in directions.items()}))
        made.flush()
        os.fsync(made.fileno())
    Path(made.name).replace(file)


def kept(file: Path, traits: Sequence[str]) -> dict[str, Tensor] | None:
    """What `keep` wrote; None: it is not there, or not to be used, and is to be found anew."""
    try:
        found = load(file.read_bytes())
    except (OSError, SafetensorError):
        return None
    fine = set(found) == set(traits) and all(
        t.dim() == 2 and t.dtype == torch.float32 and bool(torch.isfinite(t).all()) for t in found.values()
    )
    return found if fine and len({t.shape for t in found.values()}) == 1 else None


def checked(direction: Tensor, layers: range) -> Tensor:
    """A direction's part at some layers. Raises: SteeringRefused: the model has fewer."""
    if layers.stop > len(direction):
        raise SteeringRefused(f"layers up to {layers.stop} are to be steered, of {len(direction)}")
    return direction[layers.start : layers.stop]
