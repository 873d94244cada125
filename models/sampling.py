"""From one row of logits to the next token. Pure but for the draw, which is a function of (seed, position)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_NOTHING_BUFFERED = np.zeros(4, np.uint64)
CANDIDATES = 256
"""Sorting this many of the likeliest is enough for almost every draw; where it is not, all are sorted."""


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
    adjusted = _penalise(logits, sampling, prompt=prompt, reply=reply)
    if sampling.end_bias and ends:
        adjusted = adjusted.clone()
        adjusted[torch.tensor(sorted(ends), device=logits.device)] += sampling.end_bias
    if sampling.temperature == 0.0:
        token_id = int(adjusted.argmax())
    else:
        token_id = _draw(adjusted, sampling, draw=uniform(sampling.seed, len(reply)))
    if sampling.logprobs is None:
        return Choice(token_id=token_id, logprob=None)
    logprobs = logits.log_softmax(-1)
    top = logprobs.topk(sampling.logprobs)
    return Choice(
        token_id=token_id,
        logprob=TokenLogprob(token_id=token_id, logprob=float(logprobs[token_id])),
        alternatives=tuple(
            TokenLogprob(token_id=int(i), logprob=float(lp)) for i, lp in zip(top.indices, top.values, strict=True)
        ),
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


def _penalise(logits: Tensor, s: Sampling, *, prompt: Sequence[int], reply: Sequence[int]) -> Tensor:
    if s.repetition_penalty == 1.0 and s.presence_penalty == 0.0 and s.frequency_penalty == 0.0:
        return logits
    logits = logits.clone()
    if s.repetition_penalty != 1.0:  # CTRL (Keskar et al. 2019), over prompt and reply
        seen = torch.tensor(sorted({*prompt, *reply}), device=logits.device)
        values = logits[seen]
        logits[seen] = torch.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
    if reply and (s.presence_penalty or s.frequency_penalty):  # OpenAI's definition, over the reply alone
        ids, counts = torch.unique(torch.tensor(reply, device=logits.device), return_counts=True)
        logits[ids] -= s.presence_penalty + s.frequency_penalty * counts
    return logits


def _draw(logits: Tensor, s: Sampling, *, draw: float) -> int:
    """Inverse-CDF draw among the candidates that survive the cuts, likeliest first."""
    # The likeliest at 0 first: however small the temperature, the division then stays a number.
    probabilities = ((logits.double() - logits.max()) / s.temperature).softmax(-1)
    if s.top_k == 0 and s.top_p >= 1.0 and s.min_p == 0.0:
        return _inverse_cdf(probabilities, draw)
    if s.top_k:
        p, ids = probabilities.topk(min(s.top_k, len(probabilities)))
        p = p / p.sum()
    else:
        p, ids = probabilities.topk(min(CANDIDATES, len(probabilities)))
        if not (float(p.sum()) >= s.top_p if s.top_p < 1.0 else float(p[-1]) < s.min_p * float(p[0])):
            p, ids = probabilities.sort(descending=True)
    keep = torch.ones_like(p, dtype=torch.bool)
    if s.top_p < 1.0:
        keep &= (p.cumsum(0) - p) < s.top_p
    if s.min_p > 0.0:
        keep &= p >= s.min_p * p[0]
    keep[0] = True
    return int(ids[_inverse_cdf(torch.where(keep, p, 0.0), draw)])


def _inverse_cdf(weights: Tensor, draw: float) -> int:
    """The first index whose cumulated weight passes `draw` of the total; never one of weight 0."""
    cumulated = weights.cumsum(0)
    target = draw * float(cumulated[-1])
    index = int(torch.searchsorted(cumulated, target, right=True))
    if not math.isfinite(target):
        raise ValueError("the model's logits are not finite")
    return min(index, int(weights.nonzero()[-1]))
