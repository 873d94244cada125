"""What people commonly tell of themselves and theirs, and in how many ways one asks for it. Data; English.

A question comes in two forms: as asked (`where does my sister live`) and as it stands inside another one (`where my
sister lives`). What has a name of its own has a third: `my sister's address`.

In the patterns, {s} is the subject, {sp} its possessive, {v} the value that a question takes for granted; {do}, {be},
{was}, {have} agree with the subject, and so does {live_} for any verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from consolidation.english import inflect, is_plural, possessive
from consolidation.lexicon import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question in its two forms, or a noun phrase for what is asked (`direct` empty)."""

    direct: str = ""
    embedded: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A kind of fact, whom it is told of, and how it is asked for."""

    name: str
    kinds: frozenset[Kind]
    asks: tuple[Ask, ...]

    def of(self, subject: str, value: str = "") -> tuple[Ask, ...]:
        """The questions about a subject, in the speaker's person."""
        words = _Agreement(subject, value)
        return tuple(Ask(direct=a.direct.format_map(words), embedded=a.embedded.format_map(words)) for a in self.asks)


def agreement(subject: str, value: str = "") -> Mapping[str, str]:
    """The words of a pattern for a subject."""
    return _Agreement(subject, value)


class _Agreement(dict[str, str]):
    def __init__(self, subject: str, value: str) -> None:
        first = subject.lower() == "i"
        many = subject.lower() == "we" or (not first and is_plural(subject))
        self._third = not first and not many
        super().__init__(
            s=subject,
            sp=possessive(subject),
            v=value,
            their="my" if first else "our" if subject.lower() == "we" else "their",
            do="does" if self._third else "do",
            be="am" if first else "are" if many else "is",
            was="were" if many else "was",
            have="has" if self._third else "have",
        )

    def __missing__(self, key: str) -> str:
        lemma = key.removesuffix("_")
        return inflect(lemma, "VBZ") if self._third else lemma


def _relations(text: str) -> Mapping[str, Relation]:
    """Blocks: a line `name: kinds`, then a question a line, `direct | embedded`, or `= noun phrase`."""
    found: dict[str, Relation] = {}
    for block in text.strip().split("\n\n"):
        head, *lines = [line.strip() for line in block.strip().splitlines()]
        name, kinds = head.split(":")
        asks = []
        for line in lines:
            if line.startswith("="):
                asks.append(Ask(embedded=line[1:].strip()))
            else:
                direct, embedded = line.split("|")
                asks.append(Ask(direct=direct.strip(), embedded=embedded.strip()))
        found[name.strip()] = Relation(
            name=name.strip(), kinds=frozenset(cast(list[Kind], kinds.split())), asks=tuple(asks)
        )
    return found


