"""Pure: what the model itself writes about a message (what it tells, and how one may ask for it), and the check on it.

The writer is an adapter on the default model, trained on `texts/tellings.jsonl` (bench/writer.py). What it writes is
kept only where the message bears it out: no name, number or rare word that was not said, questions that do not give
the answer away. One line a thing: the fact, said to the user, then questions, in the user's words.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from consolidation.english import is_word, sentence, spoken
from consolidation.variation import LIGHT

NOTHING = "Nothing."
LONGEST = 600
"""Characters of a message that the writer reads; longer ones are left to the rules."""
_PROMPT = "Note what this tells you about me, and what I may ask you about it later.\n\n{message}"
_SPECIFIC = re.compile(r"[^\W_]+(?:[.:,/'’@&+*#_-][^\W_]+)*[*#]?")
_FEWEST, _MOST = 3, 24
"""Questions that make a note, and that are kept."""
_MINE = re.compile(r"\b(?:I|I'm|I've|I'd|me|my|mine|we|us|our|myself)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What one message tells."""

    told: str
    """To the user, with a stop."""
    value: str
    """The part of it that answers."""
    asks: tuple[str, ...]
    """Whole questions, in the user's words; none gives the value away."""


def prompt(message: str) -> str:
    """What the writer is asked."""
    return _PROMPT.format(message=message.strip())


def written(told: str, asks: Sequence[str]) -> str:
    """What the writer is to answer."""
    return "\n".join([told, *asks])


def note_of(message: str, replies: Sequence[str]) -> Note | None:
    """The note in the writer's replies to one message: its first line is the first's, the questions are all of theirs.

    None where it found nothing, or nothing that the message bears out.
    """
    lines = [[line.strip() for line in reply.splitlines() if line.strip()] for reply in replies]
    if not lines or not lines[0] or lines[0][0] == NOTHING:
        return None
    told = sentence(lines[0][0])
    if not _borne_out(told, message):
        return None
    asks = list(dict.fromkeys(line for of in lines if of and of[0] == lines[0][0] for line in of[1:]))
    asks = [a for a in asks if _is_question(a)]
    value = _value(told, asks, message)
    if not value:
        return None
    heavy = {w for w in spoken(value) if w not in LIGHT}
    asks = [a for a in asks if not heavy & set(spoken(a))][:_MOST]
    return Note(told=told, value=value, asks=tuple(asks)) if len(asks) >= _FEWEST else None


def _borne_out(told: str, message: str) -> bool:
    """No specific word that was not said, and most of the others said too; about whoever speaks."""
    said = set(spoken(message))
    words = spoken(told)
    content = [w for w in words if w not in LIGHT]
    if not content or not 3 <= len(words) <= 32 or "\n" in told:
        return False
    if any(_specific(w) and w not in said for w in content):
        return False
    stems = {w[:4] for w in said}
    return sum(w in said or w[:4] in stems for w in content) >= 0.4 * len(content)


def _specific(word: str) -> bool:
    return any(c.isdigit() for c in word) or not is_word(word)


def _is_question(text: str) -> bool:
    return 3 <= len(text.split()) <= 28 and text[-1:] in "?." and bool(_MINE.search(text))


def _value(told: str, asks: Sequence[str], message: str) -> str:
    """The longest run of words of `told` that were said, and that hardly a question uses."""
    if not asks:
        return ""
    used = Counter(w for a in asks for w in set(spoken(a)))
    said = set(spoken(message))
    tokens = _SPECIFIC.findall(told)
    free = [
        bool(ws := spoken(t)) and all(used[w] <= 0.25 * len(asks) and w in said and w not in LIGHT for w in ws)
        for t in tokens
    ]
    best: tuple[int, int, int] = (0, 0, 0)
    start = None
    for i, ok in enumerate([*free, False]):
        between = i + 1 < len(free) and free[i + 1] and tokens[i].lower() in ("of", "the", "and")
        joins = not ok and start is not None and between
        if ok and start is None:
            start = i
        elif not ok and not joins and start is not None:
            weight = sum(2 + 3 * _specific(t.lower()) for t in tokens[start:i])
            best = max(best, (weight, -start, i))
            start = None
    weight, minus_start, end = best
    return " ".join(tokens[-minus_start:end]) if weight else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """One message of the writer's lessons: what somebody says, and what it tells."""

    say: str
    tell: str | None
    ask: tuple[str, ...]


@cache
def tellings() -> tuple[Telling, ...]:
    """The writer's lessons; their questions are, for everybody else, about what was never told."""
    text = resources.files("consolidation").joinpath("texts", "tellings.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return tuple(Telling(say=r["say"], tell=r["tell"], ask=tuple(r.get("ask", ()))) for r in rows)
