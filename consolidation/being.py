"""Pure: the questions that a clause of "be" allows: what something is, where, when, and in which state.

My keys are in the blue bowl; my gym is closed on Wednesdays; the wifi password is marmalade.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from consolidation.clauses import Clause
from consolidation.english import PREPOSITIONS, has_form, is_time, joined
from consolidation.lexicon import kinds_of_thing
from consolidation.phrases import WHERE, Asked, bare, phrases_of, times, without_phrase
from consolidation.relations import Ask
from memory.kin import PETS


def of_being(clause: Clause) -> Iterator[Asked]:
    """My keys are in the blue bowl; my gym is closed on Wednesdays; the wifi password is marmalade."""
    tail = list(clause.tail)
    if not tail:
        return
    phrases = phrases_of(tail)
    if tail[0].lower() in PREPOSITIONS and len(tail) > 1:
        yield from _of_place_or_time(clause, joined(tail), joined(phrases[0][1]))
    elif (
        (has_form(tail[0], "VBN") or tail[0].lower() in ("due", "open", "free"))
        and len(phrases) > 1
        and phrases[0] == ("", [tail[0]])
    ):
        yield from _of_state(clause, *next((p for p in phrases[1:] if p[1]), phrases[1]))
    else:
        yield "be what", joined(tail), tuple(dict.fromkeys(_of_equals(clause, joined(tail))))


def _of_place_or_time(clause: Clause, value: str, words: str) -> Iterator[Asked]:
    s, be, preposition = clause.subject, clause.auxiliary, clause.tail[0].lower()
    if preposition in ("about", "for", "with", "like", "of"):
        return
    wh = "when" if is_time(value) else "where"
    asks = [
        Ask(direct=f"{wh} {be} {s}", embedded=f"{wh} {s} {be}"),
        Ask(direct=f"{wh} did I say {s} {be}", embedded=f"{wh} I said {s} {be}"),
        Ask(direct=f"{wh} {be} {s} exactly", embedded=f"{wh} exactly {s} {be}"),
    ]
    if wh == "when":
        asks += [
            Ask(direct=f"on which day {be} {s}", embedded=f"on which day {s} {be}"),
            Ask(direct=f"what day {be} {s}", embedded=f"what day {s} {be}"),
            Ask(direct=f"on what date {be} {s}", embedded=f"on what date {s} {be}"),
            Ask(direct=f"what time {be} {s}", embedded=f"what time {s} {be}"),
            Ask(direct=f"when do I have to be at {s}", embedded=f"when I have to be at {s}"),
            Ask(direct=f"what is the date of {s}", embedded=f"what the date of {s} is"),
            Ask(embedded=f"the date of {s}"),
        ]
        yield "be when", bare(value), tuple(asks)
        return
    asks += [
        Ask(direct=f"where can I find {s}", embedded=f"where I can find {s}"),
        Ask(direct=f"where should I look for {s}", embedded=f"where I should look for {s}"),
        Ask(direct=f"where did I put {s}", embedded=f"where I put {s}"),
        Ask(direct=f"in which place {be} {s}", embedded=f"in which place {s} {be}"),
        Ask(embedded=f"the place of {s}"),
    ]
    yield "be where", words if preposition in ("in", "at", "on") else value, tuple(asks)


def _of_state(clause: Clause, preposition: str, words: Sequence[str]) -> Iterator[Asked]:
    if not words or preposition == "~":
        return
    s, be, state = clause.subject, clause.auxiliary, clause.tail[0]
    phrase = joined(words)
    wh = "when" if is_time(phrase) else "where" if preposition in WHERE else "what"
    stranded = f" {preposition}" if wh == "what" else ""
    questions = [wh, *(times(phrase) if wh == "when" else [])]
    asks = [
        Ask(direct=f"{q} {be} {s} {state}{stranded}", embedded=f"{q} {s} {be} {state}{stranded}") for q in questions
    ]
    asks.append(
        Ask(direct=f"{wh} did I say {s} {be} {state}{stranded}", embedded=f"{wh} I said {s} {be} {state}{stranded}")
    )
    if wh == "where":
        asks.append(Ask(direct=f"where {be} {s}", embedded=f"where {s} {be}"))
        if state.lower() in ("kept", "stored", "hidden", "put"):
            asks.append(Ask(direct=f"where do I keep {s}", embedded=f"where I keep {s}"))
    if wh == "when":
        asks += [Ask(direct=f"{q} {be} {s}", embedded=f"{q} {s} {be}") for q in questions]
        asks.append(Ask(direct=f"what is the date of {s}", embedded=f"what the date of {s} is"))
    yield f"be {state.lower()} {preposition}", phrase, tuple(asks)


def _of_equals(clause: Clause, value: str) -> Iterator[Ask]:
    s, be = clause.subject, clause.auxiliary
    if s == "I":
        yield Ask(direct="what did I say I am", embedded="what I said I am")
        yield Ask(direct="what am I", embedded="what I am")
        yield Ask(direct="what did I tell you about myself", embedded="what I told you about myself")
        return
    for name in _other_names(s):
        yield Ask(direct=f"what {be} {name}", embedded=f"what {name} {be}")
        yield Ask(embedded=name)
    yield Ask(direct=f"what did I say {s} {be}", embedded=f"what I said {s} {be}")
    head = _head(s)
    if head in _TYPED_IN:
        of = re.sub(rf" ?\b{head}\b ?(?:for |of |to )?", " ", s).strip()
        of = re.sub(r"^(?:the|my|our) (?=(?:the|my|our)\b)", "", of) if len(of.split()) > 1 else "it"
        yield Ask(direct=f"what do I type in for {of}", embedded=f"what I type in for {of}")
        yield Ask(direct=f"which {head} do I need for {of}", embedded=f"which {head} I need for {of}")
        yield Ask(direct=f"what {head} do I have for {of}", embedded=f"what {head} I have for {of}")
        yield Ask(
            direct=f"which {_TYPED_IN[head]} do I enter for {of}", embedded=f"which {_TYPED_IN[head]} I enter for {of}"
        )
    if head in ("size", "number", "type", "brand", "model", "name"):
        of = re.sub(rf" ?\b{head}\b", "", s.removeprefix("my ").removeprefix("our ")).strip()
        yield Ask(direct=f"which {of} {head} do I have", embedded=f"which {of} {head} I have")
        yield Ask(direct=f"what {of} {head} is mine", embedded=f"what {of} {head} is mine")
    if s.startswith(("my ", "our ", "the ")) and value.startswith(("a ", "an ")) and " I " not in s:
        what = s.split(" ", 1)[1]
        yield from (
            Ask(direct=f"{q} {be} {s}", embedded=f"{q} {s} {be}") for q in ("what brand", "what make", "what kind")
        )
        yield from (
            Ask(direct=f"{q} {what} do I have", embedded=f"{q} {what} I have") for q in ("what kind of", "which")
        )
        if what.rsplit(maxsplit=1)[-1] in PETS:
            yield Ask(direct=f"what breed {be} {s}", embedded=f"what breed {s} {be}")
            yield Ask(direct=f"which breed of {what} do I have", embedded=f"which breed of {what} I have")
    if "colour" in kinds_of_thing(value):
        yield Ask(direct=f"what colour {be} {s}", embedded=f"what colour {s} {be}")
        yield Ask(direct=f"which colour {be} {s}", embedded=f"which colour {s} {be}")
        yield Ask(embedded=f"the colour of {s}")


_TYPED_IN = {"password": "letters", "code": "digits", "pin": "digits", "combination": "numbers", "passcode": "digits"}


def _head(subject: str) -> str:
    """The noun that a phrase is about: code, of the code for my house alarm."""
    words = subject.lower().split()
    cut = next((i for i, w in enumerate(words) if i > 1 and w in PREPOSITIONS), len(words))
    return words[cut - 1]


def _other_names(subject: str) -> Iterator[str]:
    """The same thing in other words: the door code at my office, my office door code, the code for ..."""
    yield subject
    if " I " in subject or " we " in subject:
        return
    within = re.fullmatch(r"(?:the|my|our) (.+) (?:at|of|for|in) (my|our|the) (.+)", subject)
    if within:
        yield f"{within[2]} {within[3]} {within[1]}"
        yield f"the {within[1]} for {within[2]} {within[3]}"
    of = re.fullmatch(r"the ([a-z ]+?) (?:of|for) (my|our) ([a-z]+)", subject)
    if of:
        yield f"{of[2]} {of[1]}"
        yield f"{of[2]} {of[3]}'s {of[1]}"
    compound = re.fullmatch(r"(the|my|our) (.+) (\w+)", subject)
    if compound and not within and "'s" not in subject:
        yield f"the {compound[3]} of {compound[1]} {compound[2]}"
        yield f"the {compound[3]} for {compound[1]} {compound[2]}"
    shorter = without_phrase(subject)
    if shorter:
        yield shorter
