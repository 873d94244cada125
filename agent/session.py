"""Which session a turn belongs to, and the rule that one turn at a time is taken in it.

A client may name its session, or resend its history and be recognised by it. A history that goes on from the middle
of a session (an edited question, a reply asked for again) becomes a fork of it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from agent.errors import HistoryMismatch, SessionBusy
from agent.prompt import Window, window_of
from memory.transcripts import EMPTY_CHAIN, Transcripts, chain
from models.language import Message

PATIENCE = 5.0
"""Seconds to wait for a turn that is ending: who stops a reply and asks again at once should not be refused."""


MOST_WAITING = 4
"""Turns that may wait for the same session: each holds a thread meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Where a turn will be written, and what stands there already."""

    session: str | None
    """None: a session is made with the turn."""
    fork_of: tuple[str, int] | None = None
    window: Window
    tokenizer: str | None
    """The digest that the window's token ids belong to; None for an empty window."""
    new: tuple[Message, ...]


class SessionLeases:
    """Who is taking a turn where. In memory: one process owns the data directory, and leases end with it."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._waiting: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, session: str, *, patience: float = PATIENCE) -> Iterator[None]:
        """Be the only one to write in `session`, after `patience` seconds at most.

        Raises:
            SessionBusy: somebody else still is.
        """
        with self._changed:
            if session in self._held and self._waiting[session] >= MOST_WAITING:
                raise SessionBusy(f"several turns are waiting in session {session!r} already")
            self._waiting[session] += 1
            try:
                free = self._changed.wait_for(lambda: session not in self._held, patience)
            finally:
                self._waiting -= Counter({session: 1})
            if not free:
                raise SessionBusy(f"another turn is being taken in session {session!r}; wait for its reply")
            self._held.add(session)
        try:
            yield
        finally:
            with self._changed:
                self._held.discard(session)
                self._changed.notify_all()


def chains_of(messages: Sequence[Message]) -> list[bytes]:
    """The chain digest after each message."""
    digests, last = [], EMPTY_CHAIN
    for message in messages:
        last = chain(last, message.role, message.content)
        digests.append(last)
    return digests


def open_named(transcripts: Transcripts, session: str, messages: Sequence[Message], *, owner: str) -> Opening:
    """Open the session named. `messages` are new ones, or the whole history with new ones at its end.

    Raises:
        SessionNotFound: no such session, or another owner's.
        HistoryMismatch: they carry a history that is not this session's.
    """
    row = transcripts.session(session, owner=owner)
    entries = transcripts.entries(session)
    told = [e for e in entries if e.spoken]
    resent = chains_of(messages)
    if told and row.head in resent:
        new = messages[resent.index(row.head) + 1 :]
    elif any(m.role in ("assistant", "system") for m in messages) and told:
        raise HistoryMismatch(
            f"the messages do not continue session {session!r}: send its whole history, or the new messages alone"
        )
    else:
        new = messages
    return Opening(session=session, window=window_of(entries), tokenizer=row.tokenizer, new=tuple(new))


def open_by_history(
    transcripts: Transcripts, messages: Sequence[Message], *, owner: str, in_place: bool = True
) -> Opening:
    """Open the session whose transcript is the longest prefix of `messages`.

    `in_place` false: fork it even where it could be continued (somebody else is continuing it).
    """
    match = transcripts.match(chains_of(messages[:-1]), owner=owner)
    # What holds no reply yet is nobody's history: a session that only has its system message may be another's.
    if match is None or all(m.role != "assistant" for m in messages[: match.messages]):
        return Opening(session=None, window=Window(), tokenizer=None, new=tuple(messages))
    row = transcripts.session(match.session, owner=owner)
    entries = transcripts.entries(match.session)
    new = tuple(messages[match.messages :])
    if match.at_head and in_place:
        return Opening(session=match.session, window=window_of(entries), tokenizer=row.tokenizer, new=new)
    window = window_of(entries[: match.position + 1])
    if any(e.role == "compaction" for e in entries[match.position + 1 :]):
        window = replace(window, encoded=False)  # the ids before a break may be another tokenizer's
    return Opening(
        session=None,
        fork_of=(match.session, match.position),
        window=window,
        tokenizer=row.tokenizer,
        new=new,
    )
