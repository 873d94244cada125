"""What must not be forgotten: everyday prompts and talk, at which a night holds the model to what it was.

Texts and their licences: consolidation/texts/README.md. A part is held back, by a digest of its id, for measuring
drift where nothing was rehearsed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

_HELD_BACK = 4
"""One in four is never rehearsed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """Something said, and the reply to it at which the model is held; None: the base's own, to be asked for."""

    said: str
    reply: str | None
    held_back: bool
    """Never rehearsed, only measured."""


def prompts() -> list[Rehearsed]:
    """Requests of all kinds, to be answered once by the base."""
    return [Rehearsed(said=row["text"], reply=None, held_back=_held_back(row["id"])) for row in _rows("prompts.jsonl")]


def exchanges() -> list[Rehearsed]:
    """Everyday talk. Whole dialogues are held back."""
    return [
        Rehearsed(said=row["said"], reply=row["reply"], held_back=_held_back(row["id"].rpartition("-")[0]))
        for row in _rows("exchanges.jsonl")
    ]


def _rows(file: str) -> Iterator[dict[str, str]]:
    text = resources.files("consolidation").joinpath("texts", file).read_text(encoding="utf-8")
    yield from map(json.loads, text.splitlines())


def _held_back(id: str) -> bool:
    return hashlib.blake2b(id.encode(), digest_size=1).digest()[0] % _HELD_BACK == 0
