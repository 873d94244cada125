"""When the store supports a personal answer, and when nothing does."""

from __future__ import annotations

import pytest

from agent.abstention import personal, supported
from memory.kin import kin

TAUGHT = ["your dog is called Biscuit", "your sister works as a tailor", "you live in Riga", "your mother grows roses"]


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
    ("question", "told", "answered"),
    [
        ("What is my dog called?", [], True),
        ("What is my sister's dog called?", [], False),
        ("What does my sister do?", [], True),
        ("What does my brother do?", [], False),
        ("What does my mum grow?", [], True),
        ("Where do I live?", [], True),
        ("What is my shoe size?", [], False),
        ("What is my shoe size?", ["I wear size 38 shoes."], True),
        ("What is my brother's cat called?", ["My brother's cat Tom is ill."], True),
    ],
)
def test_what_is_supported(question: str, told: list[str], answered: bool) -> None:
    assert supported(question, told, TAUGHT) is answered


def test_relatives_go_by_one_name() -> None:
    assert kin("My mum's kitten and my mother-in-law") == {"mother", "cat", "mother-in-law"}
    assert kin("Where is Riga?") == frozenset()
