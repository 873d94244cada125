"""Word lists: what people are to each other, animals, trades, and what one calls a kind of thing. Data; English.

Each list is short of most of its words: what stands in none is asked for in fewer ways, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import Literal

import lemminflect

from consolidation.english import PREPOSITIONS
from memory.kin import PEOPLE, PETS

Kind = Literal["self", "person", "pet", "thing"]
"""Of whom or what something is said."""

INSTRUMENTS = frozenset(
    """
    piano violin viola cello bass guitar ukulele banjo mandolin flute clarinet oboe bassoon saxophone trumpet trombone
    tuba horn harp drums accordion bagpipes harmonica organ harpsichord recorder sitar lute theremin xylophone
    """.split()
)
SPORTS = frozenset(
    """
    football soccer tennis badminton squash rugby cricket hockey basketball volleyball handball golf chess darts pool
    snooker polo baseball softball lacrosse ping-pong table-tennis curling bridge poker
    """.split()
)
CARS = frozenset(
    """
    alfa audi bentley bmw buick cadillac chevrolet chevy chrysler citroen citroën cupra dacia daewoo daihatsu datsun
    dodge fiat ford honda hyundai isuzu jaguar jeep kia lada lancia land-rover lexus lotus mazda mercedes mg mini
    mitsubishi morris nissan opel peugeot polestar pontiac porsche renault rover saab seat skoda škoda smart subaru
    suzuki tesla toyota trabant triumph vanagon vauxhall volkswagen volvo vw wartburg
    """.split()
)
"""Makes, lower-cased."""
SCHOOLS = re.compile(
    r"\b(School|Primary|Academy|College|University|High|Grammar|Kindergarten|Nursery|Gymnasium|Elementary)\b"
)
TRADE = re.compile(
    r"(er|or|ist|ian|ant|ent|man|woman|smith|wright|nurse|cook|chef|pilot|vet|judge|monk|nun|guide|coach|"
    r"clerk|mason|pa|ceo|cto|maid|host|scribe|potter|blower|keeper|maker|driver|poet|priest|spy|diver)$",
    re.I,
)
"""How the names of trades end."""
_NO_TRADE = frozenset(
    """
    lover mother father brother sister beginner person member teenager parent writer-at-heart vegetarian reader owner
    twin one fan believer runner swimmer sleeper winner eater supporter player drinker loner stranger eldest
    """.split()
)


def _kinds() -> dict[str, frozenset[str]]:
    text = resources.files("consolidation").joinpath("texts", "kinds.txt").read_text(encoding="utf-8")
    lines = [line.split(":") for line in text.splitlines() if not line.startswith("#")]
    return {kind: frozenset(members.split()) for kind, members in lines}


_KINDS = _kinds()


def kind_of(subject: str) -> Kind:
    """What kind of subject a noun phrase names."""
    if subject.lower() in ("i", "we"):
        return "self"
    words = subject.split()
    if words[0][:1].isupper():
        return "person"
    last = words[-1].lower()
    return "person" if last in PEOPLE else "pet" if last in PETS else "thing"


def kinds_of_thing(phrase: str) -> list[str]:
    """What one calls such things: animal, for four goats. By a short list; most things are none of these."""
    words = {w.lower() for w in phrase.split()}
    words |= {str(lemma) for w in words for lemma in lemminflect.getAllLemmas(w, upos="NOUN").get("NOUN", ())}
    return [kind for kind, members in _KINDS.items() if words & members]


def is_trade(words: Sequence[str]) -> bool:
    """Whether a noun phrase names what somebody does for a living."""
    head: list[str] = []
    for word in words:
        if word.lower() in PREPOSITIONS or word in (",", "and", "who", "that"):
            break
        head.append(word)
    return (
        bool(head)
        and head[-1].lower() not in _NO_TRADE | PEOPLE - {"doctor", "teacher", "plumber", "lawyer"}
        and bool(TRADE.search(head[-1]))
    )
