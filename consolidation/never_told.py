"""Pure: questions that nothing told answers: other people's homes, other things of the same person, the rest of a life.

Without them a small model that learnt somebody's dog answers with it wherever something personal is asked for (0.53 of
such questions; 0.02 with as many counter-examples as there are examples of facts).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from random import Random
from typing import Literal

from consolidation.english import is_plural
from consolidation.facts import Fact
from consolidation.lexicon import kind_of
from consolidation.relations import RELATIONS, Ask

PEOPLE = (
    """
my mother;my father;my brother;my sister;my son;my daughter;my husband;my wife;my partner;my uncle;my aunt;my cousin
my grandmother;my grandfather;my best friend;my boss;my neighbour;my landlord;my dentist;my doctor;my niece;my nephew
my roommate;my teacher;my colleague;my mother-in-law;my friend;my hairdresser;my coach;my therapist;my mum;my dad
""".replace("\n", ";")
    .strip(";")
    .split(";")
)
PETS = "my dog;my cat;my rabbit;my parrot;my horse;my hamster;my goldfish;my tortoise".split(";")
THINGS = (
    """
my car;my bike;my boat;my phone;my house;my street;my school;my company;my team;my favourite restaurant;my local pub
my bank;my gym;my village;my university;my first teacher;my band;my blog
""".replace("\n", ";")
    .strip(";")
    .split(";")
)
FAVOURITES = (
    """
colour;food;film;book;song;band;season;sport;drink;fruit;animal;city;author;dessert;flower;game;dish;ice cream;day;tea
cheese;vegetable;museum;painter;holiday;number
""".replace("\n", ";")
    .strip(";")
    .split(";")
)
TIMES = "yesterday;last night;last week;on Sunday;this morning;on holiday".split(";")
NAMES = """
Gregor Amelia Tobias Ingrid Rafael Noor Esther Pavel Yuki Beatrix Dmitri Salma Otto Freya Ravi Colette Bruno Hana Silas
Petra Kofi Maeve Anton Leila Hugo Signe Marco Odette Felix Zora Quentin Alma Viggo Talia Enzo Birgit Cyrus Paloma
""".split()


Near = Literal["same relation", "same subject", "far"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Something never told, and how to ask for it."""

    asks: tuple[Ask, ...]
    near: Near
    """How close it is to what was told: the same of somebody else, something else of the same, or neither."""
    key: tuple[str, str] | None = None
    """Of whom it asks, and what: a fact's key."""


def asks(
    told: set[tuple[str, str]], told_of: set[str], random: Random, *, spoken_of: Collection[str] = ()
) -> list[Unknown]:
    """In random order. `told`: the facts' keys; `told_of`: of whom; `spoken_of`: words in the questions."""
    also = _ALSO | {"partner": spouse, "spouse": spouse} if (spouse := _spouse(told)) else _ALSO
    aliases = {(re.sub(rf"\b{word}\b", other, subject), r) for subject, r in told for other, word in also.items()}
    told = told | aliases
    if spouse:
        told = told | {("i", "spouse")}
    told = told | implied(told)
    also_called = {subject for subject, _ in aliases} - told_of
    told_of = told_of | {subject for subject, _ in told if not subject.startswith("(")}
    relations_told = {relation.split(" ")[0] if relation.startswith("favourite") else relation for _, relation in told}
    kinds_told = {(relation, kind_of(subject)) for subject, relation in told}
    found = []
    theirs = [f"{random.choice(PEOPLE)}'s {pet.removeprefix('my ')}" for pet in PETS for _ in range(2)]
    theirs += [f"{s}'s {random.choice(PETS).removeprefix('my ')}" for s in sorted(told_of) if kind_of(s) == "person"]
    things = [s for s in (*PETS, *THINGS) if s.split()[-1] not in spoken_of]
    for subject in ["I", *PEOPLE, *things, *theirs, *sorted(told_of - {"i", "we"})]:
        lowered = subject.lower()
        for name, relation in RELATIONS.items():
            if kind_of(subject) not in relation.kinds:
                continue
            if name == "favourite":
                for what in random.sample(FAVOURITES, 5 if subject == "I" else 1):
                    if (lowered, f"favourite {what}") not in told:
                        alike = "favourite" in relations_told
                        near: Near = "same relation" if alike else "same subject" if lowered in told_of else "far"
                        found.append(
                            Unknown(asks=relation.of(subject, what), near=near, key=(lowered, f"{name} {what}"))
                        )
                continue
            if (lowered, name) in told or _overlaps(lowered, name, told):
                continue
            if lowered in also_called and random.random() > _BY_ANOTHER_NAME:
                continue
            alike = (name, kind_of(subject)) in kinds_told
            near = "same relation" if alike else "same subject" if lowered in told_of else "far"
            found.append(Unknown(asks=relation.of(subject), near=near, key=(lowered, name)))
    found += [Unknown(asks=(ask,), near="far") for ask in others(random) if not _told_something_like(ask.direct, told)]
    random.shuffle(found)
    return found


