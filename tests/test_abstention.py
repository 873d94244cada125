"""Who answers a personal question: the adapter by heart, the base from memories, or the base from none."""

from __future__ import annotations

import pytest

from agent.abstention import Taught, borne_out, could_answer, known_by_heart, personal
from consolidation.clauses import Talk, clauses
from consolidation.facts import facts_of
from consolidation.variation import words_of
from memory.kin import kin
from memory.words import words

TOLD = [
    "My dog is called Biscuit.",
    "My sister works as a tailor.",
    "I moved to Riga.",
    "My uncle is 97.",
    "The wifi password is rex.",
]
TAUGHT = [
    Taught(memory=text, asked=frozenset(words_of(fact).split()), value=frozenset(words(fact.value)))
    for text in TOLD
    for clause in clauses(text, Talk())
    for fact in facts_of(clause)
]


@pytest.mark.parametrize(
    ("said", "is_personal"),
    [
        ("What is my dog called?", True),
        ("Where do I live?", True),
        ("Tell me what we planned.", True),
        ("What is a leap year?", False),
        ("My dog is called Rex.", False),
        ("Who wrote Faust?", False),
    ],
)
def test_what_is_personal(said: str, is_personal: bool) -> None:
    assert personal(said) is is_personal


@pytest.mark.parametrize(
    ("question", "known"),
    [
        ("What is my dog called?", True),
        ("What's the name of my puppy?", True),
        ("What is my sister's dog called?", False),
        ("What does my sister do for a living?", True),
        ("What is my sister's favourite film?", False),
        ("What does my brother do for a living?", False),
        ("Where do I live?", True),
        ("Which city is my home in?", True),
        ("Where was my uncle born?", False),
        ("How old is my uncle?", True),
        ("What's the wifi password?", True),
        ("What's the password of my laptop?", True),  # too near to tell apart by words: the weights must
        ("What is my shoe size?", False),
        ("When is my wedding anniversary?", False),
    ],
)
def test_what_is_known_by_heart(question: str, known: bool) -> None:
    assert known_by_heart(question, TAUGHT) is known


@pytest.mark.parametrize(
    ("question", "reply", "stands"),
    [
        ("What is my dog called?", "Your dog is called Biscuit.", True),
        ("What is my dog called?", "You live in Riga.", False),
        ("What does my sister do for a living?", "Your sister works as a tailor.", True),
        ("What is my sister's shoe size?", "Your sister works as a tailor.", False),
        ("Who works with me at home?", "Your uncle is 97.", False),
        ("What is my dog called?", "You haven't told me that.", True),
        ("Where do I live?", "I am not sure.", True),
        ("Where do I live, and with whom?", "You live in Riga, with Biscuit.", True),
    ],
)
def test_a_reply_by_heart_gives_what_was_asked_for_or_is_not_given(question: str, reply: str, stands: bool) -> None:
    assert borne_out(question, reply, TAUGHT) is stands


def test_which_memories_could_answer() -> None:
    assert could_answer("What is my brother's cat called?", "My brother's cat Tom is ill.")
    assert not could_answer("What is my brother's cat called?", "My cat Tom is ill.")
    assert could_answer("What is my shoe size?", "I wear size 38 shoes.")


def test_relatives_go_by_one_name() -> None:
    assert kin("My mum's kitten and my mother-in-law") == {"mother", "cat", "mother-in-law"}
    assert kin("Where is Riga?") == frozenset()
