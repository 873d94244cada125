"""Pure: from clauses to facts: of whom, what, with which value, and in how many ways one may ask for it.

A fact that fits a known relation is asked for in that relation's many ways; any other in those that its grammar
allows. Both also say what a fact replaces: two facts of one key cannot both hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from consolidation.asking import asked_of, said
from consolidation.clauses import Clause, introduced
from consolidation.english import (
    DETERMINERS,
    NUMBERS,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVE_TIME,
    is_adjective,
    is_plural,
    is_time,
    is_word,
    joined,
    second_person,
    spoken,
)
from consolidation.lexicon import INSTRUMENTS, SCHOOLS, SPORTS, Kind, is_trade, kind_of, kinds_of_thing
from consolidation.phrases import bare, phrases_of
from consolidation.relations import RELATIONS, Ask, agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that somebody said of themselves or theirs, in the speaker's person where not said otherwise."""

    subject: str
    relation: str
    """One of `relations.RELATIONS`, or the verb with the place of what is asked."""
    value: str
    statement: str
    """To the speaker, without a stop: your sister lives in Porto."""
    asks: tuple[Ask, ...]
    name: str | None = None
    """The subject's name, where it is known."""
    written: tuple[str, ...] = ()
    """Whole questions that the writer wrote (notes.py)."""
    never: tuple[str, ...] = ()
    """The writer's questions near to these, which what was said does not answer."""
    was: str = ""
    """What was told of the same before this, as `statement`; empty: nothing else was."""
    account: str = ""
    """What is said of it, whole sentences: all that its message told, in short (accounts.py). Empty: the statement."""

    @property
    def key(self) -> tuple[str, str]:
        """What it is about: a later fact of the same key takes its place."""
        return self.subject.lower(), self.relation

    @property
    def marks(self) -> frozenset[str]:
        """The words of the value that an answer cannot do without."""
        return marks(self.value)


_LIGHT = DETERMINERS | PREPOSITIONS | frozenset("and or very quite really to be called named old years year".split())


def marks(value: str) -> frozenset[str]:
    """The words that carry a value, lower-cased; all of its words if none does."""
    words = spoken(value)
    heavy = [w for w in words if w not in _LIGHT]
    return frozenset(heavy or words)


_TYPED = {
    "likes": ("{do} {s} love", "{s} {love_}"),
    "dislikes": ("{do} {s} hate", "{s} {hate_}"),
    "allergy": ("{be} {s} allergic to", "{s} {be} allergic to"),
    "fear": ("{be} {s} afraid of", "{s} {be} afraid of"),
    "collection": ("{do} {s} collect", "{s} {collect_}"),
    "studies": ("{do} {s} study", "{s} {study_}"),
}


def _typed(patterns: tuple[str, str], subject: str, value: str) -> tuple[Ask, ...]:
    """Which food do I hate, where olives are."""
    words = agreement(subject)
    many = "s" if is_plural(value) else ""
    direct, embedded = (p.format_map(words) for p in patterns)
    return tuple(
        Ask(direct=f"{wh} {direct}", embedded=f"{wh} {embedded}")
        for kind in kinds_of_thing(value)
        for wh in (f"which {kind}{many}", f"what kind of {kind}")
    )


_CORE = frozenset("job employer instrument sport studies origin home collection car hobby".split())


def _core(value: str) -> str:
    """Up to the first phrase that only adds to it: the oboe, of the oboe in a local orchestra."""
    words = value.split()
    for i, word in enumerate(words):
        if i and word.lower() in PREPOSITIONS and word.lower() != "of":
            return " ".join(words[:i]).rstrip(",")
    return value


def facts_of(clause: Clause) -> list[Fact]:
    """Every fact in a clause."""
    found = list(_names(clause))
    subject, statement = clause.subject, said(clause)
    for of, relation, whole, extra in _recognised(clause):
        value = _core(whole) if relation in _CORE else whole
        asks = RELATIONS[relation].of(of, extra)
        if relation == "name":
            asks += _who(of)
        if clause.shape != "be" and clause.verb in ("move", "learn", "adore", "play", "study"):
            asks += tuple(a for _, v, found in asked_of(clause) if marks(v) & marks(value) for a in found[:3])
        if relation in _TYPED:
            asks += _typed(_TYPED[relation], of, value)
        over = clause.shape == "past" and clause.verb not in _ONCE
        if over or clause.auxiliary in ("was", "were"):
            asks = tuple(dict.fromkeys([*map(_as_past, asks), *asks]))
        key = f"{relation} {extra}".strip()
        found.append(
            Fact(subject=of, relation=key, value=value, statement=statement, asks=asks, name=_name(clause, of))
        )
    if not found or (found and all(f.relation in ("name", "own name") for f in found) and clause.verb != "be"):
        for relation, value, asks in asked_of(clause) if lasts(clause) else ():
            found.append(
                Fact(subject=subject, relation=relation, value=value, statement=statement, asks=asks, name=clause.name)
            )
    return found


