"""Pure: how well each experience answers a question, as a sum of terms, each of which can be shown.

    score = factor x (sum of weight x rescaled term, over the terms, + spread from neighbours)

Lexical terms are divided by their maximum; cosines are shifted by their mean over all experiences and divided by what
is left of their maximum, since sentence vectors all have much in common. Scores are added, not ranks: fusing ranks
gave up 5 points of recall at 10 on LoCoMo. The weights were chosen on five LoCoMo conversations, see docs/memory.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from memory.index import OwnerIndex
from memory.traits import Wanted, answering, lengths, stating

Floats = NDArray[np.float32]

TERMS: Mapping[str, float] = MappingProxyType(
    {
        "turn": 1.0,
        "window": 0.75,
        "session": 0.9,
        "meaning": 0.6,
        "context": 0.7,
        "speaker": 0.8,
        "answer": 0.8,
        "statement": 0.25,
        "length": 0.45,
    }
)
"""turn: BM25 of the text with its date and speaker. window: the same with the texts before and after. session: root of
the sum of squares of `turn` over the session. meaning: cosine of the text. context: cosine of the text and half of each
neighbour. speaker: named in the question. answer: the kind of thing asked for is in it. statement: says something of
the speaker, does not ask. length: long enough to hold something."""
SOFTEST = 0.7
"""The factor runs from 0.7 to 1.3: salience, affect and recency tilt the order, and never decide it alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each term counts."""

    terms: Mapping[str, float] = field(default_factory=lambda: TERMS)
    neighbours: float = 0.2
    """Share of the better neighbour's sum that an experience is given."""
    beyond: float = 0.15
    """The same of the better one of the two beyond them: talk about one thing goes on for some turns."""
    soft_span: float = 2 * (1 - SOFTEST)
    """How far the factor may vary."""


MODEL_MADE = 0.5
"""What the agent itself said counts half: it was not observed, and may be invented."""
HALF_LIFE = 30 * 86400.0
"""Seconds in which recency falls to 1/e for an experience that was never recalled and is not salient."""


@dataclass(frozen=True, slots=True)
class Hits:
    """What one full-text table found: places in the index, and minus their bm25()."""

    places: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, in all forms that the terms need."""

    turn: Hits
    window: Hits
    vector: Floats | None
    speakers: frozenset[int]
    wanted: Wanted
    now: float
    """Seconds: recency is reckoned from here, and later experiences are not there yet."""
    as_of: bool
    """Whether what has been replaced since then counts as it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """The terms and the score of every candidate."""

    places: NDArray[np.int64]
    raw: Mapping[str, Floats]
    rescaled: Mapping[str, Floats]
    spread: Floats
    """What came from the neighbours."""
    factor: Floats
    score: Floats
    cosines: Floats
    """Of each with the question; not a number where it has no vector."""
    candidates: NDArray[np.bool_]
    """Which of them may be answered with: not quarantined, not replaced, not of later than asked."""

    def best(self, k: int) -> NDArray[np.int64]:
        """Positions in the ranking of the `k` best, best first; ties by age. What nothing speaks for is left out."""
        score = np.where(self.candidates & (self.score > 0), self.score, -1.0)
        k = min(k, int(np.count_nonzero(score > 0)))
        if k == 0:
            return np.zeros(0, np.int64)
        top = np.argpartition(-score, k - 1)[:k] if k < len(score) else np.arange(len(score))
        return top[np.lexsort((self.places[top], -score[top]))][:k]


