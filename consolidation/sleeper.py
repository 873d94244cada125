"""Runs nights: one at a time, the work of each in a process of its own, which yields to whoever is talking.

Everything until promotion happens in a folder of its own and in the journal; a night that is killed, cancelled or fails
leaves what served before. The folder holds what was told, and is removed when the night ends, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from consolidation import job as files
from consolidation import journal, listing, notebook
from consolidation.dose import WHOLE, lesser
from consolidation.exam import Bars
from consolidation.journal import Night, NightNotFound
from consolidation.night import Outcome, Plan, Setting, comparison, judge, plan, reading
from consolidation.notes import Note
from consolidation.registry import MASTERED, ForgottenMeanwhile, Learnt, Registered, Registry, former
from consolidation.revisions import Revision, of_one, revision_of, to_compare
from consolidation.selection import Limits, Selection, Sourced, readable, select, to_note
from consolidation.unlearning import traces
from consolidation.variation import words_of
from memory.experience import Experience, Provenance
from memory.store import Store

log = logging.getLogger("slowwave.sleep")

_LOOK = 0.02
"""Seconds between two looks whether somebody talks."""
_QUIET = 1.0
"""Seconds of quiet after which the work goes on."""
_TRIES = 2
"""Nights after which a fact that none of them got into the weights is left to memory alone."""
_WOKEN = "a word of it woke its answer where nothing was asked: it may be a sleeper's"
_PLACEBO_PASSED = "a placebo passed: the exam's questions prove nothing tonight"


class Cancelled(Exception):
    """Somebody woke the agent up."""


class WorkerFailed(Exception):
    """The night's process ended without a result."""


class HandOver(Protocol):
    """Tensors that a night's processes map instead of reading them (models/shared_tensors.py)."""

    fd: int

    def said(self) -> dict[str, Any]:
        """What a process is told of them."""
        ...

    def close(self) -> None:
        """Let go of them."""
        ...


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
    prove: Callable[[Path], None]
    """Raises where an adapter's files could not serve."""
    wake: Callable[[str, Registered | None], None]
    """Let an adapter serve an owner from the next reply on; None: the base."""
    busy: Callable[[], bool]
    """Whether somebody is being answered."""
    changing: Callable[[], AbstractContextManager[Callable[[str], None]]] = lambda: nullcontext(lambda id: None)
    """Around what lets another adapter serve; yields what is told its id once its files are in place."""
    now: Callable[[], datetime]
    may: Callable[[str, Mapping[str, float]], Sequence[str]] = lambda act, metrics: ()
    """What an act would break of the agent's conduct, with its metrics as they would be; nothing: it may be done."""
    vectors: Callable[[Sequence[Experience]], NDArray[np.float32]] = lambda some: np.zeros((len(some), 0), np.float32)
    """What experiences mean, [experiences, dimensions], each of length 1 or 0."""
    quarantine: Callable[[str, Sequence[str], str], object] = lambda owner, ids, why: None
    """Keep an owner's experiences out of recall and nights until somebody lets them go, and say why."""
    share: Callable[[], HandOver | None] = lambda: None
    """The base's weights, where a night's processes can map them; None: they read their files."""
    bars: Bars = field(default_factory=Bars)
    limits: Limits = field(default_factory=Limits)
    adapters_kept: int = 8
    """Adapters of an owner whose files stay on disk."""


