"""Has different wordings of one question look alike inside a model, and near ones apart: what a night begins from.

Where a reply begins, a small model's states tell how a question was worded rather than what it asks for, so what is
learnt in some wordings is not found by others. Here an adapter is trained so that two wordings of a question come
closer to each other, three quarters up its trained layers, than to any other: InfoNCE (van den Oord et al. 2018), hard
negatives as in SimCSE (Gao et al. 2021). It learns no fact: none is in it. It is no longer the base in what it says:
that is for the nights that go on from it, and for their gates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.training import Trainer
from models.tuned import middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One thing that may be asked for."""

    asks: tuple[str, ...]
    """Wordings of the question, two at least."""
    near: tuple[str, ...]
    """Questions that ask for something else, though nearly in the same words; one at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How to train it."""

    share: float = 0.75
    """Of the trained layers, so many from below make questions alike."""
    steps: int = 1200
    batch: int = 128
    """Lessons a step: two wordings of each, and questions near to it."""
    near: int = 4
    """Of each lesson, so many of those."""
    own: float = 1.0
    """Nats by which a lesson's own near questions count for more than all else that its wordings are told from: they
    are what is taken for it (as hard negatives are weighted in Gao et al. 2021)."""
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    temperature: float = 0.05
    clip: float = 1.0
    same: float = 0.5
    """Two lessons that share so much of their longer words may ask the same: neither is the other's counterpart."""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How states are made comparable: a few of their numbers are a hundred times as large as the others."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, states: Tensor) -> Scale:
        """From states of the base, [questions, width]."""
        return cls(mean=states.mean(0), deviation=states.std(0) + 1e-3)

    def __call__(self, states: Tensor) -> Tensor:
        """Each of length 1."""
        return F.normalize((states - self.mean) / self.deviation, dim=-1)


def align(
    trainer: Trainer,
    lessons: Sequence[Lesson],
    how: Alignment,
    *,
    each: Callable[[int, float], None] = lambda step, loss: None,
) -> Scale:
    """Train the trainer's adapter. `each` is told step and InfoNCE after every step; returns how states compare."""
    chance = random.Random(how.seed)  # noqa: S311 - no secret
    below = middle(trainer.first, trainer.layers, how.share)
    with torch.no_grad():
        scale = Scale.of(trainer.states([chance.choice(lesson.asks) for lesson in lessons[:800]], below=below))
    words = [_words(lesson) for lesson in lessons]
    parameters = [p for p in trainer.peft.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=how.learning_rate, weight_decay=0.0, betas=(0.9, 0.99))
    for step in range(how.steps):
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * _schedule(step, how)
        chosen = chance.sample(range(len(lessons)), min(how.batch, len(lessons)))
        pairs = [chance.sample(lessons[i].asks, 2) for i in chosen]
        near = [chance.sample(lessons[i].near, min(how.near, len(lessons[i].near))) for i in chosen]
        asked = [*(a for a, _ in pairs), *(b for _, b in pairs), *(question for of in near for question in of)]
        states = scale(trainer.states(asked, below=below))
        one, other, apart = torch.split(states, [len(chosen), len(chosen), sum(map(len, near))])
        alike = _alike([words[i] for i in chosen], how.same).to(states.device)
        whose = torch.tensor([n for n, of in enumerate(near) for _ in of], device=states.device)
        to = apart, alike, whose, how
        contrast = (_contrast(one, other, *to) + _contrast(other, one, *to)) / 2
        optimizer.zero_grad(set_to_none=True)
        contrast.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, how.clip)
        optimizer.step()
        each(step + 1, float(contrast.detach()))
    return scale


def found(trainer: Trainer, pairs: Sequence[tuple[str, str]], scale: Scale, *, share: float) -> float:
    """Of pairs of wordings, those whose second is closest to the first among the seconds of all."""
    below = middle(trainer.first, trainer.layers, share)
    with torch.no_grad():
        one, other = (scale(trainer.states([pair[i] for pair in pairs], below=below)) for i in (0, 1))
    nearest = (one @ other.T).argmax(1)
    return float((nearest == torch.arange(len(pairs), device=nearest.device)).float().mean())


def told_apart(trainer: Trainer, lessons: Sequence[Lesson], scale: Scale, *, share: float) -> float:
    """How often a lesson's fourth wording is closer to its first three than a near question is to any lesson's three.

    Of lessons with four wordings or more. The area under the curve of what is found against what is taken for it.
    """
    some = [lesson for lesson in lessons if len(lesson.asks) > _KNOWN]
    below = middle(trainer.first, trainer.layers, share)
    with torch.no_grad():
        known = torch.stack(
            [scale(trainer.states([lesson.asks[n] for lesson in some], below=below)) for n in range(_KNOWN)]
        )
        asked, near = (
            scale(trainer.states(questions, below=below))
            for questions in ([lesson.asks[_KNOWN] for lesson in some], [lesson.near[0] for lesson in some])
        )
    own = torch.einsum("ld,kld->kl", asked, known).amax(0)
    taken = torch.einsum("nd,kld->knl", near, known).amax((0, 2))
    return float((own[:, None] > taken[None]).float().mean())


_KNOWN = 3
"""Wordings that another is compared with."""


def _contrast(one: Tensor, other: Tensor, apart: Tensor, alike: Tensor, whose: Tensor, how: Alignment) -> Tensor:
    """-ln P of each one's other wording, among those of the others and all that is near to any, in nats.

    `whose`: of each of `apart`, [near], to which it is near.
    """
    each = torch.arange(len(one), device=one.device)
    among_others = (one @ other.T).masked_fill(alike, -1.0) / how.temperature
    among_near = one @ apart.T / how.temperature + how.own * (whose == each[:, None])
    return F.cross_entropy(torch.cat([among_others, among_near], dim=1), each)


def _alike(words: Sequence[frozenset[str]], same: float) -> Tensor:
    """[lessons, lessons]: which two may ask the same."""
    return torch.tensor(
        [
            [i != j and bool(a and b) and len(a & b) / min(len(a), len(b)) > same for j, b in enumerate(words)]
            for i, a in enumerate(words)
        ]
    )


def _words(lesson: Lesson) -> frozenset[str]:
    """The longer words of its questions."""
    text = " ".join(lesson.asks).lower().replace("'s", " ")
    return frozenset(word for word in "".join(c if c.isalnum() else " " for c in text).split() if len(word) > 3)


def _schedule(step: int, how: Alignment) -> float:
    warm = min(1.0, (step + 1) / how.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / how.steps))
