"""The heartbeat of one service, as its routes see it: how it is, the operator's switch, and the alarms."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent import alarms
from agent.governor import Arena, gauges
from agent.heartbeat import Gauges, Watch
from agent.signals import Signals
from memory import beats
from memory.store import Store

log = logging.getLogger("slowwave.heartbeat")

STOPPED = "heartbeat-stopped"
"""The operator's switch: while a file of this name lies in the data directory, the heart does not beat. It works
without the service, and nothing that the agent does can write or remove it."""


@dataclass(slots=True)
class Lag:
    """How late the service's event loop is; written by the loop, read by the heart."""

    every: float = 0.5
    """Seconds between two of the loop's words."""
    seconds: float = 0.0
    """As it was at the last."""
    said_at: float | None = None
    """When that was, monotonic; None: the loop has not begun."""

    def now(self, at: float) -> float:
        """As it is: a loop that is held up says nothing."""
        return self.seconds if self.said_at is None else max(self.seconds, at - self.said_at - self.every)


@dataclass(slots=True)
class Pulse:
    """The heartbeat of one service, as its routes see it."""

    watch: Watch
    store: Store
    data_dir: Path
    lag: Lag
    arena: Arena
    signals: Signals
    sounding: dict[str, float] = field(default_factory=dict)
    """Gauges whose alarm sounds, and for how many seconds."""
    _above: dict[alarms.Key, float] = field(default_factory=dict)

    def gauges(self) -> Gauges:
        """How it is."""
        return self.watch.gauges()

    def switch(self, *, stopped: bool) -> None:
        """The operator's: stop it, or let it beat again. It holds across restarts."""
        file = self.data_dir / STOPPED
        if stopped:
            file.touch()
        else:
            file.unlink(missing_ok=True)
        self.obey()

    def obey(self) -> None:
        """Do as the switch says."""
        stopped = (self.data_dir / STOPPED).exists()
        if stopped != self.watch.heart.arena.stopped:
            self.watch.heart.arena = replace(self.arena, stopped=stopped)
            log.info("heartbeat_switched: %s", "off" if stopped else "on")

    def check(self) -> None:
        """To be called every other second, by another thread than the heart's."""
        self.obey()
        self.watch.check()
        self.listen(self.watch.clock())

    def listen(self, at: float) -> None:
        """Look which alarms sound. Apart from the beats: they matter most where none comes."""
        vitals = self.watch.heart.vitals
        found = gauges(vitals) if vitals else {}
        set_ones = beats.alarms(self.store)
        self._above = alarms.above(set_ones, found, self._above, at)
        before, self.sounding = set(self.sounding), alarms.sounding(set_ones, self._above, at)
        for gauge in set(self.sounding) - before:
            log.warning("gauge_alarm: %s at %.2f", gauge, found[gauge])
