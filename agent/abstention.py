"""Pure: who answers a personal question, and from what. The store is the authority, not the weights.

An adapter that was taught somebody's dog may answer with it wherever a dog is asked for. So while one serves, a
question about oneself or one's own is answered by heart only where it may ask for something that the adapter was taught
and the store still holds, and the reply gives no other fact than one that it may ask for; else from memories that the
adapter was not taught, by the base; else, if it asks for a fact, by nobody: the adapter may deny (speaking.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.recollection import asks
from memory.kin import kin
from memory.words import content_words, words

_MINE = re.compile(r"\b(my|mine|our|ours|i|i'm|i've|me|we|us)\b", re.IGNORECASE)
_COVERED = 0.25
"""Of a question's own words, the share that must be among those in which one asks for a fact. Few, since people ask in
words of their own, and the reply is looked at too."""
_SAYS_NOTHING = frozenset(
    """
    called call name named remember remind tell know told say said again please forget forgot happen wonder wondering
    still get got kind sort thing hi hey idea help need want like would could
    """.split()
)


@dataclass(frozen=True, slots=True)
class Taught:
    """A fact that an adapter knows."""

    memory: str
    """The memory that told it."""
    asked: frozenset[str]
    """The words in which one may ask for it."""
    value: frozenset[str] = frozenset()
    """The words that an answer with it holds; lower-cased."""


def personal(said: str) -> bool:
    """Whether something is asked about whoever asks."""
    return asks(said) and bool(_MINE.search(said.replace("’", "'")))


def known_by_heart(question: str, taught: Sequence[Taught]) -> bool:
    """Whether a question may ask for something that was taught: of the same people and animals, in words that fit."""
    return any(_fits(question, fact) for fact in taught)


def borne_out(question: str, reply: str, taught: Sequence[Taught]) -> bool:
    """Whether a reply by heart answers what was asked: what it gives of what was taught is what that may ask for."""
    given = gives(reply, taught)
    return not given or any(_fits(question, fact) for fact in given)


def gives(reply: str, taught: Sequence[Taught]) -> list[Taught]:
    """What a reply gives of what was taught."""
    said = frozenset(words(reply))
    return [fact for fact in taught if fact.value and fact.value <= said]


def could_answer(question: str, text: str) -> bool:
    """Whether a memory that was found for a question speaks of the same people and animals."""
    return kin(question) <= kin(text)


def _fits(question: str, fact: Taught) -> bool:
    about, asked = kin(question), _own_words(question)
    same = about <= kin(" ".join(fact.asked)) and (bool(asked) or bool(about))
    return same and len(asked & _stems(fact.asked)) >= _COVERED * len(asked)


def _own_words(question: str) -> frozenset[str]:
    """What a question asks for, beside of whom."""
    return _stems(w for w in content_words(question) if w not in _SAYS_NOTHING and not kin(w))


def _stems(words: Iterable[str]) -> frozenset[str]:
    return frozenset(word.removesuffix("'s").rstrip("s") for word in words)
