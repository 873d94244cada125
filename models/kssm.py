"""K-SSM: a recurrent language model of coupled oscillators, read through their order parameters alone.

Each layer holds N complex oscillators. A token turns them (its own frequency each, and the pull of its choir), lets
them decay, and pushes them: z_t = exp(-d_t + i phi_t) z_{t-1} + b_t. What is read of a layer is the order parameters
of groups of several sizes, at several harmonics (`kuramoto.py`); nothing else of it, and nothing of the token itself,
reaches the output: `readout="phases"` is the variant that reads the oscillators too.

The published K-SSM (templetwo, 2026) has no recurrence: its state is made anew of each token. Here the recurrence is
linear given the tokens and the layer below, so that a whole sequence is had by one scan, and a token by one step of a
state of constant size. The coupling that makes oscillators Kuramoto's is not linear in them; a layer is therefore
pulled by the phases of the layer below, as an iteration towards a coupled trajectory pulls by its sweep before
(Picard), each layer one sweep. How strongly, and whether together or apart, is for the bistable core to say, whose
branch is chosen by evidence gathered over time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, linear, rms_norm, softplus

from models import kuramoto
from models.kuramoto import COEFFICIENTS, Phases
from models.scan import scan

Forcing = Callable[[int, Phases], Phases]
"""What is done to the phases of a layer (by its number) before anything reads them: for tests of what they cause."""


_STRONGEST = 2.0
"""Of a coupling, radians a token, towards which it bends: the published model's highest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KssmShape:
    """Sizes of a K-SSM."""

    vocab_size: int
    width: int = 512
    layers: int = 6
    oscillators: int = 640
    harmonics: int = 2
    scales: tuple[int, ...] = (2, 16, 128, 640)
    """Sizes of the groups that are read; the last is all of a layer."""
    choirs: int = 8
    """Groups that are pulled together, each by a core of its own."""
    inner: int = 768
    """Width within a layer's readout."""
    readout: Literal["order", "phases"] = "order"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = (1, *self.scales)
        if any(late % early for early, late in pairwise(sizes)) or self.scales[-1] != self.oscillators:
            raise ValueError("each scale must be a multiple of the one before, and the last be all oscillators")
        if self.oscillators % self.choirs:
            raise ValueError("choirs must be of one size")

    @property
    def channels(self) -> int:
        """Numbers that a layer carries from token to token: its oscillators, and the evidence of each choir."""
        return self.oscillators + self.choirs

    @property
    def features(self) -> int:
        """Numbers that a layer is read by."""
        orders = 3 * self.harmonics * sum(self.oscillators // scale for scale in self.scales)
        return orders if self.readout == "order" else orders + 2 * self.oscillators + self.width


class _Layer(nn.Module):
    def __init__(self, shape: KssmShape, first: bool) -> None:
        super().__init__()
        self.shape, self.first = shape, first
        n = shape.oscillators
        self.norm = nn.Parameter(torch.ones(shape.width))
        self.drive = nn.Parameter(torch.empty(4 * n, shape.width))
        self.core = nn.Parameter(torch.empty(COEFFICIENTS * shape.choirs, shape.width))
        self.core_bias = nn.Parameter(torch.zeros(COEFFICIENTS, shape.choirs))
        self.omega = nn.Parameter(torch.empty(n))
        self.alpha = nn.Parameter(torch.empty(n))
        self.patience = nn.Parameter(torch.full((shape.choirs,), -2.0))
        self.into = nn.Parameter(torch.empty(shape.inner, shape.features))
        self.into_bias = nn.Parameter(torch.zeros(shape.inner))
        self.out = nn.Parameter(torch.empty(shape.width, shape.inner))

    def begin(self, generator: torch.Generator) -> None:
        shape = self.shape
        with torch.no_grad():
            for matrix, gain in (
                (self.drive, 1.0),
                (self.core, 0.3),
                (self.into, 1.5),
                (self.out, 1.0 / math.sqrt(shape.layers)),
            ):
                matrix.normal_(0, gain / math.sqrt(matrix.shape[1]), generator=generator)
            self.omega.uniform_(0, math.pi, generator=generator)
            # Half-lives from none to some hundred tokens, in no order, so that every group has all of them. More than
            # half forget within a token: nothing but phases says which token it is (docs/log.md, 2026-11-28).
            decays = torch.linspace(-6.0, 9.0, shape.oscillators)
            self.alpha.copy_(decays[torch.randperm(shape.oscillators, generator=generator)])
            for row in (0, 5):
                self.core_bias[row] = 1.0

    def forward(
        self, h: Tensor, state: Tensor, below: Phases | None, force: Callable[[Phases], Phases] | None
    ) -> tuple[Tensor, Tensor, Phases]:
        shape, n = self.shape, self.shape.oscillators
        x = rms_norm(h, (shape.width,), self.norm)
        pushed = linear(x, self.drive).float()
        real, imaginary, turn, fade = torch.split(pushed, n, -1)
        root, evidence = kuramoto.core(
            torch.unflatten(linear(x, self.core).float(), -1, (COEFFICIENTS, shape.choirs)) + self.core_bias
        )
        decay = softplus(self.alpha + fade)
        angle = self.omega + torch.tanh(turn)
        kept = softplus(self.patience).expand(evidence.shape)
        # The evidence of a choir is carried by the same scan; of the step before, for the turn depends on it now.
        size = torch.exp(-decay)
        room = torch.sqrt(-torch.expm1(-2 * decay))
        if below is not None:
            gathered = _gathered(evidence, kept, state[..., n:])
            angle = angle + kuramoto.pull(below, _STRONGEST * torch.tanh(root * torch.tanh(gathered[0]) / _STRONGEST))
            last_evidence = gathered[:, :, -1]
        else:
            last_evidence = state[..., n:]
        a = torch.stack((size * torch.cos(angle), size * torch.sin(angle)))
        b = torch.stack((real * room, imaginary * room))
        z = scan(a, b, state[..., :n].contiguous())
        held = kuramoto.phases(z)
        if force is not None:
            held = force(held)
        read = kuramoto.order_parameters(held, shape.scales, shape.harmonics)
        if shape.readout == "phases":
            read = torch.cat((read, torch.tanh(z[0]), torch.tanh(z[1]), x.float()), -1)
        read = dropout(read, shape.dropout, self.training)
        made = linear(gelu(linear(read.to(h.dtype), self.into, self.into_bias)), self.out)
        made = dropout(made, shape.dropout, self.training)
        return h + made, torch.cat((z[:, :, -1], last_evidence), -1), held


def _gathered(evidence: Tensor, decay: Tensor, state: Tensor) -> Tensor:
    """A leaky sum of the evidence: [2, rows, time, choirs], imaginary parts 0."""
    kept = torch.exp(-decay)
    nothing = torch.zeros_like(kept)
    return scan(torch.stack((kept, nothing)), torch.stack((evidence * (1 - kept), nothing)), state.contiguous())


class Kssm(nn.Module):
    """The network. `forward` reads tokens after a state, whole sequences and single ones alike."""

    def __init__(self, shape: KssmShape, *, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(shape.vocab_size, shape.width))
        self.layers = nn.ModuleList(_Layer(shape, n == 0) for n in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.width))
        # How sharp the output is: by the order parameter of all oscillators of the last layer.
        self.sharpness = nn.Parameter(torch.tensor([0.2, 2.0]))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.embedding.normal_(0, 0.02, generator=generator)
        for layer in self.layers:
            layer.begin(generator)  # type: ignore[operator]

    def new_state(self, rows: int) -> Tensor:
        """Of having read nothing: float32 [layers, 2, rows, channels]."""
        shape = self.shape
        return torch.zeros(shape.layers, 2, rows, shape.channels, device=self.embedding.device)

    def hidden(
        self, token_ids: Tensor, state: Tensor, *, force: Forcing | None = None
    ) -> tuple[Tensor, Tensor, list[Phases]]:
        """What the head multiplies, [rows, time, width]; the state after the tokens; and each layer's phases."""
        embedded = nn.functional.embedding(token_ids, self.embedding) * math.sqrt(self.shape.width)
        h = embedded = dropout(embedded, self.shape.dropout, self.training)
        states: list[Tensor] = []
        seen: list[Phases] = []
        below: Phases | None = None
        for n, layer in enumerate(self.layers):
            forcing = None if force is None else (lambda held, n=n: force(n, held))
            h, after, below = layer(h, state[n], below, forcing)
            states.append(after)
            seen.append(below)
        # The token itself, which every layer is driven by, is taken out again: what is left came by order parameters.
        made = h - embedded if self.shape.readout == "order" else h
        sharp = softplus(self.sharpness[0] + self.sharpness[1] * kuramoto.order(seen[-1]))
        made = rms_norm(made, (self.shape.width,), self.norm) * sharp[..., None].to(made.dtype)
        return made, torch.stack(states), seen

    def forward(self, token_ids: Tensor, state: Tensor | None = None) -> Tensor:
        """Logits [rows, time, vocab]."""
        made, _, _ = self.hidden(token_ids, self.new_state(len(token_ids)) if state is None else state)
        return linear(made, self.embedding)

    def undecayed(self) -> frozenset[str]:
        """Names of what weight decay must leave alone: all but the matrices of products."""
        return frozenset(
            name for name, p in self.named_parameters() if p.ndim < 2 or name in ("embedding",) or "core_bias" in name
        )


@dataclass(frozen=True, slots=True)
class Looked:
    """A K-SSM as `order_tests` looks into it: R is that of its last layer."""

    network: Kssm

    def logits(self, ids: Tensor, force: Callable[[Phases], Phases] | None = None) -> Tensor:
        """[rows, time, vocab]."""
        network, last = self.network, self.network.shape.layers - 1
        hook: Forcing | None = None if force is None else (lambda n, held: force(held) if n == last else held)
        made, _, _ = network.hidden(ids, network.new_state(len(ids)), force=hook)
        return linear(made, network.embedding)

    def order(self, ids: Tensor) -> Tensor:
        """R [rows, time]."""
        return kuramoto.order(self.network.hidden(ids, self.network.new_state(len(ids)))[2][-1])
