"""What reader and writer reply to messages, many of them at the same time: what is told, and what may be asked of it.

The reader lists all that a message tells (listing.py), and the writer asks about each thing of it (notes.py). A message
of which nothing is listed, or nothing that questions could be written to, the writer notes by itself; of several things
listed those without questions are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from consolidation import listing, notes
from consolidation.listing import Told


class Speaker(Protocol):
    """What replies to many at a time (models/tuned.py)."""

    def replies(
        self, asked: Sequence[str], *, most: int, begun: Sequence[str] = (), temperature: float = 0.0
    ) -> list[str]:
        """To each, at most so many tokens; those that are begun are gone on with."""
        ...


LOOKS = 3
"""Steps that a message takes: it is listed, asked about, and, if need be, noted otherwise."""
AT_ONCE, AT_ONCE_ON_GPU = 32, 64
"""Messages that are read at the same time."""
_NOTE_TOKENS, _LIST_TOKENS = 288, 160
_ALIKE, _APART, _WARMTH = 5, 1, 0.9
"""Replies of the writer to a message of its own reading, and the temperature of all but the first."""
_DRAFTED = 0.7
"""The temperature of the reader's lists beside the likeliest."""
_OF_EACH = 5
"""Replies of the writer to each thing that is listed."""


def noted_of(
    writer: Speaker,
    reader: Speaker,
    messages: Sequence[str],
    *,
    each: Callable[[int], None] = lambda _: None,
    at_once: int = AT_ONCE,
) -> tuple[list[list[str]], list[list[str]]]:
    """The writer's replies to each message of its own reading, if need be, and to what the reader lists of it.

    `each` is told of the steps that are done, of `LOOKS` for each message.
    """
    many = len(messages)
    listed = listed_of(reader, messages, each=each, at_once=at_once)
    asked = asked_of(writer, messages, listed, each=lambda done: each(many + done), at_once=at_once)
    held = [notes.notes_of(*pair, most=listing.MOST) for pair in zip(messages, asked, strict=True)]
    left = [n for n, of in enumerate(held) if not of]
    own: list[list[str]] = [[] for _ in messages]
    found = written_of(writer, [messages[n] for n in left], each=lambda done: each(2 * many + done), at_once=at_once)
    for n, replies in zip(left, found, strict=True):
        own[n] = replies
    each(LOOKS * many)
    return own, asked


def written_of(
    writer: Speaker,
    messages: Sequence[str],
    *,
    alike: int = _ALIKE,
    apart: int = _APART,
    each: Callable[[int], None] = lambda _: None,
    at_once: int = AT_ONCE,
) -> list[list[str]]:
    """The writer's replies to each message that tells something, so many messages at the same time.

    The likeliest; others that begin as it does, for more questions; and some of their own, for what it left out.
    """
    asked = [notes.prompt(m) for m in messages]
    replies: list[list[str]] = []
    for start in range(0, len(asked), at_once):
        some = asked[start : start + at_once]
        first = writer.replies(some, most=_NOTE_TOKENS)
        telling = [i for i, reply in enumerate(first) if reply.strip() not in ("", notes.NOTHING)]
        of_each = [[reply] for reply in first]
        begun = [(i, notes.beginning(first[i]) if n < alike else "") for n in range(alike + apart) for i in telling]
        again = writer.replies(
            [some[i] for i, _ in begun],
            most=_NOTE_TOKENS,
            begun=[start for _, start in begun],
            temperature=_WARMTH,
        )
        for (i, beginning), reply in zip(begun, again, strict=True):
            of_each[i].append(beginning + reply)
        replies += of_each
        each(len(replies))
    return replies


def listed_of(
    reader: Speaker,
    messages: Sequence[str],
    *,
    each: Callable[[int], None] = lambda _: None,
    at_once: int = AT_ONCE,
) -> list[tuple[Told, ...]]:
    """What the reader lists of each message, so many messages at the same time."""
    listed: list[tuple[Told, ...]] = []
    for start in range(0, len(messages), at_once):
        some = messages[start : start + at_once]
        asked = [listing.prompt(m) for m in some]
        likeliest = reader.replies(asked, most=_LIST_TOKENS)
        drafts = reader.replies(asked * listing.DRAFTS, most=_LIST_TOKENS, temperature=_DRAFTED)
        listed += [listing.told_of(message, [likeliest[n], *drafts[n :: len(some)]]) for n, message in enumerate(some)]
        each(len(listed))
    return listed


def asked_of(
    writer: Speaker,
    messages: Sequence[str],
    told: Sequence[Sequence[Told]],
    *,
    alike: int = _OF_EACH,
    each: Callable[[int], None] = lambda _: None,
    at_once: int = AT_ONCE,
) -> list[list[str]]:
    """The writer's replies to each message: `alike` for each thing that is known to be told, the likeliest first."""
    replies: list[list[str]] = []
    for start in range(0, len(messages), at_once):
        some = range(start, min(start + at_once, len(messages)))
        begun = [(n, notes.begun(one.told, one.value)) for n in some for one in told[n]]
        asked, beginnings = [notes.prompt(messages[n]) for n, _ in begun], [beginning for _, beginning in begun]
        likeliest = writer.replies(asked, most=_NOTE_TOKENS, begun=beginnings)
        others = writer.replies(
            asked * (alike - 1),
            most=_NOTE_TOKENS,
            begun=beginnings * (alike - 1),
            temperature=_WARMTH,
        )
        of_each: dict[int, list[str]] = {n: [] for n in some}
        for (n, beginning), reply in zip(begun * alike, [*likeliest, *others], strict=True):
            of_each[n].append(beginning + reply)
        replies += of_each.values()
        each(len(replies))
    return replies
