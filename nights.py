"""Puts nights together: what they read, when they are due, and how they train."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, time, timedelta, tzinfo
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from apscheduler.schedulers.background import BackgroundScheduler
from tzlocal import get_localzone

from agent import judging
from consolidation import journal, schedule
from consolidation.exam import Bars
from consolidation.journal import NightUnderWay
from consolidation.night import Setting
from consolidation.registry import Registered, Registry
from consolidation.selection import LOOKED_AT, Limits
from consolidation.sleeper import HandOver, House, Sleeper
from memory import feedback
from memory.experiences import Experiences
from memory.recall import Recall
from memory.store import Store
from models.engine import Engine
from models.errors import WeightsNotFound
from serving import Serving
from settings import Settings, SettingsError

log = logging.getLogger("slowwave.sleep")

_LOOK_SECONDS = 20
_MIB = 1 << 20


def bars_and_recipe(settings: Settings) -> tuple[Bars, dict[str, Any]]:
    """What an exam asks for, and how a night is to train otherwise than by default.

    Raises:
        SettingsError: a bar or a part of the recipe that does not exist, or has an impossible value.
    """
    bars = replace(Bars(), **numbers("exam_bars", settings.exam_bars, asdict(Bars())))
    return bars, numbers("sleep_recipe", settings.sleep_recipe, _RECIPE)


def sleeper(
    settings: Settings,
    store: Store,
    experiences: Experiences,
    recall: Recall,
    registry: Registry,
    serving: Serving,
    *,
    may: Callable[[str, Mapping[str, float]], Sequence[str]] = lambda act, metrics: (),
    now: Callable[[], datetime],
) -> Sleeper:
    """What runs nights. Stray files are removed.

    Raises:
        SettingsError: a bar or a part of the recipe that does not exist, or has an impossible value.
    """
    bars, recipe = bars_and_recipe(settings)
    registry.tidy(most=settings.adapters_kept)

    base = base_digest(settings)

    def setting(current: Registered | None) -> Setting:
        kept = settings.cache_dir / "replies" / f"{base()[:16]}.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        on_gpu = serving.engine.model.card.device.startswith("cuda")
        return Setting(
            model=str(_weights(settings)),
            device="cuda" if on_gpu else "cpu",
            threads=settings.sleep_threads or settings.threads or len(os.sched_getaffinity(0)),
            recipe=recipe,
            memory_mib=0 if on_gpu else settings.sleep_memory_mib or _half_of_memory(),
            current=None if current is None or current.stale else str(registry.folder_of(current.id)),
            replies_file=str(kept),
            writer=writer_for(_weights(settings)),
            reader=reader_for(_weights(settings)),
            reviser=reviser_for(_weights(settings)),
            beginning=beginning_for(_weights(settings)),
            judge=None if (found := judge_of(settings)) is None else str(found),
        )

    house = House(
        day=lambda owner: experiences.newest(owner=owner, limit=LOOKED_AT),
        trust=lambda owner, source: feedback.trust(store, source, owner=owner, at=now()).in_source,
        setting=setting,
        base=base,
        prove=serving.prove,
        wake=serving.wake,
        changing=serving.changing,
        busy=lambda: serving.engine.stats().running > 0,
        now=now,
        may=may,
        vectors=recall.vectors,
        quarantine=quarantining(experiences, recall),
        share=lambda: None if serving.engine.model.card.device.startswith("cuda") else _shared_base(_weights(settings)),
        bars=bars,
        limits=Limits(import_hold=timedelta(hours=settings.sleep_import_hold_hours)),
        adapters_kept=settings.adapters_kept,
    )
    return Sleeper(store, registry, settings.data_dir / "nights", house)


def quarantining(experiences: Experiences, recall: Recall) -> Callable[[str, Sequence[str], str], None]:
    """What keeps an owner's experiences out of recall, also of one that has read them already, and out of nights."""

    def quarantine(owner: str, ids: Sequence[str], why: str) -> None:
        experiences.quarantine(ids, why, owner=owner)
        recall.refresh(owner, list(ids))

    return quarantine


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Looks every few seconds whether a night is due, and begins it."""

    store: Store
    sleeper: Sleeper
    plan: schedule.Plan
    zone: tzinfo
    busy: Callable[[], bool]
    now: Callable[[], datetime]
    may: Callable[[str, Mapping[str, float]], Sequence[str]] = lambda act, metrics: ()
    """What falling asleep by itself would break of the agent's conduct."""
    scheduler: BackgroundScheduler = field(default_factory=lambda: BackgroundScheduler(timezone="UTC"))

    def start(self) -> None:
        """From now on. APScheduler only looks: what is due is decided by `schedule.due`, and kept in the journal."""
        self.scheduler.add_job(
            self.look, "interval", seconds=_LOOK_SECONDS, id="nights", coalesce=True, max_instances=1, jitter=2
        )
        self.scheduler.start()

    def stop(self) -> None:
        """No more."""
        if self.scheduler.running:
            self.scheduler.shutdown(wait=True)

    def date(self) -> str:
        """The local date."""
        return self.now().astimezone(self.zone).date().isoformat()

    def look(self) -> None:
        """Begin every owner's night that is due."""
        with self.store.reading() as db:
            owners = [str(name) for (name,) in db.execute("SELECT name FROM owners").fetchall()]
        for owner in owners:
            found = schedule.due(
                self.plan,
                self._day(owner),
                now=self.now(),
                zone=self.zone,
                had=journal.dates(self.store, owner=owner),
            )
            if found is not None:
                date, why = found
                quiet = self.quiet_seconds()
                broken = self.may("sleep", {"live requests": float(quiet == 0), "seconds of quiet": quiet})
                if broken:
                    log.debug("night_postponed: %s of %s: %s", owner, date, "; ".join(broken))
                    continue
                try:
                    night = self.sleeper.begin(owner, date=date.isoformat(), asked=False)
                    log.info("night_begun: %s of %s, %s (%s)", night.id, date, why, schedule.rhythm(date))
                except NightUnderWay:
                    log.debug("a night of %s is under way", owner)

    def quiet_seconds(self) -> float:
        """Since anybody last said anything; 0 while somebody is answered."""
        if self.busy():
            return 0.0
        with self.store.reading() as db:
            last = db.execute("SELECT max(created_at) FROM turns").fetchone()[0]
        return math.inf if last is None else (self.now() - datetime.fromisoformat(last)).total_seconds()

    def _day(self, owner: str) -> schedule.Day:
        with self.store.reading() as db:
            last = db.execute("SELECT max(started_at) FROM nights WHERE owner = ?", [owner]).fetchone()[0] or ""
            count, salience, newest = db.execute(
                "SELECT count(*), coalesce(sum(coalesce(e.total, 0.3)), 0), max(e.recorded_at) FROM experiences e"
                " JOIN owners o ON o.n = e.owner WHERE o.name = ? AND e.author = 'user' AND e.recorded_at > ?",
                [owner, last],
            ).fetchone()
        quiet = timedelta(0) if self.busy() or newest is None else self.now() - datetime.fromisoformat(newest)
        return schedule.Day(new=int(count), salience=float(salience), quiet=quiet)


