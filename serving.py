"""Which adapter serves whom: how the engine wakes with it, and with who has second thoughts about what it says."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep

from agent.abstention import Taught
from agent.judging import Judge
from consolidation.registry import MASTERED, Registered, Registry
from memory.store import Store
from memory.words import words
from models.engine import Engine
from models.errors import AdapterRefused, EngineClosed, ModelError
from models.judge import rule
from models.language import BASE

log = logging.getLogger("slowwave.sleep")

_PROOF = "proof"
"""What an adapter is called while it is proved; never one of the registry's names."""
_JUDGE = "judge"
"""The same, of who judges."""
_LOOK_AGAIN = 0.05
"""Seconds until an adapter that replies still need is looked at again."""
_WAKING_SECONDS = 60.0
"""That a first message waits for the adapter which is to answer it; then the base does."""


@dataclass(slots=True)
class Serving:
    """Which adapter serves each owner, as the engine has it."""

    engine: Engine
    registry: Registry
    find_judge: Callable[[], Path | None] = lambda: None
    """The folder of who has second thoughts about what an adapter says, if the model has one; looked for with the first
    adapter that serves, since at a first start the model's files are still being made."""
    judge: Judge | None = None
    """Once the engine knows it."""
    by_owner: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    awake: threading.Event = field(default_factory=threading.Event)
    """Set once those who served before are loaded again, as far as they can be, and while nobody is about to wake."""

    def of(self, owner: str) -> str:
        """The adapter that answers an owner; at a start, once it is there."""
        if not self.awake.wait(_WAKING_SECONDS):
            log.warning("adapters are not loaded after %.0f s: the base answers", _WAKING_SECONDS)
        return self.by_owner.get(owner, BASE)

    def taught(self, owner: str) -> list[Taught]:
        """The facts that it knows, and that are not forgotten since."""
        adapter = self.of(owner)
        known = [] if adapter == BASE else self.registry.known(adapter)
        return [
            Taught(memory=fact.experience, asked=frozenset(fact.asked.split()), value=frozenset(words(fact.value)))
            for fact in known
            if (fact.recalled or 0.0) >= MASTERED
        ]

    def judged_by(self) -> Judge | None:
        """Who has second thoughts about what adapters say, once the engine knows them."""
        return self.judge

    def load(self, id: str) -> None:
        """Have the engine know an adapter. Raises: AdapterRefused, EngineClosed."""
        with self.lock:
            self._load(id)

    def prove(self, folder: Path) -> None:
        """Have the engine take an adapter and let it go again. Raises: AdapterRefused, EngineClosed."""
        self.engine.adopt(folder, _PROOF)
        self.engine.let_go(_PROOF)

    @contextmanager
    def changing(self) -> Iterator[Callable[[str], None]]:
        """For who serves to change at the moment at which others are told so.

        Yields what is called with the id of an adapter whose files are in place, before anybody is told: the engine
        learns it, which takes a while, and from then on whoever asks who serves waits until the change is made.
        """
        learnt: list[str] = []
        asleep = not self.awake.is_set()

        def ready(id: str) -> None:
            self.load(id)
            learnt.append(id)
            self.awake.clear()

        try:
            yield ready
        finally:
            if not asleep:
                self.awake.set()
            for id in learnt:
                if id not in self.by_owner.values():  # it came to nothing
                    threading.Thread(target=self._let_go, args=(id,), daemon=True).start()

    def wake(self, owner: str, adapter: Registered | None) -> None:
        """From the next reply on; replies under way end as they began."""
        with self.lock:
            if adapter is not None:
                self._load(adapter.id)
            before = self.by_owner.get(owner, BASE)
            self.by_owner[owner] = BASE if adapter is None else adapter.id
        if before not in (BASE, self.by_owner[owner]):
            threading.Thread(target=self._let_go, args=(before,), daemon=True).start()

    def _load(self, id: str) -> None:
        if id not in self.engine.model.adapters:
            self.engine.adopt(self.registry.folder_of(id), id)
        self._have_judge()

    def _have_judge(self) -> None:
        if self.judge is not None:
            return
        try:
            if (folder := self.find_judge()) is None:
                return
            by = rule(folder)
            self.engine.adopt(folder, _JUDGE)
            self.judge = Judge(adapter=_JUDGE, rule=by)
        except EngineClosed:
            raise
        except Exception as error:  # whatever is wrong with it, replies do without it
            log.error("judge_left_out: %s", error)
            self.find_judge = lambda: None

    def _let_go(self, id: str) -> None:
        """Once no reply needs it; unless it was woken again meanwhile."""
        with suppress(EngineClosed):
            while True:
                with self.lock:
                    if id in self.by_owner.values() or self.engine.let_go(id):
                        return
                sleep(_LOOK_AGAIN)

    def wake_all(self, store: Store) -> None:
        """At a start: whoever served, serves again. An adapter that is broken is left out, and the base answers."""
        try:
            self._wake_all(store)
        finally:
            self.awake.set()

    def _wake_all(self, store: Store) -> None:
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
