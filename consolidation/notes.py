"""Pure: what the model itself writes about a message (what it tells, and how one may ask for it), and the check on it.

The writer is an adapter on the default model, trained on `texts/tellings.jsonl` and more (bench/writer.py). What it
writes is kept only where the message bears it out: no name, number or rare word that was not said, questions that do
not give the answer away. A reply's lines: the fact, said to the user; which part of it answers; questions in the user's
words; and, after `Not told:`, questions near to them that the message does not answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from consolidation.english import is_word, sentence, spoken
from consolidation.sentences import told_in
from consolidation.variation import LIGHT, gist

NOTHING = "Nothing."
_VALUE, _NEVER = "Answer:", "Not told:"
LONGEST = 600
"""Characters of a message that the writer reads; longer ones are left to the rules."""
_PROMPT = "Note what this tells you about me, and what I may ask you about it later.\n\n{message}"
_SPECIFIC = re.compile(r"[^\W_]+(?:[.:,/'’@&+*#_-][^\W_]+)*[*#]?")
_FEWEST, _MOST = 3, 32
"""Questions that make a note, and that are kept."""
_THINGS = 2
"""Notes on one message, by the writer alone."""
_NO_ANSWER = LIGHT | frozenset(
    """
    up down back off out away over around along through across aside apart ahead together
    still already always never often sometimes usually normally mostly nearly almost hardly barely just only
    even too also quite rather really actually finally eventually lately recently suddenly probably maybe perhaps
    basically honestly literally properly completely absolutely definitely apparently obviously sadly luckily anyway
    now then soon later earlier before after since ago today tonight tomorrow yesterday
    last next past coming previous current other another same such own both all some any none few
    here there everywhere somewhere anywhere nowhere
    get gets got gotten getting go goes gone went going come comes came coming put puts putting take takes took taken
    make makes made making give gives gave given keep keeps kept let lets become became turn turned turns
    look looks looked seem seems start starts started stop stops stopped begin begun want wants wanted need needs
    needed try tries tried use used think thinks thought feel feels felt find found like likes liked love loves loved
    thing things something anything everything nothing someone somebody anyone anybody everyone everybody
    people person human humans man guy lot lots bit bits way ways stuff part
    good bad better best worse worst great nice fine okay much many more most less
    very well sure true able happy sad tired yes no
    """.split()
)
"""By themselves they answer nothing that is worth asking in a month: "finally", "gone up"."""
_PASSING = re.compile(r"(?:last|next|this|the other) (?:morning|afternoon|evening|night|day|week|weekend|month|year)")
"""Nor does a time that is another one in a month."""
_MINE = re.compile(r"\b(?:I|I'm|I've|I'd|me|my|mine|we|us|our|myself)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One thing that a message tells."""

    told: str
    """To the user, with a stop."""
    value: str
    """The part of it that answers."""
    asks: tuple[str, ...]
    """Whole questions, in the user's words; none gives the value away."""
    never: tuple[str, ...] = ()
    """Questions near to these, which the message does not answer."""


def prompt(message: str) -> str:
    """What the writer is asked."""
    return _PROMPT.format(message=message.strip())


def written(told: str, value: str, asks: Sequence[str], never: Sequence[str] = ()) -> str:
    """What the writer is to answer."""
    return begun(told, value) + "\n".join([*asks, *([_NEVER, *never] if never else [])])


def begun(told: str, value: str) -> str:
    """How the writer's reply begins, for questions about what is known to be told."""
    return f"{told}\n{_VALUE} {value}\n"


def beginning(reply: str) -> str:
    """What a reply says was told, and which part answers: for another with other questions to begin with."""
    lines = reply.splitlines()
    return "".join(f"{line}\n" for line in lines[: 2 if lines[1:] and lines[1].startswith(_VALUE) else 1])


def notes_of(message: str, replies: Sequence[str], *, most: int = _THINGS) -> tuple[Note, ...]:
    """What the writer's replies to one message note: what they agree on is one note, with the questions of all.

    `most` notes. None where the first found nothing, or none found anything that the message bears out, beside what it
    only asks.
    """
    message = told_in(message)
    if not replies or replies[0].strip() in ("", NOTHING):
        return ()
    alike: list[list[Note]] = []
    for one in (note for reply in replies if (note := _noted(message, reply)) is not None):
        same = next((of for of in alike if heavy(of[0].value) & heavy(one.value)), None)
        if same is None:
            alike.append([one])
        else:
            same.append(one)
    joined = [_joined(of) for of in alike]
    return tuple(note for note in joined if len(note.asks) >= _FEWEST)[:most]


def _noted(message: str, reply: str) -> Note | None:
    """One reply, if the message bears it out."""
    told, *lines = [line.strip() for line in reply.splitlines() if line.strip()] or [NOTHING]
    told = sentence(told)
    if not borne_out(told, message):
        return None
    given = lines.pop(0).removeprefix(_VALUE).strip() if lines and lines[0].startswith(_VALUE) else ""
    cut = lines.index(_NEVER) if _NEVER in lines else len(lines)
    asks = [a for a in lines[:cut] if _is_question(a, told)]
    value = given if said_in(given, told) and said_in(given, message) else _value(told, asks, message)
    if not answers(value, told):
        return None
    apart = [q for q in lines[cut + 1 :] if _is_question(q, told) and not _spoken_of(q, message)]
    return Note(told=told, value=value, asks=_without(value, asks), never=_without(value, apart))


