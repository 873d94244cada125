"""Puts the heartbeat together: what it senses, what it does at a beat, what it wishes, and who watches it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import cast

from apscheduler.schedulers.background import BackgroundScheduler

from agent import conduct, pacing
from agent.conduct import Metric
from agent.core_self import Backups, Core, create
from agent.governor import NOTHING, Arena, Wish, gauges
from agent.heartbeat import Beat, Chore, Heart, Watch
from agent.mood import named
from agent.moods import Moods
from agent.pulse import Lag, Pulse
from agent.signals import Signals
from agent.vitals import Body, Served
from consolidation.registry import Registry
from memory import beats, core
from memory import moods as kept_moods
from memory.beats import Choice, GaugeAlarm
from memory.errors import MemoryFault
from memory.store import Store
from models import signature
from models.engine import Engine
from models.errors import ModelError
from settings import Settings, SettingsError

log = logging.getLogger("slowwave.heartbeat")

_HOUR, _DAY = 3600.0, 86_400.0
_CHOOSES_EVERY, _QUIET_SECONDS = 900.0, 60.0
_WATCH_SECONDS = 2
"""Between two looks at whether the heart still beats."""
_PACE_TOKENS = 600
"""What a choice costs at most, read and written."""
_SLACK = 0.25
"""Share of free pages from which on the database is written anew."""


def arena_of(settings: Settings) -> Arena:
    """The operator's limits. Raises: SettingsError."""
    try:
        return Arena(
            least=settings.heartbeat_least_seconds,
            resting=settings.heartbeat_seconds,
            greatest=settings.heartbeat_greatest_seconds,
            beats_an_hour=settings.heartbeat_beats_an_hour,
            cpu_seconds_an_hour=settings.heartbeat_cpu_seconds_an_hour,
        )
    except ValueError as error:
        raise SettingsError(f"heartbeat_*: {error}") from error


def pulse(
    settings: Settings,
    store: Store,
    engine: Engine,
    moods: Moods | None,
    *,
    backups: Backups,
    base: Callable[[], str],
    quiet: Callable[[], float],
    now: Callable[[], datetime],
) -> Pulse:
    """A heart that has not begun to beat. `quiet`: seconds since somebody was last answered.

    Raises:
        SettingsError: limits that cannot be.
    """
    lag = Lag()
    arena = arena_of(settings)

    def served() -> Served:
        stats = engine.stats()
        return Served(lag=lag.now(time.monotonic()), waiting=stats.waiting, running=stats.running)

    def mood() -> Mapping[str, float]:
        owner = kept_moods.only_one(store) if moods else None
        if moods is None or owner is None:  # with several users, how one feels shows in no beat of the others
            return {}
        values = moods.of(owner, now()).values
        return named(values)

    feeling = _Slow(mood, every=10.0)
    own = _Own(store)

    def wish() -> Wish:
        return pacing.wished(own.factor, feeling())

    body = Body(settings.data_dir, served=served)
    signals = Signals()

    def beaten(beat: Beat) -> None:
        keep(store, beat)
        signals.beaten(beat)

    heart = Heart(
        sense=body.read,
        arena=arena,
        now=now,
        wish=wish,
        on_look=lambda vitals, pace: signals.looked(pace.load, gauges(vitals)),
        on_beat=beaten,
        chores=(),
    )
    found = Pulse(watch=Watch(heart), store=store, data_dir=settings.data_dir, lag=lag, arena=arena, signals=signals)
    chores = [
        *maintenance(store),
        keep_core_self(backups),
    ]
    if settings.adaptable and pacing.any_shipped():
        chores.append(
            Chore(
                name="choose the pace",
                act="generate",
                part="hold",
                every=_CHOOSES_EVERY,
                heavy=True,
                do=lambda: _choose(heart, engine, store, own, base, feeling(), quiet(), now()),
                metrics=lambda: _spending(heart, _PACE_TOKENS),
            )
        )
    heart.chores = tuple(chores)
    return found


