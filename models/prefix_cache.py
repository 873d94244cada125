"""Sequence states at rest, found again by the longest prefix that a new prompt shares with them.

A namespace keeps strangers apart: a state is only ever given to the namespace that left it, so neither text nor
timing tells one tenant what another has asked. Nor is what one adapter has read given to another. Knows no model: a
state is anything that can be cropped and forked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from models.language import BASE, SequenceState

LEAST_WORTH_COPYING = 32
"""Tokens. A shorter shared prefix is read again: that is as fast as copying it."""


@dataclass(slots=True, eq=False)
class _Entry:
    namespace: str
    adapter: str
    token_ids: NDArray[np.int32]
    state: SequenceState
    held: int = 0
    """So many are looking at its memory."""


class PrefixCache:
    """States of finished sequences, least recently used first out. Used by the engine's thread alone."""

    def __init__(self, *, bytes_per_token: int) -> None:
        self._bytes_per_token = bytes_per_token
        self._entries: list[_Entry] = []
        self._shared: WeakValueDictionary[tuple[str, str, str], Any] = WeakValueDictionary()
        """What states have begun with, by namespace, adapter and origin, while one of them lives: here or in use."""

    @property
    def nbytes(self) -> int:
        """What the states hold, in bytes; what several share, once."""
        own, shared = 0, dict[Any, int]()
        for entry in self._entries:
            common = entry.state.shared
            own += len(entry.token_ids) - (common[1] if common else 0)
            if common:
                shared[common[0]] = common[0].length
        return (own + sum(shared.values())) * self._bytes_per_token

    def __len__(self) -> int:
        return len(self._entries)

    def take(
        self, namespace: str, prompt: list[int], *, adapter: str = BASE, leave: bool = False
    ) -> SequenceState | None:
        """A state that has read a prefix of `prompt` (at least its last token is left to read), or None.

        A state that the prompt continues is handed over whole. One that goes elsewhere after the shared prefix, or that
        somebody holds, stays, and a copy of the shared part is handed over; with `leave`, every one stays.
        """
        ids = np.asarray(prompt, dtype=np.int32)
        shared = [
            (_common_prefix(e.token_ids, ids), e)
            for e in self._entries
            if (e.namespace, e.adapter) == (namespace, adapter)
        ]
        continued = max((s for s in shared if s[0] == len(s[1].token_ids)), key=_length, default=(0, None))
        branching = max((s for s in shared if s[0] < len(s[1].token_ids)), key=_length, default=(0, None))
        if branching[1] is not None and branching[0] - continued[0] >= LEAST_WORTH_COPYING:
            usable, entry = min(branching[0], len(prompt) - 1), branching[1]
            self._entries.remove(entry)
            self._entries.append(entry)
            return entry.state.fork(usable)
        if continued[1] is None:
            return None
        if continued[1].held or leave:
            return continued[1].state.fork(min(continued[0], len(prompt) - 1))
        self._entries.remove(continued[1])
        continued[1].state.crop(min(continued[0], len(prompt) - 1))
        return continued[1].state

    def resting(self, namespace: str, token_ids: list[int], *, adapter: str = BASE) -> SequenceState | None:
        """The state that has read most of `token_ids` from their beginning, and nothing else. It stays where it is."""
        found = self._resting(namespace, token_ids, adapter)
        return None if found is None else found.state

    def hold(self, namespace: str, token_ids: list[int], *, adapter: str = BASE) -> SequenceState | None:
        """As `resting`; and until `let_rest`, nobody reads on with it, so that its memory can be looked at."""
        found = self._resting(namespace, token_ids, adapter)
        if found is None:
            return None
        found.held += 1
        return found.state

    def let_rest(self, state: SequenceState) -> None:
        """The end of a `hold`."""
        for entry in self._entries:
            if entry.state is state:
                entry.held -= 1

    def share(self, namespace: str, origin: str, state: SequenceState, *, adapter: str = BASE) -> None:
        """Let `begun_with` find what this state holds now, under the name of where it comes from."""
        shared = state.share()
        if shared is not None:
            self._shared[namespace, adapter, origin] = shared

    def begun_with(self, namespace: str, origin: str, *, adapter: str = BASE) -> Any:
        """What `share` has put under this name, if somebody still holds it."""
        return self._shared.get((namespace, adapter, origin))

    def release(self, state: SequenceState) -> None:
        """Let go of one state."""
        self._entries = [e for e in self._entries if e.state is not state]

    def put(
        self, namespace: str, token_ids: list[int], state: SequenceState, *, adapter: str = BASE, beside: bool = False
    ) -> None:
        """Keep `state`, which has read exactly `token_ids`. States that are its prefixes are dropped.

        `beside`: but not those that have read just the same: each is about to be continued by a branch of its own.
        """
        ids = np.asarray(token_ids, dtype=np.int32)
        if state.length != len(ids):
            raise ValueError(f"state holds {state.length} tokens, {len(ids)} were named")
        self._entries = [
            e
            for e in self._entries
            if (e.namespace, e.adapter) != (namespace, adapter)
            or _common_prefix(e.token_ids, ids) < len(e.token_ids)
            or (beside and len(e.token_ids) == len(ids))
        ]
        self._entries.append(_Entry(namespace, adapter, ids, state))

    def drop(self, namespace: str) -> int:
        """Let go of all states of a namespace; returns how many there were."""
        before = len(self._entries)
        self._entries = [e for e in self._entries if e.namespace != namespace]
        self._let_go_of(lambda key: key[0] == namespace)
        return before - len(self._entries)

    def drop_adapter(self, adapter: str) -> None:
        """Let go of all states that an adapter has read."""
        self._entries = [e for e in self._entries if e.adapter != adapter]
        self._let_go_of(lambda key: key[1] == adapter)

    def shrink(self, max_bytes: int) -> None:
        """Drop the least recently used states until the rest fits."""
        while self._entries and self.nbytes > max_bytes:
            self._entries.pop(0)

    def _resting(self, namespace: str, token_ids: list[int], adapter: str) -> _Entry | None:
        ids = np.asarray(token_ids, dtype=np.int32)
        found = [
            e
            for e in self._entries
            if (e.namespace, e.adapter) == (namespace, adapter) and _common_prefix(e.token_ids, ids) == len(e.token_ids)
        ]
        return max(found, key=lambda e: len(e.token_ids), default=None)

    def _let_go_of(self, meant: Callable[[tuple[str, str, str]], bool]) -> None:
        for key in [key for key in self._shared if meant(key)]:
            self._shared.pop(key, None)


def _length(found: tuple[int, _Entry]) -> int:
    return found[0]


def _common_prefix(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n
