"""From one row of logits to the next token. Pure but for the draw, which is a function of (seed, position)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

Floats = np.ndarray[Any, np.dtype[Any]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
_NOTHING_BUFFERED = np.zeros(4, np.uint64)
_LEAST = (1e-3, 1e-6)
"""What a candidate weighs, of the likeliest's 1: sorting those is enough for almost every draw; else all are sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to choose among the next tokens. Temperature 0 is greedy.

    Order, as in Hugging Face's generate: penalties, temperature, top-k, top-p, min-p.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    end_bias: float = 0.0
    """Added to the logits of the tokens that end a reply: above 0 replies are shorter, below 0 longer."""
    seed: int = 0
    logprobs: int | None = None
    """How many alternatives to report beside the chosen token's own log-probability; None: report nothing."""

    def __post_init__(self) -> None:
        bounds = {
            "temperature": (0.0, 2.0),
            "top_p": (0.0, 1.0),
            "min_p": (0.0, 1.0),
            "presence_penalty": (-2.0, 2.0),
            "frequency_penalty": (-2.0, 2.0),
            "end_bias": (-100.0, 100.0),
            "repetition_penalty": (0.01, 10.0),
            "top_k": (0, 1_000_000),
            "logprobs": (0, 20),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} is {value}; it must lie between {least} and {most}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """One token's log-probability under the model itself: before temperature and cuts."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The token drawn; with its log-probability and the likeliest alternatives where they were asked for."""

    token_id: int
    logprob: TokenLogprob | None
    alternatives: tuple[TokenLogprob, ...] = ()


def choose(
    logits: Tensor, sampling: Sampling, *, prompt: Sequence[int], reply: Sequence[int], ends: Collection[int] = ()
) -> Choice:
    """Draw the token after `prompt` + `reply`. logits: float32 [vocab]; `ends`: the tokens that end a reply."""
    # By numpy, on one thread: torch would wake its others, which then spin for work on the cores that decoding needs.
    own: Floats = logits.float().cpu().numpy()
    adjusted = _penalise(own, sampling, prompt=prompt, reply=reply)
    if sampling.end_bias and ends:
        adjusted = adjusted.copy()
        adjusted[sorted(ends)] += np.float32(sampling.end_bias)
    if sampling.temperature == 0.0:
        token_id = int(adjusted.argmax())
    else:
        token_id = _draw(adjusted, sampling, draw=uniform(sampling.seed, len(reply)))
    if sampling.logprobs is None:
        return Choice(token_id=token_id, logprob=None)
    away = own.astype(np.float64) - own.max()
    logprobs = away - np.log(np.exp(away).sum())
    top = _likeliest(logprobs, sampling.logprobs)
    return Choice(
        token_id=token_id,
        logprob=TokenLogprob(token_id=token_id, logprob=float(logprobs[token_id])),
        alternatives=tuple(TokenLogprob(token_id=int(i), logprob=float(logprobs[i])) for i in top),
    )


def uniform(seed: int, position: int) -> float:
    """The reply's `position`-th random number in [0, 1): Philox, counter-based, so there is no state to carry."""
    bits = np.random.Philox(0)  # given a key instead, it would first ask the system for entropy, then not use it
    bits.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array([position, 0, 0, 0], np.uint64),
            "key": np.array([seed % 2**64, 0], np.uint64),
        },
        "buffer": _NOTHING_BUFFERED,
        "buffer_pos": len(_NOTHING_BUFFERED),
        "has_uint32": 0,
        "uinteger": 0,
    }
    return float(np.random.Generator(bits).random())


def _penalise(logits: Floats, s: Sampling, *, prompt: Sequence[int], reply: Sequence[int]) -> Floats:
    if s.repetition_penalty == 1.0 and s.presence_penalty == 0.0 and s.frequency_penalty == 0.0:
        return logits
    logits = logits.copy()
    if s.repetition_penalty != 1.0:  # CTRL (Keskar et al. 2019), over prompt and reply
        seen = sorted({*prompt, *reply})
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
    if reply and (s.presence_penalty or s.frequency_penalty):  # OpenAI's definition, over the reply alone
        ids, counts = np.unique(np.asarray(reply), return_counts=True)
        logits[ids] -= (s.presence_penalty + s.frequency_penalty * counts).astype(np.float32)
    return logits


def _draw(logits: Floats, s: Sampling, *, draw: float) -> int:
    """Inverse-CDF draw among the candidates that survive the cuts, likeliest first."""
    if not math.isfinite(logits.max()):
        raise ValueError("the model's logits are not finite")
    # The likeliest at 0 first: however small the temperature, the division then stays a number.
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp((logits.astype(np.float64) - logits.max()) / s.temperature)
    if s.top_k == 0 and s.top_p >= 1.0 and s.min_p == 0.0:
        return _inverse_cdf(weights, draw)
    if s.top_k:
        ids = _likeliest(weights, s.top_k)
        p = weights[ids] / weights[ids].sum()
    else:
        ids, p = _candidates(weights, s)
    keep = np.ones(len(p), bool)
    if s.top_p < 1.0:
        keep &= (p.cumsum() - p) < s.top_p
    if s.min_p > 0.0:
        keep &= p >= s.min_p * p[0]
    keep[0] = True
    return int(ids[_inverse_cdf(np.where(keep, p, 0.0), draw)])


def _candidates(weights: Floats, s: Sampling) -> tuple[Ints, Floats]:
    """Tokens, likeliest first, and their probabilities: all that can survive the cuts, and the fewer the quicker."""
    whole = weights.sum()
    for least in _LEAST:  # of the likeliest's 1
        ids = np.flatnonzero(weights > least)
        if least < s.min_p or (s.top_p < 1.0 and weights[ids].sum() >= s.top_p * whole):
            break
    else:
        ids = np.arange(len(weights))
    ids = ids[np.argsort(-weights[ids], kind="stable")]
    return ids, weights[ids] / whole


def _likeliest(of: Floats, n: int) -> Ints:
    """The `n` greatest, greatest first; of equals the first."""
    n = min(n, len(of))
    some = np.flatnonzero(of >= np.partition(of, len(of) - n)[len(of) - n]) if n else np.zeros(0, np.int64)
    return some[np.argsort(-of[some], kind="stable")][:n]


def _inverse_cdf(weights: Floats, draw: float) -> int:
    """The first index whose cumulated weight passes `draw` of the total; never one of weight 0."""
    cumulated = weights.cumsum()
    target = draw * float(cumulated[-1])
    index = int(np.searchsorted(cumulated, target, side="right"))
    return min(index, int(np.flatnonzero(weights)[-1]))
