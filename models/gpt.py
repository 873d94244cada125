"""A small decoder-only transformer to measure the others by: rotary positions, pre-norm, one fused attention.

Same interface as `kssm.py` and `spiralformer.py` for training; it has no state and is not served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, gelu, linear, rms_norm, scaled_dot_product_attention


@dataclass(frozen=True, slots=True, kw_only=True)
class GptShape:
    """Sizes of a transformer."""

    vocab_size: int
    width: int = 512
    layers: int = 6
    heads: int = 8
    dropout: float = 0.0


class _Block(nn.Module):
    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.first, self.second = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.out = nn.Parameter(torch.empty(width, width))
        self.up = nn.Parameter(torch.empty(4 * width, width))
        self.down = nn.Parameter(torch.empty(width, 4 * width))

    def forward(self, h: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        rows, time, width = h.shape
        heads = self.shape.heads
        x = linear(rms_norm(h, (width,), self.first), self.qkv).view(rows, time, 3, heads, width // heads)
        query, key, value = x.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(
            turned(query, cosines, sines),
            turned(key, cosines, sines),
            value,
            is_causal=True,
            dropout_p=self.shape.dropout if self.training else 0.0,
        )
        mixed = linear(mixed.transpose(1, 2).reshape(rows, time, width), self.out)
        h = h + dropout(mixed, self.shape.dropout, self.training)
        made = linear(gelu(linear(rms_norm(h, (width,), self.second), self.up)), self.down)
        return h + dropout(made, self.shape.dropout, self.training)


def turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): pairs of halves turned by their place's angles."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosines - second * sines, first * sines + second * cosines), -1).to(x.dtype)


class Gpt(nn.Module):
    """The network."""

    def __init__(self, shape: GptShape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.width))
        self.layers = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 2:
                    deep = name.endswith(("out", "down"))
                    p.normal_(0, 0.02 / (math.sqrt(2 * shape.layers) if deep else 1), generator=generator)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits [rows, time, vocab]."""
        return linear(self.hidden(token_ids), self.embedding)

    def hidden(self, token_ids: Tensor) -> Tensor:
        """What the head multiplies."""
        half = self.shape.width // self.shape.heads // 2
        rate = 10000.0 ** (-torch.arange(half, device=token_ids.device) / half)
        angle = torch.arange(token_ids.shape[1], device=token_ids.device)[:, None] * rate
        h = dropout(embedding(token_ids, self.embedding), self.shape.dropout, self.training)
        for block in self.layers:
            h = block(h, angle.cos(), angle.sin())
        return rms_norm(h, (self.shape.width,), self.norm)

    def undecayed(self) -> frozenset[str]:
        """Names of what weight decay must leave alone."""
        return frozenset(name for name, p in self.named_parameters() if p.ndim < 2 or name == "embedding")