RELATIONS = _relations(
    """
    own name: self
    what is my name | what my name is
    what am I called | what I am called
    who am I | who I am
    what do people call me | what people call me
    = my name

    name: person pet thing
    what {be} {s} called | what {s} {be} called
    what is {sp} name | what {sp} name is
    what is the name of {s} | what the name of {s} is
    what do people call {s} | what people call {s}
    what name {do} {s} have | what name {s} {have}
    which name {do} {s} go by | which name {s} {go_} by
    what do I call {s} | what I call {s}
    = {sp} name
    = the name of {s}

    home: self person
    where {do} {s} live | where {s} {live_}
    which place {do} {s} live in | which place {s} {live_} in
    which city {do} {s} live in | which city {s} {live_} in
    which town {be} {s} living in | which town {s} {be} living in
    in which city is {sp} home | in which city {sp} home is
    where is {sp} house | where {sp} house is
    where {be} {s} living | where {s} {be} living
    where is {sp} home | where {sp} home is
    what town or city {do} {s} live in | what town or city {s} {live_} in
    where can {s} be found at home | where {s} {have} a home
    = the place where {s} {live_}

    origin: self person
    where {be} {s} from | where {s} {be} from
    where did {s} grow up | where {s} grew up
    where {do} {s} come from | where {s} {come_} from
    in which place did {s} grow up | in which place {s} grew up
    where did {s} spend {sp} childhood | where {s} spent {sp} childhood
    what is {sp} home town | what {sp} home town is
    = {sp} home town

    birthplace: self person
    where {was} {s} born | where {s} {was} born
    in which place {was} {s} born | in which place {s} {was} born
    what is {sp} birthplace | what {sp} birthplace is
    = {sp} birthplace
    = the place where {s} {was} born

    birthday: self person
    when is {sp} birthday | when {sp} birthday is
    when {was} {s} born | when {s} {was} born
    in what year {was} {s} born | in what year {s} {was} born
    what year {was} {s} born | what year {s} {was} born
    what is {sp} date of birth | what {sp} date of birth is
    on which day do we celebrate {sp} birthday | on which day we celebrate {sp} birthday
    what day is {sp} birthday | what day {sp} birthday is
    = {sp} birthday
    = the date of {sp} birthday

    job: self person
    what {do} {s} do for a living | what {s} {do_} for a living
    what is {sp} job | what {sp} job is
    what {do} {s} work as | what {s} {work_} as
    what kind of work {do} {s} do | what kind of work {s} {do_}
    what is {sp} profession | what {sp} profession is
    how {do} {s} earn a living | how {s} {earn_} a living
    what is {sp} occupation | what {sp} occupation is
    = {sp} job
    = {sp} line of work

    employer: self person
    where {do} {s} work | where {s} {work_}
    who {do} {s} work for | who {s} {work_} for
    what is {sp} workplace | what {sp} workplace is
    who is {sp} employer | who {sp} employer is
    which place {do} {s} work at | which place {s} {work_} at
    = {sp} workplace
    = {sp} employer

    age: self person pet
    how old {be} {s} | how old {s} {be}
    what is {sp} age | what {sp} age is
    what age {be} {s} | what age {s} {be}
    how many years old {be} {s} | how many years old {s} {be}
    = {sp} age

    favourite: self person pet
    what is {sp} favourite {v} | what {sp} favourite {v} is
    which {v} {do} {s} like best | which {v} {s} {like_} best
    what {v} {do} {s} prefer | what {v} {s} {prefer_}
    what {v} {do} {s} like most | what {v} {s} {like_} most
    which {v} is {sp} favourite | which {v} is {sp} favourite
    what is the {v} that {s} {like_} best | what the {v} is that {s} {like_} best
    = {sp} favourite {v}
    = the {v} that {s} {like_} best

    likes: self person pet
    what {do} {s} love | what {s} {love_}
    what {do} {s} like | what {s} {like_}
    what {do} {s} enjoy | what {s} {enjoy_}
    what {be} {s} fond of | what {s} {be} fond of
    what is something that {s} {love_} | what something is that {s} {love_}
    = something that {s} {love_}

    dislikes: self person pet
    what {do} {s} hate | what {s} {hate_}
    what can {s} not stand | what {s} can not stand
    what {do} {s} dislike | what {s} {dislike_}
    what {do} {s} not like | what {s} {do} not like
    which thing {do} {s} hate | which thing {s} {hate_}
    = something that {s} {hate_}

    allergy: self person pet
    what {be} {s} allergic to | what {s} {be} allergic to
    what allergy {do} {s} have | what allergy {s} {have}
    what must {s} avoid because of an allergy | what {s} must avoid because of an allergy
    which allergy {do} {s} have | which allergy {s} {have}
    what {do} {s} get an allergic reaction from | what {s} {get_} an allergic reaction from
    = {sp} allergy

    fear: self person pet
    what {be} {s} afraid of | what {s} {be} afraid of
    what {do} {s} fear | what {s} {fear_}
    what {be} {s} scared of | what {s} {be} scared of
    what frightens {s} | what frightens {s}
    = {sp} biggest fear

    car: self person
    what car {do} {s} drive | what car {s} {drive_}
    what kind of car {do} {s} have | what kind of car {s} {have}
    which car {do} {s} own | which car {s} {own_}
    what {do} {s} drive | what {s} {drive_}
    what is {sp} car | what {sp} car is
    = {sp} car

    instrument: self person
    what instrument {do} {s} play | what instrument {s} {play_}
    which instrument {do} {s} play | which instrument {s} {play_}
    what musical instrument {do} {s} play | what musical instrument {s} {play_}
    what {do} {s} play | what {s} {play_}
    = {sp} instrument

    sport: self person
    what sport {do} {s} play | what sport {s} {play_}
    which sport {do} {s} play | which sport {s} {play_}
    what {do} {s} play | what {s} {play_}
    = {sp} sport

    studies: self person
    what {do} {s} study | what {s} {study_}
    which subject {do} {s} study | which subject {s} {study_}
    what {be} {s} studying | what {s} {be} studying
    what {do} {s} learn at school | what {s} {learn_} at school
    = {sp} subject

    language: self person
    what language {do} {s} speak | what language {s} {speak_}
    which language {do} {s} speak | which language {s} {speak_}
    what language {be} {s} learning | what language {s} {be} learning
    which language {be} {s} studying | which language {s} {be} studying
    = {sp} language

    collection: self person
    what {do} {s} collect | what {s} {collect_}
    what kind of things {do} {s} collect | what kind of things {s} {collect_}
    what is in {sp} collection | what is in {sp} collection
    = what is in {sp} collection

    hobby: self person
    what is {sp} hobby | what {sp} hobby is
    what {do} {s} do in {their} free time | what {s} {do_} in {their} free time
    which hobby {do} {s} have | which hobby {s} {have}
    = {sp} hobby

    spouse: self person
    who {be} {s} married to | who {s} {be} married to
    what is the name of the person {s} {be} married to | what the name of the person {s} {be} married to is
    = the name of {sp} spouse

    breed: pet
    what breed is {s} | what breed {s} is
    what kind of animal is {s} | what kind of animal {s} is
    = {sp} breed

    colour: pet thing
    what colour is {s} | what colour {s} is
    which colour does {s} have | which colour {s} has
    = the colour of {s}
    """
)
"""By name."""