def rank(
    index: OwnerIndex,
    question: Question,
    places: NDArray[np.int64],
    cosines: Floats | None,
    *,
    weights: Weights,
) -> Ranking:
    """Score the candidates at `places` (sorted). `cosines`: of each with the question; None: no vectors."""
    turn = _spread_out(question.turn, places)
    window = _spread_out(question.window, places)
    session = index.column("session")
    squares = np.bincount(
        session[question.turn.places], question.turn.scores.astype(np.float64) ** 2, minlength=index.session_count
    )
    whole = np.sqrt(squares[session[places]]).astype(np.float32)
    before, after = _neighbours(index, places)
    zeros = np.zeros(len(places), np.float32)
    meaning, context, known = zeros, zeros, np.full(len(places), np.nan, np.float32)
    if cosines is not None and question.vector is not None:
        has = index.has_vector[places]
        mean = float(question.vector @ index.mean_vector)
        meaning = np.where(has, cosines, mean)
        known = np.where(has, cosines, np.nan)
        together = np.where(has, cosines, 0) + 0.5 * _from(cosines, before) + 0.5 * _from(cosines, after)
        length = np.sqrt(1.0 + 0.25 * (before >= 0) + 0.25 * (after >= 0), dtype=np.float32)
        context = np.where(has, together / length, 0)
    traits = index.column("traits")[places]
    raw = {
        "turn": turn,
        "window": window,
        "session": whole,
        "meaning": meaning,
        "context": context,
        "speaker": np.isin(index.column("speaker")[places], list(question.speakers)).astype(np.float32),
        "answer": answering(traits, question.wanted),
        "statement": stating(traits),
        "length": lengths(traits),
    }
    lexical = {name: _by_maximum(raw[name]) for name in ("turn", "window", "session")}
    dense = {name: _above_mean(raw[name]) for name in ("meaning", "context")}
    rescaled = raw | lexical | dense
    total = np.zeros(len(places), np.float32)
    for name, weight in weights.terms.items():
        total += np.float32(weight) * rescaled[name]
    # Kind and length alone are no answer: they count only where something of the question was found.
    found = sum(rescaled[name] for name in ("turn", "window", "session", "meaning", "context")) > 0
    spread = np.float32(weights.neighbours) * _better(total, before, after)
    spread += np.float32(weights.beyond) * _better(total, _twice(before), _twice(after))
    factor = softness(
        percentile=index.column("percentile")[places],
        accesses=index.column("accesses")[places],
        age=question.now - index.column("accessed")[places],
        span=weights.soft_span,
    )
    factor = np.where(index.column("model_made")[places], np.float32(MODEL_MADE), np.float32(1)) * factor
    seconds = index.column("at")[places]
    ends = index.column("ends")[places]
    there = (seconds <= question.now) & (ends > question.now) if question.as_of else np.isinf(ends)
    return Ranking(
        places=places,
        raw=raw,
        rescaled=rescaled,
        spread=spread,
        factor=factor,
        score=factor * (total + spread),
        cosines=known,
        candidates=index.column("recallable")[places] & there & found,
    )


def softness(percentile: Floats, accesses: NDArray[np.int32], age: NDArray[np.float64], *, span: float) -> Floats:
    """1 - span/2 + span x a, with a = half the salience's percentile and half the recency, both in [0, 1].

    Recency is exp(-age / s), s = 30 days x (1 + ln(1 + accesses)) x (1 + percentile): what is recalled or salient
    fades more slowly. Computed here, at reading, and stored nowhere.
    """
    slowness = HALF_LIFE * (1 + np.log1p(accesses)) * (1 + percentile)
    recency = np.exp(-np.maximum(age, 0) / slowness)
    return (1 - span / 2 + span * (0.5 * percentile + 0.5 * recency)).astype(np.float32)


def _spread_out(hits: Hits, places: NDArray[np.int64]) -> Floats:
    """The hits' scores in the order of `places`, 0 where there is none."""
    out = np.zeros(len(places), np.float32)
    if len(places) and len(hits.places):
        at = np.minimum(np.searchsorted(places, hits.places), len(places) - 1)
        here = places[at] == hits.places
        out[at[here]] = hits.scores[here]
    return out


def _neighbours(index: OwnerIndex, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each candidate, where among the candidates the one before and after it in its session stand; -1: nowhere."""
    found = []
    for column in ("previous", "next"):
        beside = index.column(column)[places].astype(np.int64)
        at = np.minimum(np.searchsorted(places, beside), max(0, len(places) - 1))
        found.append(np.where((beside >= 0) & (places[at] == beside), at, -1) if len(places) else at)
    return found[0], found[1]


def _twice(step: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where two steps lead, if one leads to `step`; -1: nowhere."""
    return np.where(step >= 0, step[step], -1) if len(step) else step


def _better(values: Floats, before: NDArray[np.int64], after: NDArray[np.int64]) -> Floats:
    """The larger value of two others, 0 where there is none."""
    return np.maximum(_from(values, before), _from(values, after)).clip(0)


def _from(values: Floats, at: NDArray[np.int64]) -> Floats:
    return np.where(at >= 0, values[at], 0).astype(np.float32) if len(values) else values


def _by_maximum(values: Floats) -> Floats:
    most = float(values.max(initial=0.0))
    return values / np.float32(most) if most > 0 else values


def _above_mean(values: Floats) -> Floats:
    if not len(values):
        return values
    mean, most = float(values.mean()), float(values.max())
    return ((values - mean) / np.float32(most - mean)).clip(0) if most > mean else np.zeros_like(values)
