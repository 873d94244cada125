"""Pure: SNARC, the salience of an experience: surprise, novelty, arousal, reward, conflict. Specified in docs/snarc.md.

Raw values are compared with those of earlier experiences (`Statistics`): score first, then remember. Nothing here
knows a model, a database or the time; two processes that score the same events in the same order agree bit for bit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memory.words import words

Dimension = Literal["surprise", "novelty", "arousal", "total"]
RING = 1000
"""How many earlier values a value is compared with."""
SEEDS = 200
"""The least number of calibration values that a ring starts with."""
WEIGHTS: Mapping[str, float] = {"surprise": 0.25, "novelty": 0.20, "arousal": 0.10, "reward": 0.20, "conflict": 0.25}

GATE_WIDTH = 0.5
"""Nats per token over which plausibility falls from 1 to 0."""
FEW_TOKENS = 8
"""Below this many tokens a text is too short to be called implausible, and its surprise is capped."""
CAPPED_SURPRISE = 0.5
LEAST_VARIETY = 0.3
"""Distinct words over words; a text with less repeats itself, and is not plausible. From 10 words on."""

CONCEPT_PERCENTILE, CONCEPT_TOTAL, TRAIN_PERCENTILE = 0.70, 0.30, 0.85

URGENT = frozenset(
    """
    accident afraid alarm asap attack bleeding broken burning crash crashed crisis danger dangerous dead deadline
    died dying emergency fail failed failing fire hate help hospital hurry hurt immediately killed lost pain panic
    please quick quickly scared screaming stolen stop suicide terrible terrified threat urgent urgently warning
    worst
    """.split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What one experience shows by itself."""

    text: str
    surprisals: tuple[float, ...] | None
    """-ln P of each token given the conversation, in nats; None: no model has read it."""
    similarity: float | None
    """Cosine to the nearest earlier experience; None: it has no vector."""
    pace: float = 0.0
    """How much faster than usual messages come, in [0, 1]."""
    charge: float = 0.0
    """How much the body is in a hurry, in [0, 1]."""
    reward: float | None = None
    """An outcome or feedback, in [-1, 1]; None: none. Never vocabulary."""
    expected: float = 0.5
    """The outcome that was expected, in [0, 1]: stated before acting, else by nearest neighbours."""
    contradiction: float = 0.0
    """Probability that a stored fact is contradicted, times the trust in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """The five dimensions before comparison; None: unknown."""

    surprise: float | None
    novelty: float | None
    arousal: float
    reward: float
    """Signed, in [-1, 1]."""
    conflict: float
    gate: float
    short: bool = False
    """Of too few tokens for its surprise to mean much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Salience:
    """The five dimensions in [0, 1], and their weighted sum. An unknown one is left out of the sum."""

    surprise: float | None
    novelty: float | None
    arousal: float
    reward: float
    conflict: float
    total: float
    percentile: float
    """Of the total, among earlier totals."""
    gate: float
    """Plausibility: what surprise, novelty and arousal were multiplied by."""
    sign: Literal[-1, 0, 1]
    """Of the reward."""

    @property
    def conceptual(self) -> bool:
        """Salient enough to support a pattern."""
        return self.percentile >= CONCEPT_PERCENTILE and self.total >= CONCEPT_TOTAL

    @property
    def trainable(self) -> bool:
        """Salient enough to be dreamed of."""
        return self.percentile >= TRAIN_PERCENTILE and self.gate > 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a model finds in texts that are known to be plausible: the scale that surprise is read on."""

    model: str
    strangest: float
    """The 98th percentile of `strangeness` over the calibration texts, in nats per token."""
    surprise: tuple[float, ...]
    """Mean nats per token of each."""
    novelty: tuple[float, ...]
    arousal: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Ring:
    """The last 1000 values, oldest overwritten."""

    values: NDArray[np.float64]
    pushed: int
    """How many were ever pushed; the next one goes to slot pushed % RING."""

    @classmethod
    def seeded(cls, values: Sequence[float]) -> Ring:
        """A ring that has seen `values`, the last 1000 of them."""
        return cls(np.asarray(values[-RING:], dtype=np.float64), len(values[-RING:]))

    def percentile(self, value: float) -> float:
        """(count below + half of the ties) / count; 0.5 for an empty ring."""
        if not len(self.values):
            return 0.5
        below = np.count_nonzero(self.values < value)
        ties = np.count_nonzero(self.values == value)
        return float((below + ties / 2) / len(self.values))

    def pushing(self, value: float) -> Ring:
        """The ring with one value more."""
        if len(self.values) < RING:
            return Ring(np.append(self.values, value), self.pushed + 1)
        values = self.values.copy()
        values[self.pushed % RING] = value
        return Ring(values, self.pushed + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What new values are compared with."""

    strangest: float
    rings: Mapping[Dimension, Ring] = field(default_factory=dict)

    @classmethod
    def calibrated(cls, calibration: Calibration) -> Statistics:
        """The statistics before the first experience."""
        fresh = cls(
            strangest=calibration.strangest,
            rings={
                "surprise": Ring.seeded(calibration.surprise),
                "novelty": Ring.seeded(calibration.novelty),
                "arousal": Ring.seeded(calibration.arousal),
                "total": Ring.seeded(()),
            },
        )
        totals = [
            total(
                {
                    "surprise": fresh.rings["surprise"].percentile(s),
                    "novelty": fresh.rings["novelty"].percentile(n),
                    "arousal": fresh.rings["arousal"].percentile(a),
                    "reward": 0.0,
                    "conflict": 0.0,
                }
            )
            for s, n, a in zip(calibration.surprise, calibration.novelty, calibration.arousal, strict=True)
        ]
        return replace(fresh, rings={**fresh.rings, "total": Ring.seeded(totals)})

    def knowing(self, raw: Raw, salience: Salience) -> Statistics:
        """The statistics after an experience."""
        news: dict[Dimension, float | None] = {
            "surprise": raw.surprise,
            "novelty": raw.novelty,
            "arousal": raw.arousal,
            "total": salience.total,
        }
        rings = {d: ring if news[d] is None else ring.pushing(float(news[d] or 0.0)) for d, ring in self.rings.items()}
        return replace(self, rings=rings)


