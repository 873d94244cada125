"""Do the persona's variables act, and follow what they claim to? Forced, replayed, and beside placebos.

`slowwave persona test` runs it, on any model; docs/persona.md has its table for the default one. A variable that acts
is kept if forcing it changes what it claims to change (agent/manner.py): by half a standard deviation, with its 95 %
interval off 0, three times what random directions of the same length change, in the order of its levels, and at a
quarter more surprise to the model left alone at most. Each is also replayed: it must vary, follow the rules that it was
fitted on, and not be foretold by the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.appraisal import appraised, histories
from agent.manner import MANNERS
from agent.mood import Feeling
from agent.persona import Found
from agent.senses import Senses
from agent.steering import ENDINGS, REACHES, VARIABLES, Steerer
from agent.temperament import VARIABLES as FELT
from models.directions import placebo
from models.engine import Engine, EngineLimits
from models.generation import Prompt, Reply
from models.language import Message
from models.sampling import Sampling
from models.steering import Steering
from settings import Settings

Array = NDArray[np.float64]
LEVELS = (-1.0, -0.5, 0.0, 0.5, 1.0)
SHORT, WHOLE = 40, 160
"""Tokens of a reply whose manner counts, and of one whose length does."""
_AT_ONCE = 64
"""Replies written beside each other."""
_DRAWS, _REPLAYED, _SEED, _PLACEBOS = 10_000, 1000, 20261124, 3
SETS = len(LEVELS) + 2 * _PLACEBOS
"""Sets of replies that one variable takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """What is done to replies."""

    steering: Steering | None = None
    end_bias: float = 0.0
    words: str = ""
    """What stands before the prompt."""


_NOTHING = Forced()


class Bench:
    """An engine, its directions, and the prompts that it is asked."""

    def __init__(
        self, engine: Engine, steerer: Callable[[], Steerer], said: Sequence[str], *, temperature: float = 0.0
    ) -> None:
        self._engine, self.steerer, self.said, self._temperature = engine, steerer(), said, temperature

    def replies(self, forced: Forced = _NOTHING, *, tokens: int = SHORT) -> list[Reply]:
        """To each prompt; with the same seed for the same prompt."""
        asked = [
            Prompt(
                token_ids=self._ids(forced.words + said),
                max_tokens=tokens,
                sampling=Sampling(temperature=self._temperature, seed=n, end_bias=forced.end_bias),
                steering=forced.steering,
            )
            for n, said in enumerate(self.said)
        ]
        return [generation.wait() for generation in [self._engine.submit(prompt) for prompt in asked]]

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
        told = [generation.wait().surprisals for generation in [self._engine.submit(prompt) for prompt in asked]]
        return float(np.mean([nats for one in told for nats in one]))

    def forced(self, values: Mapping[str, float]) -> Forced:
        """Variables at values."""
        bearing = self.steerer(values)
        return Forced(steering=bearing.steering, end_bias=bearing.end_bias)

    def sham(self, name: str, level: float, seed: int) -> Forced:
        """A random direction as long as a variable's; as pleasure's, if it has none."""
        unit = self.steerer.unit(name if name in REACHES else "pleasure")
        return Forced(steering=Steering(first=unit.first, vectors=level * placebo(unit.vectors, seed=seed)))

    def _ids(self, said: str) -> list[int]:
        return self._engine.model.chat_ids([Message(role="user", content=said)]) or []


def prompts(*, development: bool = False) -> list[str]:
    """What is asked: those that chose nothing, or those that scales were settled on."""
    name = "prompts-development.txt" if development else "prompts-judged.txt"
    return resources.files("agent").joinpath("texts", name).read_text(encoding="utf-8").splitlines()


def opened(settings: Settings) -> tuple[Engine, Found]:
    """The model of the settings in an engine, to be closed, and its directions.

    Raises:
        SettingsError, ModelNotFound: there is no such model.
    """
    from nights import base_digest
    from service import model_of

    engine = Engine(lambda: model_of(settings), EngineLimits(batch=_AT_ONCE, waiting=1024, waiting_tokens=1 << 20))
    engine.wait_until_loaded()
    return engine, Found(engine, settings.cache_dir / "directions", base_digest(settings))