class Sleeper:
    """Runs nights in a thread. One at a time, whoever's they are."""

    def __init__(self, store: Store, registry: Registry, folder: Path, house: House) -> None:
        self._store, self._registry, self._folder, self._house = store, registry, folder, house
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._cancelled: dict[str, str] = {}
        self._closing = False
        self._progress: dict[str, Mapping[str, Any]] = {}
        self._threads: list[threading.Thread] = []
        self._one_at_a_time = threading.Lock()
        self._weights: HandOver | None = None
        shutil.rmtree(folder, ignore_errors=True)  # what a kill left behind
        folder.mkdir(parents=True)

    @property
    def limits(self) -> Limits:
        """How much a night takes on, and from whom."""
        return self._house.limits

    def begin(self, owner: str, *, date: str, asked: bool, placebo: bool = False) -> Night:
        """Open a night and let it run; as a placebo, it trains on shuffled answers, and is rejected whatever it does.

        Raises:
            NightUnderWay: the owner has one, or has had the one of this date.
        """
        night = journal.begin(self._store, owner=owner, date=date, asked=asked, at=self._house.now(), placebo=placebo)
        self._start(night)
        return night

    def resume(self) -> None:
        """Begin again what a crash or a stop of the service left open."""
        for night in journal.left_open(self._store, at=self._house.now()):
            self._start(night)

    def _start(self, night: Night) -> None:
        self._threads = [t for t in self._threads if t.is_alive()]
        thread = threading.Thread(target=self._run, args=(night,), name=night.id, daemon=True)
        self._threads.append(thread)
        thread.start()

    def cancel(self, id: str, *, owner: str) -> Night:
        """Wake up: the night ends at once as interrupted, if it has not ended.

        Raises:
            NightNotFound: there is none, or it is another owner's.
        """
        night = journal.find(self._store, id, owner=owner)
        self._stop(night.id, "somebody woke the agent up")
        return journal.find(self._store, night.id, owner=owner)

    def interrupt(self, owner: str, reason: str) -> None:
        """End the owner's night, if one is under way."""
        for night in journal.newest(self._store, owner=owner, limit=1):
            if night.phase != "ended":
                self._stop(night.id, reason)

    def _stop(self, id: str, reason: str) -> None:
        with self._lock:
            self._cancelled.setdefault(id, reason)
            if id in self._progress and self._worker is not None:
                self._worker.kill()
        for thread in self._threads:
            if thread.name == id and thread is not threading.current_thread():
                thread.join(30)

    def progress(self, id: str) -> Mapping[str, Any]:
        """What the worker said last: step, steps, loss, ...; empty before it begins and after it ended."""
        return self._progress.get(id, {})

    def close(self) -> None:
        """Stop what is running where it is: the next start begins it again."""
        self._closing = True
        for thread in list(self._threads):
            if thread.is_alive():
                self._stop(thread.name, "the service ended")

    def _run(self, night: Night) -> None:
        with self._one_at_a_time:
            if self._closing:
                return
            try:
                self._sleep(night)
            except Cancelled as cancelled:
                if not self._closing:
                    self._end(night, "interrupted", [str(cancelled)])
            except ForgottenMeanwhile as forgotten:
                self._end(night, "interrupted", [str(forgotten)])
            except Exception as error:
                log.error("night_failed: %s", error, exc_info=not isinstance(error, WorkerFailed))
                self._end(night, "failed", [str(error)])
            finally:
                self._progress.pop(night.id, None)
                if self._weights is not None:
                    self._weights.close()
                    self._weights = None
                shutil.rmtree(self._folder / night.id, ignore_errors=True)

    def _end(self, night: Night, outcome: Any, reasons: Sequence[str], **figures: Any) -> None:
        with suppress(NightNotFound):
            journal.finish(self._store, night, outcome, reasons, at=self._house.now(), figures=figures)

    def _sleep(self, night: Night) -> None:
        house, owner = self._house, night.owner
        night = self._enter(night, "selecting")
        current = self._registry.active(owner)
        stale = current is not None and current.stale
        day = house.day(owner)
        last = journal.settled(self._store, owner=owner, active=current.night if current else None)
        if last is not None and not stale and not any(_told_after(one, last, house.limits) for one in day):
            self._end(night, "nothing to learn", ["nothing was told since the last night"])
            return
        notes = self._notes(night, day, house.setting(current))
        selection = select(
            day,
            now=house.now(),
            trust=lambda source: house.trust(owner, source),
            limits=house.limits,
            notes=notes,
            revisions=self._revisions(night, day, notes, house.setting(current)),
        )
        known = self._registry.known(current.id) if current else []
        new, old = parted(selection, known, journal.missed(self._store, owner=owner))
        journal.choose(self._store, night, _told_why(selection, new, old))
        figures = {
            "experiences": len(selection.choices),
            "facts": len(new),
            "known": len(old),
            "disagreements": [list(pair) for pair in selection.disagreements],
        }
        if stale and not new and not old:
            self._registry.retire(owner=owner)
            house.wake(owner, None)
            self._end(night, "nothing to learn", ["all that was learnt is forgotten: the base serves"], **figures)
            return
        if not new and not stale:
            self._end(night, "nothing to learn", ["nothing new was told that could be asked for"], **figures)
            return
        night = self._enter(night, "dreaming", **figures)
        chosen = [*new, *old]
        planned = plan(
            [s.fact for s in new],
            [s.fact for s in old],
            seed=night.seed,
            setting=replace(house.setting(current), placebo=night.placebo),
            withheld=selection.withheld,
            forgotten=traces(self._store, owner=owner),
        )
        folder = self._folder / night.id
        folder.mkdir(exist_ok=True)
        files.write(replace(planned.job, weights=self._shared()), folder)
        dreamt = {"topics in a night": len(chosen), "share of dreams with a source": 1.0 if chosen else 0.0}
        trained = {"steps in a night": _steps(planned.job), "asleep": float(night.phase == "dreaming")}
        if not (self._may(night, "dream", dreamt) and self._may(night, "train", trained)):
            return
        by_kind = dict(Counter(planned.strategies))
        night = self._enter(night, "training", examples=by_kind, questions=len(planned.questions))
        night = self._work(night, folder)
        if night.phase == "training":
            night = self._enter(night, "examining")
        first = files.read_result(folder)
        made, outcome, doses, answered = self._examined(night, planned, folder, first)
        missed = {s.experience.id for n, s in enumerate(new) if n in outcome.recalled and n not in answered}
        figures = {**_figures(outcome, first), "doses": doses, "missed": sorted(missed)}
        journal.keep_answers(self._store, night, outcome.answers)
        figures |= self._put_away(night, sorted({chosen[n].experience.id for n in outcome.woken}))
        if not outcome.verdict.passed or night.placebo:
            reasons = outcome.verdict.reasons if not outcome.verdict.passed else (_PLACEBO_PASSED,)
            self._end(night, "rejected", reasons, **figures)
            return
        house.prove(made)
        if not self._may(night, "swap", {"passed the exam": float(outcome.verdict.passed)}):
            return
        night = self._enter(night, "promoting", **figures)
        self._wake_with(made, night, _learnt(planned, outcome, {s.fact.key: s for s in chosen}))

    def _wake_with(self, made: Path, night: Night, learnt: Sequence[Learnt]) -> None:
        house = self._house
        with house.changing() as ready:
            adapter = self._registry.promote(made, night, learnt, base=house.base(), at=house.now(), ready=ready)
            house.wake(night.owner, adapter)
        self._registry.tidy(most=house.adapters_kept)

    def _shared(self) -> dict[str, Any] | None:
        """Where the night's processes find the base's weights; put there for the first of them."""
        if self._weights is None:
            self._weights = self._house.share()
        return None if self._weights is None else self._weights.said()

    def _may(self, night: Night, act: str, metrics: Mapping[str, float]) -> bool:
        broken = self._house.may(act, metrics)
        if broken:
            self._end(night, "rejected" if night.phase == "examining" else "failed", list(broken))
        return not broken

    def _notes(self, night: Night, day: Sequence[Experience], setting: Setting) -> dict[str, tuple[Note, ...]]:
        """What reader and writer make of the day, read now where it was not before."""
        if setting.writer is None:
            return {}
        house, owner, writer = self._house, night.owner, setting.read_by
        known = notebook.kept(self._store, owner=owner, writer=writer)
        new = to_note(
            day, now=house.now(), trust=lambda source: house.trust(owner, source), limits=house.limits, noted=known
        )
        if not new:
            return known
        folder = self._folder / night.id / "reading"
        folder.mkdir(parents=True)
        to_read = reading([e.text for e in new], seed=night.seed, setting=setting)
        files.write(replace(to_read, weights=self._shared()), folder)
        self._work(night, folder)
        written = files.read_notes(folder)
        more = written.more or [()] * len(new)
        made = {e.id: listing.noted(e.text, own, of) for e, own, of in zip(new, written.replies, more, strict=True)}
        notebook.keep(self._store, made, owner=owner, writer=writer)
        return {**known, **made}

    def _revisions(
        self, night: Night, day: Sequence[Experience], notes: Mapping[str, Sequence[Note]], setting: Setting
    ) -> dict[str, tuple[Revision, ...]]:
        """What takes back what earlier messages told, compared now where it was not before."""
        if setting.reviser is None:
            return {}
        house, owner, reviser = self._house, night.owner, Path(setting.reviser).name
        seen = notebook.compared(self._store, owner=owner, reviser=reviser)
        said = readable(day, now=house.now(), trust=lambda source: house.trust(owner, source), limits=house.limits)
        new = [n for n, one in enumerate(said) if one.id not in seen][-house.limits.notes :]
        pairs = to_compare(
            new, [one.text for one in said], house.vectors(said), may=[bool(notes.get(one.id)) for one in said]
        )
        found: dict[str, list[tuple[float, Revision]]] = {said[n].id: [] for n in new}
        if pairs:
            folder = self._folder / night.id / "comparing"
            folder.mkdir(parents=True)
            asked = comparison([(said[i].text, said[j].text) for i, j in pairs], setting=setting)
            files.write(replace(asked, weights=self._shared()), folder)
            self._work(night, folder)
            compared = files.read_compared(folder)
            for (i, j), reply, leaning in zip(pairs, compared.replies, compared.leanings, strict=True):
                one = revision_of(said[i].text, said[j].text, reply, experience=said[i].id)
                if one is not None:
                    found[said[j].id].append((leaning, one))
        kept = {id: of_one(of) for id, of in found.items()}
        notebook.keep_revisions(self._store, kept, owner=owner, reviser=reviser)
        return notebook.revisions(self._store, owner=owner)

    def _examined(
        self, night: Night, planned: Plan, folder: Path, result: files.Result
    ) -> tuple[Path, Outcome, list[dict[str, Any]], set[int]]:
        """The verdict on what was made; where less of it may pass, on less of it; and what any dose of it answers."""
        made = folder / files.ADAPTER
        outcome = judge(planned, result, bars=self._house.bars, seed=night.seed)
        answered = _mastered(outcome)
        doses: list[dict[str, Any]] = []
        dose = WHOLE
        while (less := lesser(dose, outcome.verdict.failed)) is not None:
            doses.append({**asdict(dose), "reasons": outcome.verdict.reasons})
            dose, again = less, folder / f"dose-{len(doses)}"
            again.mkdir()
            less_of_it = replace(planned.job, made=str(folder / files.ADAPTER), examples=[], **asdict(dose))
            files.write(replace(less_of_it, weights=self._shared()), again)
            self._work(night, again)
            outcome = judge(planned, files.read_result(again), bars=self._house.bars, seed=night.seed)
            made = again / files.ADAPTER
            answered |= _mastered(outcome)
        return made, outcome, doses, answered

    def _put_away(self, night: Night, woken: Sequence[str]) -> dict[str, Any]:
        """Keep what a word woke from being recalled and learnt again; the next night goes without it."""
        if not woken or night.placebo:  # shuffled answers say nothing of who told them
            return {}
        self._house.quarantine(night.owner, woken, _WOKEN)
        return {"quarantined": list(woken)}

    def _enter(self, night: Night, phase: Any, **figures: Any) -> Night:
        if night.id in self._cancelled:
            raise Cancelled(self._cancelled[night.id])
        return journal.move(self._store, night, phase, at=self._house.now(), figures=figures)

    def _work(self, night: Night, folder: Path) -> Night:
        """Run the worker to its end, stopped while somebody talks; returns the night in the phase that it reached."""
        command = [sys.executable, "-m", "consolidation.worker", str(folder), str(os.getpid())]
        with (folder / "log").open("w", encoding="utf-8") as errors:
            worker = subprocess.Popen(
                command,
                cwd=Path(__file__).parent.parent,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=() if self._weights is None else (self._weights.fd,),
            )
        with self._lock:
            self._worker = worker
            self._progress[night.id] = {}
            if night.id in self._cancelled:
                worker.kill()
        yielding = threading.Thread(target=self._yield_to_talk, args=(worker, night.id), daemon=True)
        yielding.start()
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                with suppress(ValueError):
                    self._progress[night.id] = told = json.loads(line)
                    if told.get("phase") == "examining" and night.phase == "training":
                        night = self._enter(night, "examining")
            code = worker.wait()
        finally:
            worker.kill()
            worker.wait()
            with self._lock:
                self._worker = None
        if night.id in self._cancelled:
            raise Cancelled(self._cancelled[night.id])
        if code != 0:
            last = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise WorkerFailed(f"the night's process ended with {code}: {' '.join(last)}")
        return night

    def _yield_to_talk(self, worker: subprocess.Popen[str], id: str) -> None:
        """Not before it has said that it dies with this process: stopped earlier, it would outlive a kill of it."""
        stopped, quiet_since = False, 0.0
        while worker.poll() is None:
            if self._house.busy() and self._progress.get(id):
                quiet_since = time.monotonic()
                if not stopped:
                    worker.send_signal(signal.SIGSTOP)
                    stopped = True
            elif stopped and time.monotonic() - quiet_since > _QUIET:
                worker.send_signal(signal.SIGCONT)
                stopped = False
            time.sleep(_LOOK)


