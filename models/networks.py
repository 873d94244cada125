"""The networks that can be trained from nothing here: by kind and sizes, and again from what a run left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from models.errors import RunRefused
from models.pretraining import BEST, Plan, read_plan

KINDS = ("kssm", "spiralformer", "gpt")
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "kssm": {
        "small": {
            "width": 80, "layers": 2, "oscillators": 120, "harmonics": 2, "scales": (2, 20, 120), "choirs": 4,
            "inner": 112,
        },
        "large": {"dropout": 0.1},
    },
    "spiralformer": {
        "small": {"width": 72, "layers": 3, "heads": 4, "phases": 8},
        "large": {"width": 528, "layers": 6, "heads": 8, "dropout": 0.1},
    },
    "gpt": {
        "small": {"width": 72, "layers": 3, "heads": 4},
        "large": {"width": 528, "layers": 6, "heads": 8, "dropout": 0.1},
    },
}  # fmt: skip
"""Small: about 200,000 parameters with 65 characters. Large: about 46 million with 49,152 tokens."""
PHASES: dict[str, dict[str, Any]] = {
    "small": {"scales": (4, 20, 120), "inner": 88, "readout": "phases"},
    "large": {"scales": (4, 16, 128, 640), "inner": 576, "readout": "phases"},
}
"""What is other in the K-SSM that reads its oscillators too."""


def network(kind: str, shape: Mapping[str, Any], vocab_size: int, *, seed: int = 0) -> Any:
    """A network with its weights as they begin.

    Raises:
        RunRefused: no such kind, or sizes that it does not have or cannot be.
    """
    if kind == "kssm":
        from models.kssm import Kssm, KssmShape

        build, of = Kssm, KssmShape
    elif kind == "spiralformer":
        from models.spiralformer import Spiralformer, SpiralShape

        build, of = Spiralformer, SpiralShape  # type: ignore[assignment]
    elif kind == "gpt":
        from models.gpt import Gpt, GptShape

        build, of = Gpt, GptShape  # type: ignore[assignment]
    else:
        raise RunRefused(f"there is no network named {kind}; there are {', '.join(KINDS)}")
    known = {f.name for f in fields(of)} - {"vocab_size"}
    if unknown := sorted(set(shape) - known):
        raise RunRefused(f"{kind} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    told: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in shape.items()}
    try:
        return build(of(vocab_size=vocab_size, **told), seed=seed)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise RunRefused(f"{kind} cannot have these sizes: {error}") from error


def trained(folder: Path) -> tuple[Any, Plan]:
    """The best network of a run, ready to be read with, and the plan that it was trained by.

    Raises:
        RunRefused: the folder holds no run, or none that was evaluated yet.
    """
    from safetensors import SafetensorError, safe_open

    plan = read_plan(folder)
    try:
        with safe_open(folder / BEST, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunRefused(f"{folder} holds no weights that were examined yet ({error})") from error
    weights = {name.removeprefix("weights."): tensor.float() for name, tensor in tensors.items()}
    found = network(plan.kind, plan.shape, len(weights["embedding"]), seed=plan.seed)
    try:
        found.load_state_dict(weights)
    except RuntimeError as error:
        raise RunRefused(f"the weights in {folder} are not of the shape in its plan: {error}") from error
    found.train(False)
    return found, plan
