"""Pure: whether what is remembered could answer a personal question. The store is the authority, not the weights.

An adapter that was taught somebody's dog may answer with it wherever a dog is asked for. So a question about oneself or
one's own is answered with the adapter only where something that was told could answer it: a memory to the point, or a
fact that the adapter was taught, which speaks of the same people and animals as the question does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.recollection import asks
from memory.kin import kin
from memory.words import content_words

_MINE = re.compile(r"\b(my|mine|our|ours|i|i'm|i've|me|we|us)\b", re.IGNORECASE)
_COMMON = frozenset(
    "called name named remember tell know told say said call go get like long old many much kind".split()
)


def personal(said: str) -> bool:
    """Whether something is asked about whoever asks."""
    return asks(said) and bool(_MINE.search(said.replace("’", "'")))


def supported(question: str, told: Sequence[str], taught: Sequence[str]) -> bool:
    """Whether a memory to the point (`told`), or a fact that the adapter was `taught`, could answer a question."""
    about = kin(question)
    if about:
        return any(about <= kin(text) for text in (*told, *taught))
    asked = set(_stems(question))
    return bool(told) or any(asked & set(_stems(fact)) for fact in taught)


def _stems(text: str) -> list[str]:
    return [word.removesuffix("'s").rstrip("s") for word in content_words(text) if word not in _COMMON]
