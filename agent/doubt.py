"""Pure: whether a reply to a question about oneself is known or guessed.

What a model knows it says again; what it guesses it guesses otherwise the next time (SelfCheckGPT, Manakul et al.
2023). So a reply that gives a personal fact is compared with further drafts of it, drawn at a temperature. Where they
part, or are unlikely each by itself, it is withheld, and one says that one does not know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from agent.abstention import personal
from memory.not_told import abstains
from memory.words import content_words, fingerprint
from models.language import Message

LENGTH = 32
"""Tokens of each draft; answers are shorter."""
TEMPERATURE = 0.7
THRESHOLD = 0.25
"""Least confidence of what is shown. Chosen on bench/nights/development.json with the default model, where it withheld
one in ten of what was right before a night and none after one (docs/persona.md); untested on other models."""
THRESHOLD_SUPPORTED, SUPPORT = 0.12, 0.5
"""The same of a reply that a memory in the note supports, and the share of its words that the memory must hold. Chosen
on the same questions and those of bench/nights/week.json: of what was right before a night .14 is withheld in place of
.30, and of what was never told .17 is answered in place of .14; after a night .05 in place of .06, and no more."""
MOST_SILENCES = 3
"""So many replies may be withheld in a row; the next is given as a guess, lest silence become a habit."""
UNKNOWN = "I don't know that. You haven't told me, or I'm not sure enough of it to say. What is it?"
UNSURE = "I'm not sure, but this is my guess:"

Decision = Literal["said", "withheld", "guessed"]

_ASKS_FOR_A_FACT = re.compile(
    r"\b(who|who's|whose|whom|what|what's|which|where|where's|when|when's"
    r"|how (old|many|much|long|far|tall|big|often|fast|late|early))\b"
    r"|^\W*(tell|remind) me\b",
    re.IGNORECASE,
)
_ASKS_FOR_ADVICE = re.compile(
    r"\b(should|shall|could|would|can|why|how (do|to|can)|help|tips?|advice|advise me|suggest|recommend|ideas?"
    r"|write|explain|translate|(good|polite|easy|quick|cheap|nice) \w+|ways?|need(ed)?|if|story|poem|joke)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """What came of comparing a reply with drafts of it."""

    agreement: float
    """0 to 1, see `agreement`."""
    entropy: float
    """Of the drafts, in nats a token: the mean of -ln P of what they drew, length-normalised."""
    drafts: int
    """Beside the reply."""
    decision: Decision

    @property
    def confidence(self) -> float:
        """0 to 1, what is held against `THRESHOLD`; see `confidence`."""
        return confidence(self.agreement, self.entropy)


def confidence(agreed: float, entropy: float) -> float:
    """Agreement, less where the drafts are unlikely: drafts that agree on what is guessed are told apart by that."""
    return agreed * math.exp(-entropy / 2)


def asks_for_fact(said: str) -> bool:
    """Whether a fact about whoever asks is asked for, rather than advice that concerns them."""
    plain = said.replace("’", "'")
    return personal(plain) and bool(_ASKS_FOR_A_FACT.search(plain)) and not _ASKS_FOR_ADVICE.search(plain)


def agreement(question: str, drafts: Sequence[str]) -> float:
    """How far drafts say the same: the mean, over all pairs, of the overlap coefficient of their content words.

    The question's own words do not count, since every draft repeats them. One draft agrees with itself.
    """
    asked = set(content_words(question))
    said = [frozenset(content_words(draft)) - asked for draft in drafts]
    overlaps = [_overlap(a, b) for a, b in combinations(said, 2)]
    return sum(overlaps) / len(overlaps) if overlaps else 1.0


def supported(question: str, reply: str, memories: Sequence[str]) -> bool:
    """Whether one memory holds most of what a reply adds to its question: then it is read, and not made up.

    Drafts drawn at a temperature differ where a small model reads, too.
    """
    added = set(content_words(reply)) - set(content_words(question))
    return bool(added) and any(len(added & set(content_words(m))) >= SUPPORT * len(added) for m in memories)


def threshold(question: str, reply: str, memories: Sequence[str]) -> float:
    """Least confidence of a reply that is shown."""
    return THRESHOLD_SUPPORTED if supported(question, reply, memories) else THRESHOLD


def needs_drafts(reply: str) -> bool:
    """Whether a reply claims something: one that says that it does not know is taken at its word."""
    return not abstains(reply)


def silence_is_due(said: str, before: Sequence[Message]) -> bool:
    """Whether a guess may be withheld, after these messages: not from one who asks again, nor time and again."""
    spoken = [m for m in before if m.role in ("user", "assistant")]
    if len(spoken) >= 2 and _withheld(spoken[-1]) and fingerprint(spoken[-2].content) == fingerprint(said):
        return False
    latest = [m for m in spoken if m.role == "assistant"][-MOST_SILENCES:]
    return len(latest) < MOST_SILENCES or not all(map(_withheld, latest))


def _withheld(message: Message) -> bool:
    return message.role == "assistant" and message.content.strip() == UNKNOWN


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Szymkiewicz-Simpson: what two sets share of the smaller one."""
    if not a or not b:
        return float(a == b)
    return len(a & b) / min(len(a), len(b))