def observe(seen: Observation, *, strangest: float) -> Raw:
    """The raw values of an experience."""
    surprise = mean(seen.surprisals) if seen.surprisals else None
    outcome = None if seen.reward is None else abs((seen.reward + 1) / 2 - seen.expected)
    return Raw(
        surprise=surprise,
        novelty=None if seen.similarity is None else 1 - max(0.0, min(1.0, seen.similarity)),
        arousal=max(urgency(seen.text), _unit(seen.pace), _unit(seen.charge)),
        reward=0.0 if seen.reward is None else max(-1.0, min(1.0, seen.reward)),
        conflict=max(outcome or 0.0, _unit(seen.contradiction)),
        gate=plausibility(seen, strangest=strangest),
        short=seen.surprisals is not None and len(seen.surprisals) < FEW_TOKENS,
    )


def score(raw: Raw, known: Statistics) -> Salience:
    """An experience's salience against what is known, which it does not change."""
    surprise = None if raw.surprise is None else raw.gate * known.rings["surprise"].percentile(raw.surprise)
    if surprise is not None and raw.short:
        surprise = min(surprise, CAPPED_SURPRISE)
    dimensions = {
        "surprise": surprise,
        "novelty": None if raw.novelty is None else raw.gate * known.rings["novelty"].percentile(raw.novelty),
        "arousal": raw.gate * known.rings["arousal"].percentile(raw.arousal),
        "reward": abs(raw.reward),
        "conflict": raw.conflict,
    }
    summed = total(dimensions)
    return Salience(
        surprise=dimensions["surprise"],
        novelty=dimensions["novelty"],
        arousal=float(dimensions["arousal"] or 0.0),
        reward=abs(raw.reward),
        conflict=raw.conflict,
        total=summed,
        percentile=known.rings["total"].percentile(summed),
        gate=raw.gate,
        sign=1 if raw.reward > 0 else -1 if raw.reward < 0 else 0,
    )


def plausibility(seen: Observation, *, strangest: float) -> float:
    """1 for what somebody may well have said, 0 for noise, in between over half a nat.

    A text that no model has read, or of under 8 tokens, gets the benefit of the doubt; one that repeats itself gets 0.
    """
    said = words(seen.text)
    if len(said) >= 10 and len(set(said)) / len(said) < LEAST_VARIETY:
        return 0.0
    if seen.surprisals is None or len(seen.surprisals) < FEW_TOKENS:
        return 1.0
    return _unit((strangest + GATE_WIDTH - strangeness(seen.surprisals)) / GATE_WIDTH)


def strangeness(surprisals: Sequence[float]) -> float:
    """How little of a text its reader could foresee, in nats per token."""
    return mean(surprisals)


def urgency(text: str) -> float:
    """How urgent a text sounds, in [0, 1]: urgent words, capitals, exclamation marks in a row."""
    said = words(text)
    hits = sum(w in URGENT for w in said)
    shouted = len(re.findall(r"\b[A-Z]{4,}\b", text))
    marks = len(re.findall(r"!{2,}", text)) + min(1, text.count("!")) * 0.5
    return 1 - math.exp(-(0.7 * hits + 0.4 * min(shouted, 5) + 0.4 * marks))


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed exactly."""
    return math.fsum(values) / len(values)


def _unit(value: float) -> float:
    return max(0.0, min(1.0, value))


def total(dimensions: Mapping[str, float | None]) -> float:
    """The weighted mean of the five dimensions, those that are unknown left out."""
    known = {name: value for name, value in dimensions.items() if value is not None}
    weight = math.fsum(WEIGHTS[name] for name in known)
    return math.fsum(WEIGHTS[name] * value for name, value in known.items()) / weight