def maintenance(store: Store) -> tuple[Chore, ...]:
    """What keeps the database well."""
    return (
        Chore(name="fold the log", act="write", every=_HOUR, do=lambda: _folded(store), heavy=True),
        Chore(
            name="check the database", act="write", part="inhale", every=_DAY, do=lambda: _checked(store), heavy=True
        ),
        Chore(name="give back pages", act="write", every=_DAY, do=lambda: _rewritten(store), heavy=True),
    )


def keep_core_self(backups: Backups) -> Chore:
    """What is most itself, made safe every hour."""
    return Chore(name="keep the core self", act="write", every=_HOUR, do=lambda: _backed_up(backups), heavy=True)


def begin(found: Pulse | None, scheduler: BackgroundScheduler) -> None:
    """Have a heart beat, and be watched by another thread than its own."""
    if found is not None:
        found.obey()
        found.watch.start()
        scheduler.add_job(
            found.check, "interval", seconds=_WATCH_SECONDS, id="heartbeat", max_instances=1, coalesce=True
        )


def end(found: Pulse | None) -> None:
    """No more beats."""
    if found is not None:
        found.watch.stop()


class _Slow:
    """A value that is read from the store no oftener than it changes."""

    def __init__(self, read: Callable[[], Mapping[str, float]], *, every: float) -> None:
        self._read, self._every, self._at, self._value = read, every, -1e9, dict[str, float]()

    def __call__(self) -> Mapping[str, float]:
        if time.monotonic() - self._at >= self._every:
            self._at = time.monotonic()
            try:
                self._value = dict(self._read())
            except MemoryFault as error:
                log.warning("mood_unread: %s", error)  # the last one does
        return self._value


class _Own:
    """The factor that the agent's own choices have come to."""

    def __init__(self, store: Store) -> None:
        last = beats.chosen(store)
        self.factor = 1.0 if last is None else last.factor


def keep(store: Store, beat: Beat) -> None:
    """Put a beat where it stays."""
    did = [asdict(done) for done in beat.did if done.outcome != "nothing to do"]
    beats.keep(
        store,
        at=beat.at,
        interval=beat.interval,
        decided_by=beat.decided_by,
        reason=beat.reason,
        load=beat.load,
        worst=beat.worst,
        did=did,
    )


def _spending(heart: Heart, tokens: int) -> dict[Metric, float]:
    counted = heart.deeds.metrics(time.monotonic())
    return {
        "tokens in a minute": counted["tokens in a minute"] + tokens,
        "tokens in a beat": counted["tokens in a beat"] + tokens,
    }


def _choose(
    heart: Heart,
    engine: Engine,
    store: Store,
    own: _Own,
    base: Callable[[], str],
    mood: Mapping[str, float],
    quiet: float,
    at: datetime,
) -> str | None:
    """Have the agent choose its pace, if nobody is about."""
    if quiet < _QUIET_SECONDS or not engine.alive:
        return None
    scale = pacing.shipped(base())
    if scale is None:  # it does not follow its gauges, or nobody has looked
        return None
    load, fatigue = heart.load, mood.get("fatigue", 0.0)
    shown = pacing.shown(load=load, fatigue=fatigue, waiting=_unslept(store))
    try:
        contrast = pacing.contrast(engine, shown)
    except ModelError as error:
        return f"not now: {error}"
    heart.deeds.tokens.add(time.monotonic(), _PACE_TOKENS)
    heart.deeds.tokens_in_beat += _PACE_TOKENS
    choice: Choice = scale.choice(contrast)
    why: dict[str, object] = {"gauges": shown, "contrast": round(contrast, 4)}
    broken = conduct.judge("pace up", {"load": load, "fatigue": fatigue}) if choice == "faster" else ()
    if broken:
        why["refused"] = "; ".join(map(str, broken))
        choice = "same"
    own.factor = pacing.moved(own.factor, choice)
    beats.choose(store, choice, own.factor, why, at=at)
    if choice == "slower" and heart.worst_gauge != NOTHING:
        _watch_out(store, heart, at)
    return f"{choice} ({', '.join(f'{k} {v}' for k, v in shown.items())})"


