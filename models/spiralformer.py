"""Spiralformer: a transformer that looks back by powers of two, breathes by step, and recalls towers by resonance.

The published one (ruppi86, 2025) sees its targets: its mask lets a position look 2^k ahead as well as back. Here a
position sees its latest neighbours and those 2^k before it, nothing later: O(window + log time) places. What lies
between is remembered in towers: each finished stretch of text is one, found by how its phases agree with those of who
asks (resonance), and then read, word by word, by attention. How strongly a block acts follows the breath: inhale, hold,
exhale, pause, by the step's number and not by a clock, with mean 1. And a head says how likely the next word is wrong:
when silence is better, at a threshold that is chosen on held-out text (`risk_at_coverage`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    dropout,
    embedding,
    gelu,
    linear,
    rms_norm,
    scaled_dot_product_attention,
)

from models.gpt import turned

BREATH = (4, 2, 4, 2)
"""Steps of each phase: inhale, hold, exhale, pause."""
_SILENCE_WEIGHT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiralShape:
    """Sizes of a Spiralformer, and which of its mechanisms it has."""

    vocab_size: int
    width: int = 512
    layers: int = 6
    heads: int = 8
    window: int = 8
    """The latest so many places are seen, the own included."""
    tower: int = 16
    """Tokens of a tower."""
    recalled: int = 2
    """Towers that a position reads, beside what it sees; 0: none."""
    phases: int = 16
    """Angles by which towers resonate."""
    hops: bool = True
    breath: bool = True
    silence: bool = True
    dropout: float = 0.0


def spiral(time: int, window: int, *, hops: bool = True, device: torch.device | None = None) -> Tensor:
    """Which places each sees: bool [time, time], nothing above the diagonal, and the diagonal always."""
    places = torch.arange(time, device=device)
    back = places[:, None] - places[None, :]
    power = (back > 0) & ((back & (back - 1)) == 0)
    return (back >= 0) & ((back < window) | (power if hops else torch.zeros_like(power)))


def phase_of(steps: Tensor) -> Tensor:
    """The breath's phase at each step, 0 to 3."""
    ends = torch.tensor(BREATH, device=steps.device).cumsum(0)
    return torch.searchsorted(ends, steps % sum(BREATH), right=True)


