"""What is asked of the engine and what comes back: a prompt, its pieces, its reply, and the hold on it meanwhile."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from models.errors import ModelError
from models.language import BASE, FinishReason
from models.sampling import Choice, Sampling
from models.steering import Steering


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What to reply to, and how."""

    token_ids: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    reply: Sequence[int] = ()
    """What has been written of the reply already, of `max_tokens` in all: it goes on from there."""
    ignore_eos: bool = False
    """Write on past the end token, up to `max_tokens`."""
    judged: range = range(0)
    """Positions in `token_ids` of the tokens that the model is to say its surprise about, as it reads them."""
    namespace: str = ""
    """Whose prompt it is: states are reused within a namespace only."""
    adapter: str = BASE
    """Who answers: an adapter that the engine has adopted, or the base."""
    fleeting: bool = False
    """Nobody will go on from this reply: its state is not kept, and what it begins from stays for others."""
    denial: float = 0.0
    """By how many nats the adapter is to find denial nearer than it does, of what this prompt asks for."""
    steering: Steering | None = None
    """What is added to the residuals from the prompt's last token on, so that every word of the reply feels it."""

    @property
    def ends_at(self) -> int:
        """Its last position: the first that is steered, if any is, and where codebooks are asked what it asks for."""
        return len(self.token_ids) - 1

    @property
    def peculiar(self) -> bool:
        """Whether its last token is read otherwise than it would be as a part of a later prompt."""
        return self.steering is not None or self.denial != 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one token added to a reply. The text may be empty: a code point or a stop string is unfinished."""

    text: str
    choice: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where one reply's time went; seconds. `prefill_tokens` were read, `cached_tokens` were not."""

    queue: float
    prefill: float
    decode: float
    time_to_first_token: float
    prefill_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def tokens_per_second(self) -> float | None:
        """Decode speed, the first token left out; None for replies too short to tell."""
        return (self.completion_tokens - 1) / self.decode if self.completion_tokens > 1 and self.decode > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply as far as it came. `kept_ids` are the tokens whose text is kept; a stop string may cut one in two."""

    text: str
    token_ids: tuple[int, ...]
    kept_ids: tuple[int, ...]
    finish_reason: FinishReason
    timings: Timings
    surprisals: tuple[float, ...] = ()
    """-ln P of each judged token given all before it, in nats; of those that were read, and not found in the cache."""


class Generation:
    """A reply on its way. Iterate for its deltas; `reply` is there when the iteration ends."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._events: queue.SimpleQueue[Delta | Reply | ModelError] = queue.SimpleQueue()
        self._wake = wake
        self._looked_at: Delta | Reply | ModelError | None = None
        self.stop_reason: FinishReason | None = None
        """Why the engine is to end it before its next token."""
        self.reply: Reply | None = None
        self.lead: float | None = None
        """From the first delta on: how much nearer the nearest answer of the adapter's codebook is than denial, in
        nats, for what the prompt asks (`codebook.Found.lead`); None: it is none of its business, or there is none."""

    def __iter__(self) -> Iterator[Delta]:
        """Raises: ModelError: the engine failed or closed before the reply was finished."""
        while self.reply is None:
            event, self._looked_at = self._looked_at or self._events.get(), None
            if isinstance(event, Delta):
                yield event
            elif isinstance(event, Reply):
                self.reply = event
            else:
                raise event

    def led(self) -> float | None:
        """`lead`, as soon as it is known. Takes nothing from whoever iterates."""
        if self._looked_at is None and self.reply is None:
            self._looked_at = self._events.get()
        return self.lead

    def wait(self) -> Reply:
        """Block until the reply is finished."""
        for _ in self:
            pass
        assert self.reply is not None
        return self.reply

    def tell(self, event: Delta | Reply | ModelError) -> None:
        """The engine's side: a piece, the end, or why there is none."""
        self._events.put(event)

    def stop(self, reason: FinishReason = "cancelled") -> None:
        """End the reply before its next token. Harmless if it has ended."""
        self.stop_reason = self.stop_reason or reason
        self._wake()
