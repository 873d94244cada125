"""A reply heard before it is shown: as far as it takes to see whether it may be, or not held back at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from agent import doubt
from models.generation import Delta, Generation, Reply, Timings

HEARD = doubt.LENGTH
"""Tokens of a reply that are looked at before any of it is shown; answers by heart are shorter. As many as a judge
reads (models/judge.py)."""


class Shown:
    """What has been shown of a reply, and when the first of it was."""

    def __init__(self, on_delta: Callable[[Delta], None], *, first: Callable[[], None] = lambda: None) -> None:
        """`first` is called before the first of it is shown: nothing of it will be withheld any more."""
        self._on_delta = on_delta
        self._settled = first
        self._began = time.monotonic()
        self._first: float | None = None

    def __call__(self, delta: Delta) -> None:
        if self._first is None:
            self._first = time.monotonic()
            self._settled()
        self._on_delta(delta)

    def timings(self, reply: Reply) -> Timings:
        """The reply's, with the wait of whoever reads along: what was held back counts."""
        return replace(reply.timings, time_to_first_token=(self._first or time.monotonic()) - self._began)


def listen(generation: Generation, vouches: Callable[[str], bool] | None, show: Callable[[Delta], None]) -> bool:
    """Show a reply as it comes; one that has to be vouched for once its beginning is there. Whether it was shown."""
    held: list[Delta] = []
    vouched = vouches is None
    for delta in generation:
        if vouched:
            show(delta)
            continue
        held.append(delta)
        if len(held) == HEARD:
            if vouches is not None and not vouches("".join(d.text for d in held)):
                generation.stop()
                generation.wait()
                return False
            vouched = True
            for one in held:
                show(one)
    if not vouched:
        if vouches is not None and not vouches("".join(d.text for d in held)):
            return False
        for one in held:
            show(one)
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """The beginning of a reply, of which nothing has been shown; all of it, if it is short."""

    deltas: tuple[Delta, ...]
    reply: Reply

    @property
    def text(self) -> str:
        """As far as it was heard."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def goes_on(self) -> bool:
        """Whether there is more to come, from its last token on."""
        return self.reply.finish_reason == "suspended"

    @property
    def whole(self) -> bool:
        """Whether there is something to judge, not a reply that somebody has called off."""
        return self.goes_on or self.reply.finish_reason in ("stop", "length")


def hear(generation: Generation) -> Heard:
    """Let a reply come to its end or to `HEARD` tokens, and hold it there: what it has read rests where drafts of it
    find it, and it can go on with the same next token."""
    deltas: list[Delta] = []
    for delta in generation:
        deltas.append(delta)
        if len(deltas) == HEARD:
            generation.stop("suspended")
    return Heard(deltas=tuple(deltas), reply=cast(Reply, generation.reply))
