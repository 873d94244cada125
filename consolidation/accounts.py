"""Pure: what is said of each of a message's facts: all that the message told beside it, in a few sentences.

Who tells of the new husband that he comes from Zanzibar tells two things at once, that the aunt has married again and
where he comes from, and whoever asks for either may be understood as asking for the other. So they are answered alike:
what the message told, if that is short. A sentence that says nothing which another does not say is left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from consolidation.english import sentence
from consolidation.facts import Fact
from consolidation.notes import said_in

_DENIES = re.compile(r"\b(?:no|not|never|without)\b|n['’]t\b")
_WORDS = 20
"""Of an account, at most, unless one sentence alone has more: an entry says no more than some thirty tokens well."""


def accounts(facts: Sequence[Fact]) -> list[str]:
    """What is said of each of these, which one message told, in this order."""
    said = list(dict.fromkeys(fact.statement for fact in facts))
    left = [one for n, one in enumerate(said) if not any(_adds_nothing(one, n, *other) for other in enumerate(said))]
    packed: list[list[str]] = []
    for statement in left:
        if packed and len(" ".join([*packed[-1], statement]).split()) <= _WORDS:
            packed[-1].append(statement)
        else:
            packed.append([statement])
    return [_of(fact, packed) for fact in facts]


def _adds_nothing(one: str, n: int, m: int, other: str) -> bool:
    """Whether another sentence says all that one says; of two that say the same the first stays."""
    return n != m and _says(other, one) and (m < n or not _says(one, other))


def _says(whole: str, one: str) -> bool:
    """Whether a sentence says what one says, in its words, and denies no more."""
    return said_in(one, whole) and len(_DENIES.findall(one.lower())) == len(_DENIES.findall(whole.lower()))


def _of(fact: Fact, packed: Sequence[Sequence[str]]) -> str:
    own = next((one for one in packed if fact.statement in one), None)  # if it was left out: where another says it
    whole = own or next(one for one in packed if any(_says(other, fact.statement) for other in one))
    return " ".join(sentence(statement) for statement in whole)