class _Block(nn.Module):
    def __init__(self, shape: SpiralShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.width
        self.first, self.second = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        self.out = nn.Parameter(torch.empty(width, width))
        self.up = nn.Parameter(torch.empty(4 * width, width))
        self.down = nn.Parameter(torch.empty(width, 4 * width))
        self.asks = nn.Parameter(torch.empty(shape.phases, width))
        self.answers = nn.Parameter(torch.empty(shape.phases, width))
        self.resonance = nn.Parameter(torch.tensor(2.0))
        self.breath = nn.Parameter(torch.zeros(len(BREATH)))

    def forward(self, h: Tensor, seen: Tensor, steps: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        rows, time, width = h.shape
        heads, shape = self.shape.heads, self.shape
        x = rms_norm(h, (width,), self.first)
        qkv = linear(x, self.qkv).view(rows, time, 3, heads, width // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = turned(query, *turns), turned(key, *turns)
        bias = torch.zeros(seen.shape, dtype=query.dtype, device=h.device).masked_fill(~seen, -torch.inf)[None, None]
        if shape.recalled and time > shape.tower:
            bias = torch.maximum(bias, self._recalled(x)[:, None].to(bias.dtype))
        mixed = scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=shape.dropout if self.training else 0.0
        )
        gate = self._gate(steps)[None, :, None]
        mixed = linear(mixed.transpose(1, 2).reshape(rows, time, width), self.out)
        h = h + gate * dropout(mixed, shape.dropout, self.training)
        made = linear(gelu(linear(rms_norm(h, (width,), self.second), self.up)), self.down)
        return h + gate * dropout(made, shape.dropout, self.training)

    def _recalled(self, x: Tensor) -> Tensor:
        """What attention adds at the places of the towers recalled, -inf elsewhere: [rows, time, time]."""
        shape, (rows, time, _) = self.shape, x.shape
        whole = time // shape.tower
        asking, answering = linear(x, self.asks).float(), linear(x, self.answers).float()
        stood = torch.unflatten(answering[:, : whole * shape.tower], 1, (whole, shape.tower)).mean(2)
        # Resonance: how far the phases of who asks agree with the tower's, in [-1, 1].
        agree = torch.cos(asking[:, :, None, :] - stood[:, None, :, :]).mean(-1)
        built = torch.arange(1, whole + 1, device=x.device) * shape.tower
        finished = torch.arange(time, device=x.device)[:, None] >= built[None, :]
        agree = agree.masked_fill(~finished, -torch.inf)
        best = agree.topk(min(shape.recalled, whole), -1)
        # Where fewer are finished than could be recalled, -inf times a parameter would be a gradient that is no number.
        strength = self.resonance * (best.values.masked_fill(best.values.isinf(), 0.0) - 1)
        kept = torch.full_like(agree, -torch.inf).scatter(-1, best.indices, strength)
        kept = kept.masked_fill(~finished, -torch.inf)
        spread = kept.repeat_interleave(shape.tower, -1)
        rest = torch.full((rows, time, time - spread.shape[-1]), -torch.inf, device=x.device)
        return torch.cat((spread, rest), -1)

    def _gate(self, steps: Tensor) -> Tensor:
        """How strongly the block acts at each step: positive, 1 on the mean of a breath."""
        if not self.shape.breath:
            return torch.ones(steps.shape, device=steps.device)
        strengths = torch.exp(self.breath)
        lengths = torch.tensor(BREATH, device=steps.device)
        return (strengths * lengths.sum() / (strengths * lengths).sum())[phase_of(steps)]


class Spiralformer(nn.Module):
    """The network."""

    def __init__(self, shape: SpiralShape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.width))
        self.layers = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        self.silence = nn.Parameter(torch.zeros(shape.width))
        self.silence_bias = nn.Parameter(torch.zeros(()))
        self.penalty = torch.zeros(())
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.ndim == 2:
                    deep = name.endswith(("out", "down"))
                    p.normal_(0, 0.02 / (math.sqrt(2 * shape.layers) if deep else 1), generator=generator)

    def hidden(self, token_ids: Tensor, *, first_step: int = 0) -> Tensor:
        """What the heads read; `first_step`: how many steps were taken before, for the breath."""
        time, shape = token_ids.shape[1], self.shape
        half = shape.width // shape.heads // 2
        rate = 10000.0 ** (-torch.arange(half, device=token_ids.device) / half)
        places = torch.arange(time, device=token_ids.device)
        angle = places[:, None] * rate
        seen = spiral(time, shape.window, hops=shape.hops, device=token_ids.device)
        h = dropout(embedding(token_ids, self.embedding), shape.dropout, self.training)
        for block in self.layers:
            h = block(h, seen, places + first_step, (angle.cos(), angle.sin()))
        return rms_norm(h, (shape.width,), self.norm)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Logits [rows, time, vocab]. In training, `penalty` becomes what the silence head has to learn."""
        hidden = self.hidden(token_ids)
        logits = linear(hidden, self.embedding)
        if self.training and self.shape.silence:
            wrong = (logits[:, :-1].argmax(-1) != token_ids[:, 1:]).float()
            self.penalty = _SILENCE_WEIGHT * binary_cross_entropy_with_logits(
                self.doubt(hidden.detach())[:, :-1].float(), wrong
            )
        return logits

    def doubt(self, hidden: Tensor) -> Tensor:
        """How likely the likeliest next token is wrong, as a logit: [rows, time]."""
        return hidden @ self.silence + self.silence_bias

    def undecayed(self) -> frozenset[str]:
        """Names of what weight decay must leave alone."""
        return frozenset(name for name, p in self.named_parameters() if p.ndim < 2 or name == "embedding")


def risk_at_coverage(doubt: Tensor, wrong: Tensor, coverage: float) -> tuple[float, float]:
    """The share wrong among the least doubted `coverage` of answers, and the doubt above which to be silent."""
    order = doubt.flatten().argsort()
    kept = order[: max(1, round(coverage * len(order)))]
    return float(wrong.flatten()[kept].float().mean()), float(doubt.flatten()[kept[-1]])
