"""The scale that a model's surprise is read on: what it finds in texts that people may well say.

Measured once for each model, on the texts of memory/calibration.tsv (messages, code, other languages, names, numbers),
one at a time between other people's turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import memory
from memory.salience import FEW_TOKENS, Calibration, mean, strangeness, urgency
from models.engine import Engine
from models.errors import EngineClosed
from models.generation import Prompt
from models.language import LanguageModel, Message, ModelCard

MOST_JUDGED = 256
"""Tokens of one message whose surprise is measured: the last ones."""
_STRANGEST = 98
_PATIENCE = 0.05


def key_of(card: ModelCard) -> str:
    """What a calibration holds for."""
    return f"{card.name}/{card.dtype}/{card.tokenizer[:16]}"


def texts() -> list[str]:
    """The calibration texts."""
    lines = (Path(memory.__path__[0]) / "calibration.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t", 1)[1] for line in lines]


def shipped(card: ModelCard) -> Calibration | None:
    """The scale of a model that was measured for everybody (`python -m bench.calibration`), or None."""
    known = json.loads((Path(memory.__path__[0]) / "calibrations.json").read_text(encoding="utf-8"))
    found = known.get(key_of(card))
    if found is None:
        return None
    return Calibration(
        model=key_of(card),
        strangest=found["strangest"],
        surprise=tuple(found["surprise"]),
        novelty=tuple(found["novelty"]),
        arousal=tuple(found["arousal"]),
    )


def calibrate(engine: Engine, embed: Callable[[Sequence[str]], NDArray[np.float32]] | None) -> Calibration:
    """Read every calibration text as the first message of a chat.

    Raises:
        ModelError: the engine is full or closed; nothing was measured, try again later.
    """
    model = engine.model
    surprise, strange, arousal = [], [], []
    for n, text in enumerate(texts()):
        namespace = f"calibration {n}"  # each its own: what is found in the cache is not read, and tells nothing
        ids = model.chat_ids([Message(role="user", content=text)]) or []
        judged = judged_in(model, ids, text)
        while engine.stats().running or engine.stats().waiting:  # others come first
            time.sleep(_PATIENCE)
        reply = engine.submit(Prompt(token_ids=ids, max_tokens=1, judged=judged, namespace=namespace)).wait()
        engine.drop_states(namespace)
        if reply.finish_reason == "interrupted":
            raise EngineClosed("the service is going down")
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
