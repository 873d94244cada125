"""Does an order parameter matter, and is it of what was read? Five tests, each with its figures and its bars.

Variance, intervention and correlation are what others ask; context (other earlier tokens must change later logits) and
time (a clock must not foretell R) are what their models fail. Every figure is of held-out text, dropout off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from models.kuramoto import Phases, forced, order
from models.zones import zones

_LAG = 16
_BOOTSTRAPS = 2000


class Subject(Protocol):
    """A network that can be looked into. All of token ids [rows, time]."""

    def logits(self, ids: Tensor, force: Callable[[Phases], Phases] | None = None) -> Tensor:
        """[rows, time, vocab]; `force`: what is done to the phases of the layer whose R is meant."""
        ...

    def order(self, ids: Tensor) -> Tensor:
        """R [rows, time]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One test's."""

    test: str
    passed: bool
    figures: dict[str, Any]
    bar: str


def examine(subject: Subject, ids: Tensor, curve: Sequence[tuple[float, float]], *, seed: int = 0) -> list[Finding]:
    """All five, dropout off.

    `ids`: windows of held-out text, 30 at least. `curve`: mean and deviation of R at points of training, from the end
    of its warm-up on.
    """
    if len(ids) < 30:
        raise ValueError("30 windows at least")
    with torch.no_grad():
        r = torch.cat([subject.order(part) for part in torch.split(ids, 8)]).float()
        return [
            _variance(subject, ids, r),
            _intervention(subject, ids, r, seed),
            _correlation(subject, ids, r, seed),
            _context(subject, ids, seed),
            _time(r, curve),
        ]


def visited(r: Tensor) -> dict[str, float]:
    """The share of tokens in each zone that a series of R [rows, time] comes to."""
    counts: dict[str, int] = {}
    for row in r.tolist():
        for name in zones(row):
            counts[name] = counts.get(name, 0) + 1
    return {name: count / r.numel() for name, count in counts.items()}


def _variance(subject: Subject, ids: Tensor, r: Tensor) -> Finding:
    half = ids.shape[1] // 2
    constant = ids[:8, :1].expand(-1, ids.shape[1])
    still = float(subject.order(constant).float()[:, half:].std(1).mean())
    moved = float(r[:, half:].std(1).mean())
    return Finding(
        test="variance",
        passed=moved >= 0.01 and moved > 5 * still,
        figures={"std": moved, "std_on_constant_input": still, "mean": float(r.mean())},
        bar="std of R >= .01, and more than 5 times that on one token repeated",
    )


def _intervention(subject: Subject, ids: Tensor, r: Tensor, seed: int) -> Finding:
    low, high = (float(torch.quantile(r.flatten()[:1_000_000].cpu(), q)) for q in (0.05, 0.95))
    generator = torch.Generator().manual_seed(seed)
    effects, placebos, moved, reached = [], [], [], []
    for part in torch.split(ids, 4):
        entropies: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        for name, wanted in (("low", low), ("high", high)):

            def to(held: Phases, wanted: float = wanted) -> Phases:
                made = forced(held, torch.full_like(held[0].mean(-1), wanted))
                reached.append((wanted, float(order(made).mean())))
                return made

            def beside(held: Phases, wanted: float = wanted) -> Phases:
                return _placebo(held, forced(held, torch.full_like(held[0].mean(-1), wanted)), generator)

            logits[name] = subject.logits(part, to).float()
            entropies[name] = _entropy(logits[name]).mean(1)
            entropies[f"placebo {name}"] = _entropy(subject.logits(part, beside).float()).mean(1)
        moved.append(float((logits["high"] - logits["low"]).abs().mean()))
        effects.append(entropies["high"] - entropies["low"])
        placebos.append(entropies["placebo high"] - entropies["placebo low"])
    effect, placebo = torch.cat(effects).cpu(), torch.cat(placebos).cpu()
    between = _interval(effect, seed)
    other = _interval(placebo, seed)
    spread = float(effect.std())
    beyond = min(abs(between[0]), abs(between[1])) > max(abs(other[0]), abs(other[1]))
    change = sum(moved) / len(moved)
    return Finding(
        test="intervention",
        passed=between[0] * between[1] > 0 and beyond and change > 0.05,
        figures={
            "forced_to": [low, high],
            "reached": [
                sum(got for w, got in reached if w == want) / max(1, sum(w == want for w, _ in reached))
                for want in (low, high)
            ],
            "entropy_change": float(effect.mean()),
            "interval": between,
            "effect_size": float(effect.mean()) / max(spread, 1e-12),
            "placebo_change": float(placebo.mean()),
            "placebo_interval": other,
            "logit_change": change,
        },
        bar="entropy changes from the 5th to the 95th percentile of R, 95 % interval off 0 and beyond that of turns of "
        "the same sizes dealt at random; logits by more than .05",
    )


