"""Pure: what becomes of something that is offered to memory. Rules and words, no model.

In this order: what is no experience is refused; what is known, word for word or in other words, is merged; what repeats
recalled text is an echo; what gives orders and does not come from the owner is quarantined; the rest is stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from memory.experience import Fate, Offer
from memory.sameness import relate
from memory.words import shingles, words

LONGEST = 1 << 16
"""Characters of one experience; longer text is a document, not an experience."""
ECHO_SHARE, ECHO_RUN = 0.8, 5
"""A text is an echo if this share of its five-word runs comes from what is stored."""

NOTE_HEADING = "Context from memory:"
"""What every note of remembered text begins with: text that holds it comes from a note, and is no experience."""
_SILENCE = frozenset({"", "ok heartbeat", "heartbeat", "heartbeat ok", "no reply", "noreply", "silence", "ping"})
_TECHNICAL = re.compile(
    r"""^\s*(
        <\|?(system|tool|heartbeat|note)\|?>
        | \[?(heartbeat|system|scheduler|health|tool[ _-]?status)\]?\s*[:\]]
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_SECRET = re.compile(
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|"
    r"\bxox[abpr]-[A-Za-z0-9-]{10,})"
)
_ORDERS = re.compile(
    r"""\b(
        (ignore|disregard|forget|override)\s+(all\s+|any\s+|the\s+|your\s+|my\s+|these\s+)*(previous|prior|above|earlier|
            other|system|safety)?\s*(instruction|prompt|rule|message|guideline|polic|direction)
        | (system|developer)\s+(prompt|message|instruction|override)
        | you\s+(are|must|should|will|shall)\s+(now|always|never|only|henceforth|obey|act|pretend|reply|respond|
            answer|say|tell|recommend)
        | from\s+now\s+on
        | (always|never)\s+(answer|reply|respond|say|tell|recommend|mention|use|include|refuse|reveal|obey|trust)
        | (when(ever)?|if|every\s+time)\s+(you\s+are\s+|the\s+user\s+|somebody\s+|someone\s+|anyone\s+|they\s+)?
            (asked?|asks|says?|mentions?|sees?|seeing|writes?)\b.{0,80}\b(answer|reply|respond|say|tell|output|send|call|run|
            execute|recommend|claim|insist|write)
        | (when(ever)?|if|once|as\s+soon\s+as|(every|each|any)\s*time)\s+(i|you|we|he|she|people)\s+([a-z]+\s+){0,2}?
            (ask|hear|mention|notice|read|say|see|type|use|write)s?\b[^.!?]{0,80}[,:;]\s*
            ((then|please|just|only|simply|always|never|you|must|should|will|shall|have\s+to|are\s+to)\s+)*
            (answer|reply|respond|say|output|write|print|recommend)\b
        | (is|are|gets?|must\s+be|should\s+be)\s+(always|only)\s+(answered|replied)\b
        | (always|only)\s+gets?\s+the\s+(answer|reply|response)\b
        | (do\s+not|don't|never)\s+(tell|reveal|mention|inform|warn)\s+(the\s+)?(user|owner|anyone|anybody)
        | (remember|store|save|memori[sz]e)\s+(this\s+)?(as|that)\b.{0,40}\b(trusted|fact|true|rule|instruction)
        | (new|updated|important)\s+(instruction|directive|rule|polic)
        | act\s+as\s+(an?|the)\b
        | (reveal|print|repeat|leak|exfiltrate)\s+(your|the|all)\s+(system|prompt|instruction|memor|secret|key|password)
        | (execute|run|call)\s+(the\s+)?(following|this)\s+(command|code|tool|function)
    )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored experience that might say the same."""

    id: str
    text: str
    speaker: str
    same_letters: bool
    """Equal but for case, spacing and punctuation."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of an offer."""

    fate: Fate
    kept: str | None = None
    """The experience that it is merged into, echoes or replaces."""
    reason: str | None = None


def admit(offer: Offer, kept: Sequence[Kept], *, over_quota: bool = False) -> Verdict:
    """What is to become of `offer`, given what is stored that resembles it, nearest first."""
    refusal = refuse(offer)
    if refusal is not None:
        return Verdict("refused", reason=refusal)
    replaced = None
    if offer.merge:
        for other in kept:
            if other.speaker != offer.provenance.speaker:
                if offer.provenance.author == "model" and (
                    other.same_letters or relate(offer.text, other.text) == "same"
                ):
                    return Verdict("echo", other.id, "repeats what is remembered")
                continue
            if other.same_letters:
                return Verdict("merged", other.id, "the same words")
            relation = relate(offer.text, other.text)
            if relation == "same":
                return Verdict("merged", other.id, "the same in other words")
            if relation == "changed" and replaced is None:
                replaced = other.id
        if echoes(offer.text, [other.text for other in kept]):
            return Verdict("echo", kept[0].id, "repeats what is remembered")
    if over_quota:
        return Verdict("refused", reason=f"too much from {offer.provenance.entity!r} today")
    orders = (
        None
        if offer.provenance.author == "user" and offer.provenance.channel in ("chat", "taught")
        else (order_in(offer.text))
    )
    if orders is not None:
        return Verdict("quarantined", reason=f"gives orders ({orders!r}) and does not come from you")
    return Verdict("replaced" if replaced else "stored", replaced)


def refuse(offer: Offer) -> str | None:
    """Why an offer is no experience at all, or None."""
    said = " ".join(words(offer.text))
    if said in _SILENCE and offer.provenance.channel != "import":
        return "nothing is said in it"
    if not said and not offer.text.strip():
        return "it is empty"
    if NOTE_HEADING in offer.text:
        return "it repeats a note of what was remembered"
    if _TECHNICAL.match(offer.text):
        return "it is the machinery's own text"
    if _SECRET.search(offer.text):
        return "it holds a key or a password token"
    if len(offer.text) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    return None


def order_in(text: str) -> str | None:
    """The first words of `text` that are shaped like an order to the agent, or None."""
    found = _ORDERS.search(text)
    return " ".join(found.group().split())[:60] if found else None


def echoes(text: str, remembered: Sequence[str]) -> bool:
    """Whether most of `text`, by runs of five words, stands in what is remembered."""
    runs = shingles(text, ECHO_RUN)
    if not remembered or len(words(text)) < ECHO_RUN:
        return False
    known = set().union(*(shingles(other, ECHO_RUN) for other in remembered))
    return len(runs & known) >= ECHO_SHARE * len(runs)
