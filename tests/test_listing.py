"""The reader's lists: what the message does not bear out is not kept, and each value once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.listing import MOST, Told, noted, told_of, written
from consolidation.notes import NOTHING, answers, begun, notes_of
from consolidation.noting import LOOKS, noted_of

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
    assert told_of(SAID, [written(one) for one in lists]) == (HIP, WHERE)


def test_each_thing_that_is_listed_is_a_note_with_the_questions_of_its_own() -> None:
    of_place = ["Where is my mum having her hip done?", "Which hospital has my mum?", "Who operates on my mum?"]
    of_day = ["When is my mum's operation?", "Which day is my mum's hip due?", "What is the date of my mum's hip?"]
    replies = [begun(one.told, one.value) + "\n".join(asks) for one, asks in ((WHERE, of_place), (WHEN, of_day))]
    first, second = notes_of(SAID, replies, most=MOST)
    assert (first.value, first.asks) == ("St Aldhelm's", tuple(of_place))
    assert (second.value, second.asks) == ("14th", tuple(of_day))


class Replies:
    """Says what it was told to, by the message that stands in what it is asked; and remembers what was begun."""

    def __init__(self, to: Mapping[str, str]) -> None:
        self.to, self.begun = to, list[str]()

    def replies(
        self, asked: Sequence[str], *, most: int, begun: Sequence[str] = (), temperature: float = 0.0
    ) -> list[str]:
        self.begun += begun
        return [next(reply for message, reply in self.to.items() if message in one) for one in asked]


def test_what_is_listed_is_asked_about_and_the_rest_the_writer_notes_by_itself() -> None:
    tram, rain = "We take the number 7 tram to school.", "What a day for rain."
    of_place = ["Where is my mum having her hip done?", "Which hospital has my mum?", "Who operates on my mum?"]
    of_tram = ["Which tram do we take to school?", "How do we get to school?", "What takes us to school?"]
    head = begun("You take the number 7 tram to school.", "number 7")
    by_itself = head + "\n".join(of_tram)
    reader = Replies({SAID: written([WHERE]), tram: NOTHING, rain: NOTHING})
    writer = Replies({SAID: "\n".join(of_place), tram: by_itself, rain: NOTHING})
    steps: list[int] = []
    own, asked = noted_of(writer, reader, [SAID, tram, rain], each=steps.append)
    assert set(writer.begun) == {begun(WHERE.told, WHERE.value), head, ""}
    found = [noted(*of) for of in zip([SAID, tram, rain], own, asked, strict=True)]
    assert [[note.value for note in notes] for notes in found] == [["St Aldhelm's"], ["number 7"], []]
    assert own[0] == [] and asked[1] == asked[2] == []
    assert steps == sorted(steps) and steps[-1] == LOOKS * 3


def test_what_cannot_be_asked_about_is_left_and_if_that_is_all_the_writer_reads_by_itself() -> None:
    of_place = ["Where is my mum having her hip done?", "Which hospital has my mum?", "Who operates on my mum?"]
    by_itself = begun(WHERE.told, WHERE.value) + "\n".join(of_place)
    steps: list[int] = []
    own, asked = noted_of(
        Replies({SAID: "Tell me about it."}), Replies({SAID: written([HIP, WHEN])}), [SAID], each=steps.append
    )
    assert noted(SAID, own[0], asked[0]) == () and len(own[0]) > 1
    assert steps == [1, 2, 3, LOOKS], "each look is told of, then the end"
    own, asked = noted_of(Replies({SAID: by_itself}), Replies({SAID: NOTHING}), [SAID])
    assert [note.value for note in noted(SAID, own[0], asked[0])] == ["St Aldhelm's"]


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