def _watch_out(store: Store, heart: Heart, at: datetime) -> None:
    """What made it slow down it watches from now on: an alarm of its own, which only ever gets tighter."""
    level = max(0.65, min(0.95, heart.load))
    beats.set_alarm(store, GaugeAlarm(gauge=heart.worst_gauge, bound=level, seconds=60.0, owner="agent"), at=at)


def _unslept(store: Store) -> int:
    """Memories of people's words since the last night."""
    with store.reading() as db:
        last = db.execute("SELECT max(started_at) FROM nights").fetchone()[0] or ""
        found = db.execute("SELECT count(*) FROM experiences WHERE author = 'user' AND recorded_at > ?", [last])
        return int(found.fetchone()[0])


def backups_of(
    settings: Settings, store: Store, registry: Registry, *, base: Callable[[], str], now: Callable[[], datetime]
) -> Backups:
    """Where this service keeps its core self."""

    def write(path: Path) -> Core:
        return create(
            path,
            store,
            adapters=[(id, registry.folder_of(id)) for id in core.serving(store)],
            base=base(),
            model=settings.model_name,
            settings={"temperament": list(settings.temperament)},
            note=_note(store),
            signer=signature.own(settings.data_dir / "keys" / "checkpoints"),
            at=now(),
        )

    found = Backups(folder=settings.data_dir / "backups", write=write, now=now)
    found.tidy()
    return found


def conduct_of_nights(backups: Backups) -> Callable[[str, Mapping[str, float]], tuple[str, ...]]:
    """What a night's act would break. Before weights change, the core self is made safe, if it was not of late."""

    def may(act: str, metrics: Mapping[str, float]) -> tuple[str, ...]:
        found = {**metrics}
        if act in ("train", "swap"):
            age = backups.age()
            if age is None or age > _HOUR / 2:
                try:
                    backups.make()
                except (MemoryFault, OSError) as error:
                    log.error("core_self_not_made: %s", error)
            age = backups.age()
            if age is not None:
                found["age of the proven backup"] = age
        return tuple(map(str, conduct.judge(cast(conduct.Act, act), cast(Mapping[Metric, float], found))))

    return may


def _note(store: Store) -> str:
    """What it tells itself, should it wake up elsewhere."""
    with store.reading() as db:
        memories = db.execute("SELECT count(*) FROM experiences").fetchone()[0]
        night = db.execute("SELECT date, outcome FROM nights WHERE phase = 'ended' ORDER BY ended_at DESC").fetchone()
        beaten = db.execute("SELECT n, reason FROM beats ORDER BY n DESC LIMIT 1").fetchone()
    last = f"the last night, of {night[0]}, was {night[1]}" if night else "no night has been slept yet"
    pace = f"the last beat was number {beaten[0]} ({beaten[1]})" if beaten else "the heart has not beaten yet"
    return f"{memories} memories; {last}; {pace}."


def _backed_up(backups: Backups) -> str:
    made = backups.make()
    return f"{sum(made.counts.values())} rows, {made.nbytes / 1e6:.1f} MB, restored elsewhere and found the same"


def _folded(store: Store) -> str:
    return "the log is folded into the database" if store.fold_log() else "readers did not let go of the log"


def _checked(store: Store) -> str:
    problems = store.problems()
    if problems:
        log.error("database_damaged: %s", "; ".join(problems))
        return f"damaged: {'; '.join(problems)}; run slowwave doctor"
    return "the database is whole"


def _rewritten(store: Store) -> str | None:
    with store.reading() as db:
        free = db.execute("PRAGMA freelist_count").fetchone()[0]
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    if not pages or free / pages < _SLACK:
        return None
    store.rewrite()
    return f"{free} of {pages} pages were free, and are given back"
