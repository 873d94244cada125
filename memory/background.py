"""A thread that gives experiences their vectors and saliences, and lets go of what is too much, while others talk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from memory.binding import Binder
from memory.errors import MemoryFault

log = logging.getLogger("slowwave.memory")

_EVERY = 1.0
"""Seconds between two looks."""
_LAST_WORDS = 2.0
"""Seconds that the end may take."""


class Background:
    """Works in small pieces, and as long as somebody is being answered, half of the time at most."""

    def __init__(self, binder: Binder, *, busy: Callable[[], bool], warm: Callable[[], None]) -> None:
        """`warm` is called first, on the thread: what would make somebody's first search wait."""
        self._warm = warm
        self._binder = binder
        self._busy = busy
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)
        self._thread.start()

    def nudge(self) -> None:
        """There is something to do: look now."""
        self._wake.set()

    def close(self) -> None:
        """End the thread, after the piece of work in hand, and score what still waits for newer context.

        What a moment is too short for is done after the next start.
        """
        self._stop.set()
        self._wake.set()
        self._thread.join()
        until = time.monotonic() + _LAST_WORDS
        try:
            while time.monotonic() < until and self._binder.embed_pending():
                pass
            while time.monotonic() < until and self._binder.bind(everything=True):
                pass
        except MemoryFault as fault:
            log.error("memory_unfinished: %s", fault)

    def _run(self) -> None:
        self._warm()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                worked = self._binder.embed_pending() + self._binder.bind()
                if worked:
                    self._binder.evict()
            except MemoryFault as fault:  # the disk is full, say: try again later, and keep serving
                log.error("memory_background_failed: %s", fault)
                worked = 0
            if not worked:
                self._wake.wait(_EVERY)
                self._wake.clear()
            elif self._busy():
                self._stop.wait(time.monotonic() - began)
