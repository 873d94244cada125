"""Who answers a personal question while an adapter serves, and when what they say may be shown.

By heart first, where the question may ask for something that the adapter was taught; what it says is held back until
it is seen to give what was asked for (abstention.py). Where it does not, and where nothing fits, the base answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from agent.abstention import Taught, borne_out, could_answer, known_by_heart
from agent.recollection import Recollection, note_of
from models.generation import Delta, Generation, Reply, Timings
from models.language import BASE
from models.sampling import Choice

HEARD = 32
"""Tokens of a reply by heart that are looked at before any of it is shown; answers are shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who may answer, and from which memories."""

    adapter: str
    recollection: Recollection
    vouches: Callable[[str], bool] | None = None
    """Whether the beginning of a reply may be shown; where not, the next speaker answers. None: it is not asked."""


def speakers(said: str, adapter: str, recollection: Recollection, taught: Sequence[Taught]) -> list[Speaker]:
    """Who answers something personal, and who does where the first gives what was not asked for."""
    by_heart = {fact.memory for fact in taught}
    hits = [
        hit
        for hit in recollection.hits
        if hit.experience.id not in by_heart and could_answer(said, hit.experience.text)
    ]
    from_memory = Recollection(hits=tuple(hits), note=note_of(hits, said)) if hits else Recollection()
    base = Speaker(adapter=BASE, recollection=from_memory)
    if not known_by_heart(said, taught):
        return [base]
    vouches = partial(borne_out, said, taught=taught)
    return [Speaker(adapter=adapter, recollection=Recollection(), vouches=vouches), base]


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


def listen(
    generation: Generation, vouches: Callable[[str], bool] | None, show: Callable[[Delta], None]
) -> list[Choice] | None:
    """Show a reply as it comes; one that has to be vouched for once its beginning is there. None: it was not."""
    choices: list[Choice] = []
    held: list[Delta] = []
    vouched = vouches is None
    for delta in generation:
        choices.append(delta.choice)
        if vouched:
            show(delta)
            continue
        held.append(delta)
        if len(held) == HEARD:
            if vouches is not None and not vouches("".join(d.text for d in held)):
                generation.stop()
                generation.wait()
                return None
            vouched = True
            for one in held:
                show(one)
    if not vouched:
        if vouches is not None and not vouches("".join(d.text for d in held)):
            return None
        for one in held:
            show(one)
    return choices