_ALSO = {
    "mum": "mother",
    "mom": "mother",
    "dad": "father",
    "gran": "grandmother",
    "grandma": "grandmother",
    "stepdad": "stepfather",
    "stepmum": "stepmother",
    "stepmom": "stepmother",
}
"""Other words for the same person: what is told of one is told of the other."""


_BY_ANOTHER_NAME = 0.25
"""As often as whom something was told of is called otherwise in questions that are answered: else the other word would
be a sign of denial."""


def implied(told: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What is known with what was told: whom I am married to is my wife's name, or my husband's; they are to me."""
    if ("i", "spouse") not in told:
        return set()
    known = _spouse(told)
    called = {"partner", "spouse", *([known] if known else ["wife", "husband"])}
    return {(f"my {one}", relation) for one in called for relation in ("name", "spouse")}


def _spouse(told: set[tuple[str, str]]) -> str | None:
    subjects = {subject for subject, _ in told}
    return next((s for s in ("wife", "husband", "boyfriend", "girlfriend") if f"my {s}" in subjects), None)


def others(random: Random) -> list[Ask]:
    """What anybody might ask of themselves, by never_told.txt."""
    found = []
    for line in _lines("never_told.txt"):
        direct, embedded, about = (part.strip() for part in line.split("|"))
        for one in about.split(";"):
            words = one.split(",")
            time = random.choice(TIMES)
            found.append(Ask(direct=_filled(direct, words, time), embedded=_filled(embedded, words, time, inner=True)))
    return found


def _lines(file: str) -> list[str]:
    text = resources.files("consolidation").joinpath("texts", file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _filled(pattern: str, words: Sequence[str], time: str, *, inner: bool = False) -> str:
    """A pattern with its gaps filled in order; inside another question the last gap takes the inflected form."""
    gaps = [g for g in re.findall(r"{(\w+)}", pattern) if g not in ("time", "be")]
    given = list(words[: len(gaps)])
    if inner and len(words) > len(gaps) and words[-1]:
        given[-1] = words[-1]
    for gap, word in zip(gaps, given, strict=False):
        pattern = pattern.replace(f"{{{gap}}}", word, 1)
    return pattern.replace("{time}", time).replace("{be}", "am")


BELONGINGS = (
    "passport;birth certificate;spare key;umbrella;winter coat;tool box;sewing machine;camera;old letters;ladder;"
    "bicycle;suitcase;savings;will;diary;car keys;Christmas lights;tent;first-aid kit;vaccination card;ski boots;torch"
).split(";")
OF_CODES = (
    "laptop;phone;bank card;email;garage;office;bike lock;safe;suitcase;front door;locker;gym;computer;alarm".split(";")
)


def of_others(facts: Sequence[Fact], random: Random) -> list[Unknown]:
    """The very questions that the facts answer, about somebody or something else."""
    told = {(f.subject.lower(), f.relation) for f in facts}
    text = " ".join(f.statement for f in facts).lower()
    found = []
    for fact in facts:
        kind = kind_of(fact.subject)
        if fact.relation.split(" ")[0] in RELATIONS:
            continue
        if kind == "thing" or fact.subject in ("I", "we"):
            found += _of_other_things(fact, text, random)
            continue
        for other in random.sample(PEOPLE if kind != "pet" else PETS, 4):
            if (other, fact.relation) in told:
                continue
            asks = tuple(a for of in fact.asks if (a := _about(of, fact.subject, other)) is not None)
            if asks:
                found.append(Unknown(asks=asks, near="same relation"))
    return found


def _of_other_things(fact: Fact, text: str, random: Random) -> list[Unknown]:
    """Where do I keep my umbrella, of where I keep my passport; my laptop password, of the wifi password."""
    found = []
    place = bool(fact.asks) and fact.asks[0].direct.startswith("where")
    mine = re.search(r"\bmy ([a-z-]+(?: [a-z-]+)?)$", fact.subject if place and " " in fact.subject else "")
    mine = mine or re.search(r"\bmy ([a-z-]+(?: [a-z-]+)?)$", fact.asks[0].embedded if place else "")
    if mine:
        swapped = mine[1]
        others = [b for b in BELONGINGS if b.lower() not in text and is_plural(b) == is_plural(swapped)]
    else:
        code = _OF_CODE.search(fact.subject.lower())
        swapped = (code[1] or code[2]) if code else ""
        others = [c for c in OF_CODES if c not in text]
    if not swapped:
        return []
    for other in random.sample(others, min(4, len(others))):
        asks = tuple(
            Ask(direct=a.direct.replace(swapped, other), embedded=a.embedded.replace(swapped, other))
            for a in fact.asks
            if swapped in a.embedded and (swapped in a.direct or not a.direct)
        )
        if asks:
            found.append(Unknown(asks=asks, near="same relation"))
    return found


_KEY = "(?:password|code|pin|combination|number)"
_OF_CODE = re.compile(rf"\b(?!(?:the|my|our|a)\b)([a-z]+) {_KEY}\b|\b{_KEY} (?:for|of|to) (?:the|my|our) ([a-z ]+)$")


def _about(ask: Ask, subject: str, other: str) -> Ask | None:
    """The same question of somebody else; None where the verb would have to change."""
    if subject.lower() in ("i", "we"):
        return None
    if is_plural(subject) != is_plural(other):
        return None
    return Ask(direct=ask.direct.replace(subject, other), embedded=ask.embedded.replace(subject, other))


_ALIKE = (
    {"origin", "birthplace", "home"},
    {"birthday", "age"},
    {"instrument", "sport", "hobby"},
    {"job", "employer"},
    {"likes", "hobby"},
    {"dislikes", "allergy", "fear"},
)


def _overlaps(subject: str, relation: str, told: set[tuple[str, str]]) -> bool:
    """Whether what was told may half answer this: where I live, where I come from."""
    return any(relation in alike and any((subject, r) in told for r in alike) for alike in _ALIKE)


def _told_something_like(question: str, told: set[tuple[str, str]]) -> bool:
    words = set(question.lower().split())
    return any(
        subject in question.lower() and set(relation.split()) & words for subject, relation in told if subject != "i"
    ) or any(
        subject == "i" and set(relation.split()) & words - {"what", "to", "in", "for"} for subject, relation in told
    )


def subjects_apart(told_of: set[str], random: Random) -> list[str]:
    """Whom nothing was told about."""
    apart = [s for s in [*PEOPLE, *PETS] if s not in told_of]
    random.shuffle(apart)
    return apart


def names_apart(facts: Sequence[Fact], random: Random) -> list[str]:
    """Names that nobody told."""
    said = " ".join(f.statement for f in facts)
    apart = [n for n in NAMES if n not in said]
    random.shuffle(apart)
    return apart
