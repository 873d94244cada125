"""The agent's own word on its pace: shown its gauges, it chooses slower, same or faster.

It is told what is true: that the pace is its own to choose, and that a limit exists which it cannot move. The options
are scored, not generated, so it cannot choose anything else. What counts is how much likelier "slower" is than
"faster", against the same model's own range of that over all gauges there are (batch calibration, Zhou et al. 2024):
the upper third is slower, the lower third faster, the middle the same.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent.governor import Wish
from memory.beats import Choice
from models.engine import Engine
from models.errors import EngineClosed
from models.generation import Prompt, Reply
from models.language import Message

FACTORS: Mapping[Choice, float] = {"slower": 1.25, "same": 1.0, "faster": 0.8}
"""What a choice multiplies the interval by, on top of those before it."""
FURTHEST = 2.0
"""How far choices may carry the interval from the resting one, either way; the arena has its own limits."""
LEVELS: Mapping[str, tuple[str, ...]] = {
    "machine": ("idle", "in use", "busy"),
    "tiredness": ("none", "little", "some", "great"),
    "waiting": ("little", "some", "a lot"),
}
"""What a gauge may be shown as, the least first."""
_NAMESPACE = "heartbeat"
_NOTICED = 0.05
_TOLD = Path(__file__).parent / "texts" / "pacing.txt"
SCALES = Path(__file__).parent / "texts" / "pacing-scales.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One model's range: a third of all gauges is below `lower`, a third above `upper`."""

    lower: float
    upper: float

    def choice(self, contrast: float) -> Choice:
        """What a contrast amounts to."""
        return "slower" if contrast > self.upper else "faster" if contrast < self.lower else "same"


def moved(factor: float, choice: Choice) -> float:
    """The agent's factor after a choice."""
    return min(FURTHEST, max(1 / FURTHEST, factor * FACTORS[choice]))


def shown(*, load: float, fatigue: float, waiting: int) -> dict[str, str]:
    """Gauges in words. Load is a share of what is borne, fatigue in [-1, 1], waiting a count of memories unslept on."""
    machine, tiredness, todo = LEVELS["machine"], LEVELS["tiredness"], LEVELS["waiting"]
    return {
        "machine": machine[0 if load < 0.25 else 1 if load < 0.65 else 2],
        "tiredness": tiredness[0 if fatigue < 0.1 else 1 if fatigue < 0.3 else 2 if fatigue < 0.6 else 3],
        "waiting": todo[0 if waiting < 3 else 1 if waiting < 15 else 2],
    }


def wished(own: float, mood: Mapping[str, float]) -> Wish:
    """What the agent would like: its own choices, sooner when roused, later when tired."""
    roused, tired = mood.get("arousal", 0.0), mood.get("fatigue", 0.0)
    why = [f"its own choice x{own:.2g}"] if own != 1.0 else []
    why += [f"arousal {roused:+.1f}"] if abs(roused) >= _NOTICED else []
    why += [f"fatigue {tired:+.1f}"] if abs(tired) >= _NOTICED else []
    return Wish(factor=own * math.exp2((tired - roused) / 2), why=", ".join(why) or "at rest")


def contrast(engine: Engine, gauges: Mapping[str, str]) -> float:
    """How much likelier "slower" is than "faster", in nats a token.

    Raises:
        ModelError: the engine is full, or goes down; nothing was said.
    """
    model = engine.model
    told = model.chat_ids(_told(), reply=False) or []
    _wait(engine, Prompt(token_ids=told, max_tokens=1, namespace=_NAMESPACE))  # read once, and then found there
    ids = model.chat_ids([*_told(), Message(role="user", content=_rows(gauges))]) or []
    found = []
    for option in ("slower", "faster"):
        said = model.encode(option)
        # Fleeting: were the gauges found in the cache, the option's first token would be read by nobody.
        judged = range(len(ids), len(ids) + len(said))
        prompt = Prompt(token_ids=[*ids, *said], max_tokens=1, judged=judged, namespace=_NAMESPACE, fleeting=True)
        found.append(-math.fsum(_wait(engine, prompt).surprisals) / len(said))
    return found[0] - found[1]


def measure(engine: Engine) -> tuple[Scale, dict[str, float]]:
    """A model's scale, and the contrast of each of the gauges that it was shown."""
    names = list(LEVELS)
    found = {}
    for values in itertools.product(*LEVELS.values()):
        found[", ".join(values)] = contrast(engine, dict(zip(names, values, strict=True)))
    ordered = sorted(found.values())
    third = len(ordered) // 3
    return Scale(lower=ordered[third], upper=ordered[-third - 1]), found


def any_shipped() -> bool:
    """Whether there is a model that chooses."""
    return bool(json.loads(SCALES.read_text(encoding="utf-8")))


def shipped(model: str) -> Scale | None:
    """The scale of a model, by the digest of its weights, that was measured for everybody; None: of others."""
    found = json.loads(SCALES.read_text(encoding="utf-8")).get(model)
    return None if found is None else Scale(lower=found["lower"], upper=found["upper"])


def _rows(gauges: Mapping[str, str]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in gauges.items())


def _wait(engine: Engine, prompt: Prompt) -> Reply:
    reply = engine.submit(prompt).wait()
    if reply.finish_reason == "interrupted":
        raise EngineClosed("the service is going down")
    return reply


@cache
def _told() -> tuple[Message, ...]:
    system, *examples = _TOLD.read_text(encoding="utf-8").strip().split("\n---\n")
    found = [Message(role="system", content=system.strip())]
    for example in examples:
        gauges, _, choice = example.partition("\n= ")
        found += [Message(role="user", content=gauges.strip()), Message(role="assistant", content=choice.strip())]
    return tuple(found)
