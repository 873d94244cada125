"""Every way in which the agent can refuse, one tree.

AgentError
├── SessionBusy           another turn is being taken in this session
├── HistoryMismatch       the messages sent do not continue the session named
├── InvalidTurn           a turn that cannot be taken as asked
├── NothingUnfinished     no reply in this session waits to go on
├── CheckpointRefused     a file that is not taken in, or cannot be made as asked
├── UnknownVariable       a persona variable that there is not, or a value that none has
├── ReservoirRefused      a reservoir, or a state of one, that cannot carry a mood
├── TurnInProgress        the same idempotency key is being served right now
└── IdempotencyConflict   the same idempotency key came with another request
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of this package's errors."""


class SessionBusy(AgentError):
    """Another turn is being taken in this session."""


class HistoryMismatch(AgentError):
    """The messages sent do not continue the session named."""


class InvalidTurn(AgentError):
    """A turn that cannot be taken as asked."""


class NothingUnfinished(AgentError):
    """No reply in this session waits to go on."""


class UnknownVariable(AgentError):
    """A persona variable that there is not, or a value that none has."""


class CheckpointRefused(AgentError):
    """A file that is not taken in, or cannot be made as asked. `param`: what in the request is wrong, if that is it."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class TurnInProgress(AgentError):
    """The same idempotency key is being served right now."""


class IdempotencyConflict(AgentError):
    """The same idempotency key came with another request."""


class ReservoirRefused(AgentError):
    """A reservoir or a state of one that cannot carry a mood."""
