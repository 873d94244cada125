"""Pure: from what somebody writes in a chat to plain clauses: subject, verb, what follows. English, by rules.

Sure rather than complete: what it cannot take apart it leaves out, and memory keeps the words anyway. Questions,
commands, wishes and guesses are no claims. Pronouns stand for whom the talk was last about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from consolidation.english import (
    BE,
    DETERMINERS,
    DO,
    HAVE,
    MODALS,
    PREPOSITIONS,
    RELATIVE_TIME,
    WORD,
    has_form,
    is_adjective,
    is_noun,
    is_number,
    is_plural,
    is_word,
    joined,
    verb_lemma,
)
from consolidation.idioms import in_plain_words
from consolidation.lexicon import CARS, kind_of
from consolidation.sentences import parts_of, written_out
from memory.kin import PEOPLE, PETS

Shape = Literal["plain", "past", "be", "progressive", "perfect", "modal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One claim: `subject` `auxiliary` `verb` `tail`, in the speaker's own person."""

    subject: str
    """I, we, my sister, the wifi password, Marta, ..."""
    name: str | None = None
    """Whom the subject is called, where the talk said so: my sister Marta."""
    shape: Shape
    auxiliary: str = ""
    """am, was, have, will, ...; empty for plain and past."""
    verb: str
    """The lemma."""
    tail: tuple[str, ...] = ()


@dataclass(slots=True)
class Talk:
    """Whom a conversation speaks of, as it goes on."""

    last: str | None = None
    """What he, she, it or they would stand for."""
    called: dict[str, str] = field(default_factory=dict)
    """Name -> my sister."""
    earlier: str | None = None
    """What `last` was when this message began."""
    silent: int = 0
    """Messages since anybody was spoken of."""


_ADVERBS = frozenset(
    """
    just really also always usually often never still already recently finally currently actually only mostly
    sometimes generally absolutely totally secretly now both all even probably definitely lately officially
    """.split()
)
_TITLE = re.compile(r"\b(Dr|Mr|Mrs|Ms|Prof|St)\.\s+(?=[A-Z])")
_PRONOUNS = frozenset(["he", "she", "it", "they"])
_POSSESSIVE_PRONOUNS = frozenset(["his", "her", "its", "their"])
_OF_MANY = frozenset(["they", "their"])
_OF_THINGS = frozenset(["it", "its"])
_OF_BEINGS = frozenset(["he", "she", "his", "her"])
_NOT_TOLD = frozenset(
    """
    think guess mean know hope wish wonder suppose feel say tell ask want need forget remember look try bet swear
    promise see hear agree understand thank appreciate
    """.split()
)
"""Verbs of the moment: I think, I want, I need."""
_LONGEST_SUBJECT, _LONGEST_TAIL = 9, 16
_REMEMBERED = 2
"""Messages that say nothing of anybody, after which he and she are nobody."""


def clauses(text: str, talk: Talk) -> list[Clause]:
    """The claims in one message; `talk` learns whom it spoke of."""
    talk.silent += 1
    if talk.silent > _REMEMBERED:
        talk.last = None
    talk.earlier = talk.last
    text = in_plain_words(written_out(_TITLE.sub(r"\1 ", text)))
    found = list(_in_passing(text, talk))
    for part in parts_of(text):
        talk.last = _mentioned(text, before=part.partition(" ")[0]) or talk.last
        for clause in _read(part, talk):
            if clause.verb in _NOT_TOLD and clause.subject.lower() in ("i", "we") and not _plans(clause):
                continue
            found.append(clause)
    if talk.last != talk.earlier or found:
        talk.silent = 0
    return found


def _mentioned(text: str, *, before: str) -> str | None:
    """Who he or she is, where a question named them: visiting my gran? She is up in Ullapool."""
    if before.lower() not in _OF_BEINGS:
        return None
    pronoun = re.search(rf"\b{before}\b", text)
    found = list(_BEING.finditer(text, 0, pronoun.start())) if pronoun else []
    return re.sub("^the ", "my ", found[-1][0]) if found else None


_NO_PLAN = _NOT_TOLD | frozenset("be do make go get have let keep talk chat stop start sleep eat rest try use".split())


def _plans(clause: Clause) -> bool:
    """I want to learn Georgian; but not: I want to know."""
    to, verb = (*clause.tail, "", "")[:2]
    return clause.verb in ("want", "hope") and to == "to" and verb not in _NO_PLAN and len(clause.tail) > 2