_PAST = ((r"^(wh\w+|how|[a-z]+ wh\w+|wh\w+ \w+|wh\w+ \w+ of \w+) (?:does|do) ", r"\1 did "), (r"\b(?:is|are)\b", "was"))


def _as_past(ask: Ask) -> Ask:
    """What did he do for a living?, of what is over."""
    direct = ask.direct
    for pattern, past in _PAST:
        direct = re.sub(pattern, past, direct)
    return replace(ask, direct=direct) if direct != ask.direct else ask


_FLEETING = frozenset("spend lose have take wait feel look get go come start stop try break spill forget miss".split())
"""Verbs of what is over the next day, where nothing in what follows is of any weight."""


_MOODS = frozenset(
    """
    sure glad happy sad sorry excited able ready aware busy tired fine ok okay here back done good well great thankful
    grateful proud curious interested surprised worried annoyed bored hungry thirsty late early free stuck lost alone
    """.split()
)


def lasts(clause: Clause) -> bool:
    """Whether what is said may matter tomorrow: not that one is tired, nor that the cat knocked something over."""
    tail = clause.tail
    weighty = any(t[:1].isupper() or t[:1].isdigit() for t in tail) or is_time(joined(tail))
    if clause.verb == "be":
        says = [t for t in tail if t.lower() not in ("very", "so", "too", "quite", "really", "pretty", "a", "bit")]
        if tail and tail[0].lower() in (
            "my",
            "our",
            "me",
            "us",
            "just",
            "so",
            "what",
            "where",
            "not",
            "gone",
            "done",
            "worth",
        ):
            return False
        if "today" in tail or "tonight" in tail or (says and says[0].lower() in _MOODS):
            return False
        return weighty or not says or not all(map(is_adjective, says)) or bool(kinds_of_thing(says[0]))
    if weighty:
        return True
    if clause.shape in ("past", "perfect"):
        given = clause.verb == "get" and "from" in tail
        return clause.subject in ("I", "we") and (given or clause.verb not in _FLEETING)
    if clause.shape == "progressive":
        return bool(tail) and clause.verb not in _FLEETING
    return True


def _name(clause: Clause, of: str) -> str | None:
    return clause.name if of == clause.subject else None


_PAIR = re.compile(
    r"^(?:two|three|four|\d) ((?:[a-z-]+ )?[a-z]+s), (?:called |named )?([A-Z]\w+(?:, [A-Z]\w+)*,? and [A-Z]\w+)$"
)


def _names(clause: Clause) -> Iterator[Fact]:
    pair = _PAIR.match(joined(clause.tail)) if clause.subject in ("I", "we") else None
    if pair:
        yield _named(f"{'my' if clause.subject == 'I' else 'our'} {pair[1]}", pair[2])
        return
    new = introduced(clause)
    if new is not None:
        yield _named(*new)
    elif clause.name and clause.subject.split()[0].lower() in ("my", "our"):
        yield _named(clause.subject, clause.name)


def _named(subject: str, name: str) -> Fact:
    be = "are" if is_plural(subject) else "is"
    return Fact(
        subject=subject,
        relation="name",
        value=name,
        statement=second_person(f"{subject} {be} called {name}"),
        asks=RELATIONS["name"].of(subject) + _who(subject),
        name=name,
    )


_DOES = {
    "hairdresser": ("cuts my hair", "does my hair"),
    "barber": ("cuts my hair",),
    "dentist": ("looks after my teeth", "is my dentist"),
    "doctor": ("do I see when I am ill", "treats me"),
    "gp": ("do I see when I am ill", "is my doctor"),
    "therapist": ("do I talk to about my troubles",),
    "mechanic": ("fixes my car", "repairs my car"),
    "cleaner": ("cleans my house", "cleans for me"),
    "maid": ("cleans my house",),
    "gardener": ("looks after my garden",),
    "accountant": ("does my taxes",),
    "lawyer": ("handles my legal matters",),
    "vet": ("treats my animals", "looks after my animals when they are ill"),
    "landlord": ("do I rent from", "do I pay my rent to", "owns my flat"),
    "landlady": ("do I rent from", "do I pay my rent to", "owns my flat"),
    "babysitter": ("looks after my children",),
    "nanny": ("looks after my children",),
    "flatmate": ("do I share my flat with", "do I live with"),
    "roommate": ("do I share my room with", "do I live with"),
    "housemate": ("do I share my house with", "do I live with"),
    "coach": ("coaches me",),
    "trainer": ("trains me",),
    "tutor": ("tutors me",),
    "optician": ("checks my eyes",),
    "physio": ("treats my joints",),
}


