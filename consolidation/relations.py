"""What people commonly tell of themselves and theirs, and in how many ways one asks for it. Data; English.

A question comes in two forms: as asked (`where does my sister live`) and as it stands inside another one (`where my
sister lives`). What has a name of its own has a third: `my sister's address`.

In the patterns, {s} is the subject, {o} the same as an object, {sp} its possessive, {v} the value that a question takes
for granted; {do}, {be},
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
            o="me" if first else "us" if subject.lower() == "we" else subject,
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
    which name did I give {s} | which name I gave {s}
    what name {do} {s} answer to | what name {s} {answer_} to
    under which name do I know {s} | under which name I know {s}
    = {sp} name
    = the name of {s}

    home: self person
    where {do} {s} live | where {s} {live_}
    which place {do} {s} live in | which place {s} {live_} in
    which city {do} {s} live in | which city {s} {live_} in
    where did {s} move to | where {s} moved to
    which street or area {do} {s} live in | which street or area {s} {live_} in
    which town {be} {s} living in | which town {s} {be} living in
    in which city is {sp} home | in which city {sp} home is
    where is {sp} house | where {sp} house is
    where {be} {s} living | where {s} {be} living
    where is {sp} home | where {sp} home is
    what town or city {do} {s} live in | what town or city {s} {live_} in
    where can {s} be found at home | where {s} {have} a home
    which town is {sp} home in | which town {sp} home is in
    what place {do} {s} call home | what place {s} {call_} home
    what is the name of the place {s} {live_} in | what the name of the place {s} {live_} in is
    where would one go to visit {o} | where one would go to visit {o}
    what street {be} {sp} home on | what street {sp} home is on
    which neighbourhood {do} {s} live in | which neighbourhood {s} {live_} in
    which village {do} {s} live in | which village {s} {live_} in
    = the place where {s} {live_}

    origin: self person
    where {be} {s} from | where {s} {be} from
    where did {s} grow up | where {s} grew up
    where {do} {s} come from | where {s} {come_} from
    in which place did {s} grow up | in which place {s} grew up
    where did {s} spend {sp} childhood | where {s} spent {sp} childhood
    what is {sp} home town | what {sp} home town is
    which place {do} {s} come from | which place {s} {come_} from
    = {sp} home town

    birthplace: self person
    where {was} {s} born | where {s} {was} born
    in which place {was} {s} born | in which place {s} {was} born
    what is {sp} birthplace | what {sp} birthplace is
    in which town {was} {s} born | in which town {s} {was} born
    which town {was} {s} born in | which town {s} {was} born in
    in what city did {s} come into the world | in what city {s} came into the world
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
    on what date {was} {s} born | on what date {s} {was} born
    when {do} {s} turn a year older | when {s} {turn_} a year older
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
    which profession {do} {s} have | which profession {s} {have}
    what line of work {be} {s} in | what line of work {s} {be} in
    which trade {do} {s} work in | which trade {s} {work_} in
    what {do} {s} do for work | what {s} {do_} for work
    what kind of job {do} {s} have | what kind of job {s} {have}
    = {sp} job
    = {sp} line of work

    employer: self person
    where {do} {s} work | where {s} {work_}
    who {do} {s} work for | who {s} {work_} for
    what is {sp} workplace | what {sp} workplace is
    who is {sp} employer | who {sp} employer is
    which place {do} {s} work at | which place {s} {work_} at
    which company {do} {s} work for | which company {s} {work_} for
    which hospital, school, shop or firm {do} {s} work at | which hospital, school, shop or firm {s} {work_} at
    where did {s} get a job | where {s} got a job
    what company {do} {s} work at | what company {s} {work_} at
    who pays {sp} wages | who pays {sp} wages
    which firm {do} {s} work for | which firm {s} {work_} for
    where {do} {s} go to work | where {s} {go_} to work
    what is the name of the place where {s} {work_} | what the name of the place where {s} {work_} is
    in which place {be} {s} employed | in which place {s} {be} employed
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
    what is {sp} {v} of choice | what {sp} {v} of choice is
    which {v} {do} {s} love most | which {v} {s} {love_} most
    what {v} {do} {s} like above all others | what {v} {s} {like_} above all others
    who or what is {sp} favourite {v} | who or what {sp} favourite {v} is
    which {v} would make {o} happiest | which {v} would make {o} happiest
    = {sp} favourite {v}
    = the {v} that {s} {like_} best

    likes: self person pet
    what {do} {s} love | what {s} {love_}
    what {do} {s} like | what {s} {like_}
    what {do} {s} enjoy | what {s} {enjoy_}
    what {be} {s} fond of | what {s} {be} fond of
    what is something that {s} {love_} | what something is that {s} {love_}
    what makes {o} happy | what makes {o} happy
    what {be} {s} keen on | what {s} {be} keen on
    who or what {be} {s} a fan of | who or what {s} {be} a fan of
    what can {s} not get enough of | what {s} can not get enough of
    = something that {s} {love_}

    dislikes: self person pet
    what {do} {s} hate | what {s} {hate_}
    what can {s} not stand | what {s} can not stand
    which food or thing can {s} not stand | which food or thing {s} can not stand
    what can {s} not bear | what {s} can not bear
    what can {s} not stomach | what {s} can not stomach
    what {do} {s} dislike | what {s} {dislike_}
    what {do} {s} not like | what {s} {do} not like
    which thing {do} {s} hate | which thing {s} {hate_}
    what {do} {s} really not like | what {s} really {do} not like
    what would {s} never choose | what {s} would never choose
    what {do} {s} find horrible | what {s} {find_} horrible
    = something that {s} {hate_}

    avoids: self person pet
    what {do} {s} avoid | what {s} {avoid_}
    what can {s} not have | what {s} can not have
    what {do} {s} not eat or drink | what {s} {do} not eat or drink
    what can {s} not eat | what {s} can not eat
    which food can {s} not stand | which food {s} can not stand
    what {do} {s} dislike eating | what {s} {dislike_} eating
    which food {do} {s} avoid | which food {s} {avoid_}
    what {do} {s} never touch | what {s} never {touch_}
    what should {s} not be served | what {s} should not be served
    what {do} {s} stay away from | what {s} {stay_} away from
    what {do} {s} hate eating | what {s} {hate_} eating
    = something that {s} {avoid_}

    allergy: self person pet
    what {be} {s} allergic to | what {s} {be} allergic to
    what allergy {do} {s} have | what allergy {s} {have}
    which medicine, plant or food {be} {s} allergic to | which medicine, plant or food {s} {be} allergic to
    what gives {o} a reaction | what gives {o} a reaction
    what must {s} avoid because of an allergy | what {s} must avoid because of an allergy
    which allergy {do} {s} have | which allergy {s} {have}
    what {do} {s} get an allergic reaction from | what {s} {get_} an allergic reaction from
    what can {s} not have because of an allergy | what {s} can not have because of an allergy
    what gives {o} a reaction | what gives {o} a reaction
    what {do} {s} react badly to | what {s} {react_} badly to
    which food {be} {s} allergic to | which food {s} {be} allergic to
    what should {s} keep away from with an allergy | what {s} should keep away from with an allergy
    = {sp} allergy

    fear: self person pet
    what {be} {s} afraid of | what {s} {be} afraid of
    what {do} {s} fear | what {s} {fear_}
    what {be} {s} scared of | what {s} {be} scared of
    what frightens {o} | what frightens {o}
    which creature or thing scares {o} | which creature or thing scares {o}
    what scares {o} | what scares {o}
    what terrifies {o} | what terrifies {o}
    what is {sp} phobia | what {sp} phobia is
    what {be} {s} terrified of | what {s} {be} terrified of
    which thing makes {o} panic | which thing makes {o} panic
    = {sp} biggest fear

    car: self person
    what car {do} {s} drive | what car {s} {drive_}
    what car {do} {s} have now | what car {s} {have} now
    which brand is {sp} car | which brand {sp} car is
    what kind of car {do} {s} have | what kind of car {s} {have}
    which car {do} {s} own | which car {s} {own_}
    what {do} {s} drive | what {s} {drive_}
    what is {sp} car | what {sp} car is
    which model is {sp} car | which model {sp} car is
    what make is {sp} car | what make {sp} car is
    what sort of car {be} {s} driving | what sort of car {s} {be} driving
    which vehicle {do} {s} own | which vehicle {s} {own_}
    = {sp} car

    instrument: self person
    what instrument {do} {s} play | what instrument {s} {play_}
    which instrument {be} {s} learning | which instrument {s} {be} learning
    what {be} {s} learning to play | what {s} {be} learning to play
    which instrument {do} {s} play | which instrument {s} {play_}
    what musical instrument {do} {s} play | what musical instrument {s} {play_}
    what {do} {s} play | what {s} {play_}
    what instrument can {s} play | what instrument {s} can play
    which instrument {be} {s} into | which instrument {s} {be} into
    what {do} {s} make music on | what {s} {make_} music on
    = {sp} instrument

    sport: self person
    what sport {do} {s} play | what sport {s} {play_}
    which sport {do} {s} play | which sport {s} {play_}
    what {do} {s} play | what {s} {play_}
    = {sp} sport

    studies: self person
    what {do} {s} study | what {s} {study_}
    what subject {be} {s} studying | what subject {s} {be} studying
    which subject {do} {s} study | which subject {s} {study_}
    what {be} {s} studying | what {s} {be} studying
    what {do} {s} learn at school | what {s} {learn_} at school
    what is {sp} degree in | what {sp} degree is in
    which subject {be} {s} taking | which subject {s} {be} taking
    what {be} {s} studying at university | what {s} {be} studying at university
    = {sp} subject

    language: self person
    what language {do} {s} speak | what language {s} {speak_}
    which language {do} {s} speak | which language {s} {speak_}
    what language {be} {s} learning | what language {s} {be} learning
    which language {be} {s} studying | which language {s} {be} studying
    which language {do} {s} want to know | which language {s} {want_} to know
    = {sp} language

    collection: self person
    what {do} {s} collect | what {s} {collect_}
    what kind of things {do} {s} collect | what kind of things {s} {collect_}
    what is in {sp} collection | what is in {sp} collection
    which things {do} {s} collect | which things {s} {collect_}
    what {be} {s} a collector of | what {s} {be} a collector of
    = what is in {sp} collection

    hobby: self person
    what is {sp} hobby | what {sp} hobby is
    what {have} {s} taken up | what {s} {have} taken up
    which craft, sport or pastime {have} {s} got into | which craft, sport or pastime {s} {have} got into
    what {do} {s} do in {their} free time | what {s} {do_} in {their} free time
    which hobby {do} {s} have | which hobby {s} {have}
    what is {sp} pastime | what {sp} pastime is
    what {do} {s} do as a pastime | what {s} {do_} as a pastime
    what {do} {s} do for fun | what {s} {do_} for fun
    what hobby {be} {s} into | what hobby {s} {be} into
    = {sp} hobby

    school: self person
    which school {do} {s} go to | which school {s} {go_} to
    what school {do} {s} attend | what school {s} {attend_}
    where {do} {s} go to school | where {s} {go_} to school
    what is the name of {sp} school | what the name of {sp} school is
    where {be} {s} a pupil or student | where {s} {be} a pupil or student
    what is {sp} school called | what {sp} school is called
    = {sp} school

    medicine: self person pet
    which medicine {do} {s} take | which medicine {s} {take_}
    what tablets {be} {s} taking | what tablets {s} {be} taking
    what did the doctor put {o} on | what the doctor put {o} on
    what drug {be} {s} on | what drug {s} {be} on
    what medication {be} {s} on | what medication {s} {be} on
    what {do} {s} take for {sp} health | what {s} {take_} for {sp} health
    what is the name of {sp} medicine | what the name of {sp} medicine is
    which pill {do} {s} take | which pill {s} {take_}
    = {sp} medication

    team: self person
    which team {do} {s} support | which team {s} {support_}
    what is {sp} team | what {sp} team is
    who {do} {s} cheer for | who {s} {cheer_} for
    which club {do} {s} follow | which club {s} {follow_}
    what team {be} {s} a fan of | what team {s} {be} a fan of
    what club {do} {s} support | what club {s} {support_}
    = {sp} team

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