def _correlation(subject: Subject, ids: Tensor, r: Tensor, seed: int) -> Finding:
    entropy = torch.cat([_entropy(subject.logits(part).float()) for part in torch.split(ids, 4)])
    x, y = r.cpu().double(), entropy.cpu().double()
    found = _pearson(x, y)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(500):  # whole windows: neighbouring tokens are not independent
        rows = torch.randint(len(x), (len(x),), generator=generator)
        drawn.append(_pearson(x[rows], y[rows]))
    low, high = (float(q) for q in torch.quantile(torch.tensor(drawn).double(), torch.tensor([0.025, 0.975]).double()))
    return Finding(
        test="correlation",
        passed=abs(found) >= 0.3 and low * high > 0,
        figures={"r": found, "interval": [low, high], "with": "entropy of the next token"},
        bar="|r| of R with the entropy of the next token >= .3, interval by windows off 0",
    )


def _context(subject: Subject, ids: Tensor, seed: int) -> Finding:
    rows = ids[:16]
    t = min(ids.shape[1] - 1, 4 * _LAG)
    generator = torch.Generator().manual_seed(seed)
    others = rows[:, torch.randperm(t, generator=generator).to(rows.device)]
    plain = subject.logits(rows[:, : t + 1])[:, t].float()
    changes = {}
    for name, until in (("all_before", t), ("16_before", t - _LAG + 1)):
        changed = rows[:, : t + 1].clone()
        changed[:, :until] = others[:, :until].flip(0)
        changes[name] = float((subject.logits(changed)[:, t].float() - plain).abs().mean())
    again = float((subject.logits(rows[:, : t + 1])[:, t].float() - plain).abs().max())
    future = rows.clone()
    future[:, t + 1 :] = future[:, t + 1 :].flip(0)
    later = float((subject.logits(future)[:, : t + 1] - subject.logits(rows)[:, : t + 1]).float().abs().max())
    return Finding(
        test="context",
        passed=min(changes.values()) > 1e-3 and again == 0.0 and later == 0.0,
        figures={"logit_change": changes, "two_passes_apart": again, "by_later_tokens": later},
        bar="other tokens before, and others 16 before, change the logits; later ones and a second pass do not",
    )


def _time(r: Tensor, curve: Sequence[tuple[float, float]]) -> Finding:
    half = len(r) // 2
    by_position = r[:half].mean(0)
    rest = r[half:]
    left = (rest - by_position).square().mean()
    total = (rest - rest.mean()).square().mean()
    position = float(1 - left / total) if total > 1e-14 else 1.0
    step = None
    if len(curve) >= 3:
        means = torch.tensor([m for m, _ in curve]).double()
        within = torch.tensor([d for _, d in curve]).double().square().mean()
        between = means.var(correction=0)
        step = float(between / (between + within).clamp_min(1e-30))
    return Finding(
        test="time",
        passed=position < 0.5 and step is not None and step < 0.5,
        figures={"explained_by_position": position, "explained_by_training_step": step},
        bar="of R's variance, less than half is foretold by the position, and less than half by the step of training",
    )


def _placebo(held: Phases, forced_to: Phases, generator: torch.Generator) -> Phases:
    """Turns of the same sizes as forcing made, dealt to other oscillators with signs at random."""
    turn = torch.atan2(forced_to[1] * held[0] - forced_to[0] * held[1], forced_to[0] * held[0] + forced_to[1] * held[1])
    size = turn.shape[-1]
    dealt = turn[..., torch.randperm(size, generator=generator).to(turn.device)]
    dealt = dealt * (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(turn.device)
    cosines, sines = dealt.cos(), dealt.sin()
    return held[0] * cosines - held[1] * sines, held[1] * cosines + held[0] * sines


def _entropy(logits: Tensor) -> Tensor:
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _interval(values: Tensor, seed: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(values), (_BOOTSTRAPS, len(values)), generator=generator)
    means = values.double()[rows].mean(1)
    return [float(q) for q in torch.quantile(means, torch.tensor([0.025, 0.975]).double())]


def _pearson(x: Tensor, y: Tensor) -> float:
    a, b = x.flatten() - x.mean(), y.flatten() - y.mean()
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt().clamp_min(1e-30))
