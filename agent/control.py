"""The hold on turns that other threads are taking: to cancel them, or to suspend them between two tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import SessionBusy
from models.generation import Generation


class TurnControl:
    """The caller's hold on a turn that it has handed to another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generation: Generation | None = None
        self._firm = False
        self._cancelled = self._suspended = False

    def cancel(self) -> None:
        """End the reply before its next token, or before its first."""
        with self._lock:
            self._cancelled = True
            self._stop()

    @property
    def cancelled(self) -> bool:
        """Whether somebody has called the turn off."""
        return self._cancelled

    def suspend(self) -> None:
        """The same, for it to go on later. A reply that may still be withheld is heard out first, some 32 tokens."""
        with self._lock:
            self._suspended = True
            self._stop()

    def bind(self, generation: Generation, *, firm: bool = True) -> None:
        """Let `cancel` and `suspend` reach the reply; `firm`: it will not be withheld."""
        with self._lock:
            self._generation, self._firm = generation, firm
            self._stop()

    def settle(self) -> None:
        """The reply is firm now."""
        with self._lock:
            self._firm = True
            self._stop()

    def _stop(self) -> None:
        if self._generation is None:
            return
        if self._cancelled:
            self._generation.stop("cancelled")
        elif self._suspended and self._firm:
            self._generation.stop("suspended")


class RunningTurns:
    """Whose turn is being taken in which session. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turns: dict[str, tuple[str, TurnControl]] = {}

    @contextmanager
    def taking(self, session: str, owner: str, control: TurnControl) -> Iterator[None]:
        """A turn, until it is written down."""
        with self._changed:
            self._turns[session] = (owner, control)
        try:
            yield
        finally:
            with self._changed:
                del self._turns[session]
                self._changed.notify_all()

    def suspend(self, session: str, *, owner: str, patience: float) -> bool:
        """Suspend the turn that is being taken in a session, and wait until it is written down.

        Returns whether there was one.

        Raises:
            SessionBusy: not within `patience` seconds.
        """
        with self._changed:
            found = self._turns.get(session)
            if found is None or found[0] != owner:
                return False
            found[1].suspend()
            if not self._changed.wait_for(lambda: self._turns.get(session) is not found, patience):
                raise SessionBusy(f"the reply in session {session!r} has not come to a stop yet; try again")
            return True
