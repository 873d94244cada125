"""Pure: what the agent may do by itself. Eighteen constraints, as data, on all acts that are not replies to somebody.

An act is judged on what would be true if it were done. A metric that nobody measured counts as broken: a gauge that is
lost must not open a gate. The constraints are those of the first design (Deep Tree Echo's originals are unpublished);
docs/heartbeat.md says where a bound is ours, and why.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Act = Literal[
    "beat",
    "generate",
    "reflect",
    "dream",
    "train",
    "write",
    "remember",
    "feel",
    "sleep",
    "swap",
    "pace up",
    "adopt goal",
    "edit self",
]
"""All that it can do by itself."""
Kind = Literal["self", "mutual"]
"""Whether a constraint limits an act by itself, or by what else is going on."""
Metric = Literal[
    "beats in a minute",
    "tokens in a minute",
    "tokens in a beat",
    "depth of self-prompts",
    "topics in a night",
    "steps in a night",
    "bytes written in a day",
    "share of the disk that is free",
    "memories written in a minute",
    "persona change in a beat",
    "asleep",
    "live requests",
    "seconds of quiet",
    "share of dreams with a source",
    "ids both read and written in a beat",
    "passed the exam",
    "load",
    "fatigue",
    "open goals",
    "distance from its baseline",
    "edits of itself in a day",
    "age of the proven backup",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a metric must be. Both ends are allowed."""

    metric: Metric
    least: float = -math.inf
    most: float = math.inf

    def holds(self, value: float | None) -> bool:
        """Whether a measured value is within; None or no number: it is not."""
        return value is not None and self.least <= value <= self.most

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.metric} is {self.most:g}"
        return (
            f"{self.metric} at most {self.most:g}" if self.most < math.inf else f"{self.metric} at least {self.least:g}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One of the eighteen."""

    number: int
    name: str
    kind: Kind
    acts: frozenset[Act]
    bounds: tuple[Bound, ...]
    otherwise: str
    """What is done instead."""


def _one(
    number: int, name: str, kind: Kind, acts: Sequence[Act], bounds: Sequence[Bound], otherwise: str
) -> Constraint:
    return Constraint(
        number=number, name=name, kind=kind, acts=frozenset(acts), bounds=tuple(bounds), otherwise=otherwise
    )


_GIB = 1 << 30
CONSTRAINTS: tuple[Constraint, ...] = (
    _one(1, "beat rate", "self", ["beat"], [Bound(metric="beats in a minute", most=30)], "delay the beat"),
    _one(
        2,
        "token rate",
        "self",
        ["generate", "reflect"],
        [Bound(metric="tokens in a minute", most=6000)],
        "put it off",
    ),
    _one(
        3,
        "beat size",
        "self",
        ["generate", "reflect"],
        [Bound(metric="tokens in a beat", most=1024)],
        "stop, and mark it as cut short",
    ),
    _one(4, "recursion", "self", ["reflect"], [Bound(metric="depth of self-prompts", most=3)], "refuse"),
    _one(5, "dream count", "self", ["dream"], [Bound(metric="topics in a night", most=240)], "drop the least salient"),
    _one(6, "training", "self", ["train"], [Bound(metric="steps in a night", most=8000)], "stop training"),
    _one(
        7,
        "disk",
        "self",
        ["write", "remember"],
        [
            Bound(metric="bytes written in a day", most=_GIB),
            Bound(metric="share of the disk that is free", least=0.1),
        ],
        "prune, and sound an alarm",
    ),
    _one(8, "writes", "self", ["remember"], [Bound(metric="memories written in a minute", most=60)], "put it off"),
    _one(9, "persona step", "self", ["feel"], [Bound(metric="persona change in a beat", most=0.05)], "clip it"),
    _one(10, "train asleep", "mutual", ["train"], [Bound(metric="asleep", least=1, most=1)], "stop within 5 s"),
    _one(
        11,
        "quiet sleep",
        "mutual",
        ["sleep"],
        [Bound(metric="live requests", most=0), Bound(metric="seconds of quiet", least=300)],
        "postpone it",
    ),
    _one(
        12,
        "dream sources",
        "mutual",
        ["dream"],
        [Bound(metric="share of dreams with a source", least=1)],
        "discard what has none",
    ),
    _one(
        13,
        "read or write",
        "mutual",
        ["remember"],
        [Bound(metric="ids both read and written in a beat", most=0)],
        "put the write off",
    ),
    _one(14, "gated swap", "mutual", ["swap"], [Bound(metric="passed the exam", least=1)], "keep the old adapter"),
    _one(
        15,
        "pace-up",
        "mutual",
        ["pace up"],
        [Bound(metric="load", most=0.8), Bound(metric="fatigue", most=0.5)],
        "hold the pace",
    ),
    _one(16, "goals", "mutual", ["adopt goal"], [Bound(metric="open goals", most=5)], "refuse a new one"),
    _one(
        17,
        "editing itself",
        "mutual",
        ["edit self"],
        [
            Bound(metric="distance from its baseline", most=0.25),
            Bound(metric="edits of itself in a day", most=1),
        ],
        "ask the operator",
    ),
    _one(
        18,
        "backup first",
        "mutual",
        ["train", "swap"],
        [Bound(metric="age of the proven backup", most=3600)],
        "leave the weights alone",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A constraint that an act would break."""

    constraint: Constraint
    bound: Bound
    value: float | None

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:g}"
        return f"{self.constraint.name}: {self.bound} ({value}); {self.constraint.otherwise}"


def judge(
    act: Act, metrics: Mapping[Metric, float], constraints: Iterable[Constraint] = CONSTRAINTS
) -> tuple[Broken, ...]:
    """What an act would break, with the metrics as they would be after it; nothing: it may be done."""
    return tuple(
        Broken(constraint=constraint, bound=bound, value=metrics.get(bound.metric))
        for constraint in constraints
        if act in constraint.acts
        for bound in constraint.bounds
        if not bound.holds(metrics.get(bound.metric))
    )


@dataclass(slots=True)
class Window:
    """What was done in the last so many seconds."""

    seconds: float
    done: deque[tuple[float, float]] = field(default_factory=deque)
    total: float = 0.0

    def add(self, at: float, amount: float = 1.0) -> None:
        """Note it."""
        self.done.append((at, amount))
        self.total += amount

    def sum(self, now: float) -> float:
        """Of what is not older."""
        while self.done and now - self.done[0][0] >= self.seconds:
            self.total -= self.done.popleft()[1]
        return self.total if self.done else 0.0


_MINUTE, _DAY = 60.0, 86400.0


@dataclass(slots=True)
class Deeds:
    """What it did of late, as the constraints count it. One thread's."""

    beats: Window = field(default_factory=lambda: Window(_MINUTE))
    tokens: Window = field(default_factory=lambda: Window(_MINUTE))
    memories: Window = field(default_factory=lambda: Window(_MINUTE))
    written: Window = field(default_factory=lambda: Window(_DAY))
    edits: Window = field(default_factory=lambda: Window(_DAY))
    tokens_in_beat: float = 0.0
    read_in_beat: set[str] = field(default_factory=set)
    written_in_beat: set[str] = field(default_factory=set)

    def copied(self) -> Deeds:
        """The same, of its own: what another hand still counts does not count here."""
        of = [self.beats, self.tokens, self.memories, self.written, self.edits]
        beats, tokens, memories, written, edits = (Window(w.seconds, deque(w.done), w.total) for w in of)
        return Deeds(beats=beats, tokens=tokens, memories=memories, written=written, edits=edits)

    def begin_beat(self, at: float) -> None:
        """A beat begins: what is counted by the beat begins anew."""
        self.beats.add(at)
        self.tokens_in_beat = 0.0
        self.read_in_beat, self.written_in_beat = set(), set()

    def metrics(self, now: float) -> dict[Metric, float]:
        """As they stand."""
        return {
            "beats in a minute": self.beats.sum(now),
            "tokens in a minute": self.tokens.sum(now),
            "tokens in a beat": self.tokens_in_beat,
            "memories written in a minute": self.memories.sum(now),
            "bytes written in a day": self.written.sum(now),
            "edits of itself in a day": self.edits.sum(now),
            "ids both read and written in a beat": float(len(self.read_in_beat & self.written_in_beat)),
        }
