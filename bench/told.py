"""Messages of the lessons and all that each tells: the writer's, and further files, of one thing a line or several.

lessons.jsonl and asked.jsonl have one thing a line, as consolidation/texts/tellings.jsonl; several.jsonl and
in_passing.jsonl have messages that tell several under `notes`, in one sentence or by the way, and some that tell
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consolidation.notes import Telling, tellings

_HELD_BACK = 12

Message = tuple[Telling, ...]
"""All that one message tells, each with the questions that it alone answers; one without `tell` if it tells nothing."""


def messages(files: Sequence[Path] = ()) -> list[Message]:
    """The writer's, and those of further files, in their order: what is split is split by these."""
    return [*((one,) for one in tellings()), *(message for file in files for message in read(file))]


def read(file: Path) -> list[Message]:
    """One file's."""
    return [_message(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def held_back(n: int) -> bool:
    """Whether reader and writer are not trained on the n-th message of a file beside the writer's own."""
    return n % _HELD_BACK == _HELD_BACK - 1


def _message(row: dict[str, Any]) -> Message:
    say = row.get("say", "")
    return tuple(
        Telling(
            say=say,
            tell=note["tell"],
            value=note.get("value") or "",
            ask=tuple(note.get("ask", ())),
            never=tuple(note.get("never", ())),
        )
        for note in row.get("notes", [row])
    ) or (Telling(say=say, tell=None, value="", ask=(), never=()),)
