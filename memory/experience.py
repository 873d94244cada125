"""The nouns of memory: an experience, where it comes from, and what became of one that was offered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from memory.salience import Raw, Salience

Channel = Literal["chat", "taught", "import", "tool"]
Author = Literal["user", "model", "other"]
USER = "user"
"""The speaker of what the owner says, where no name is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an experience comes from."""

    speaker: str = USER
    session: str | None = None
    channel: Channel
    author: Author = "user"
    """`model`: the agent said it; `other`: neither the agent nor its owner."""
    message: str | None = None
    """The transcript's entry that holds it."""
    turn: str | None = None

    @property
    def entity(self) -> str:
        """Who is believed or not when it is believed or not."""
        return self.speaker if self.author == "user" else f"{self.author}:{self.speaker}"

    @property
    def source(self) -> str:
        """The entity by the channel that it came through."""
        return f"{self.entity}/{self.channel}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that may become an experience."""

    id: str
    text: str
    at: datetime
    provenance: Provenance
    merge: bool = True
    """Whether it may become one with an experience that says the same. Turns of an imported conversation may not:
    their ids are addresses."""
    raw: Raw | None = None
    """What was measured while a model read it; novelty, reward and conflict come later."""
    tokens: int = 0


Fate = Literal["stored", "known", "merged", "replaced", "quarantined", "echo", "refused"]
"""`known`: the event was taken before. `merged`: it says what a kept experience says. `replaced`: stored, and an older
experience gave way. `echo`: it repeats what was recalled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an offer."""

    fate: Fate
    id: str | None
    """The experience that holds it now; None: none does."""
    reason: str | None = None
    replaced: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One row of the verbatim store. Text and provenance never change."""

    n: int
    id: str
    text: str
    at: datetime
    provenance: Provenance
    recorded_at: datetime
    copies: int
    """How often it was said, in these words or others."""
    pinned: bool
    private: bool
    """It may be recalled, and no night may learn it."""
    quarantined: str | None
    superseded_by: str | None
    salience: Salience | None
    """None: not scored yet."""
    accesses: int
    accessed_at: datetime | None
