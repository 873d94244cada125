"""Turns of phrase: each is put in a plain clause, and what only looks like one is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.clauses import Talk, clauses
from consolidation.facts import facts_of
from consolidation.idioms import in_plain_words
from consolidation.reading import read


def told(*messages: str) -> dict[tuple[str, str], str]:
    talk = Talk()
    facts = [f for m in messages for c in clauses(m, talk) for f in facts_of(c)]
    return {f.key: f.value for f in facts}


@pytest.mark.parametrize(
    ("message", "key", "value"),
    [
        ("The surgery has put me on candesartan for my blood pressure.", ("i", "medicine"), "candesartan"),
        ("Lupin brings me out in hives.", ("i", "allergy"), "Lupin"),
        ("Bear in mind that I'm allergic to parsnips.", ("i", "allergy"), "parsnips"),
        ("i cant stand okra", ("i", "dislikes"), "okra"),
        ("I really can't eat beetroot, it tastes of soil.", ("i", "avoids"), "beetroot"),
        ("Dr. Ekwueme has been my GP since spring.", ("my gp", "name"), "Dr Ekwueme"),
        ("Aling Bebang, my landlady, raised the rent.", ("my landlady", "name"), "Aling Bebang"),
        ("Our neighbor, Mr. Szymborski, feeds the goats.", ("our neighbor", "name"), "Mr Szymborski"),
        ("I've taken up bobbin lace.", ("i", "hobby"), "bobbin lace"),
        ("I'm a night nurse on the burn unit at St. Aldric Regional.", ("i", "employer"), "St Aldric Regional"),
        ("My brother got a job as a falconer!", ("my brother", "job"), "a falconer"),
        ("Quillmaker Lane, where I live, is full of holes.", ("i", "home"), "Quillmaker Lane"),
        ("They gave me a new locker at work, number C317.", ("my locker number", "be what"), "C317"),
        ("I'm putting a bit by each month for a cedar summerhouse.", ("i", "save for"), "a cedar summerhouse"),
        ("Can you remember my locker combination? It's 18-32-7.", ("my locker combination", "be what"), "18-32-7"),
        ("im a size 47 in shoes", ("my shoe size", "be what"), "47"),
        ("My friends call me Spanners.", ("my nickname", "be what"), "Spanners"),
        ("Every Monday a few of us play mah-jong.", ("we", "play what"), "mah-jong"),
    ],
)
def test_a_turn_of_phrase_is_read(message: str, key: tuple[str, str], value: str) -> None:
    assert told(message).get(key) == value, told(message)


@pytest.mark.parametrize(
    "message",
    [
        "What if I'm allergic to parsnips?",
        "I'm not sure whether I'm allergic to parsnips.",
        "Maybe I'm allergic to parsnips.",
        "Do you hate okra?",
        "It was lovely, she said.",
    ],
)
def test_what_only_looks_like_one_is_left_alone(message: str) -> None:
    assert told(message) == {}


def test_he_and_she_are_forgotten_when_nobody_is_spoken_of() -> None:
    assert ("my sister", "home") in told("My sister Ottoline is visiting.", "Thanks!", "She lives in Porto.")
    assert told("My sister is tired.", "Thanks!", "Fine.", "Good.", "She lives in Porto.") == {}


def test_it_is_what_this_message_spoke_of() -> None:
    assert told("We bought a tent.", "It's in the attic.").get(("my tent", "be where")) is None
    assert told("My tent is new. It's in the attic.")[("my tent", "be where")] == "the attic"


@given(st.text(max_size=200))
def test_any_text_can_be_put_in_plain_words(text: str) -> None:
    assert isinstance(in_plain_words(text), str)


def test_a_pill_is_in_no_dictionary() -> None:
    assert not any(relation == "medicine" for _, relation in told("The nurse put me on hold."))


def test_what_no_rule_reads_is_kept_as_it_was_said() -> None:
    (fact,) = read("When my godmother passed away she left me a brass sextant.", Talk())
    assert fact.statement == "When your godmother passed away she left you a brass sextant"
    assert fact.value == "brass sextant"
    assert any(a.direct == "what did my godmother leave" for a in fact.asks)


@pytest.mark.parametrize(
    "message", ["I'm really excited about it!", "Thanks, that helps.", "What is a leap year?", "ok"]
)
def test_small_talk_leaves_no_echo(message: str) -> None:
    assert read(message, Talk()) == []


def test_a_number_is_no_name() -> None:
    assert told("My uncle is 97.") == {("my uncle", "age"): "97"}


@pytest.mark.timeout(60)
def test_a_long_row_of_capitals_does_not_hold_up_a_night() -> None:
    assert read("Aa " * 6000, Talk()) == []
