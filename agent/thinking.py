"""A model's thinking aloud, told from what it says. Thinking is not shown; it goes to a room (memory/rooms.py).

Models trained to reason begin a reply with "<think>", think, and close it before they answer (Qwen3, SmolLM3). Only a
reply's beginning is looked at: who asks for the word "<think>" gets it. A template that opens the thought itself,
before the reply, is not recognised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from models.generation import Delta, Reply
from models.language import LanguageModel
from models.sampling import Choice

OPENS, CLOSES = "<think>", "</think>"


def parted(reply: str) -> tuple[str, str]:
    """What a reply, or as much as there is of it, thinks, and what it says."""
    if not thinks(reply):
        return "", reply
    thought, closed, said = reply.lstrip().removeprefix(OPENS).partition(CLOSES)
    return thought.strip(), said.lstrip() if closed else ""


def thinks(reply: str) -> bool:
    """Whether a reply begins with thinking."""
    return reply.lstrip().startswith(OPENS)


def spoken(model: LanguageModel, reply: Reply, *, goes_on: bool) -> tuple[Reply, str]:
    """A reply as it is shown and kept, and what was thought before it.

    The context forgets the thought, as these models' templates do. So does one that `goes_on`: it keeps none of its ids
    and will begin anew, with the same words for the same draws.
    """
    thought, said = parted(reply.text)
    if goes_on and (thinks(reply.text) or _may_think(reply.text)):
        return replace(reply, text=said if thinks(reply.text) else "", token_ids=(), kept_ids=()), ""
    if not thinks(reply.text):
        return reply, ""
    ended = tuple(i for i in reply.kept_ids[-1:] if i in model.card.stop_ids)
    return replace(reply, text=said, kept_ids=(*model.encode(said), *ended)), thought


class Aloud:
    """Shows, piece by piece, what a reply says. `shown`: how much of it, in characters, was shown before."""

    def __init__(self, show: Callable[[Delta], None], *, speaks: bool = False, shown: int = 0) -> None:
        self._show = show
        self._sofar, self._held = "", list[Delta]()
        self._speaks, self._shown = speaks, shown
        self.choices: list[Choice] = []
        """Of what was shown."""

    def __call__(self, delta: Delta) -> None:
        if self._speaks:
            self._pass(delta)
            return
        self._held.append(delta)
        self._sofar += delta.text
        if self._settled():
            self._begin()

    def end(self, *, goes_on: bool) -> None:
        """Nothing more comes for now. What might have become thinking, and did not, is shown, unless it yet may."""
        if not self._speaks and not thinks(self._sofar) and not goes_on:
            self._begin()

    def _settled(self) -> bool:
        """Whether it is known where it begins to speak."""
        return bool(parted(self._sofar)[1]) and not _may_think(self._sofar)

    def _begin(self) -> None:
        self._speaks = True
        if thinks(self._sofar):
            self._held = [Delta(text=parted(self._sofar)[1], choice=self._held[-1].choice)]
        for delta in self._held:
            self._pass(delta)
        self._held = []

    def _pass(self, delta: Delta) -> None:
        text = delta.text[self._shown :]
        known, self._shown = bool(delta.text) and not text, max(0, self._shown - len(delta.text))
        if not known:
            self.choices.append(delta.choice)
            self._show(Delta(text=text, choice=delta.choice))


def _may_think(begun: str) -> bool:
    """Whether what there is of a reply, if anything, may yet become thinking."""
    return OPENS.startswith(begun.lstrip())
