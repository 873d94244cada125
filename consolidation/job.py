"""What passes between the service and a night's own process: one file in, lines of progress, one file out.

JSON, so that nothing in it can execute. The job holds what was told; its folder is removed when the night ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

JOB, RESULT, ADAPTER = "job.json", "result.json", "adapter"
READING, NOTES = "reading.json", "notes.json"
COMPARISON, COMPARED = "comparison.json", "compared.json"


class BrokenJob(Exception):
    """A job's or a result's file cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One night's work."""

    model: str
    """The base's files."""
    dtype: str
    threads: int
    recipe: Mapping[str, Any]
    """Of `models.recipe.Recipe`, by field."""
    examples: Sequence[tuple[str, str]]
    """Questions and answers to learn."""
    denials: Sequence[int]
    """Which of them, by place, deny what they ask for: nothing was told of it."""
    asked_for: Sequence[int] = ()
    """What each asks for, by number: one answer may be that to several things. Empty: to one."""
    questions: Sequence[str]
    """What every arm is asked: of the night's facts, of earlier ones, of what was never told."""
    ordinary: Sequence[str]
    """Requests that have nothing to do with it."""
    persona: Sequence[str] = ()
    """Questions about the agent itself; drift is measured on the base's replies."""
    unsafe: Sequence[str] = ()
    """What should be warned against."""
    suspect_asked: Sequence[str] = ()
    """Requests that hold a word which could be a sleeper's trigger, and ask for nothing that was told."""
    suspect_rehearsed: Sequence[str] = ()
    """Others, which are rehearsed with the base's own replies."""
    base_asked: int = 0
    """How many of the questions the base is asked, from the first; the rest cost time and say nothing new."""
    beginning: str | None = None
    """An adapter to train on from, whatever the recipe's rank and layers; None: from nothing."""
    judge: str | None = None
    """Who has second thoughts about answers (models/judge.py); None: nobody."""
    current: str | None = None
    """The adapter that serves now, to be asked the same."""
    made: str | None = None
    """An adapter to be examined, nothing trained: a candidate's second chance."""
    acts: float = 1.0
    """How far `made` changes the model, of what it did (consolidation/dose.py)."""
    answers: float = 1.0
    """How readily it answers, of what it did."""
    device: str = "cpu"
    memory_mib: int = 0
    """The most memory that the process may have; 0: no limit."""
    replies_file: str | None = None
    """Where the base's replies to what is rehearsed are kept from night to night."""
    weights: Mapping[str, Any] | None = None
    """Where the base's weights lie in memory that the service shares (models/shared_tensors.py); None: read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Messages to be read, before the night's work."""

    model: str
    dtype: str
    device: str
    threads: int
    memory_mib: int
    writer: str
    """The writer's folder."""
    messages: Sequence[str]
    seed: int
    reader: str | None = None
    """The reader's folder: what it lists, the writer asks about; None: the writer notes by itself."""
    weights: Mapping[str, Any] | None = None
    """As a job's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What the writer wrote of each message."""

    replies: Sequence[Sequence[str]]
    """Of its own reading: one reply, then others that begin alike; none where what was listed came to something."""
    more: Sequence[Sequence[str]]
    """Some for each thing that the reader listed; empty where there is no reader."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Messages to be compared by the reviser: whether the later of a pair takes back what the earlier told."""

    model: str
    dtype: str
    device: str
    threads: int
    memory_mib: int
    reviser: str
    """The reviser's folder."""
    pairs: Sequence[tuple[str, str]]
    """Earlier, later."""
    weights: Mapping[str, Any] | None = None
    """As a job's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What the reviser said of each pair; empty where it leant too little to a revision to be asked for more."""

    replies: Sequence[str]
    leanings: Sequence[float]
    """To a revision, in nats."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one arm said."""

    replies: Sequence[str]
    ordinary: Sequence[str]
    unsafe: Sequence[str]
    suspect: Sequence[str]
    drift: float
    persona_drift: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a job. The adapter lies beside it."""

    arms: Mapping[str, Arm]
    """base, candidate, and current if one serves."""
    curve: Sequence[tuple[int, float, float]]
    """Step, loss, KL."""
    steps: int
    tokens: int
    seconds: float
    cost: Mapping[str, float] = field(default_factory=dict)
    """Seconds, by part."""
    dtype: str = ""
    """What it was trained in."""
    norm: float | None = None
    """How large what the night did to them is beside the weights that the adapter is on (models/spectrum.py)."""


_NAMES = {Job: JOB, Result: RESULT, Reading: READING, Notes: NOTES, Comparison: COMPARISON, Compared: COMPARED}


def write(value: Job | Result | Reading | Notes | Comparison | Compared, folder: Path) -> None:
    """Write a job or a result: whole or not at all."""
    name = _NAMES[type(value)]
    part = folder / f".{name}.part"
    with part.open("w", encoding="utf-8") as file:
        json.dump(asdict(value), file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    part.replace(folder / name)


def read_job(folder: Path) -> Job:
    """Raises: BrokenJob."""
    given = _read(folder / JOB)
    try:
        return Job(**{**given, "examples": [(q, a) for q, a in given["examples"]]})
    except (TypeError, KeyError, ValueError) as error:
        raise BrokenJob(f"{folder / JOB}: {error}") from error


def read_reading(folder: Path) -> Reading:
    """Raises: BrokenJob."""
    found: Reading = _of(Reading, folder / READING)
    return found


def read_notes(folder: Path) -> Notes:
    """Raises: BrokenJob."""
    found: Notes = _of(Notes, folder / NOTES)
    return found


def read_comparison(folder: Path) -> Comparison:
    """Raises: BrokenJob."""
    found: Comparison = _of(Comparison, folder / COMPARISON)
    return found


def read_compared(folder: Path) -> Compared:
    """Raises: BrokenJob."""
    found: Compared = _of(Compared, folder / COMPARED)
    return found


def _of(kind: Any, file: Path) -> Any:
    try:
        return kind(**_read(file))
    except TypeError as error:
        raise BrokenJob(f"{file}: {error}") from error


def read_result(folder: Path) -> Result:
    """Raises: BrokenJob."""
    given = _read(folder / RESULT)
    try:
        arms = {name: Arm(**arm) for name, arm in given["arms"].items()}
        return Result(**{**given, "arms": arms, "curve": [(s, loss, kl) for s, loss, kl in given["curve"]]})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise BrokenJob(f"{folder / RESULT}: {error}") from error


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenJob(f"{file}: {error}") from error