def clock(
    settings: Settings,
    store: Store,
    sleeping: Sleeper,
    engine: Engine,
    *,
    may: Callable[[str, Mapping[str, float]], Sequence[str]] = lambda act, metrics: (),
    now: Callable[[], datetime],
) -> Clock:
    """What begins nights that are due."""
    hour = None if settings.sleep_at == "none" or not settings.adaptable else time.fromisoformat(settings.sleep_at)
    return Clock(
        store=store,
        sleeper=sleeping,
        plan=schedule.Plan(
            at=hour,
            catch_up=timedelta(hours=settings.sleep_catch_up_hours),
            least_new=settings.sleep_least_new,
            pressure=settings.sleep_pressure,
            idle=timedelta(minutes=settings.sleep_idle_minutes),
        ),
        zone=ZoneInfo(settings.sleep_timezone) if settings.sleep_timezone else get_localzone(),
        busy=lambda: engine.stats().running > 0,
        now=now,
        may=may,
    )


_RECIPE: Mapping[str, int | float] = {
    "rank": 1,
    "alpha": 1,
    "trained_share": 0.5,
    "codebook": 1,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "epochs": 1,
    "batch": 1,
    "rehearsed": 1,
    "rehearsed_tokens": 1,
    "kl_weight": 1.0,
    "clip": 1.0,
    "learnt_weight": 1.0,
    "pack_tokens": 1,
}
"""The numbers of a `models.recipe.Recipe`, with an example of each: what is whole here must be whole there."""


