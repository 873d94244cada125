"""Where an adapter acts: a small classifier of each token, by what the frozen layers below the adapter make of it.

y = W x + g(h) s B A x, where h enters the first adapted layer and g is between 0 and 1. A second one, further up, sees
more, and has the layers from there on act by the product of both. Trained to tell what a night
teaches from the talk that it rehearses, it closes on everything else, so that what is learnt there does not have to be
unlearnt everywhere (scope classifiers: Mitchell et al. 2022; routing by activations: Wang et al. 2024, WISE). It judges
every token by itself and what is before it: a conversation's state is the same in whatever pieces it was read. One kind
of token it does not judge: those of a reply that says what the adapter's codebook found (`codebook`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import AdapterRefused
from models.packed_linear import PackedLinear
from models.step_layout import FARTHEST

FILES = ("gate.safetensors", "upper_gate.safetensors")
"""Beside an adapter's own files: where it acts at all, and where in addition its upper layers do."""
_STEPS, _BATCH, _RATE, _DECAY = 400, 1024, 3e-3, 1e-2
_SHAPES = ("mean", "deviation", "into.weight", "into.bias", "out.weight", "out.bias")
_WIDEST = 4096
_WIDE = 32.0
"""Nats: 1 in float32."""


class Gate(nn.Module):
    """How far an adapter acts on a token. `layer`: the one that what is judged enters."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, layer: int, mean: Tensor, deviation: Tensor, *, width: int) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.into, self.out = nn.Linear(len(mean), width), nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., size] of any dtype -> [..., 1], float32, from 0 to 1."""
        return self._judged(hidden, self.into, self.out)

    def shut(self, by: float) -> None:
        """Let less through: so many nats less for its being open."""
        with torch.no_grad():
            self.out.bias.sub_(by)

    def for_serving(self, *, pack: bool) -> Callable[[Tensor], Tensor]:
        """The same function without gradients; packed, where a row must not depend on how many there are."""
        if not pack:
            return self.requires_grad_(False)
        into, out = (PackedLinear(linear.weight, linear.bias) for linear in (self.into, self.out))
        return lambda hidden: self._judged(hidden, into, out)

    def _judged(self, hidden: Tensor, into: nn.Module, out: nn.Module) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.sigmoid(out(F.silu(into(self._scaled(hidden)))))

    def _scaled(self, hidden: Tensor) -> Tensor:
        return ((hidden.float() - self.mean) / self.deviation).clamp(-FARTHEST, FARTHEST)

    def save(self, file: Path) -> None:
        """Write it, the same bytes each time."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, file, metadata={"layer": str(self.layer)})


def save(gates: Sequence[Gate], folder: Path) -> None:
    """Write an adapter's gates beside its files."""
    for gate, name in zip(gates, FILES, strict=False):
        gate.save(folder / name)


def wide_open(layer: int, size: int) -> Gate:
    """One that lets everything through, from a layer on."""
    gate = Gate(layer, torch.zeros(size), torch.ones(size), width=1)
    for parameter in gate.parameters():
        parameter.requires_grad_(False).zero_()
    gate.shut(-_WIDE)
    return gate


def fit(inside: Tensor, outside: Tensor, *, layer: int, width: int, seed: int, steps: int = _STEPS) -> Gate:
    """Learn to tell tokens inside, [n, size], from those outside, [m, size], by what enters `layer`.

    Each side counts the same, however many there are. Same numbers and seed, same gate.
    """
    device = inside.device
    both = torch.cat([inside, outside]).float()
    chance = torch.Generator().manual_seed(seed)
    gate = Gate(layer, both.mean(0), both.std(0) + 1e-3, width=width)
    for linear in (gate.into, gate.out):
        bound = 1 / math.sqrt(linear.in_features)
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=chance)
            linear.bias.zero_()
    gate = gate.to(device)
    targets = torch.cat([torch.ones(_BATCH), torch.zeros(_BATCH)]).to(device)
    optimizer = torch.optim.AdamW(gate.parameters(), lr=_RATE, weight_decay=_DECAY)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        some = [of[torch.randint(len(of), (_BATCH,), generator=chance).to(device)] for of in (inside, outside)]
        judged = gate.out(F.silu(gate.into(gate._scaled(torch.cat(some)))))[:, 0]
        optimizer.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(judged, targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return gate.requires_grad_(False)


def read(folder: Path, *, id: str) -> tuple[Gate, ...]:
    """The gates beside an adapter's files, on the CPU; none: it acts everywhere.

    Raises:
        AdapterRefused: a broken file, or an upper one that is not above another.
    """
    found = [_read(folder / name, id=id) for name in FILES if (folder / name).exists()]
    if (len(found) > 1 and found[1].layer <= found[0].layer) or (not (folder / FILES[0]).exists() and found):
        raise AdapterRefused(f"adapter {id}: its upper gate is above no other")
    return tuple(found)


def _read(file: Path, *, id: str) -> Gate:
    """Raises: AdapterRefused."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            layer = (opened.metadata() or {}).get("layer", "")
            if set(opened.keys()) != set(_SHAPES) or not layer.isdecimal() or len(layer) > 4:
                raise AdapterRefused(f"adapter {id}: {file.name} is no gate")
            tensors = {name: opened.get_tensor(name) for name in _SHAPES}
    except (OSError, SafetensorError) as error:
        raise AdapterRefused(f"adapter {id}: {error}") from error
    size, width = tensors["mean"].numel(), tensors["into.bias"].numel()
    expected = {"mean": [size], "deviation": [size], "into.weight": [width, size], "into.bias": [width]}
    expected |= {"out.weight": [1, width], "out.bias": [1]}
    if not 1 <= width <= _WIDEST or any(list(tensors[name].shape) != shape for name, shape in expected.items()):
        raise AdapterRefused(f"adapter {id}: the parts of its gate do not fit each other")
    if any(t.dtype != torch.float32 or not bool(t.isfinite().all()) for t in tensors.values()):
        raise AdapterRefused(f"adapter {id}: its gate holds what is no finite float32 number")
    if not bool((tensors["deviation"] > 0).all()):
        raise AdapterRefused(f"adapter {id}: its gate divides by nothing")
    gate = Gate(int(layer), tensors["mean"], tensors["deviation"], width=width)
    gate.load_state_dict(tensors)
    return gate.requires_grad_(False)