def _joined(notes: Sequence[Note]) -> Note:
    asks = tuple(dict.fromkeys(ask for note in notes for ask in note.asks))
    same = {gist(ask) for ask in asks}
    never = [q for q in dict.fromkeys(q for note in notes for q in note.never) if gist(q) and gist(q) not in same]
    return replace(notes[0], asks=asks[:_MOST], never=tuple(never[:_MOST]))


def heavy(value: str) -> frozenset[str]:
    """The words by which two values are the same: those that carry meaning, if any does."""
    return frozenset(w for w in spoken(value) if w not in LIGHT) or frozenset(spoken(value))


def answers(value: str, told: str) -> bool:
    """Whether a part of what was told says something: a name, a number, or what not everybody says of everything."""
    if any(c.isupper() for c in value) and f" {value}" in told:  # somebody is called Guy, and lives in Nice
        return True
    words = spoken(value)
    return any(word not in _NO_ANSWER for word in words) and not _PASSING.fullmatch(" ".join(words))


def _without(value: str, questions: Sequence[str]) -> tuple[str, ...]:
    """Those that do not give the value away."""
    weighty = heavy(value)
    return tuple(dict.fromkeys(q for q in questions if not weighty & set(spoken(q))))


def _spoken_of(question: str, message: str) -> bool:
    """Whether all that a question is about stands in the message, which then may well answer it."""
    said = {w[:4] for w in spoken(message)}
    return all(w[:4] in said for w in gist(question))


def said_in(value: str, text: str) -> bool:
    """Whether a text has these words in this order."""
    words = spoken(value)
    return bool(words) and f" {' '.join(words)} " in f" {' '.join(spoken(text))} "


def borne_out(told: str, message: str) -> bool:
    """Whether a message says it: no specific word that was not said, and most of the others said too."""
    said = set(spoken(message))
    words = spoken(told)
    content = [w for w in words if w not in LIGHT]
    if not content or not 3 <= len(words) <= 32 or "\n" in told:
        return False
    if any(_specific(w) and not _one_of(w, said) for w in content):
        return False
    stems = {w[:4] for w in said}
    return sum(w in said or w[:4] in stems for w in content) >= 0.4 * len(content)


def _specific(word: str) -> bool:
    """A number, or no word that everybody uses."""
    if any(c.isdigit() for c in word):
        return True
    return not all(part in _COMMON or is_word(part) for part in re.split(r"-|['’]\w*$|n['’]t$", word) if part)


_COMMON = frozenset("because than every if since while you i we they he she ca wo sha".split())
"""Beside the dictionary's nouns, verbs and adjectives."""


def _one_of(word: str, said: Collection[str]) -> bool:
    """Said so, or as one where many were said, or the other way round."""
    return word in said or f"{word}s" in said or (word.endswith("s") and word[:-1] in said)


def _is_question(text: str, told: str) -> bool:
    """Of what is one's own, or of somebody whose name was told."""
    if not (3 <= len(text.split()) <= 28 and text[-1:] in "?."):
        return False
    return bool(_MINE.search(text)) or any(w in spoken(told) and _specific(w) for w in spoken(text))


def _value(told: str, asks: Sequence[str], message: str) -> str:
    """The longest run of words of `told` that were said, and that hardly a question uses."""
    if not asks:
        return ""
    used = Counter(w for a in asks for w in set(spoken(a)))
    said = set(spoken(message))
    tokens = _SPECIFIC.findall(told)
    free = [
        bool(ws := spoken(t)) and all(used[w] <= 0.25 * len(asks) and w in said and w not in LIGHT for w in ws)
        for t in tokens
    ]
    best: tuple[int, int, int] = (0, 0, 0)
    start = None
    for i, ok in enumerate([*free, False]):
        between = i + 1 < len(free) and free[i + 1] and tokens[i].lower() in ("of", "the", "and")
        joins = not ok and start is not None and between
        if ok and start is None:
            start = i
        elif not ok and not joins and start is not None:
            weight = sum(2 + 3 * _specific(t.lower()) for t in tokens[start:i])
            best = max(best, (weight, -start, i))
            start = None
    weight, minus_start, end = best
    return " ".join(tokens[-minus_start:end]) if weight else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """One message of the writer's lessons: what somebody says, and what it tells."""

    say: str
    tell: str | None
    value: str
    ask: tuple[str, ...]
    never: tuple[str, ...]
    """Near to these, and not answered by what is said."""


@cache
def tellings() -> tuple[Telling, ...]:
    """The writer's lessons; their questions are, for everybody else, about what was never told."""
    text = resources.files("consolidation").joinpath("texts", "tellings.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return tuple(
        Telling(
            say=r["say"],
            tell=r["tell"],
            value=r.get("value", ""),
            ask=tuple(r.get("ask", ())),
            never=tuple(r.get("never", ())),
        )
        for r in rows
    )
