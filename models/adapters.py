"""LoRA adapters as files, and as what a forward pass adds to its products.

The files are peft's (`adapter_model.safetensors`, `adapter_config.json`), so that other tools read them. Beside them
may lie a gate, which says where the adapter acts (other tools let it act everywhere), and a codebook, which says what
it was taught (other tools leave it out). Nothing in
them is executed, and nothing is believed: names, shapes, dtypes and numbers are checked before a weight is used. In
serving an adapter stays beside the weights (Hu et al. 2021: y = W x + s B A x), so that sequences with different
adapters, or none, share a step, and a swap copies nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models import codebook as codebooks
from models import gate as gates
from models.codebook import Codebook
from models.errors import AdapterRefused
from models.gate import Gate

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_NAME = re.compile(
    r"base_model\.model\.model\.layers\.(\d{1,4})\.(?:self_attn|mlp)\.([a-z_]{1,32})\.lora_([AB])\.weight"
)
_LARGEST_RANK = 512
_LARGEST_CONFIG = 1 << 16

Linear = tuple[int, str]
"""A layer, counted from below, and one of its linears: (29, 'gate_proj')."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one product: y += x `down` `up`."""

    down: Tensor
    """[in, rank]."""
    up: Tensor
    """[rank, out], scaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter, read and checked."""

    id: str
    parts: Mapping[Linear, LowRank]
    gates: tuple[Gate, ...] = ()
    """Where it acts; none: everywhere."""
    codebook: Codebook | None = None
    """What it was taught, entry by entry; None: all of it is in the products."""

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(p.down.numel() + p.up.numel() for p in self.parts.values())


def read(folder: Path, *, id: str, linears: Mapping[Linear, tuple[int, int]], dtype: Any, device: Any) -> Adapter:
    """Read an adapter for a model whose linears have these sizes, (in, out).

    Raises:
        AdapterRefused: files that are missing, broken, or of another model.
    """
    scale, rank = _scale(folder / CONFIG)
    halves: dict[Linear, dict[str, Tensor]] = {}
    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                found = _NAME.fullmatch(name)
                if found is None or (int(found[1]), found[2]) not in linears:
                    raise AdapterRefused(f"adapter {id}: {name!r} is no linear of this model")
                linear = int(found[1]), found[2]
                into, out = linears[linear]
                expected = [rank, into] if found[3] == "A" else [out, rank]
                if file.get_slice(name).get_shape() != expected:
                    raise AdapterRefused(f"adapter {id}: {name!r} is not of shape {expected}")
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                    raise AdapterRefused(f"adapter {id}: {name!r} holds what is no finite number")
                halves.setdefault(linear, {})[found[3]] = tensor.to(device=device, dtype=torch.float32)
    except (OSError, SafetensorError) as error:
        raise AdapterRefused(f"adapter {id}: {error}") from error
    if not halves or any(set(half) != {"A", "B"} for half in halves.values()):
        raise AdapterRefused(f"adapter {id}: half of a product is missing")
    parts = {
        linear: LowRank(half["A"].T.to(dtype).contiguous(), (half["B"].T * scale).to(dtype).contiguous())
        for linear, half in halves.items()
    }
    found_gates = tuple(gate.to(device) for gate in gates.read(folder, id=id))
    if found_gates and found_gates[0].layer != min(n for n, _ in parts):
        raise AdapterRefused(f"adapter {id}: its gate is of another model")
    if any(len(gate.mean) not in _entering(linears, gate.layer) for gate in found_gates):
        raise AdapterRefused(f"adapter {id}: its gate is of another model")
    book = codebooks.read(folder, id=id)
    if book is not None:
        if len(book.mean) not in _entering(linears, book.layer) or any(book.layer < gate.layer for gate in found_gates):
            raise AdapterRefused(f"adapter {id}: its codebook is of another model")
        book = book.to(device)
    return Adapter(id=id, parts=parts, gates=found_gates, codebook=book)


def _entering(linears: Mapping[Linear, tuple[int, int]], layer: int) -> set[int]:
    """The sizes of what a layer's linears are given, other than what its own attention or MLP has made."""
    return {into for (n, name), (into, _) in linears.items() if n == layer and not name.startswith(("o_", "down_"))}


def fused(adapter: Adapter, layer: int, names: Sequence[str], sizes: Sequence[int]) -> LowRank | None:
    """The adapter's part in one product that stands for several linears of the same input; None: it has none.

    `sizes` are the linears' widths, in the order in which they lie in the product.
    """
    found = [(i, adapter.parts[layer, name]) for i, name in enumerate(names) if (layer, name) in adapter.parts]
    if not found:
        return None
    down = torch.cat([part.down for _, part in found], dim=1)
    up = down.new_zeros(down.shape[1], sum(sizes))
    row = 0
    for i, part in found:
        start = sum(sizes[:i])
        up[row : row + part.up.shape[0], start : start + sizes[i]] = part.up
        row += part.up.shape[0]
    return LowRank(down.contiguous(), up)


def _scale(file: Path) -> tuple[float, int]:
    """(alpha / rank, rank) by an adapter's configuration."""
    try:
        if file.stat().st_size > _LARGEST_CONFIG:
            raise AdapterRefused(f"{file} is too large")
        config = json.loads(file.read_text(encoding="utf-8"))
        rank, alpha = config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterRefused(f"{file} cannot be read: {error}") from error
    plain = (
        config.get("peft_type") == "LORA"
        and config.get("bias") == "none"
        and not any(config.get(name) for name in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"))
    )
    if not plain or not isinstance(rank, int) or not 1 <= rank <= _LARGEST_RANK or not isinstance(alpha, int | float):
        raise AdapterRefused(f"{file} is not a plain LoRA of rank 1 to {_LARGEST_RANK}")
    return float(alpha) / (rank**0.5 if config.get("use_rslora") else rank), rank
