"""The reader's lists: what the message does not bear out is not kept, and each value once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.listing import MOST, Told, left_out, told_of, written
from consolidation.notes import Note, answers, begun, notes_of

SAID = "Mum is getting a new hip at St Aldhelm's on the 14th, poor thing. Will she be able to drive by Easter?"
HIP = Told("Your mum is getting a new hip.", "new hip")
WHERE = Told("Your mum is getting a new hip at St Aldhelm's.", "St Aldhelm's")
WHEN = Told("Your mum is getting a new hip on the 14th.", "14th")


def test_what_the_message_bears_out_is_listed_in_its_order() -> None:
    assert told_of(SAID, [written([HIP, WHERE, WHEN])]) == (HIP, WHERE, WHEN)


@pytest.mark.parametrize(
    "line",
    [
        "Nothing.",
        "",
        "Your mum is getting a new hip.",
        "Your mum is getting a new hip. | ",
        "Your mum is getting a new knee. | knee",
        "Your mum is getting a new hip on the 15th. | 15th",
        "Your mum is getting a new hip. | St Aldhelm's",
        "Your mum Philippa is getting a new hip. | new hip",
        "You drive at Easter. | Easter",  # only asked
        "Your mum is getting a new hip. | getting",  # no answer to anything
    ],
)
def test_what_it_does_not_is_not(line: str) -> None:
    assert told_of(SAID, [line]) == ()


def test_each_value_is_listed_once() -> None:
    again = Told("Your mum's new hip is from St Aldhelm's.", "St Aldhelm's")
    assert told_of(SAID, [written([WHERE, again, WHEN])]) == (WHERE, WHEN)


def test_replies_vote_on_what_is_told_and_how() -> None:
    wrong = Told("Your mum is called St Aldhelm's.", "St Aldhelm's")
    lists = [[HIP, wrong], [HIP, WHERE, WHEN], [WHERE, HIP], [HIP], [WHERE]]
    assert told_of(SAID, [written(one) for one in lists]) == (replace(HIP, agreed=0.8), replace(WHERE, agreed=0.8))


def test_names_and_numbers_and_what_all_agree_on_are_left_to_be_asked_for_unless_a_note_has_them() -> None:
    note = Note(told="Your mum has her hip done at St Aldhelm's.", value="at St Aldhelm's", asks=("Where is mum?",))
    hip, where, when = (replace(one, agreed=2 / 3) for one in (HIP, WHERE, WHEN))
    assert left_out([hip, where, when], [note]) == (when,)
    assert left_out([hip, where, when], []) == (where, when)
    assert left_out([HIP, where, when], [note]) == (HIP, when)
    one_word = Told("Your mum is afraid of anaesthetics.", "anaesthetics")
    assert left_out([one_word], [note]) == ()
    assert left_out([one_word], []) == (one_word,)


def test_each_thing_that_is_listed_is_a_note_with_the_questions_of_its_own() -> None:
    of_place = ["Where is my mum having her hip done?", "Which hospital has my mum?", "Who operates on my mum?"]
    of_day = ["When is my mum's operation?", "Which day is my mum's hip due?", "What is the date of my mum's hip?"]
    replies = [begun(one.told, one.value) + "\n".join(asks) for one, asks in ((WHERE, of_place), (WHEN, of_day))]
    first, second = notes_of(SAID, replies, most=MOST)
    assert (first.value, first.asks) == ("St Aldhelm's", tuple(of_place))
    assert (second.value, second.asks) == ("14th", tuple(of_day))


@given(st.text(max_size=200), st.text(max_size=300))
def test_no_reply_breaks_the_check(message: str, reply: str) -> None:
    assert len(told_of(message, [reply])) <= MOST


def test_the_lists_that_it_learns_from_pass_the_check() -> None:
    """All that answer something: one in a hundred of the values does not ("last month"), which nights are without."""
    file = Path(__file__).parent.parent / "bench" / "lists.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()][::7]
    told = kept = 0
    for row in rows:
        things = [Told(*of) for of in row["tells"] if answers(of[1], of[0])]
        told, kept = told + len(row["tells"]), kept + len(things)
        assert all(told_of(row["say"], [written([one])]) for one in things), row["say"]
    assert kept > 0.98 * told