def numbers(setting: str, given: Sequence[str], known: Mapping[str, int | float]) -> dict[str, Any]:
    """What NAME=VALUE settings say.

    Raises:
        SettingsError: a name that there is not, or no number that it can be.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, _, value = one.partition("=")
        if name not in known:
            raise SettingsError(f"{setting}: there is no {name!r}; there are {', '.join(known)}")
        try:
            found[name] = int(value) if isinstance(known[name], int) else float(value)
        except ValueError as error:
            raise SettingsError(f"{setting}: {name} = {value!r} is no number that it can be") from error
    return found


def base_digest(settings: Settings) -> Callable[[], str]:
    """What tells the digest of the base's weights, read when first asked; of the scripted model, its name."""

    @cache
    def base() -> str:
        if settings.model == "scripted":
            return settings.model
        if settings.run_folder is not None:
            return hashlib.sha256((settings.run_folder / "best.safetensors").read_bytes()).hexdigest()
        return _digest(_weights(settings))

    return base


def _weights(settings: Settings) -> Path:
    from models.weights import resolve

    if not settings.adaptable:
        raise WeightsNotFound(f"{settings.model_name} cannot be taught at night: it takes no adapters")

    return Path(resolve(settings.model, cache_dir=settings.cache_dir).location)


def _shared_base(weights: Path) -> HandOver | None:
    """The base in what this machine trains faster in, made once for all processes of a night; None: in its files'."""
    from models.precision import quicker
    from models.shared_tensors import share_files

    dtype = quicker("cpu")
    found = sorted(weights.glob("*.safetensors")) if dtype != "float32" else []
    try:
        return share_files(found, dtype) if found else None
    except OSError as error:  # a system without such memory
        log.warning("weights_not_shared: %s", error)
        return None


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 // _MIB


def writer_for(weights: Path) -> str | None:
    """The writer's folder, if it was trained on these weights; its name carries its digest."""
    return _shipped("writers/*/writer.json", weights)


def reader_for(weights: Path) -> str | None:
    """The reader's folder, if it was trained on these weights; its name carries its digest."""
    return _shipped("readers/*/reader.json", weights)


def reviser_for(weights: Path) -> str | None:
    """The reviser's folder, if it was trained on these weights; its name carries its digest."""
    return _shipped("revisers/*/reviser.json", weights)


def beginning_for(weights: Path) -> str | None:
    """The folder of what nights begin from, if it was trained on these weights; its name carries its digest."""
    return _shipped("beginnings/*/beginning.json", weights)


def judge_of(settings: Settings) -> Path | None:
    """The judge's folder, if the model has one; its name carries its digest."""
    try:
        found = _shipped("judges/*/judge.json", _weights(settings), Path(judging.__file__).parent)
    except WeightsNotFound:
        return None
    return Path(found) if found else None


def _shipped(pattern: str, weights: Path, beside: Path = Path(journal.__file__).parent) -> str | None:
    manifest = weights / "slowwave.json"
    if not manifest.is_file():
        return None
    source = json.loads(manifest.read_text(encoding="utf-8")).get("sha256")
    for folder in sorted(beside.glob(pattern)):
        if json.loads(folder.read_text(encoding="utf-8"))["base"] == source:
            return str(folder.parent)
    return None


def _digest(folder: Path) -> str:
    """Of a base's weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
