"""Puts nights together: what they read, how they train, and how the engine wakes with what they made."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from consolidation import journal
from consolidation.night import Setting
from consolidation.registry import Registered, Registry
from consolidation.sleeper import House, Sleeper
from memory import feedback
from memory.experiences import Experiences
from memory.store import Store
from models.engine import Engine
from models.errors import AdapterRefused, ModelError
from models.language import BASE
from settings import Settings

log = logging.getLogger("slowwave.sleep")

_LOOKED_AT = 20_000
"""The latest experiences that a night chooses from."""


@dataclass(slots=True)
class Serving:
    """Which adapter serves each owner, as the engine has it."""

    engine: Engine
    registry: Registry
    by_owner: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, owner: str) -> str:
        """The adapter that answers an owner."""
        return self.by_owner.get(owner, BASE)

    def load(self, id: str) -> None:
        """Have the engine know an adapter. Raises: AdapterRefused, EngineClosed."""
        with self.lock:
            if id not in self.engine.model.adapters:
                self.engine.adopt(self.registry.folder_of(id), id)

    def wake(self, owner: str, adapter: Registered | None) -> None:
        """From the next reply on; replies under way end as they began."""
        if adapter is not None:
            self.load(adapter.id)
        before = self.of(owner)
        self.by_owner[owner] = BASE if adapter is None else adapter.id
        if before not in (BASE, self.of(owner)):
            threading.Thread(target=self.engine.let_go, args=(before,), daemon=True).start()

    def wake_all(self, store: Store) -> None:
        """At a start: whoever served, serves again. An adapter that is broken is left out, and the base answers."""
        try:
            self.engine.wait_until_loaded()
        except ModelError:
            return
        with store.reading() as db:
            owners = [str(r[0]) for r in db.execute("SELECT owner FROM adapters WHERE status = 'active'").fetchall()]
        for owner in owners:
            adapter = self.registry.active(owner)
            try:
                self.wake(owner, adapter)
            except AdapterRefused as error:
                log.error("adapter_left_out: %s", error)


def sleeper(
    settings: Settings,
    store: Store,
    experiences: Experiences,
    registry: Registry,
    serving: Serving,
    *,
    now: Callable[[], datetime],
) -> Sleeper:
    """What runs nights. Nights that a crash left open are ended, and stray files removed."""
    journal.interrupt_all(store, at=now())
    registry.tidy()

    def setting(_: Registered | None) -> Setting:
        from models.weights import resolve

        source = resolve(settings.model, cache_dir=settings.cache_dir)
        kept = settings.cache_dir / "replies" / f"{base()[:16]}.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        return Setting(
            model=str(source.location),
            threads=settings.threads or len(os.sched_getaffinity(0)),
            replies_file=str(kept),
        )

    def base() -> str:
        from models.weights import resolve

        return _digest(Path(resolve(settings.model, cache_dir=settings.cache_dir).location))

    house = House(
        day=lambda owner: experiences.newest(owner=owner, limit=_LOOKED_AT),
        trust=lambda owner, source: feedback.trust(store, source, owner=owner, at=now()).in_source,
        setting=setting,
        base=base,
        wake=serving.wake,
        busy=lambda: serving.engine.stats().running > 0,
        now=now,
    )
    return Sleeper(store, registry, settings.data_dir / "nights", house)


def _digest(folder: Path) -> str:
    """Of a base's weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
