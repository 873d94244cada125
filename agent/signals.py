"""What passes through the heart's mailbox: looks at the machine, beats, and how fast somebody was answered. No texts.

Every kind has a number, names for its values, and how long it is worth reading. Nobody has to listen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.governor import GAUGES
from agent.heartbeat import Beat
from agent.mailbox import Counts, Mailbox, Popped, Reader, Writer

ROOM = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of record."""

    number: int
    name: str
    values: tuple[str, ...]
    ttl: float
    """Seconds."""


LOOK = Kind(number=1, name="look", values=("load", *GAUGES), ttl=10.0)
BEAT = Kind(number=2, name="beat", values=("n", "interval", "load", "chores"), ttl=300.0)
REPLY = Kind(
    number=3, name="reply", values=("first_token", "seconds", "prompt_tokens", "cached_tokens", "tokens"), ttl=300.0
)
KINDS: Mapping[int, Kind] = {kind.number: kind for kind in (LOOK, BEAT, REPLY)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One record, by name."""

    at: float
    """Monotonic seconds."""
    kind: str
    values: Mapping[str, float]


@dataclass(slots=True)
class Signals:
    """The mailbox of one service: its heart looks and beats, its routes answer."""

    box: Mailbox = field(default_factory=lambda: Mailbox(ROOM))
    _looks: Writer = field(init=False)
    _beats: Writer = field(init=False)
    _replies: Writer = field(init=False)

    def __post_init__(self) -> None:
        self._looks, self._beats, self._replies = map(self.box.writer, ("heart", "hand", "replies"))

    def looked(self, load: float, gauges: Mapping[str, float]) -> None:
        """The heart has looked at the machine."""
        self._looks.tell(LOOK.number, load, *(gauges.get(name, math.nan) for name in GAUGES), ttl=LOOK.ttl)

    def beaten(self, beat: Beat) -> None:
        """It has beaten."""
        self._beats.tell(BEAT.number, beat.n, beat.interval, beat.load, len(beat.did), ttl=BEAT.ttl)

    def answered(self, *, first_token: float, seconds: float, prompt: int, cached: int, tokens: int) -> None:
        """Somebody has been answered."""
        self._replies.tell(REPLY.number, first_token, seconds, prompt, cached, tokens, ttl=REPLY.ttl)

    def listen(self, name: str) -> Reader:
        """Hear all of it from now on."""
        return self.box.reader(name)

    def counts(self) -> Counts:
        """What passed through."""
        return self.box.counts()


def signals(found: Popped) -> list[Signal]:
    """Records by name; what a machine does not have is left out."""
    made = []
    for record in found.records:
        kind = KINDS[int(record["kind"])]
        values = dict(zip(kind.values, record["values"].tolist(), strict=False))
        named = {name: value for name, value in values.items() if math.isfinite(value)}
        made.append(Signal(at=float(record["at"]), kind=kind.name, values=named))
    return made