def _who(subject: str) -> tuple[Ask, ...]:
    """Who is my landlord? Who am I married to?"""
    if kind_of(subject) != "person":
        return ()
    be = "are" if is_plural(subject) else "is"
    mine = subject.startswith(("my ", "our ")) and "'s" not in subject
    asks = [Ask(direct=f"who {be} {subject}", embedded=f"who {subject} {be}")]
    last = subject.rsplit(maxsplit=1)[-1]
    if subject in ("my wife", "my husband", "my partner", "my spouse"):
        asks.append(Ask(direct="who am I married to", embedded="who I am married to"))
        asks.append(Ask(direct="what is the name of my spouse", embedded="what the name of my spouse is"))
    if last in ("boss", "manager", "supervisor"):
        asks.append(Ask(direct="who do I report to at work", embedded="who I report to at work"))
    if "neighbour" in last or "neighbor" in last:
        asks.append(Ask(direct="who lives next door to me", embedded="who lives next door to me"))
    asks += [Ask(direct=f"who {does}", embedded=f"who {does}") for does in _DOES.get(last, ())] if mine else []
    if last == "teacher":
        whom = subject.removesuffix(" teacher").removesuffix("'s")
        taught = "me" if whom == "my" else whom
        asks.append(Ask(direct=f"who teaches {taught}", embedded=f"who teaches {taught}"))
    return tuple(asks)


_ANY: frozenset[Kind] = frozenset(["self", "person", "pet", "thing"])
_ALIVE: frozenset[Kind] = frozenset(["self", "person", "pet"])
_HUMAN: frozenset[Kind] = frozenset(["self", "person"])
_NUMBER = rf"(?:\d+|(?:{'|'.join(sorted(NUMBERS))})(?:-(?:{'|'.join(sorted(NUMBERS))}))?)"
_OF_BEING: tuple[tuple[str, str, frozenset[Kind]], ...] = (
    (r"(?:called|named) (.+)", "name", _ANY),
    (rf"({_NUMBER})(?: years?(?: old)?)?", "age", _ALIVE),
    (r"from (.+)", "origin", _HUMAN),
    (r"allergic to (.+)", "allergy", _ALIVE),
    (r"(?:afraid|scared|terrified|frightened) of (.+)", "fear", _ALIVE),
    (r"married to (.+)", "spouse", _HUMAN),
    (r"(?:based|living) in (.+)", "home", _HUMAN),
)
"""What a subject is -> the relation and its value, for these kinds of subject."""
_PROPER = re.compile(r"(?:(?:Mr|Mrs|Ms|Miss|Dr|Sir|Madame|Herr|Frau)\.? )?[A-Z][\w'-]+(?: [A-Z][\w'-]+){0,2}")
_OF_OWNING = {
    "name": "name",
    "birthday": "birthday",
    "date of birth": "birthday",
    "job": "job",
    "profession": "job",
    "occupation": "job",
    "hobby": "hobby",
    "home town": "origin",
    "hometown": "origin",
}
"""Somebody's what is ... -> the relation."""
_OF_DOING: tuple[tuple[str, str, str, frozenset[Kind]], ...] = (
    ("live reside", r"(?:out |up |down |over )?(?:in|at|near|on) (.+)", "home", _HUMAN),
    ("move shift relocate", r"(?:over |up |down |out |back )?to (.+)", "home", _HUMAN),
    ("grow", r"up (?:in|on) (.+)", "origin", _ALIVE),
    ("come", r"from (.+)", "origin", _ALIVE),
    ("turn", rf"({_NUMBER})\b.*", "age", _ALIVE),
    ("work", r"as (.+)", "job", _HUMAN),
    ("work", r"(?:at|for) (.+)", "employer", _HUMAN),
    ("love like enjoy adore", r"((?:\S+ ?){1,6})", "likes", _ALIVE),
    ("hate dislike detest loathe despise", r"((?:\S+ ?){1,6})", "dislikes", _ALIVE),
    ("avoid", r"((?:\S+ ?){1,6})", "avoids", _ALIVE),
    ("drive", r"((?:an?|my|the) .+)", "car", _HUMAN),
    ("play", rf"(.*\b(?:{'|'.join(sorted(INSTRUMENTS))})\b.*)", "instrument", _HUMAN),
    ("play", rf"(.*\b(?:{'|'.join(sorted(SPORTS))})\b.*)", "sport", _HUMAN),
    (
        "play",
        r"(the (?!lottery|game|market|part|role|fool|field|victim|song|piece|video|tape)[a-z-]+)\b.*",
        "instrument",
        _HUMAN,
    ),
    ("go attend visit", rf"(?:to )?(.*{SCHOOLS.pattern}.*)", "school", _HUMAN),
    ("support follow", r"((?:the )?[A-Z][\w'-]*(?: [A-Z][\w'-]*)*)\b.*", "team", _HUMAN),
    ("study", rf"(?!(?:{'|'.join(sorted(PREPOSITIONS))})\b)(.+)", "studies", _HUMAN),
    ("learn practise practice", r"(?:to play )?(the [a-z-]+)\b.*", "instrument", _HUMAN),
    ("speak learn", r"([A-Z]\w+)\b.*", "language", _HUMAN),
    ("collect", r"(.+)", "collection", _HUMAN),
    ("take", r"(\S+)\b.*", "medicine", _ALIVE),
)
"""What a subject does, and what follows the verb -> the relation and its value."""
_ONCE = frozenset(["move", "shift", "relocate", "grow", "turn"])
"""Of what is past, only this still holds."""
_GOING_ON = frozenset("live work support follow play study collect drive take learn practise practice".split())
"""What one has done for years, one still does."""