def intervention(bench: Bench, name: str, *, placebos: int = _PLACEBOS, each: Callable[[], None] = lambda: None) -> Any:
    """Force a variable to five levels, and random directions to two; `each` is called after every set of replies."""
    tokens = WHOLE if name in ENDINGS else SHORT

    def said(forced: Forced) -> list[Reply]:
        found = bench.replies(forced, tokens=tokens)
        each()
        return found

    at = {level: said(bench.forced({name: level}) if level else _NOTHING) for level in LEVELS}
    told = {level: measured(name, replies) for level, replies in at.items()}
    shams = [
        effect(*(measured(name, said(bench.sham(name, sign, seed))) for sign in (1.0, -1.0)))
        for seed in range(placebos)
    ]
    means = [float(told[level].mean()) for level in LEVELS]
    nats = bench.nats(at[0.0])
    found = {
        "effect": effect(told[1.0], told[-1.0]),
        "interval": interval(told[1.0], told[-1.0]),
        "placebo": max(map(abs, shams)),
        "levels": dict(zip(map(str, LEVELS), means, strict=True)),
        "spearman": spearman(LEVELS, means),
        "perplexity_more": {str(s): math.exp(bench.nats(at[s]) - nats) - 1 for s in (-1.0, 1.0)},
        "others": {m: effect(measured(m, at[1.0]), measured(m, at[-1.0])) for m in MANNERS if m != name},
        "examples": {str(s): [r.text for r in at[s][:3]] for s in (-1.0, 1.0)},
    }
    return {**found, "kept": kept(found)}


def kept(found: Mapping[str, Any]) -> bool:
    """Whether a variable is worth keeping."""
    return bool(
        found["effect"] >= 0.5
        and found["interval"][0] > 0
        and found["effect"] >= 3 * found["placebo"]
        and found["spearman"] >= 0.8
        and max(found["perplexity_more"].values()) <= 0.25
    )


def together(bench: Bench) -> dict[str, float]:
    """All directions at 1, at -1, and in turn: how much more surprising the replies are."""
    nats = bench.nats(bench.replies())
    arms = {
        "high": dict.fromkeys(REACHES, 1.0),
        "low": dict.fromkeys(REACHES, -1.0),
        "in turn": {name: 1.0 if n % 2 else -1.0 for n, name in enumerate(REACHES)},
    }
    return {arm: math.exp(bench.nats(bench.replies(bench.forced(v))) - nats) - 1 for arm, v in arms.items()}


def replayed() -> dict[str, dict[str, float]]:
    """Of every variable that is felt, over a history that fitted nothing: how much it varies, how it follows the rules
    that it was fitted on (Spearman), and what share of it the clock foretells."""
    events, seconds = histories(_REPLAYED, seed=_SEED)
    values = lived(events, seconds)
    wanted = appraised(events, seconds)
    passed = np.cumsum(seconds)
    turn = 2 * np.pi * passed / 86400
    clock = np.stack(
        [np.ones_like(passed), passed, seconds, np.exp(-seconds / 600), np.sin(turn), np.cos(turn)], axis=1
    )
    return {
        name: {
            "deviation": float(values[:, n].std()),
            "follows": spearman(values[:, n], wanted[:, n]),
            "by the clock": _explained(clock, values[:, n]),
        }
        for n, name in enumerate(FELT)
    }


def chain(bench: Bench) -> dict[str, Any]:
    """From what happens to what is said: how pleasant replies are after ten turns of praise, and of blame.

    The placebo: after two histories that differ in nothing but their random novelty.
    """

    def after(event: Senses, seed: int) -> Array:
        chance = np.random.default_rng(seed)
        events = [Senses(reward=event.reward, sentiment=event.sentiment, novelty=float(n)) for n in chance.random(10)]
        levels = lived_levels(events, np.full(10, 45.0))
        return measured("pleasure", bench.replies(bench.forced(levels)))

    praise, blame = Senses(reward=0.9, sentiment=0.6), Senses(reward=-0.9, sentiment=-0.6)
    high, low = after(praise, 1), after(blame, 1)
    return {
        "effect": effect(high, low),
        "interval": interval(high, low),
        "placebo": abs(effect(after(Senses(), 2), after(Senses(), 3))),
    }


