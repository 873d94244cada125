"""Pure: the questions that the grammar of a clause allows, each with what answers it.

My uncle keeps bees on the roof: what does my uncle keep, which animals does he have on the roof, where does he keep
them. Also the clause as said back to its speaker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from consolidation.being import of_being
from consolidation.clauses import Clause
from consolidation.english import (
    DETERMINERS,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVE_TIME,
    has_form,
    inflect,
    is_adverb,
    is_noun,
    is_number,
    is_plural,
    is_time,
    joined,
    second_person,
)
from consolidation.lexicon import TRADE, kinds_of_thing
from consolidation.phrases import WHERE, Asked, phrases_of, times, without_phrase
from consolidation.relations import Ask
from memory.kin import PEOPLE


def said(clause: Clause) -> str:
    """The clause as said to its speaker, without a stop."""
    return second_person(joined([clause.subject, *_predicate(clause), *clause.tail]))


def said_back(claim: str) -> str:
    """A claim as it stands, said to its speaker, without a stop."""
    return second_person(claim.strip().rstrip(".!"))


def _predicate(clause: Clause) -> list[str]:
    many = clause.subject.lower() == "we" or (clause.subject != "I" and is_plural(clause.subject))
    if clause.shape == "plain":
        third = clause.subject.lower() not in ("i", "we") and not many
        return [inflect(clause.verb, "VBZ") if third else clause.verb]
    if clause.shape == "past":
        return [inflect(clause.verb, "VBD")]
    if clause.shape == "be":
        return [clause.auxiliary]
    return [clause.auxiliary, _non_finite(clause)]


def _non_finite(clause: Clause) -> str:
    if clause.shape == "progressive":
        return inflect(clause.verb, "VBG")
    if clause.shape == "perfect":
        return inflect(clause.verb, "VBN")
    return clause.verb if clause.shape in ("modal", "plain", "past") else ""


_TIMED = frozenset("in on at since until before after by during".split())
_STRANDED = frozenset("to as about for into without like towards against".split())
_MOTION = {"go", "move", "travel", "fly", "walk", "drive", "cycle", "commute", "sail", "emigrate"}
_WITH_PERSON = {"meet", "marry", "date", "know", "visit", "see", "call"}


_PARTICLES = frozenset("up down out off away back over together along around".split())
"""get up, save up, break down: part of the verb, not what it is done to."""
_EMPTY = _PARTICLES | frozenset(
    ["a lot", "me", "it", "them", "him", "her", "us", "you", "that", "this", "everything", "fun", "time", "all"]
)


_TO_WHOM = frozenset("me us him them you myself ourselves".split())
_AT_MOST = 2
"""Questions of one clause: its object and its first phrase, as a rule."""


def _says_nothing(words: Sequence[str]) -> bool:
    return joined(words).lower() in _EMPTY or (
        len(words) == 1 and words[0].lower().endswith("ly") and is_adverb(words[0])
    )


def asked_of(clause: Clause) -> Iterator[Asked]:
    """(relation, value, questions) for what can be asked of a clause by its grammar."""
    if clause.shape == "be":
        yield from of_being(clause)
        return
    if clause.tail[:1] == ("to",) and len(clause.tail) > 1 and has_form(clause.tail[1], "VB"):
        yield from _of_wishing(clause)
        return
    if clause.subject[:1].isupper() and clause.subject not in ("I", "We") and clause.tail:
        yield _of_subject(clause)
    phrases = _times_joined(phrases_of(clause.tail))
    made = 0
    for i, (preposition, words) in enumerate(phrases):
        if preposition == "~" and words[-1:] == ["ago"] and len(phrases) > 1:
            before = joined([t for p, w in phrases[:i] for t in ([p] if p else []) + w])
            yield f"{clause.verb} ago", joined(words), _turned(clause, "how long ago", before, joined(words))
            continue
        if not words or preposition == "~" or made == _AT_MOST or _says_nothing(words):
            continue
        to_whom: list[str] = []
        if not preposition and len(words) > 1 and words[0].lower() in _TO_WHOM:
            to_whom, words = words[:1], words[1:]  # noqa: PLW2901 - what is left of the object
        phrase = joined(words)
        others = [(p, w) for j, (p, w) in enumerate(phrases) if j != i]
        if not preposition and words[0].lower() in (PRONOUNS if len(words) == 1 else PRONOUNS - {"her"}):
            continue
        question = _asked(clause, preposition, words)
        if question is None:
            continue
        wh, stranded = question
        rest = joined(
            to_whom
            + [t for p, w in others for t in ([p] if p not in ("", "every", "~") else []) + w]
            + ([stranded] if stranded else [])
        )
        relation = f"{clause.verb} {preposition or 'what'}"
        made += 1
        value = phrase if wh != "how many" else words[0]
        if wh == "how many":
            wh = f"how many {joined(words[1:])}"
        if wh.startswith("how many "):
            yield f"{clause.verb} which", phrase, _turned(clause, "what", rest, phrase)
        yield relation, value, _turned(clause, wh, rest, phrase) + _of_appointment(clause, wh, others)


def _of_subject(clause: Clause) -> Asked:
    """Who does our shearing?, of somebody known by name alone."""
    does = joined([*_predicate(clause), *clause.tail])
    asks = (
        Ask(direct=f"who {does}", embedded=f"who {does}"),
        Ask(direct=f"who is it that {does}", embedded=f"who it is that {does}"),
        Ask(direct=f"what is the name of who {does}", embedded=f"what the name of who {does} is"),
        Ask(direct=f"who did I say {does}", embedded=f"who I said {does}"),
    )
    return f"who {clause.verb} {joined(clause.tail)}".lower(), clause.subject, asks


def _times_joined(phrases: Sequence[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """On Thursday at ten past four is one time."""
    made: list[tuple[str, list[str]]] = []
    for preposition, words in phrases:
        timed = preposition in ("on", "at") and is_time(joined([preposition, *words]))
        if timed and made and made[-1][0] in ("on", "at") and is_time(joined(made[-1][1])):
            made[-1] = (made[-1][0], [*made[-1][1], preposition, *words])
        else:
            made.append((preposition, words))
    return made


def _of_appointment(clause: Clause, wh: str, others: Sequence[tuple[str, list[str]]]) -> tuple[Ask, ...]:
    """I have physio at 14:40: when is my physio?"""
    what = next((words for preposition, words in others if not preposition), [])
    what = [w for w in what if w.lower() not in DETERMINERS]
    if wh != "when" or clause.verb not in ("have", "get") or clause.subject not in ("I", "we") or not what:
        return ()
    mine = f"{'my' if clause.subject == 'I' else 'our'} {joined(what)}"
    return (
        Ask(direct=f"when is {mine}", embedded=f"when {mine} is"),
        Ask(direct=f"what time is {mine}", embedded=f"what time {mine} is"),
        Ask(direct=f"what time is {mine} appointment", embedded=f"what time {mine} appointment is"),
        Ask(direct=f"on what date is {mine}", embedded=f"on what date {mine} is"),
        Ask(direct=f"when do I have to be at {mine}", embedded=f"when I have to be at {mine}"),
    )


def _of_wishing(clause: Clause) -> Iterator[Asked]:
    """My son wants to become a pilot."""
    _, verb, *rest = clause.tail
    end = next((i for i, w in enumerate(rest) if w.lower() in ("when", "because", "once", "if")), len(rest))
    rest = rest[:end]
    if rest and rest[0].lower() not in PREPOSITIONS:
        yield f"{clause.verb} to {verb}", joined(rest), _turned(clause, "what", f"to {verb}", joined(rest))
        return
    yield f"{clause.verb} to", joined([verb, *rest]), _turned(clause, "what", "to do")
    if len(rest) > 1:
        yield f"{clause.verb} to {verb} {rest[0]}", joined(rest[1:]), _turned(clause, "what", f"to {verb} {rest[0]}")


def _asked(clause: Clause, preposition: str, words: Sequence[str]) -> tuple[str, str] | None:
    """The question's word for a phrase, and the preposition that stays at its end; None: it is not asked for."""
    phrase, first, last = joined(list(words)), words[0].lower(), words[-1].lower()
    somebody = words[0][:1].isupper() or last in PEOPLE
    purpose = preposition == "to" and has_form(words[0], "VB") and not is_noun(words[0])  # to go rowing
    if purpose or (first in RELATIVE_TIME and preposition):
        return None
    if not preposition:
        return _asked_object(clause, words)
    if preposition == "every" or (is_time(phrase) and preposition in _TIMED):
        return ("since when" if preposition == "since" else "when"), ""
    if preposition == "for" and re.search(r"\b(year|month|week|day|hour|minute)s?\b", phrase):
        return "how long", ""
    if preposition == "at" and re.fullmatch(r"\d{1,2}", phrase):
        return "when", ""
    if preposition in WHERE or (preposition == "to" and clause.verb in _MOTION):
        return ("what", preposition) if is_number(words[0]) and len(words) == 1 else ("where", "")
    if preposition == "by" and clause.verb in _MOTION | {"get", "come"}:
        return "how", ""
    if preposition == "from":
        moving = clause.verb in _MOTION | {"come"}
        return ("who" if (somebody or TRADE.search(last)) and not moving else "where"), "from"
    if preposition == "with":
        return ("who" if somebody else "what"), "with"
    return ("what", preposition) if preposition in _STRANDED else None