def _steps(job: files.Job) -> int:
    """That a job will train for."""
    from models.recipe import Recipe

    recipe = {**asdict(Recipe()), **job.recipe}
    return int(recipe["epochs"]) * -(-len(job.examples) // int(recipe["batch"]))


def _told_after(one: Experience, at: datetime, limits: Limits) -> bool:
    hold = limits.import_hold if one.provenance.channel == "import" else timedelta(0)
    return one.provenance.author == "user" and one.recorded_at + hold > at


def _told_why(selection: Selection, new: Sequence[Sourced], old: Sequence[Sourced]) -> list[tuple[str, bool, str]]:
    """Why each experience is in or out, without its text: what is forgotten must not stand here."""
    fresh, known = ({s.experience.id for s in some} for some in (new, old))
    told = []
    for choice in selection.choices:
        if not choice.taken:
            told.append((choice.experience, False, choice.reason))
        elif choice.experience in fresh:
            told.append((choice.experience, True, "told something new"))
        elif choice.experience in known:
            told.append((choice.experience, True, "told what is known"))
        else:
            told.append((choice.experience, False, f"taught in {_TRIES} nights, and answered after none"))
    return told


def parted(
    selection: Selection, known: Sequence[Learnt], missed: Mapping[str, int]
) -> tuple[list[Sourced], list[Sourced]]:
    """The facts that are new, changed or not yet mastered, and those that the serving adapter holds.

    What so many nights were taught in vain is not new any more: it would have them rejected together with what can be
    learnt. Where the serving adapter was taught it, it is rehearsed with the rest; else it is in neither.
    """
    taught = {(k.subject, k.relation): k for k in known}
    new: list[Sourced] = []
    old: list[Sourced] = []
    for sourced in selection.facts:
        before = taught.get((sourced.fact.subject, sourced.fact.relation))
        same = before is not None and before.statement == sourced.fact.statement
        tried = missed.get(sourced.experience.id, 0) >= _TRIES
        if before is not None and same and (tried or (before.recalled or 0.0) >= MASTERED):
            old.append(sourced)
        elif not tried:
            new.append(sourced)
    return new, old


def _mastered(outcome: Outcome) -> set[int]:
    return {fact for fact, share in outcome.recalled.items() if share >= MASTERED}


def _learnt(planned: Plan, outcome: Outcome, sources: Mapping[tuple[str, str], Sourced]) -> list[Learnt]:
    learnt = [
        Learnt(
            experience=sources[fact.key].experience.id,
            subject=fact.subject,
            relation=fact.relation,
            value=fact.value,
            statement=fact.statement,
            asked=words_of(fact),
            recalled=outcome.recalled.get(n),
        )
        for n, fact in enumerate(planned.facts)
    ]
    # What was before stood in questions: whoever forgets it is to be rid of that, too.
    before = [former(s.former.experience, s.former.fact) for s in sources.values() if s.former is not None]
    return [*learnt, *{(one.subject, one.relation): one for one in before}.values()]


def _figures(outcome: Outcome, result: files.Result) -> dict[str, Any]:
    return {
        "marks": {arm: asdict(marks) for arm, marks in outcome.marks.items()},
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "dtype": result.dtype,
        "cost": dict(result.cost),
        "curve": list(result.curve),
    }
