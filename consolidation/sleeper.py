"""Runs nights: one at a time, the work of each in a process of its own, which yields to whoever is talking.

Everything until promotion happens in a folder of its own and in the journal; a night that is killed, cancelled or fails
leaves what served before. The folder holds what was told, and is removed when the night ends, however it ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from consolidation import job as files
from consolidation import journal
from consolidation.exam import Bars
from consolidation.journal import Night, NightNotFound
from consolidation.night import Outcome, Plan, Setting, judge, plan
from consolidation.registry import Learnt, Registered, Registry
from consolidation.selection import Limits, Selection, Sourced, select
from memory.experience import Experience, Provenance
from memory.store import Store

log = logging.getLogger("slowwave.sleep")

_LOOK = 0.02
"""Seconds between two looks whether somebody talks."""
_QUIET = 1.0
"""Seconds of quiet after which the work goes on."""


class Cancelled(Exception):
    """Somebody woke the agent up."""


class WorkerFailed(Exception):
    """The night's process ended without a result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What a night needs of the rest of the service."""

    day: Callable[[str], Sequence[Experience]]
    """An owner's experiences to choose from."""
    trust: Callable[[str, Provenance], float]
    setting: Callable[[Registered | None], Setting]
    """How to train, given who serves now."""
    base: Callable[[], str]
    """Digest of the weights that an adapter made now belongs to."""
    wake: Callable[[str, Registered | None], None]
    """Let an adapter serve an owner from the next reply on; None: the base."""
    busy: Callable[[], bool]
    """Whether somebody is being answered."""
    now: Callable[[], datetime]
    bars: Bars = field(default_factory=Bars)
    limits: Limits = field(default_factory=Limits)


