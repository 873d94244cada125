"""What a turn leaves in memory: both sides of it, with what was measured while the model read.

No model is called for it: the surprise comes from the prefill that the turn needed anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from memory.binding import Binder
from memory.experience import Offer, Provenance
from memory.experiences import Experiences
from memory.recall import Recall
from memory.salience import Observation, Raw, Salience, observe


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What it takes to remember."""

    experiences: Experiences
    recall: Recall
    binder: Binder


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Both sides of a turn, as they were written down."""

    said: str
    said_message: str
    replied: str | None
    """None: nothing was said in reply, or not to its end."""
    replied_message: str | None
    session: str
    turn: str
    at: datetime


def offers(exchange: Exchange, raw: Raw | None, tokens: int) -> list[Offer]:
    """What a turn offers to memory."""
    asked = Offer(
        id=exchange.said_message,
        text=exchange.said,
        at=exchange.at,
        provenance=Provenance(
            session=exchange.session, channel="chat", message=exchange.said_message, turn=exchange.turn
        ),
        raw=raw,
        tokens=tokens,
    )
    if not exchange.replied or exchange.replied_message is None:
        return [asked]
    answered = Offer(
        id=exchange.replied_message,
        text=exchange.replied,
        at=exchange.at,
        provenance=Provenance(
            speaker="assistant",
            author="model",
            session=exchange.session,
            channel="chat",
            message=exchange.replied_message,
            turn=exchange.turn,
        ),
    )
    return [asked, answered]


def appraise(
    memory: Memory, said: str, surprisals: Sequence[float], *, owner: str
) -> tuple[Raw | None, Salience | None]:
    """The raw values of what was said, and how salient it is for now: feedback and newer context may still move it.

    (None, None) until the model's scale is known.
    """
    strangest = memory.binder.strangest
    if strangest is None:
        return None, None
    seen = Observation(text=said, surprisals=tuple(surprisals) or None, similarity=None)
    raw = observe(seen, strangest=strangest)
    return raw, memory.binder.preview(said, raw, owner=owner)
