"""Which sessions stay in memory, which go to disk, and which of those are let go: nobody has to ask for it.

A session that nobody has talked in for a while gives its memory back by way of a file; so do all at a shutdown, as far
as time allows. What is on disk has a budget. Whatever is let go is only what was read: the transcript stays.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from agent.checkpoint import Checkpoints, bytes_of
from agent.errors import SessionBusy
from agent.session import SessionLeases
from memory.errors import MemoryFault, SessionNotFound
from models.errors import ModelError

log = logging.getLogger("slowwave.keeping")

HALF_LIFE = timedelta(days=2)
"""Of the chance that somebody comes back to a session; a guess, and only an order follows from it."""
_RECENT = timedelta(days=2)
_MOST = 200
"""Sessions looked at: those changed last. The others' states have long been pushed out of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One state on disk."""

    session: str
    owner: str
    nbytes: int
    tokens: int
    age: timedelta
    """Since somebody talked in it."""


def worth(kept: Kept) -> float:
    """Tokens that need not be read again, times the chance that they would be, a byte."""
    return kept.tokens * math.exp2(-(kept.age / HALF_LIFE)) / max(kept.nbytes, 1)


def let_go(kept: Sequence[Kept], *, budget: int) -> list[Kept]:
    """Those whose worth is least, until the rest fits. Pure."""
    total, gone = sum(k.nbytes for k in kept), []
    for one in sorted(kept, key=worth):
        if total <= budget:
            break
        total -= one.nbytes
        gone.append(one)
    return gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Looks after the states of one service."""

    checkpoints: Checkpoints
    leases: SessionLeases
    idle: timedelta
    """Zero: sessions stay in memory until others need it."""
    budget: int
    """Bytes on disk."""

    def look(self) -> None:
        """Suspend what nobody talks in, and keep within the budget."""
        now = self.checkpoints.now()
        if self.idle and self.checkpoints.engine.alive:
            quiet = [
                (session, owner)
                for session, owner, changed in self.checkpoints.transcripts.changed_since(now - _RECENT, limit=_MOST)
                if now - changed >= self.idle
            ]
            self._suspend(quiet)
        self.keep_within_budget()

    def suspend_all(self, *, seconds: float) -> None:
        """At a shutdown: those talked in last first, for so long."""
        since = self.checkpoints.now() - _RECENT
        recent = self.checkpoints.transcripts.changed_since(since, limit=_MOST)
        self._suspend([(session, owner) for session, owner, _ in recent], until=time.monotonic() + seconds)

    def keep_within_budget(self) -> None:
        """Let go of the states on disk that are worth least, until the rest fits."""
        for one in let_go(self._kept(), budget=self.budget):
            try:
                with self.leases.hold(one.session, patience=0.0):
                    self.checkpoints.evict(one.session, owner=one.owner)
            except SessionBusy:
                continue

    def _suspend(self, sessions: Sequence[tuple[str, str]], *, until: float | None = None) -> None:
        for session, owner in sessions:
            if until is not None and time.monotonic() > until:
                return
            if not self.checkpoints.engine.stats().states_at_rest:
                return
            try:
                with self.leases.hold(session, patience=0.0):
                    if not self.checkpoints.suspended(session, owner=owner):
                        self.checkpoints.suspend(session, owner=owner)
            except (SessionBusy, SessionNotFound):
                continue
            except (OSError, ModelError, MemoryFault) as error:
                log.warning("not_suspended: %s: %s", session, error)
                return

    def _kept(self) -> list[Kept]:
        now, found = self.checkpoints.now(), []
        found_here = ((p.stem, bytes_of(p)) for p in self.checkpoints.folder.glob("*/*.state"))
        sizes = {session: nbytes for session, nbytes in found_here if nbytes is not None}
        if sum(sizes.values()) <= self.budget:
            return []
        per_token = max(self.checkpoints.engine.model.card.state_bytes_per_token, 1)
        for session, owner, changed in self.checkpoints.transcripts.changed_since(datetime.min, limit=1 << 31):
            if session in sizes:
                nbytes = sizes[session]
                found.append(
                    Kept(session=session, owner=owner, nbytes=nbytes, tokens=nbytes // per_token, age=now - changed)
                )
        return found
