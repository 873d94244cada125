"""Pure: the same question in other words. By a list of words that stand for each other, and no model.

Used alike for what was told and for what was not, so that a rare word is no sign of either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from random import Random

from consolidation.facts import Fact
from consolidation.relations import Ask
from memory.words import content_words

_MOST = 6
"""Other forms of one question."""


@cache
def _groups() -> dict[str, tuple[str, ...]]:
    text = resources.files("consolidation").joinpath("texts", "synonyms.txt").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if line and not line.startswith("#")]
    return {first: tuple(others) for first, *others in lines}


@cache
def _known() -> re.Pattern[str]:
    words = sorted(_groups(), key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")


def in_other_words(asks: Sequence[Ask], *, but: Sequence[str] = ()) -> list[Ask]:
    """Each question with a word exchanged for another; never one of `but`: what others are called in this talk."""
    made = [other for ask in asks for other in _others(ask) if not any(word in other.embedded for word in but)]
    return list(dict.fromkeys(made))


def reworded(question: str, random: Random, *, but: Sequence[str] = ()) -> str:
    """A whole question with one word exchanged for another, if it has any that the list knows; see `in_other_words`."""
    known = [found[1] for found in _known().finditer(question)]
    if not known:
        return question
    word = random.choice(known)
    made = _exchanged(question, word, random.choice(_groups()[word]))
    return question if any(other in made for other in but) else made


def _exchanged(text: str, word: str, other: str) -> str:
    pattern = rf"\bmy {re.escape(word)}\b" if other.startswith("my ") else rf"\b{re.escape(word)}\b"
    return re.sub(pattern, other, text)


def _others(ask: Ask) -> Iterator[Ask]:
    made = 0
    for found in _known().finditer(ask.embedded):
        for other in _groups()[found[1]]:
            if made == _MOST:
                return
            made += 1
            word = found[1]
            yield Ask(direct=_exchanged(ask.direct, word, other), embedded=_exchanged(ask.embedded, word, other))


def words_of(fact: Fact) -> str:
    """The words in which one may ask for a fact, once each."""
    asks = [f"{ask.direct} {ask.embedded}" for ask in (*fact.asks, *in_other_words(fact.asks))]
    return " ".join(sorted({word for ask in (*asks, *fact.written) for word in content_words(ask)}))


LIGHT = frozenset(
    """
    what which who whom whose where when how do does did is are was were am be been have has had i my me mine we our us
    you your the a an of to in on at for with from by that this it its he she they his her their can could would should
    will name called call remember tell know again kind sort one ever exactly say said told about and or not so as
    """.split()
)
"""Words that every question may have."""


def gist(question: str) -> frozenset[str]:
    """The words that a question is about; two of the same gist ask the same, however they are put."""
    words = re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", question.lower())
    return frozenset(w.removesuffix("'s") for w in words) - LIGHT
