"""Do the persona's variables change what is said? Each forced to five levels, beside a placebo of the same length.

    python -m bench.persona --json [--prompts 60] [--variables warmth energy]

The sixty prompts of bench/manners/prompts.txt chose nothing: where each variable acts, and how far, was settled on
others. Greedy, or with `--temperature` and the same seed for both of a pair. For each variable: the standardised
difference between forced high and low of what it claims to change (agent/manner.py), with a 95 % bootstrap interval
over prompts; the same of random directions of the same length, the largest of `--placebos`; Spearman's correlation of
the levels with their means; and how much more surprising the replies are to the model left alone (perplexity, less 1).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.manner import MANNERS
from agent.persona import Found
from agent.steering import CANDIDATES, REACHES
from models.causal_lm import CausalLM
from models.directions import placebo
from models.engine import Engine, EngineLimits
from models.generation import Prompt, Reply
from models.language import Message
from models.sampling import Sampling
from models.steering import Steering
from models.weights import DEFAULT_MODEL, resolve
from nights import base_digest
from settings import Settings

PROMPTS = Path(__file__).parent / "manners"
ALL = {**REACHES, **CANDIDATES}
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_TOKENS, _DRAWS = 40, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """What is done to replies."""

    steering: Steering | None = None
    end_bias: float = 0.0
    words: str = ""
    """What stands before the prompt."""


class Bench:
    """An engine, and the prompts that it is asked."""

    def __init__(self, model: str, said: Sequence[str], *, temperature: float = 0.0, tokens: int = 40) -> None:
        settings = Settings(model=model)
        where = resolve(model, cache_dir=settings.cache_dir).location
        limits = EngineLimits(batch=16, waiting=1024, waiting_tokens=1 << 20)
        self.engine = Engine(lambda: CausalLM.load(where, name=model, context_length=1024), limits)
        self.engine.wait_until_loaded()
        self.steerer = Found(self.engine, settings.cache_dir / "directions", base_digest(settings), ALL)()
        self.said, self._temperature, self._tokens = said, temperature, tokens

    def replies(self, forced: Forced = Forced(), *, tokens: int | None = None) -> list[Reply]:
        """To each prompt."""
        asked = [
            Prompt(
                token_ids=self._ids(forced.words + said),
                max_tokens=tokens or self._tokens,
                sampling=Sampling(temperature=self._temperature, seed=n, end_bias=forced.end_bias),
                steering=forced.steering,
            )
            for n, said in enumerate(self.said)
        ]
        return [generation.wait() for generation in [self.engine.submit(prompt) for prompt in asked]]

    def _ids(self, said: str) -> list[int]:
        return self.engine.model.chat_ids([Message(role="user", content=said)]) or []

    def nats(self, replies: Sequence[Reply]) -> float:
        """Mean surprise at a token of the replies, to the model left alone."""
        asked = [
            Prompt(
                token_ids=[*ids, *reply.token_ids],
                max_tokens=1,
                judged=range(len(ids), len(ids) + len(reply.token_ids)),
                namespace=f"judged {time.monotonic_ns()}",
            )
            for ids, reply in zip(map(self._ids, self.said), replies, strict=True)
            if reply.token_ids
        ]
        told = [generation.wait().surprisals for generation in [self.engine.submit(prompt) for prompt in asked]]
        return float(np.mean([nats for one in told for nats in one]))


def run(bench: Bench, variables: Sequence[str], *, placebos: int) -> dict[str, Any]:
    """Every variable at every level, and its placebos."""
    neutral = bench.replies(None)
    nats = bench.nats(neutral)
    found = {}
    for name in variables:
        began = time.monotonic()
        measure, unit = MANNERS[name], bench.steerer.unit(name)
        at = {
            level: neutral if level == 0 else bench.replies(Steering(first=unit.first, vectors=level * unit.vectors))
            for level in LEVELS
        }
        measured = {level: np.array([measure(r.text) for r in replies]) for level, replies in at.items()}
        shams = []
        for seed in range(placebos):
            sham = Steering(first=unit.first, vectors=placebo(unit.vectors, seed=seed))
            high, low = (
                np.array([measure(r.text) for r in bench.replies(Steering(first=sham.first, vectors=s * sham.vectors))])
                for s in (1.0, -1.0)
            )
            shams.append(effect(high, low))
        means = [float(measured[level].mean()) for level in LEVELS]
        found[name] = {
            "effect": effect(measured[1.0], measured[-1.0]),
            "interval": interval(measured[1.0], measured[-1.0]),
            "placebo": max((abs(s) for s in shams), default=None),
            "levels": dict(zip(map(str, LEVELS), means, strict=True)),
            "spearman": spearman(LEVELS, means),
            "perplexity_more": {str(s): math.exp(bench.nats(at[s]) - nats) - 1 for s in (-1.0, 1.0)},
            "seconds": round(time.monotonic() - began, 1),
            "examples": {str(s): [r.text for r in at[s][:3]] for s in (-1.0, 1.0)},
        }
        found[name]["kept"] = verdict(found[name])
        sys.stderr.write(f"{name}: { ({k: v for k, v in found[name].items() if k != 'examples'}) }\n")
    return {"prompts": len(neutral), "neutral_nats": nats, "neutral": [r.text for r in neutral[:3]], "variables": found}


def verdict(found: Mapping[str, Any]) -> bool:
    """Whether a variable is worth keeping: the issue's bars."""
    return bool(
        found["effect"] >= 0.5
        and found["interval"][0] > 0
        and found["placebo"] is not None
        and found["effect"] >= 3 * found["placebo"]
        and found["spearman"] >= 0.8
        and max(found["perplexity_more"].values()) <= 0.25
    )


def effect(high: NDArray[np.float64], low: NDArray[np.float64]) -> float:
    """Difference of the means in units of the mean standard deviation (Cohen's d_av; Lakens 2013)."""
    spread = math.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2)
    return float((high.mean() - low.mean()) / spread) if spread > 0 else 0.0


def interval(high: NDArray[np.float64], low: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of `effect` over prompts drawn anew, both of a pair together."""
    chance = np.random.default_rng(0)
    draws = chance.integers(len(high), size=(_DRAWS, len(high)))
    effects = [effect(high[rows], low[rows]) for rows in draws]
    return float(np.quantile(effects, 0.025)), float(np.quantile(effects, 0.975))


def spearman(levels: Sequence[float], means: Sequence[float]) -> float:
    """Correlation of the ranks; ties share theirs."""
    a, b = _ranks(levels), _ranks(means)
    return float(np.corrcoef(a, b)[0, 1]) if b.std() > 0 else 0.0


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    given = np.asarray(values, dtype=np.float64)
    below, same = (given[:, None] > given).sum(1), (given[:, None] == given).sum(1)
    return np.asarray(below + (same - 1) / 2, dtype=np.float64)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--variables", nargs="*", default=sorted(ALL), choices=sorted(ALL))
    parser.add_argument("--placebos", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    bench = Bench(args.model, args.prompts, args.temperature)
    try:
        done = run(bench, args.variables, placebos=args.placebos)
    finally:
        bench.engine.close()
    sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