_BEING = re.compile(rf"\b(?:my|our|the) (?:[a-z]+ )?(?:{'|'.join(sorted(PEOPLE | PETS))})\b(?!'s)")
_TITLES = "Mr|Mrs|Ms|Dr|Doctor|Frau|Herr|Señora?|Prof"
_NAMED_IN_PASSING = re.compile(
    rf"\b([Mm]y|[Oo]ur) ((?:[a-z-]+ )?(?:{'|'.join(sorted(PEOPLE | PETS))}))"
    r"(?: upstairs| downstairs| next door| opposite| at work)?"
    r"(?: |, (?=[A-Z][\w' -]{1,30}(?:[,.!?]|$)))"
    rf"((?:(?:{_TITLES}) )?[A-Z][\w'-]+(?:[ -][A-Z][a-z]+)?)\b"
)


_NAME = (
    r"(?!(?:It|They|That|This|He|She|We|I|You|There)\b)"
    r"[A-Z][\w'-]+(?: (?:[A-Z][\w'-]+|de|van|von|of|the)){0,5}(?<! of)(?<! the)"
)
_MAKES = "|".join(sorted(CARS))
_CAR = re.compile(
    r"\b(?i:my|our|(?:had|have|got|bought|own|owned) (?:the same|an?|this)) (?:[a-z]+ )?(?:\d{4} )?"
    rf"((?i:{_MAKES})(?: [A-Z0-9][\w-]*){{0,2}})(?!\w)"
)
_FAVOURITE = (
    re.compile(
        r"\b(my|our) (?:all-time |absolute )?favou?rite ([a-z]+(?: (?!again|ever|of)[a-z]+)?)"
        rf"(?: again| ever| of all time)?,? ({_NAME})"
    ),
    re.compile(
        rf"({_NAME}),? (?:which is |is |by far |easily |still |probably |definitely )*(my|our) (?:all-time |absolute )?"
        r"favou?rite ([a-z]+)"
    ),
)


def _in_passing(text: str, talk: Talk) -> Iterator[Clause]:
    """My dog Biscuit, wherever it stands: in a question, too; our old Saab; my favourite author, Tove Ditlevsen."""
    for car in _CAR.finditer(text):
        yield Clause(subject="I", shape="plain", verb="drive", tail=("a", *car[1].split()))
    for found in _FAVOURITE[0].finditer(text):
        yield Clause(
            subject=f"my favourite {found[2]}", shape="be", auxiliary="is", verb="be", tail=(*found[3].split(),)
        )
    for found in _FAVOURITE[1].finditer(text):
        yield Clause(
            subject=f"my favourite {found[3]}", shape="be", auxiliary="is", verb="be", tail=(*found[1].split(),)
        )
    for found in _NAMED_IN_PASSING.finditer(text):
        subject = f"{found[1].lower()} {found[2]}"
        if found[3] not in talk.called:
            talk.called[found[3]] = subject
            talk.last = subject
            name = tuple(found[3].removesuffix("'s").split())
            yield Clause(subject=subject, shape="be", auxiliary="is", verb="be", tail=("called", *name))


def _read(part: str, talk: Talk) -> Iterator[Clause]:
    """The clauses of a part of a sentence, those between its commas too: my sister, who lives in Porto, ..."""
    inner = re.match(r"^((?:my|our) [^,]{1,40}), who ([^,]+)(?:, ?(.*))?$", part, re.IGNORECASE)
    if inner:
        yield from _read(f"{inner[1]} {inner[2]}", talk)
        if inner[3]:
            yield from _read(f"{inner[1]} {inner[3]}", talk)
        return
    set_off = re.match(r"^((?i:my|our) [^,]{1,40}), ([A-Z][\w'-]+(?: [A-Z][\w'-]+)?), (.*)$", part)
    if set_off:
        part = f"{set_off[1]} {set_off[2]} {set_off[3]}"
    tokens, *further = _predicates(WORD.findall(part))
    found = _subject(_without_trailing(tokens), talk)
    if found is None:
        return
    subject, name, rest = found
    for predicate in (rest, *map(_without_trailing, further)):
        clause = _predicate(subject, name, predicate)
        if clause is None and subject not in ("I", "we"):
            talk.last = subject  # my favourite colour isn't ochre any more, it is teal
        if clause is not None:
            _note(clause, talk)
            yield clause