def gauged() -> dict[str, float]:
    """What forcing the coherence that is felt from 0 to 1 does to focus, in deviations, beside shuffling it."""
    events, seconds = histories(_REPLAYED, seed=_SEED)
    chance = np.random.default_rng(_SEED)
    forced = {r: lived(events, seconds, coherence=np.full(len(events), r))[:, FELT.index("focus")] for r in (0.0, 1.0)}
    sham = [lived(events, seconds, coherence=chance.random(len(events)))[:, FELT.index("focus")] for _ in range(2)]
    return {"effect": effect(forced[1.0], forced[0.0]), "placebo": abs(effect(*sham))}


def lived(events: Sequence[Senses], seconds: Array, *, coherence: Array | None = None) -> Array:
    """Every variable after each event; [events, variables]. `coherence`: what is felt instead of the oscillators'."""
    feeling = Feeling()
    mood, at, values = feeling.begin(), datetime(2026, 1, 1, 12, tzinfo=UTC), []
    for n, (event, pause) in enumerate(zip(events, seconds, strict=True)):
        at += timedelta(seconds=float(pause))
        mood = feeling.feel(mood, event, at, coherence=None if coherence is None else float(coherence[n])).mood
        values.append(mood.values)
    return np.array(values)


def lived_levels(events: Sequence[Senses], seconds: Array) -> dict[str, float]:
    """The levels, after these events, of the variables that act."""
    feeling = Feeling()
    mood, at = feeling.begin(), datetime(2026, 1, 1, 12, tzinfo=UTC)
    for event, pause in zip(events, seconds, strict=True):
        at += timedelta(seconds=float(pause))
        mood = feeling.feel(mood, event, at).mood
    return {name: float(mood.levels[FELT.index(name)]) for name in VARIABLES}


def measured(name: str, replies: Sequence[Reply]) -> Array:
    """What a variable claims to change, of each reply."""
    return np.array([MANNERS[name](reply.text) for reply in replies])


def effect(high: Array, low: Array) -> float:
    """Difference of the means in units of the mean standard deviation (Cohen's d_av; Lakens 2013)."""
    spread = math.sqrt((high.var(ddof=1) + low.var(ddof=1)) / 2)
    return float((high.mean() - low.mean()) / spread) if spread > 0 else 0.0


def interval(high: Array, low: Array) -> tuple[float, float]:
    """95 % of `effect` over prompts drawn anew, both of a pair together."""
    chance = np.random.default_rng(0)
    draws = chance.integers(len(high), size=(_DRAWS, len(high)))
    effects = [effect(high[rows], low[rows]) for rows in draws]
    return float(np.quantile(effects, 0.025)), float(np.quantile(effects, 0.975))


def spearman(levels: Sequence[float] | Array, means: Sequence[float] | Array) -> float:
    """Correlation of the ranks; ties share theirs."""
    a, b = _ranks(levels), _ranks(means)
    return float(np.corrcoef(a, b)[0, 1]) if b.std() > 0 else 0.0


def _ranks(values: Sequence[float] | Array) -> Array:
    given = np.asarray(values, dtype=np.float64)
    below, same = (given[:, None] > given).sum(1), (given[:, None] == given).sum(1)
    return np.asarray(below + (same - 1) / 2, dtype=np.float64)


def _explained(by: Array, values: Array) -> float:
    """R² of a least-squares fit, on what it was fitted on: no less than the clock could ever foretell."""
    left = values - by @ np.linalg.lstsq(by, values, rcond=None)[0]
    return float(1 - left.var() / values.var())
