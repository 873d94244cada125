"""The agent's own word on its pace: shown its gauges, it chooses slower, same or faster.

It is told what is true: that the pace is its own to choose, and that a limit exists which it cannot move. The options
are scored, not generated, so it cannot choose anything else; what an option is likely to be said anyway, shown gauges
that say nothing, is taken off (contextual calibration, Zhao et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

from memory.beats import Choice
from models.engine import Engine
from models.errors import EngineClosed
from models.generation import Prompt
from models.language import Message

OPTIONS: tuple[Choice, ...] = get_args(Choice)
FACTORS: Mapping[Choice, float] = {"slower": 1.25, "same": 1.0, "faster": 0.8}
"""What a choice multiplies the interval by, on top of those before it."""
FURTHEST = 2.0
"""How far choices may carry the interval from the resting one, either way; the arena has its own limits."""
_UNKNOWN = "unknown"
_TOLD = Path(__file__).parent / "texts" / "pacing.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How much more likely each option is than it is anyway, in nats a token."""

    scores: Mapping[Choice, float]

    @property
    def choice(self) -> Choice:
        """The most likely; of equals the calmer."""
        return max(OPTIONS, key=lambda option: self.scores[option])


def moved(factor: float, choice: Choice) -> float:
    """The agent's factor after a choice."""
    return min(FURTHEST, max(1 / FURTHEST, factor * FACTORS[choice]))


def ask(engine: Engine, gauges: Mapping[str, str]) -> Scores:
    """Have the model choose.

    Raises:
        ModelError: the engine is full, or goes down; nothing was chosen.
    """
    shown = _scored(engine, gauges)
    anyway = _scored(engine, dict.fromkeys(gauges, _UNKNOWN))
    return Scores(scores={option: shown[option] - anyway[option] for option in OPTIONS})


def messages(gauges: Mapping[str, str]) -> list[Message]:
    """What the model is told, and asked."""
    rows = "\n".join(f"{name}: {value}" for name, value in gauges.items())
    system, question = _told()
    return [
        Message(role="system", content=system),
        Message(role="user", content=f"{rows}\n\n{question}"),
    ]


def _scored(engine: Engine, gauges: Mapping[str, str]) -> dict[Choice, float]:
    model = engine.model
    ids = model.chat_ids(messages(gauges)) or []
    found: dict[Choice, float] = {}
    for option in OPTIONS:
        said = model.encode(option)
        namespace = f"heartbeat {option}"  # each its own: a prompt found in the cache is not read, and tells nothing
        reply = engine.submit(
            Prompt(
                token_ids=[*ids, *said],
                max_tokens=1,
                judged=range(len(ids), len(ids) + len(said)),
                namespace=namespace,
                fleeting=True,
            )
        ).wait()
        engine.drop_states(namespace)
        if reply.finish_reason == "interrupted":
            raise EngineClosed("the service is going down")
        found[option] = -math.fsum(reply.surprisals) / len(said)
    return found


@cache
def _told() -> tuple[str, str]:
    system, _, question = _TOLD.read_text(encoding="utf-8").strip().partition("\n---\n")
    return system.strip(), question.strip()