def _without_trailing(tokens: list[str]) -> list[str]:
    while len(tokens) > 3 and tokens[-1].lower() in ("now", "here", "currently", "too", "though", ","):
        tokens = tokens[:-1]
    return [
        t
        for i, t in enumerate(tokens)
        if not (t.lower() == "here" and i + 1 < len(tokens) and tokens[i + 1].lower() in BE)
    ]


def _predicates(tokens: list[str]) -> list[list[str]]:
    """A clause up to a second verb of the same subject, and from there on; no comma but those of a list."""
    for i in range(3, len(tokens) - 1):
        following = tokens[i + 1].lower()
        if tokens[i] == "," and not _listed(tokens[i + 1 :]):
            return [tokens[:i]]
        if tokens[i].lower() not in ("and", "but", "then"):
            continue
        if (
            following in BE | HAVE | _ADVERBS
            or (has_form(following, "VBD") and not is_noun(following))
            or (has_form(following, "VBZ") and tokens[0].lower() not in ("i", "we"))
        ):
            return [tokens[:i], *_predicates(tokens[i + 1 :])]
    return [tokens]


def _listed(rest: list[str]) -> bool:
    return len(rest) <= 6 and "and" in rest and not any(w.lower() in PREPOSITIONS | BE | HAVE for w in rest)


_Subject = tuple[str, str | None, list[str]]
"""Who, by what name, and what follows."""


def _subject(tokens: list[str], talk: Talk) -> _Subject | None:
    if len(tokens) < 2:
        return None
    first = tokens[0].lower()
    if first in ("i", "we"):
        return ("I" if first == "i" else "we"), None, tokens[1:]
    if first in _OF_BEINGS and talk.last and talk.last.startswith("the ") and not _is_being(talk.last):
        return None
    if first == "they" and {"my", "our", "me", "us"} & {t.lower() for t in tokens}:
        return "they", None, tokens[1:]
    if first in _OF_MANY and talk.last and not is_plural(talk.last) and " and " not in talk.last:
        return None
    if first in _OF_THINGS and talk.last and kind_of(talk.last) == "person":
        return None
    if first in _OF_THINGS and talk.last == talk.earlier and tokens[2:3] not in (["called"], ["named"]):
        return None  # one comes back to a person the next time one speaks, to a thing hardly
    if first in _PRONOUNS:
        return (talk.last, _name_of(talk, talk.last), tokens[1:]) if talk.last else None
    if first in _POSSESSIVE_PRONOUNS:
        end = _verb_at(tokens, 1)
        return (f"{talk.last}'s {joined(tokens[1:end])}", None, tokens[end:]) if talk.last and end else None
    if first in ("my", "our", "the"):
        ours = first == "the" and tokens[1].lower() in _HOUSEHOLD
        return _noun_phrase(["my", *tokens[1:]] if ours else tokens)
    if tokens[0][:1].isupper() and first not in DETERMINERS | _ADVERBS | PREPOSITIONS:
        return _by_name(tokens, talk)
    return None


def _is_being(subject: str) -> bool:
    return subject.rsplit(maxsplit=1)[-1].lower() in PEOPLE | PETS


def _noun_phrase(tokens: list[str]) -> _Subject | None:
    """My sister Marta ...; the first concert I ever went to ..."""
    within = next((i for i, t in enumerate(tokens[2:6], 2) if t in ("I", "we")), None)
    after = within + 2 if within else 0
    be = next((i for i, t in enumerate(tokens[after:], after) if t.lower() in BE), None) if within else None
    if within and be and be < len(tokens) - 1:
        return joined([tokens[0].lower(), *tokens[1:be]]), None, tokens[be:]
    if tokens[1].lower() in CARS:  # my Daihatsu Sirion ...: a thing, called so by its maker
        return None
    end = _verb_at(tokens, 2)
    if end is None or end > _LONGEST_SUBJECT:
        return None
    words = [tokens[0].lower(), *tokens[1:end]]
    names = 0
    while len(words) - names > 2 and words[-1 - names][:1].isupper():
        names += 1
    before = words[-1 - names].lower()
    if names and words[0] != "the" and "'s" not in before and before not in PREPOSITIONS:
        return joined(words[:-names]), " ".join(words[-names:]), tokens[end:]
    return joined(words), None, tokens[end:]


