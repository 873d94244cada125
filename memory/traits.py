"""Pure: what recall needs to know of a text besides its words, packed into one integer.

A memory that answers "when" tends to name a time, one that answers "how many" a number. What people say of themselves
answers more than what they ask. Each was kept because recall on the development conversations is worse without it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.words import named, words

_TIME = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|last|next|ago|week|weekend|month|year|(mon|tues|wednes|thurs|fri|satur|sun)day|"
    r"january|february|march|april|may|june|july|august|september|october|november|december|since|recently|just|soon|"
    r"\d+)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"\b(\d+|one|two|three|four|five|six|seven|eight|nine|ten|several|couple|few|many|first|second|third)\b",
    re.IGNORECASE,
)
_FIRST_PERSON = re.compile(r"\b(I|my|we|our|I'm|I've|we're|me|us)\b", re.IGNORECASE)
_ASKS_WHEN = re.compile(
    r"^\s*(when|what (day|date|month|year|time)|how long|since when|which (year|month|day))\b", re.IGNORECASE
)
_ASKS_HOW_MANY = re.compile(r"\bhow (many|much|old|often)\b", re.IGNORECASE)
_ASKS_WHO = re.compile(r"\b(who|which|where|names?)\b", re.IGNORECASE)
_MOST_WORDS = 40


def traits_of(text: str) -> int:
    """Bits 0 time, 1 number, 2 first person, 3 question, 4-5 names (3 at most), 8-13 words (40 at most)."""
    return (
        bool(_TIME.search(text))
        | bool(_NUMBER.search(text)) << 1
        | bool(_FIRST_PERSON.search(text)) << 2
        | ("?" in text) << 3
        | min(3, len(set(named(text)))) << 4
        | min(_MOST_WORDS, len(words(text))) << 8
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What kind of answer a question asks for."""

    time: bool
    number: bool
    name: bool

    @classmethod
    def by(cls, query: str) -> Wanted:
        """Read off the question's words."""
        return cls(bool(_ASKS_WHEN.search(query)), bool(_ASKS_HOW_MANY.search(query)), bool(_ASKS_WHO.search(query)))


def answering(traits: NDArray[np.int32], wanted: Wanted) -> NDArray[np.float32]:
    """How well each text's kind fits the kind of answer wanted, in [0, 1]."""
    time = (traits & 1) * wanted.time
    number = (traits >> 1 & 1) * wanted.number
    name = (traits >> 4 & 3) / 3 * wanted.name
    return np.asarray(np.clip(time + number + name, 0.0, 1.0), np.float32)


def stating(traits: NDArray[np.int32]) -> NDArray[np.float32]:
    """1 for what somebody says of themselves, less 1 for questions."""
    return np.asarray((traits >> 2 & 1) - (traits >> 3 & 1), np.float32)


def lengths(traits: NDArray[np.int32]) -> NDArray[np.float32]:
    """ln(1 + words) / ln(1 + 40), in [0, 1]: greetings hold little."""
    return np.asarray(np.log1p(traits >> 8) / np.log1p(_MOST_WORDS), np.float32)
