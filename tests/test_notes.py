"""The writer's notes: what the message does not bear out is not kept, whoever wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.clauses import Talk
from consolidation.dreams import dream
from consolidation.notes import Note, note_of, written
from consolidation.reading import NOTED, read

SAID = "When my godmother passed away she left me a brass sextant. Funny old thing."
ASKS = (
    "What did my godmother leave me?",
    "What did I inherit from my godmother?",
    "Do you remember what I got when my godmother died?",
    "Which heirloom do I have from my godmother?",
    "My godmother's will, what was in it for me?",
)
TOLD = "Your godmother left you a brass sextant."


def test_a_note_that_the_message_bears_out_is_kept() -> None:
    note = note_of(SAID, [written(TOLD, ASKS)])
    assert note is not None
    assert (note.told, note.value, note.asks) == (TOLD, "brass sextant", ASKS)


@pytest.mark.parametrize(
    "reply",
    [
        "Nothing.",
        "",
        written("Your godmother left you a golden Zeppelin.", ASKS),
        written("Your uncle Marmaduke lives in Perth.", ASKS),
        written(TOLD, ["What is a brass sextant?", "Do I own a sextant?"]),
        written(TOLD, ["who", "what", "Tell her."]),
    ],
)
def test_what_the_message_does_not_bear_out_is_not(reply: str) -> None:
    assert note_of(SAID, [reply]) is None


def test_questions_that_give_the_answer_away_are_dropped() -> None:
    note = note_of(SAID, [written(TOLD, (*ASKS, "Where did I put the sextant?"))])
    assert note is not None
    assert note.asks == ASKS


@given(st.text(max_size=200), st.lists(st.text(max_size=200), max_size=3))
def test_no_reply_breaks_the_check(message: str, replies: list[str]) -> None:
    note = note_of(message, replies)
    assert note is None or (note.value in note.told and note.asks)


def test_a_note_joins_the_fact_that_a_rule_found() -> None:
    note = Note(told="Your dog is called Bo.", value="Bo", asks=("Who barks in my house?", "What's my pup's name?"))
    (fact,) = read("My dog is called Bo.", Talk(), note)
    assert (fact.key, fact.written) == (("my dog", "name"), note.asks)


def test_what_only_the_writer_found_is_learnt_and_examined() -> None:
    note = note_of(SAID, [written(TOLD, ASKS)])
    (fact,) = read(SAID, Talk(), note)
    assert fact.relation == NOTED
    night = dream([fact], seed=1)
    trained = {d.question for d in night.dreams if 0 in d.facts}
    asked = {q.text for q in night.questions if q.fact == 0}
    assert trained and asked and not trained & asked
    assert all(any(ask in text for ask in ASKS) for text in trained | asked)
    assert any(q.fact is None for q in night.questions)