def _recognised(clause: Clause) -> Iterator[tuple[str, str, str, str]]:
    """(of whom, relation, value, what the question takes for granted)."""
    if not clause.tail:
        return
    if clause.shape == "be":
        yield from _recognised_being(clause)
        return
    lasting = clause.shape == "perfect" and clause.verb in _GOING_ON
    if clause.shape in ("past", "perfect") and clause.verb not in _ONCE and not lasting:
        return
    if clause.shape not in ("past", "perfect") and clause.verb in ("move", "shift", "relocate"):  # not there yet
        return
    tail, kind = joined(clause.tail), kind_of(clause.subject)
    for verbs, pattern, relation, kinds in _OF_DOING:
        found = re.fullmatch(pattern, tail) if kind in kinds and clause.verb in verbs.split() else None
        named = not found or found[1].split()[0].lower() not in PRONOUNS
        if found and named and not (relation == "medicine" and is_word(found[1])):  # pills are in no dictionary
            value = _upto_time(found[1].split()) if relation == "home" else found[1]
            yield clause.subject, relation, value.strip(), ""
            return


def _recognised_being(clause: Clause) -> Iterator[tuple[str, str, str, str]]:
    subject, value, kind = clause.subject, joined(clause.tail), kind_of(clause.subject)
    owner, what = _owned(subject)
    liked = re.fullmatch(r"(my|our) (?:all-time )?favou?rite ([a-z]+(?: [a-z]+)?)", value)
    if liked:
        yield {"my": "I", "our": "we"}[liked[1]], "favourite", subject, liked[2]
        return
    favourite = re.fullmatch(r"(?:all-time )?favou?rite (.+?)(?: of all time)?", what)
    if favourite:
        yield owner, "favourite", value, _core(favourite[1]).removesuffix(" back")
        return
    if what in _OF_OWNING and not value.lower().startswith(("my ", "our ")):
        relation = _OF_OWNING[what]
        own = relation == "name" and owner in ("I", "we")
        yield owner, "own name" if own else relation, bare(value) if relation == "birthday" else value, ""
        return
    if clause.tail[0].lower() == "born":
        for preposition, words in phrases_of(clause.tail[1:]):
            if preposition in ("in", "on", "at") and words:
                yield subject, "birthday" if is_time(joined(words)) else "birthplace", joined(words), ""
        return
    for pattern, relation, kinds in _OF_BEING:
        found = re.fullmatch(pattern, value) if kind in kinds else None
        if found:
            yield subject, "own name" if relation == "name" and kind == "self" else relation, found[1], ""
            return
    if kind == "self" and _PROPER.fullmatch(value) and not any(map(is_word, value.split())):
        yield subject, "own name", value, ""
        return
    if kind == "person" and _PROPER.fullmatch(value):
        yield subject, "name", value, ""
        return
    if kind in _HUMAN and clause.tail[0].lower() in ("a", "an") and is_trade(clause.tail[1:]):
        yield subject, "job", value, ""


def _owned(subject: str) -> tuple[str, str]:
    """(my sister, birthday) of my sister's birthday; (I, birthday) of my birthday; ('', '') of what is nobody's."""
    owner, _, what = subject.rpartition("'s ")
    if owner:
        return owner, what
    of, _, what = subject.partition(" ")
    mine = {"my": "I", "our": "we"}.get(of.lower())
    return (mine, what) if mine and what else ("", "")


def _upto_time(words: Sequence[str]) -> str:
    for i, word in enumerate(words):
        if i and (word.lower() in RELATIVE_TIME or (word.lower() in PREPOSITIONS and is_time(joined(list(words[i:]))))):
            return joined(list(words[:i]))
    return joined(list(words))
