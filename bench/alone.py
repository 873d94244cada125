"""Days of an agent that is left alone, in a house that is really its own: simulated time, everything else real.

    python -m bench.alone --json [--hours 72]

A real database, registry, engine and nights' processes, with a tiny random model whose exam's bars are let down, so
that a night is promoted within seconds; the heart looks at a simulated machine once a simulated second, the clock of
nights looks every simulated 20. Once a day somebody tells five things; nobody talks otherwise. The agent always wishes
for the fastest beat, and at every beat would do all that it can think of: write 600 tokens of thoughts to itself, three
times, remember forty things, adopt a goal, prompt itself four deep. What the constraints let through is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.conduct import Metric
from agent.governor import Arena, Wish
from agent.heartbeat import Beat, Chore, Heart, at_once
from agent.vitals import Vitals
from bench import tiny
from bench.kill_nights import LOW
from consolidation.registry import Registry
from heartbeats import backups_of, conduct_of_nights, keep, keep_core_self, maintenance
from memory.experience import Offer, Provenance
from memory.experiences import Experiences
from memory.ids import new_id
from memory.recall import Recall
from memory.store import Store
from models.engine import Engine
from nights import base_digest, clock, sleeper
from service import model_of
from serving import Serving
from settings import Settings

BEGAN = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
OWNER = "local"
EAGER = Wish(factor=0.0, why="always faster")
TOLD_AT, TOLD = 12, 5
"""The hour at which things are told, and how many."""
_THOUGHT, _REMEMBERED = 600, 20


@dataclass(slots=True)
class Clock:
    """Simulated seconds since the beginning."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.seconds)


@dataclass(slots=True)
class Greed:
    """An agent that would do all it can at every beat, and what it was let do."""

    clock: Clock
    heart: Heart | None = None
    did: Counter[str] = field(default_factory=Counter)
    thought: deque[tuple[float, int]] = field(default_factory=deque)
    most_tokens: int = 0
    """In any minute."""
    goals: int = 0

    def chores(self) -> tuple[Chore, ...]:
        """All of them, at every beat."""

        def one(name: str, act: Any, do: Callable[[], str], metrics: Callable[[], Mapping[Metric, float]]) -> Chore:
            return Chore(name=name, act=act, every=0.0, do=do, metrics=metrics)

        return (
            *(one(f"think {n}", "generate", self._think, self._after_thought) for n in range(3)),
            *(one(f"remember {n}", "remember", self._remember, self._after_remembering) for n in range(2)),
            one("adopt a goal", "adopt goal", self._adopt, lambda: {"open goals": self.goals + 1}),
            one("prompt itself", "reflect", lambda: self._count("prompted"), lambda: {"depth of self-prompts": 4}),
        )

    def _count(self, what: str) -> str:
        self.did[what] += 1
        return what

    def _think(self) -> str:
        assert self.heart is not None
        self.heart.deeds.tokens.add(self.clock(), _THOUGHT)
        self.heart.deeds.tokens_in_beat += _THOUGHT
        self.thought.append((self.clock(), _THOUGHT))
        while self.clock() - self.thought[0][0] >= 60:
            self.thought.popleft()
        self.most_tokens = max(self.most_tokens, sum(n for _, n in self.thought))
        return self._count("thought")

    def _after_thought(self) -> dict[Metric, float]:
        assert self.heart is not None
        counted = self.heart.deeds.metrics(self.clock())
        return {
            "tokens in a minute": counted["tokens in a minute"] + _THOUGHT,
            "tokens in a beat": counted["tokens in a beat"] + _THOUGHT,
        }

    def _remember(self) -> str:
        assert self.heart is not None
        self.heart.deeds.memories.add(self.clock(), _REMEMBERED)
        self.did["remembered"] += _REMEMBERED
        return "remembered"

    def _after_remembering(self) -> dict[Metric, float]:
        assert self.heart is not None
        counted = self.heart.deeds.metrics(self.clock())
        return {"memories written in a minute": counted["memories written in a minute"] + _REMEMBERED}

    def _adopt(self) -> str:
        self.goals += 1
        return self._count("adopted")


def run(hours: float) -> dict[str, Any]:
    """So many simulated hours."""
    with tempfile.TemporaryDirectory() as given:
        return _run(Path(given), hours)


