"""The published K-SSM (templetwo/liminal-k-ssm, v3), rebuilt from its formulas, defects included, to measure ours by.

Nothing is carried from token to token, its phases are one scalar's shift of fixed ones, its clamp passes no gradient,
weight decay shrinks its frequencies, and noise stays on at evaluation: all as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.kuramoto import Phases, order_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedShape:
    """Sizes."""

    vocab_size: int
    width: int = 96
    layers: int = 4
    oscillators: int = 192
    harmonics: int = 32
    positions: int = 1024


class _Block(nn.Module):
    def __init__(self, shape: PublishedShape) -> None:
        super().__init__()
        self.harmonics = shape.harmonics
        self.norm = nn.LayerNorm(shape.width)
        self.numbers = nn.Linear(shape.width, 10)
        self.omega = nn.Parameter(torch.linspace(-torch.pi, torch.pi, shape.oscillators))
        self.delta = nn.Parameter(torch.tensor(0.2))
        self.out = nn.Linear(3 * shape.harmonics, shape.width)

    def forward(
        self, h: Tensor, force: Callable[[Phases], Phases] | None, noisy: bool
    ) -> tuple[Tensor, Phases, Tensor]:
        x = self.norm(h)
        a, b, c, d, e, f, g, eight, _i, _j = self.numbers(x).unbind(-1)
        u = ((d * g - c * eight) / (a * g - c * e + 1e-6)).clamp(0.1, 10.0)
        coupling = 2 * torch.sigmoid(u)
        theta = self.omega + x.mean(-1, keepdim=True)
        cosines, sines = theta.cos(), theta.sin()
        pull = sines.mean(-1, keepdim=True) * cosines - cosines.mean(-1, keepdim=True) * sines
        theta = theta + coupling[..., None] * pull
        if noisy:
            theta = theta - self.delta * torch.randn_like(theta)
        held: Phases = (theta.cos(), theta.sin())
        if force is not None:
            held = force(held)
        read = order_parameters(held, (held[0].shape[-1],), self.harmonics)
        penalty = 0.1 / ((b * g - c * f).abs().mean() + 1e-6) - 0.5 * u.mean().log()
        return h + self.out(read), held, penalty


class PublishedKssm(nn.Module):
    """The network."""

    def __init__(self, shape: PublishedShape, *, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        nn.init.normal_(self.embedding.weight, 0, 0.02)
        nn.init.normal_(self.positions.weight, 0, 0.02)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.penalty: Any = torch.zeros(())

    def looked(
        self, ids: Tensor, force: Callable[[Phases], Phases] | None = None, *, noisy: bool = False
    ) -> tuple[Tensor, Phases]:
        """Logits, and the phases of the last layer; without the noise, with which no two readings agree."""
        h = self.embedding(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        penalties = []
        held: Phases = (h, h)
        for n, block in enumerate(self.blocks):
            h, held, penalty = block(h, force if n == len(self.blocks) - 1 else None, noisy)
            penalties.append(penalty)
        self.penalty = 0.05 * torch.stack(penalties).mean()
        return self.norm(h) @ self.embedding.weight.T, held

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [rows, time, vocab]."""
        return self.looked(ids, noisy=True)[0]

    def undecayed(self) -> frozenset[str]:
        """Nothing: weight decay takes the frequencies too, as published."""
        return frozenset()
