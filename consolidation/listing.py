"""Pure: the list of all that a message tells, as the reader writes it, and the check on it.

The reader is an adapter on the default model, trained on `bench/lists.jsonl` and others (bench/reader.py). Its reply
has a line for each thing that is told: said to the user, then the part of it that answers. What the message does not
bear out is let go; about the rest the writer (notes.py) asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from consolidation.english import sentence
from consolidation.notes import NOTHING, Note, answers, borne_out, heavy, notes_of, said_in
from consolidation.sentences import told_in

MOST = 5
"""Things in one message."""
DRAFTS, AGREED = 2, 0.5
"""Lists that are drawn beside the likeliest, and the share of all that a thing must stand in."""
_PROMPT = "List what this tells you about me.\n\n{message}"
_APART = " | "


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that a message tells."""

    told: str
    """To the user, with a stop."""
    value: str
    """The part of it that answers."""


def prompt(message: str) -> str:
    """What the reader is asked."""
    return _PROMPT.format(message=message.strip())


def written(things: Sequence[Told]) -> str:
    """What the reader is to answer."""
    return "\n".join(f"{one.told}{_APART}{one.value}" for one in things) or NOTHING


def told_of(message: str, replies: Sequence[str]) -> tuple[Told, ...]:
    """What enough of the reader's replies to one message list, and the message bears out beside what it only asks.

    Each value once, as most of them put it; the surest `MOST`, in the order in which they were first listed.
    """
    message = told_in(message)
    alike: list[list[Told]] = []
    for reply in replies:
        seen: list[list[Told]] = []
        for one in _borne_out(message, reply):
            of = next((of for of in alike if heavy(of[0].value) & heavy(one.value)), None)
            if of is None:
                alike.append(of := [])
            if not any(of is other for other in seen):
                of.append(one)
                seen.append(of)
    sure = [of for of in alike if len(of) >= AGREED * len(replies)]
    surest = sorted(sure, key=len, reverse=True)[:MOST]
    return tuple(Counter(of).most_common(1)[0][0] for of in sure if of in surest)


def noted(message: str, replies: Sequence[str], asked: Sequence[str]) -> tuple[Note, ...]:
    """All notes on a message: of the writer's replies to it, and to what was listed of it."""
    return (*notes_of(message, replies), *notes_of(message, asked, most=MOST))


def _borne_out(message: str, reply: str) -> Iterator[Told]:
    """The lines of one reply that hold."""
    for line in reply.splitlines():
        told, _, value = (part.strip() for part in line.partition(_APART))
        told = sentence(told) if told else ""
        if answers(value, told) and said_in(value, told) and said_in(value, message) and borne_out(told, message):
            yield Told(told, value)
