"""Pure: whether two texts say the same thing, or the one what the other no longer allows. No model, English only.

Meant to be sure rather than complete: what it cannot tell is `different`, and both texts are kept. Vectors cannot do
this: across reworded facts and facts with one value changed, cosines overlap (docs/log.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import Stemmer

from memory.words import STOP_WORDS, words

Relation = Literal["same", "changed", "different"]

_stemmer = Stemmer.Stemmer("english")
_stemming = threading.Lock()
"""A stemmer has a state: two threads at once would mix up their words."""


def _stem(word: str) -> str:
    with _stemming:
        stem: str = _stemmer.stemWord(word)
    return stem


_CLASSES = {
    "LIVE": "live lives living lived reside resides residing home house address based inhabit dwell apartment flat",
    "WORK": "work works working worked job profession career occupation employed employer employ employment living",
    "NAME": "name names named call called known goes nickname",
    "LIKE": "like likes liked love loves loved enjoy enjoys enjoyed fond adore adores fan favor",
    "FAVOURITE": "favourite favorite favourites favorites prefer prefers preferred preference best most",
    "DISLIKE": "hate hates hated dislike dislikes detest loathe despise",
    "BORN": "born birth birthday birthdate birthplace",
    "ALLERGY": "allergy allergic allergies allergens reaction intolerant intolerance",
    "MOTHER": "mother mum mom mummy mommy mama",
    "FATHER": "father dad daddy papa",
    "CHILD": "child kid children kids",
    "CAR": "car automobile vehicle auto drive drives drove driving",
    "FILM": "film movie films movies",
    "BUY": "buy bought purchase purchased buying",
    "BEGIN": "begin began begun start started starts",
    "MARRY": "married marry wedding wed marriage",
    "STUDY": "study studies studying studied major",
    "PHONE": "phone telephone mobile cellphone",
    "DOCTOR": "doctor physician gp",
    "WIFE": "wife spouse partner husband",
    "OLD": "old age aged years year",
    "MOVE": "move moved moving relocate relocated",
    "BIG": "big large huge",
    "HOLIDAY": "holiday vacation holidays",
    "PLAY": "play plays playing played player",
    "DRINK": "drink drinks drinking drank",
    "SPEAK": "speak speaks speaking spoke talk talks",
}
_CLASS_OF = {word: name for name, members in _CLASSES.items() for word in members.split()}
_FUNCTIONAL = frozenset({"LIVE", "WORK", "NAME", "FAVOURITE", "BORN", "OLD"})
"""What somebody has one of at a time: another value takes the place of the old one."""
_EMPTY = frozenset(
    """
    user person people thing things city town place colour color really actually now today currently also just very
    give gives gave get gets got make makes made go goes went come comes came say says said tell told know knows
    want wants own owns have has having use uses used take takes took turn turns turned become became will well
    quite kind sort bit lot one ones somebody someone something located whose remember note please fact time times
    every day always usually right moment
    """.split()
)
_NEGATIONS = frozenset(
    """
    not no never neither nor none nobody nothing without cannot stopped quit hardly
    """.split()
)
_NUMBERS = {
    word: str(value)
    for value, names in enumerate(
        """
        zero one|first two|second|twice three|third four|fourth five|fifth six|sixth seven|seventh eight|eighth
        nine|ninth ten|tenth eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
        """.split()
    )
    for word in names.split("|")
    if word not in ("one", "second", "first")
} | {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90"}
_POSSESSIVES = frozenset(["my", "our", "his", "her", "their", "your", "the", "user's", "users"])
_RELATIVES = frozenset(
    """
    brother sister son daughter MOTHER FATHER CHILD WIFE uncle aunt cousin grandmother grandfather grandma grandpa
    niece nephew friend boss colleague neighbour neighbor teacher DOCTOR dog cat horse bird parrot rabbit hamster
    fish boyfriend girlfriend roommate flatmate team company school CAR PHONE boat
    """.split()
)
"""Whom or what a fact may be about; two facts about different ones do not touch each other."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a text says, as far as it can be read off its words."""

    values: frozenset[str]
    """Stems and classes of its content words; numbers as digits."""
    about: frozenset[str]
    """The relatives, animals and belongings among them."""
    numbers: frozenset[str]
    negated: bool
    asks: bool


@lru_cache(maxsize=1024)
def claim(text: str) -> Claim:
    """The claim that a text makes."""
    said = words(text)
    values: set[str] = set()
    numbers: set[str] = set()
    for position, word in enumerate(said):
        bare = word.removesuffix("'s")
        if bare in _NUMBERS or bare.isdigit():
            digits = _NUMBERS.get(bare, bare).lstrip("0") or "0"
            numbers.add(digits)
            values.add(digits)
        elif bare in _EMPTY or bare in STOP_WORDS or word in STOP_WORDS or bare in _NEGATIONS:
            continue
        elif bare in _CLASS_OF:
            # for a living
            values.add("WORK" if bare == "living" and said[position - 1 : position] == ["a"] else _CLASS_OF[bare])
        else:
            values.add(_stem(bare))
    negations = sum(w in _NEGATIONS or w.endswith("n't") for w in said)
    if "DISLIKE" in values:
        values = (values - {"DISLIKE"}) | {"LIKE"}
        negations += 1
    return Claim(
        values=frozenset(values),
        about=frozenset(values & _STEMMED_RELATIVES),
        numbers=frozenset(numbers),
        negated=negations % 2 == 1,
        asks=text.rstrip().endswith("?"),
    )


def relate(one: str, other: str) -> Relation:
    """How a newer text relates to an older one of the same speaker: `same`, `changed` (it replaces it), `different`."""
    new, old = claim(one), claim(other)
    common = new.values & old.values
    if new.asks != old.asks or not common or new.about != old.about:
        return "different"
    only_new, only_old = new.values - old.values, old.values - new.values
    if new.negated == old.negated:
        if not only_new and not only_old:
            return "same"
        if not (only_new and only_old):
            extra = only_new or only_old
            wordless = all(v in _CLASSES for v in extra)
            return "same" if wordless and _specific(common) else "different"
    elif not only_new and not only_old:
        return "changed"
    if _in_place_of(only_new, only_old) and not new.asks and new.negated == old.negated:
        numbers_differ = new.numbers != old.numbers and bool(new.numbers) and bool(old.numbers)
        if (common & _FUNCTIONAL or numbers_differ) and len(common) + 1 >= len(only_new):
            return "changed"
    return "different"


def contradiction(relation: Relation) -> float:
    """Probability that the newer text contradicts the older one (our estimates)."""
    return {"same": 0.1, "changed": 0.95, "different": 0.0}[relation]


def _specific(values: Iterable[str]) -> bool:
    """Whether two texts that share these values share more than the kind of thing they say."""
    return any(v not in _CLASSES for v in values)


def _in_place_of(only_new: frozenset[str], only_old: frozenset[str]) -> bool:
    """One value for one value, the classes of words aside."""
    new = {v for v in only_new if v not in _CLASSES}
    old = {v for v in only_old if v not in _CLASSES}
    return len(new) == len(old) == 1


_STEMMED_RELATIVES = frozenset(w if w.isupper() else _stem(w) for w in _RELATIVES)