def _by_name(tokens: list[str], talk: Talk) -> _Subject | None:
    """Marta ..., Marta's dog ..."""
    end = 1
    while end < min(4, len(tokens) - 1) and tokens[end][:1].isupper():
        end += 1
    known = tokens[0].removesuffix("'s") in talk.called
    described = end == 1 and is_word(tokens[0]) and is_adjective(tokens[0])  # Small pleasures, you will say
    if not known and described and tokens[0] != "Nothing":
        return None
    if not known and (has_form(tokens[0], "VB") or (end < len(tokens) and not _finite(tokens[end]))):
        return None
    name = " ".join(tokens[:end]).removesuffix("'s")
    who = talk.called.get(name, name)
    if tokens[end - 1].endswith("'s"):
        verb = _verb_at(tokens, end)
        return (f"{who}'s {joined(tokens[end:verb])}", None, tokens[verb:]) if verb else None
    return who, name if name in talk.called else None, tokens[end:]


def _finite(word: str) -> bool:
    return word.lower() in BE | HAVE | MODALS or has_form(word, "VBZ") or has_form(word, "VBD") or word.endswith("'s")


def _verb_at(tokens: list[str], start: int) -> int | None:
    """Where the predicate of a third person begins."""
    told_apart = next(
        (i for i in range(start, len(tokens)) if tokens[i].lower() in ("that", "who", "which", "when")), None
    )
    end = len(tokens) if told_apart is None else told_apart
    for i in range(start, min(end, _LONGEST_SUBJECT + 3)):
        word = tokens[i].lower()
        if word in BE | HAVE | MODALS | DO:
            return i
        if tokens[i - 1][:1].isupper() and tokens[i].islower() and has_form(word, "VBZ"):
            return i
        if tokens[i] in ",;":
            return None
        if word in PREPOSITIONS and word != "of":
            break
    for i in range(start, min(end, _LONGEST_SUBJECT)):
        word = tokens[i].lower()
        if word in _ADVERBS:
            continue
        if tokens[i][:1].isupper():
            continue
        if has_form(word, "VBZ") or (has_form(word, "VBD") and not _adjectival(tokens, i)):
            return i - 1 if tokens[i - 1].lower() in _ADVERBS and i - 1 >= start else i
        if has_form(word, "VB") and tokens[i - 1].lower().endswith("s") and not is_number(word) and not is_noun(word):
            return i
    if told_apart is not None and tokens[told_apart].lower() != "when":  # the man who comes to my shop is called Okan
        return next((i for i in range(told_apart + 2, len(tokens)) if tokens[i].lower() in BE), None)
    return None


def _adjectival(tokens: list[str], i: int) -> bool:
    """my used car: a participle before its noun."""
    return i == 1 or (i + 1 < len(tokens) and tokens[i + 1].lower() in BE | HAVE)


def _predicate(subject: str, name: str | None, rest: list[str]) -> Clause | None:
    rest = _without_adverbs(rest)
    if not rest or any(w.lower() in ("not", "never", "no") for w in rest[:3]):
        return None
    first, after = rest[0].lower(), _without_adverbs(rest[1:])
    if first in BE:
        return _of_being(subject, name, first, after)
    if first in HAVE and after and has_form(after[0], "VBN") and after[0].lower() not in DETERMINERS:
        if after[0].lower() == "been" and len(after) > 1 and has_form(after[1], "VBG"):
            return _clause(subject, name, "progressive", f"{first} been", _lemma(after[1]), after[2:])
        return _clause(subject, name, "perfect", first, _lemma(after[0]), after[1:])
    if first in MODALS:
        return _clause(subject, name, "modal", first, _lemma(after[0]), after[1:]) if after else None
    lemma = verb_lemma(first)
    if first in DO and after and after[0].lower() in DETERMINERS:  # I always do my nan's shopping
        return _clause(subject, name, "past" if first == "did" else "plain", "", "do", after)
    if lemma is None or first in DO or (first == "used" and after[:1] == ["to"]):
        return None
    past = has_form(first, "VBD") and not has_form(first, "VB")
    return _clause(subject, name, "past" if past else "plain", "", lemma, rest[1:])


_WHAT_ONE_DOES = frozenset("hobby pastime job passion dream habit favourite favorite thing plan goal fear".split())


