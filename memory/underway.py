"""Turns that are being taken: what is forgotten meanwhile, they have read, and must not write down again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from memory.words import holder


class Underway:
    """Tells turns what is forgotten while they last. Keeps no text longer than that. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: dict[str, list[list[Callable[[str], bool]]]] = {}

    @contextmanager
    def turn(self, owner: str) -> Iterator[Callable[[str], bool]]:
        """A turn, from before it reads anything; gives what says whether a text was forgotten since then."""
        heard: list[Callable[[str], bool]] = []
        with self._lock:
            self._turns.setdefault(owner, []).append(heard)
        try:
            yield lambda text: any(holds(text) for holds in heard)
        finally:
            with self._lock:
                left = [other for other in self._turns[owner] if other is not heard]
                if left:
                    self._turns[owner] = left
                else:
                    del self._turns[owner]

    def forgotten(self, owner: str, texts: Sequence[str]) -> None:
        """These texts of the owner's are being forgotten: call it within the transaction that does it."""
        with self._lock:
            for heard in self._turns.get(owner, ()):
                heard.extend(holder(text) for text in texts)