def _asked_object(clause: Clause, words: Sequence[str]) -> tuple[str, str]:
    if words[0].lower() == "to" and len(words) > 1:
        return "what", "to do" if has_form(words[1], "VB") else ""
    if is_number(words[0]) and len(words) > 1 and is_plural(words[-1]):
        return "how many", ""
    somebody = (words[0][:1].isupper() and clause.verb in _WITH_PERSON) or words[-1].lower() in PEOPLE
    return ("who" if somebody else "what"), ""


_ALSO_VERBS = {
    "save": ("save up", "put money aside"),
    "keep": ("have", "put", "store"),
    "have": ("own",),
    "own": ("have",),
    "make": ("produce", "prepare"),
    "run": ("own", "manage"),
    "buy": ("get", "purchase"),
    "go": ("travel",),
    "fly": ("travel", "go"),
    "store": ("keep",),
    "hide": ("keep", "put"),
    "give": ("get",),
    "attend": ("go to",),
    "get": ("buy",),
    "learn": ("study",),
    "support": ("follow",),
    "grow": ("raise",),
    "read": ("enjoy reading",),
    "take": ("use",),
    "use": ("have",),
    "teach": ("give lessons in",),
    "bake": ("make",),
    "cook": ("make",),
    "restore": ("repair",),
    "build": ("make",),
    "leave": ("depart",),
    "land": ("arrive",),
    "start": ("begin",),
    "begin": ("start",),
    "arrive": ("get there",),
}