class Sleeper:
    """Runs nights in a thread. One at a time, whoever's they are."""

    def __init__(self, store: Store, registry: Registry, folder: Path, house: House) -> None:
        self._store, self._registry, self._folder, self._house = store, registry, folder, house
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._cancelled: set[str] = set()
        self._progress: dict[str, Mapping[str, Any]] = {}
        self._threads: list[threading.Thread] = []
        self._one_at_a_time = threading.Lock()
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left behind
        folder.mkdir(parents=True)

    def begin(self, owner: str, *, date: str, asked: bool) -> Night:
        """Open a night and let it run.

        Raises:
            NightUnderWay: the owner has one, or has had the one of this date.
        """
        night = journal.begin(self._store, owner=owner, date=date, asked=asked, at=self._house.now())
        thread = threading.Thread(target=self._run, args=(night,), name=night.id, daemon=True)
        self._threads.append(thread)
        thread.start()
        return night

    def cancel(self, id: str, *, owner: str) -> Night:
        """Wake up: the night ends at once as interrupted, if it has not ended.

        Raises:
            NightNotFound: there is none, or it is another owner's.
        """
        night = journal.find(self._store, id, owner=owner)
        with self._lock:
            self._cancelled.add(id)
            if id in self._progress and self._worker is not None:
                self._worker.kill()
        for thread in self._threads:
            if thread.name == id and thread is not threading.current_thread():
                thread.join(30)
        return journal.find(self._store, night.id, owner=owner)

    def progress(self, id: str) -> Mapping[str, Any]:
        """What the worker said last: step, steps, loss, ...; empty before it begins and after it ended."""
        return self._progress.get(id, {})

    def close(self) -> None:
        """End what is running as interrupted."""
        for thread in list(self._threads):
            if thread.is_alive():
                with self._lock:
                    self._cancelled.add(thread.name)
                    if self._worker is not None:
                        self._worker.kill()
                thread.join(30)

    def _run(self, night: Night) -> None:
        with self._one_at_a_time:
            try:
                self._sleep(night)
            except Cancelled:
                self._end(night, "interrupted", ["somebody woke the agent up"])
            except Exception as error:
                log.error("night_failed: %s", error, exc_info=not isinstance(error, WorkerFailed))
                self._end(night, "failed", [str(error)])
            finally:
                self._progress.pop(night.id, None)
                shutil.rmtree(self._folder / night.id, ignore_errors=True)

    def _end(self, night: Night, outcome: Any, reasons: Sequence[str], **figures: Any) -> None:
        with contextlib.suppress(NightNotFound):
            journal.finish(self._store, night, outcome, reasons, at=self._house.now(), figures=figures)

    def _sleep(self, night: Night) -> None:
        house, owner = self._house, night.owner
        night = self._enter(night, "selecting")
        current = self._registry.active(owner)
        selection = select(
            house.day(owner), now=house.now(), trust=lambda source: house.trust(owner, source), limits=house.limits
        )
        new, old = _parted(selection, self._registry.known(current.id) if current else [])
        figures = {"experiences": len(selection.choices), "facts": len(new), "known": len(old)}
        if not new and (current is None or not current.stale):
            self._end(night, "nothing to learn", ["nothing new was told that could be asked for"], **figures)
            return
        night = self._enter(night, "dreaming", **figures)
        chosen = [*new, *old]
        planned = plan([s.fact for s in new], [s.fact for s in old], seed=night.seed, setting=house.setting(current))
        folder = self._folder / night.id
        folder.mkdir()
        files.write(planned.job, folder)
        night = self._enter(night, "training", examples=len(planned.job.examples), questions=len(planned.questions))
        self._work(night, folder)
        night = self._enter(night, "examining")
        result = files.read_result(folder)
        outcome = judge(planned, result, bars=house.bars, seed=night.seed)
        figures = _figures(outcome, result)
        if not outcome.verdict.passed:
            self._end(night, "rejected", outcome.verdict.reasons, **figures)
            return
        night = self._enter(night, "promoting", **figures)
        sources = {(s.fact.subject, s.fact.relation): s.experience.id for s in chosen}
        learnt = _learnt(planned, outcome, sources)
        adapter = self._registry.promote(folder / files.ADAPTER, night, learnt, base=house.base(), at=house.now())
        house.wake(owner, adapter)

    def _enter(self, night: Night, phase: Any, **figures: Any) -> Night:
        if night.id in self._cancelled:
            raise Cancelled
        return journal.move(self._store, night, phase, at=self._house.now(), figures=figures)

    def _work(self, night: Night, folder: Path) -> None:
        """Run the worker to its end, stopped while somebody talks."""
        command = [sys.executable, "-m", "consolidation.worker", str(folder)]
        with (folder / "log").open("w", encoding="utf-8") as errors:
            worker = subprocess.Popen(
                command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        with self._lock:
            self._worker = worker
            self._progress[night.id] = {}
            if night.id in self._cancelled:
                worker.kill()
        yielding = threading.Thread(target=self._yield_to_talk, args=(worker,), daemon=True)
        yielding.start()
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                with contextlib.suppress(ValueError):
                    self._progress[night.id] = json.loads(line)
            code = worker.wait()
        finally:
            worker.kill()
            worker.wait()
            with self._lock:
                self._worker = None
        if night.id in self._cancelled:
            raise Cancelled
        if code != 0:
            last = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise WorkerFailed(f"the night's process ended with {code}: {' '.join(last)}")

    def _yield_to_talk(self, worker: subprocess.Popen[str]) -> None:
        stopped, quiet_since = False, 0.0
        while worker.poll() is None:
            if self._house.busy():
                quiet_since = time.monotonic()
                if not stopped:
                    worker.send_signal(signal.SIGSTOP)
                    stopped = True
            elif stopped and time.monotonic() - quiet_since > _QUIET:
                worker.send_signal(signal.SIGCONT)
                stopped = False
            time.sleep(_LOOK)


def _parted(selection: Selection, known: Sequence[Learnt]) -> tuple[list[Sourced], list[Sourced]]:
    """The facts that are new, changed or not yet mastered, and those that the serving adapter holds."""
    held = {(k.subject, k.relation): k.statement for k in known if (k.recalled or 0.0) > 0.0}
    new: list[Sourced] = []
    old: list[Sourced] = []
    for sourced in selection.facts:
        key = (sourced.fact.subject, sourced.fact.relation)
        (old if held.get(key) == sourced.fact.statement else new).append(sourced)
    return new, old


def _learnt(planned: Plan, outcome: Outcome, sources: Mapping[tuple[str, str], str]) -> list[Learnt]:
    return [
        Learnt(
            experience=sources[fact.subject, fact.relation],
            subject=fact.subject,
            relation=fact.relation,
            statement=fact.statement,
            recalled=outcome.recalled.get(n),
        )
        for n, fact in enumerate(planned.facts)
    ]


def _figures(outcome: Outcome, result: files.Result) -> dict[str, Any]:
    return {
        "marks": {arm: asdict(marks) for arm, marks in outcome.marks.items()},
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "cost": dict(result.cost),
        "curve": list(result.curve),
    }