def _of_being(subject: str, name: str | None, be: str, after: list[str]) -> Clause | None:
    going = after[:1] and has_form(after[0], "VBG") and not (is_noun(after[0]) and len(after) == 1)
    if not going or subject.rsplit(maxsplit=1)[-1].lower() in _WHAT_ONE_DOES:
        return _clause(subject, name, "be", be, "be", after)
    return _clause(subject, name, "progressive", be, _lemma(after[0]), after[1:])


def _lemma(word: str) -> str:
    return verb_lemma(word) or word


def _clause(subject: str, name: str | None, shape: Shape, auxiliary: str, verb: str, tail: list[str]) -> Clause | None:
    if len(tail) > _LONGEST_TAIL or any(t in '"“”<>{}|' for t in tail):
        return None
    return Clause(subject=subject, name=name, shape=shape, auxiliary=auxiliary, verb=verb, tail=tuple(tail))


def _without_adverbs(tokens: list[str]) -> list[str]:
    i = 0
    while i < len(tokens) and tokens[i].lower() in _ADVERBS - {"never"}:
        i += 1
    return tokens[i:]


def _name_of(talk: Talk, who: str | None) -> str | None:
    return next((name for name, what in talk.called.items() if what == who), None)


_HOUSEHOLD = frozenset(
    """
    wife missus husband hubby kids boyfriend girlfriend mother-in-law father-in-law dog cat kitten puppy boss landlord
    boy girl twins baby
    """.split()
)
"""The wife, the dog: mine, as one says it."""
_ANYBODY = frozenset("man woman guy lady person someone somebody bloke girl boy fella gentleman place thing".split())
_CALLED = re.compile(
    rf"\b(?:a|an|my|our|the)\s+((?:(?!(?:{'|'.join(sorted(PREPOSITIONS))})\b)[a-z-]+\s+){{0,3}}?[a-z-]+)(?:\s+(?:called|named)|,)\s+([A-Z][\w'-]+(?:\s[A-Z][\w'-]+)?)"
)


def introduced(clause: Clause) -> tuple[str, str] | None:
    """(my dog, Pickle) where a clause names somebody new: I have a dog called Pickle; of my sister's, likewise."""
    own = clause.subject in ("I", "we")
    whose = {"I": "my", "we": "our"}.get(clause.subject, f"{clause.subject}'s")
    if own and clause.verb in ("name", "call", "christen"):
        given = re.fullmatch(r"(?:my|our|the|a) ((?:[a-z-]+ )*?)(?:new )?([a-z-]+) ([A-Z][\w'-]+)", joined(clause.tail))
        return (f"{whose} {given[1]}{given[2]}", given[3]) if given else None
    if not own and (
        clause.verb not in ("have", "own", "get", "adopt") or not clause.subject.startswith(("my ", "our "))
    ):
        return None
    found = _CALLED.search(joined(clause.tail))
    if found is None or found[1].rsplit(maxsplit=1)[-1] in _ANYBODY | PREPOSITIONS:
        return None
    return f"{whose} {found[1]}", found[2]


def _note(clause: Clause, talk: Talk) -> None:
    new = introduced(clause)
    if new is not None:
        talk.called[new[1]] = new[0]
        talk.last = new[0]
        return
    if clause.subject not in ("I", "we"):
        talk.last = clause.subject.removesuffix("'s name")
        if clause.name:
            talk.called[clause.name] = clause.subject
        if clause.verb == "be" and clause.subject.endswith("'s name") and clause.tail:
            talk.called[joined(clause.tail)] = talk.last
        if clause.verb == "be" and clause.tail[:1] in (("called",), ("named",)):
            talk.called[joined(clause.tail[1:])] = clause.subject
        return
    thing = re.match(r"^(?:a|an|one|my|our)\s+((?:[a-z-]+\s+){0,2}[a-z-]+)", joined(clause.tail))
    if thing and clause.verb in ("have", "get", "adopt", "buy", "own", "rescue", "meet", "visit", "see"):
        words = [w for w in thing[1].split() if w != "name"]
        stop = next(
            (i for i, w in enumerate(words) if w in PREPOSITIONS | RELATIVE_TIME | {"who", "that", "which", "and"}),
            None,
        )
        if words[:stop]:
            talk.last = f"my {' '.join(words[:stop])}"