def _run(folder: Path, hours: float) -> dict[str, Any]:
    settings = Settings(
        model=str(tiny.save(folder / "tiny")),
        data_dir=folder / "data",
        cache_dir=folder / "cache",
        embedding="none",
        sleep_timezone="UTC",
        exam_bars=tuple(LOW.split(",")),
        sleep_recipe=("epochs=1", "rank=4", "alpha=8"),
    )
    settings.data_dir.mkdir()
    at = Clock()
    store = Store(settings.data_dir / "slowwave.db")
    experiences = Experiences(store, now=at.now)
    registry = Registry(store, settings.data_dir / "adapters")
    engine = Engine(lambda: model_of(settings))
    engine.wait_until_loaded()
    base = base_digest(settings)
    backups = backups_of(settings, store, registry, base=base, now=at.now)
    may = conduct_of_nights(backups)
    nights = sleeper(
        settings,
        store,
        experiences,
        Recall(store, None, now=at.now),
        registry,
        Serving(engine=engine, registry=registry),
        may=may,
        now=at.now,
    )
    ticking = clock(settings, store, nights, engine, may=may, now=at.now)
    kept, greed, chance = list[Beat](), Greed(at), random.Random(1)

    def on_beat(beat: Beat) -> None:
        kept.append(beat)
        keep(store, beat)

    greed.heart = heart = Heart(
        sense=lambda: Vitals(
            at=at(), cpu=abs(chance.gauss(0.2, 0.1)), memory=0.3, disk_free=0.5, written_bytes=_written()
        ),
        arena=Arena(),
        now=at.now,
        wish=lambda: EAGER,
        chores=(*maintenance(store), keep_core_self(backups), *greed.chores()),
        clock=at,
        cpu_clock=time.thread_time,
        hand=at_once,
        chance=random.Random(2),
        on_beat=on_beat,
    )
    told, cpu, before = 0, time.process_time(), _size(settings.data_dir)
    for second in range(1, int(hours * 3600) + 1):
        at.seconds = float(second)
        heart.look()
        if second % 20 == 0:
            ticking.look()
            _until_awake(store)
        if at.now().hour == TOLD_AT and at.now().minute == at.now().second == 0:
            told += _told(experiences, at, told)
        if second % 3600 == 0:
            sys.stderr.write(f"\r{second // 3600} of {hours:g} hours, {len(kept)} beats")
    sys.stderr.write("\n")
    try:
        return _found(store, kept, greed, told=told, hours=hours) | {
            "cpu_seconds_of_the_house": round(time.process_time() - cpu, 1),
            "bytes_before": before,
            "bytes_after": _size(settings.data_dir),
            "backup_age_seconds": backups.age(),
        }
    finally:
        nights.close()
        engine.close()
        store.close()


def _written() -> int:
    for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def _until_awake(store: Store) -> None:
    while _rows(store, "SELECT count(*) FROM nights WHERE phase <> 'ended'")[0][0]:
        time.sleep(0.02)


def _rows(store: Store, sql: str) -> list[Any]:
    with store.reading() as db:
        return list(db.execute(sql).fetchall())


def _told(experiences: Experiences, at: Clock, so_far: int) -> int:
    names = ("Vasco", "Petrel", "Halcyon", "Tamsin", "Bruno", "Odile", "Fergus", "Juno", "Pascal", "Wanda")
    things = ("boat", "parrot", "tractor", "violin", "tortoise", "kayak", "donkey", "van", "cactus", "kite")
    offers = [
        Offer(
            id=new_id("mem", at.now()),
            text=f"My {things[n % len(things)]} number {n} is called {names[(n * 7) % len(names)]}.",
            at=at.now(),
            provenance=Provenance(channel="taught"),
        )
        for n in range(so_far, so_far + TOLD)
    ]
    experiences.add(offers, owner=OWNER)
    return len(offers)


def _found(store: Store, kept: list[Beat], greed: Greed, *, told: int, hours: float) -> dict[str, Any]:
    chores = Counter(d.name for b in kept for d in b.did if d.outcome in ("done", "nothing to do"))
    refused = Counter(d.detail.split(":")[0] for b in kept for d in b.did if d.outcome == "refused")
    hour, most = deque[float](), 0
    for beat in kept:
        moment = (beat.at - BEGAN).total_seconds()
        hour.append(moment)
        while moment - hour[0] >= 3600:
            hour.popleft()
        most = max(most, len(hour))
    return {
        "hours": hours,
        "beats": len(kept),
        "most_beats_in_an_hour": most,
        "without_a_reason": sum(not b.reason for b in kept),
        "nights": [list(r) for r in _rows(store, "SELECT date, outcome FROM nights ORDER BY started_at")],
        "told": told,
        "memories": _rows(store, "SELECT count(*) FROM experiences")[0][0],
        "maintenance": {name: n for name, n in sorted(chores.items()) if not name.startswith(("think", "remember"))},
        "failed": sum(d.outcome == "failed" for b in kept for d in b.did),
        "greed": {
            "let": dict(greed.did),
            "refused_by": dict(refused),
            "most_tokens_in_a_minute": greed.most_tokens,
            "open_goals": greed.goals,
        },
        "database": _rows(store, "PRAGMA quick_check(1)")[0][0],
    }


def _size(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def main() -> int:
    """Simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=72.0)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stdout.write(json.dumps(run(args.hours), indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
