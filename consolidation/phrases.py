"""Pure: the phrases that follow a verb, and the words in which their times and places are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from consolidation.english import PREPOSITIONS, RELATIVE_TIME, is_number
from consolidation.relations import Ask

Asked = tuple[str, str, tuple[Ask, ...]]
"""The verb with the place of what is asked, the value that answers, the questions."""
WHERE = frozenset(
    """
    in at on near under behind by over around beside next inside outside across above below between into opposite
    through along round
    """.split()
)
"""Prepositions of places."""


def bare(value: str) -> str:
    """A time or place without its preposition."""
    return re.sub(r"^(on|in|at) ", "", value)


def phrases_of(tail: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The object, with '' before it, and each phrase with its preposition."""
    phrases: list[tuple[str, list[str]]] = []
    for i, word in enumerate(tail):
        lowered = word.lower()
        if lowered == "when" and phrases:
            phrases.append(("~", list(tail[i:])))
            break
        if word in (",", ";"):
            continue
        if is_number(word) and _lowered_at(tail, i + 2) == "ago":
            phrases.append(("~", list(tail[i:])))
            break
        if lowered == "every":
            phrases.append(("every", [word]))
        elif lowered in PREPOSITIONS and lowered != "of" and i + 1 < len(tail):
            phrases.append((lowered, []))
        elif lowered in RELATIVE_TIME and phrases and phrases[-1][1]:
            phrases.append(("~", [word]))
        else:
            if not phrases:
                phrases.append(("", []))
            phrases[-1][1].append(word)
    return phrases


def _lowered_at(words: Sequence[str], i: int) -> str:
    return words[i].lower() if i < len(words) else ""


def without_phrase(subject: str) -> str:
    """my flight, of my flight to Lisbon."""
    words = subject.split()
    cut = next((i for i, w in enumerate(words) if i > 1 and w.lower() in PREPOSITIONS and w.lower() != "of"), 0)
    return " ".join(words[:cut])


def times(answer: str) -> list[str]:
    """What else than "when" a time is asked for by."""
    if re.search(r"\b(19|20)\d\d\b", answer):
        return ["in what year", "in which year"]
    if re.search(r"\d[:.]\d\d|o'clock|\d ?[ap]m", answer, re.IGNORECASE):
        return ["at what time", "what time"]
    return ["on which day", "what day"]