def _turned(clause: Clause, wh: str, rest: str, answer: str = "") -> tuple[Ask, ...]:
    """The question with this word, with others for it, and longer ways to put it."""
    questions = [wh]
    if wh == "what" and answer:
        for kind in kinds_of_thing(answer):
            many = "s" if is_plural(answer) else ""
            questions += [f"which {kind}{many}", f"what kind of {kind}"]
        head = answer.rsplit(maxsplit=1)[-1]
        if len(answer.split()) > 1 and head.islower() and is_noun(head):  # which bus, of the number 17 bus
            questions += [f"which {head}", f"what {head}"]
    elif wh == "when":
        questions += times(answer)
    found = [_asked_so(clause, clause.verb, q, rest) for q in questions]
    straight = found[0].embedded.removeprefix(f"{wh} ")
    found.insert(1, Ask(direct=f"{wh} did I say {straight}", embedded=f"{wh} I said {straight}"))
    found.append(Ask(direct=f"{wh} is it that {straight}", embedded=f"{wh} it is that {straight}"))
    if clause.shape in ("plain", "past"):
        for verb in _ALSO_VERBS.get(clause.verb, ()):
            found.append(_asked_so(clause, verb, wh, rest))
    if rest and wh != "how many":
        found.append(_asked_so(clause, clause.verb, wh, ""))
        if len(questions) > 1:
            found.append(_asked_so(clause, clause.verb, questions[1], ""))
    if clause.shape == "plain":
        found.append(
            _asked_so(replace(clause, shape="progressive", auxiliary=_be(clause.subject)), clause.verb, wh, rest)
        )
    elif clause.shape == "progressive" and " " not in clause.auxiliary:
        found.append(_asked_so(replace(clause, shape="plain"), clause.verb, wh, rest))
    bare = without_phrase(clause.subject)
    if bare:
        found += [_asked_so(replace(clause, subject=bare), clause.verb, q, rest) for q in questions]
    return tuple(dict.fromkeys(found))


def _be(subject: str) -> str:
    return "am" if subject == "I" else "are" if subject == "we" or is_plural(subject) else "is"


def _asked_so(clause: Clause, verb: str, wh: str, rest: str) -> Ask:
    of, _, more = verb.partition(" ")
    as_said = replace(clause, verb=of)
    s, finite = clause.subject, joined([*_predicate(as_said), *([more] if more else [])])
    many = s.lower() in ("i", "we") or is_plural(s)
    if clause.shape in ("plain", "past"):
        front = "did" if clause.shape == "past" else "do" if many else "does"
        inner = verb
    else:
        front, _, then = clause.auxiliary.partition(" ")
        inner = f"{then} {_non_finite(as_said)} {more}".strip()
    return Ask(
        direct=" ".join(f"{wh} {front} {s} {inner} {rest}".split()),
        embedded=" ".join(f"{wh} {s} {finite} {rest}".split()),
    )
