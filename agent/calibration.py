"""The scale that a model's surprise is read on: what it finds in texts that people may well say.

Measured once for each model, on the texts of memory/calibration.tsv (messages, code, other languages, names, numbers),
one at a time between other people's turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import memory
from memory.salience import FEW_TOKENS, Calibration, mean, strangeness, urgency
from models.engine import Engine
from models.generation import Prompt
from models.language import LanguageModel, Message, ModelCard

MOST_JUDGED = 256
"""Tokens of one message whose surprise is measured: the last ones."""
_STRANGEST = 98


def key_of(card: ModelCard) -> str:
    """What a calibration holds for."""
    return f"{card.name}/{card.dtype}/{card.tokenizer[:16]}"


def texts() -> list[str]:
    """The calibration texts."""
    lines = (Path(memory.__path__[0]) / "calibration.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t", 1)[1] for line in lines]


def calibrate(engine: Engine, embed: Callable[[Sequence[str]], NDArray[np.float32]] | None) -> Calibration:
    """Read every calibration text as the first message of a chat.

    Raises:
        ModelError: the engine is full or closed; nothing was measured, try again later.
    """
    model = engine.model
    surprise, strange, arousal = [], [], []
    for text in texts():
        ids = model.chat_ids([Message(role="user", content=text)]) or []
        judged = judged_in(model, ids, text)
        reply = engine.submit(Prompt(token_ids=ids, max_tokens=1, judged=judged, namespace="calibration")).wait()
        surprise.append(mean(reply.surprisals) if reply.surprisals else 0.0)
        arousal.append(urgency(text))
        if len(reply.surprisals) >= FEW_TOKENS:
            strange.append(strangeness(reply.surprisals))
    return Calibration(
        model=key_of(model.card),
        strangest=float(np.percentile(strange, _STRANGEST)) if strange else 0.0,
        surprise=tuple(surprise),
        novelty=_novelties(embed),
        arousal=tuple(arousal),
    )


def judged_in(model: LanguageModel, prompt: Sequence[int], text: str) -> range:
    """Where in a prompt the tokens of its last message's text stand, without the markup around it.

    The first token is left out: it may have merged with what stands before it.
    """
    wanted = model.encode(text.strip())[1:]
    for start in range(len(prompt) - len(wanted), 0, -1):
        if wanted and list(prompt[start : start + len(wanted)]) == wanted:
            return range(max(start, start + len(wanted) - MOST_JUDGED), start + len(wanted))
    return range(0)


def _novelties(embed: Callable[[Sequence[str]], NDArray[np.float32]] | None) -> tuple[float, ...]:
    """How far each text is from the nearest before it."""
    said = texts()
    if embed is None:
        return (0.5,) * len(said)
    vectors = np.concatenate([embed(said[n : n + 16]) for n in range(0, len(said), 16)])
    likeness = vectors @ vectors.T
    return tuple(1 - max(0.0, float(likeness[n, :n].max(initial=0.0))) for n in range(len(said)))
