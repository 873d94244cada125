"""Later messages that take back what earlier ones told: of what a model says only what is theirs is kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation import notebook
from consolidation.facts import Fact
from consolidation.notes import Note
from consolidation.relations import Ask
from consolidation.revisions import (
    LATEST,
    NEAREST,
    REVISED,
    STANDS,
    Revision,
    meant,
    of_one,
    revised,
    revision_of,
    to_compare,
    written,
)
from consolidation.selection import select
from memory.experience import Experience, Offer, Provenance
from memory.experiences import Experiences
from memory.store import Store
from tests.test_selection import NOW, one

EARLIER = "On Tuesdays I do an evening course in upholstery, my hands smell of glue."
LATER = "Please forget what I said of Tuesdays, they have moved me to mosaic making."
COURSE = Note(
    told="You do an evening course in upholstery on Tuesdays.",
    value="upholstery",
    asks=("What do I study in the evening?", "Which course do I do on Tuesdays?", "Is it mosaic making that I do?"),
    never=("Who teaches my course?",),
)
SINCE = Note(told="They have moved you to mosaic making.", value="mosaic making", asks=("What was I moved to?",))


def test_what_a_reply_says_is_kept_where_it_is_the_messages_own() -> None:
    said = revision_of(EARLIER, LATER, written("upholstery", "mosaic making"), experience="m0")
    assert said == Revision(earlier="m0", was="upholstery", now="mosaic making")
    over = revision_of(EARLIER, "I gave the course up.", written("upholstery", ""), experience="m0")
    assert over == Revision(earlier="m0", was="upholstery", now="")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        STANDS,
        REVISED,
        written("weaving", "mosaic making"),
        written("upholstery", "pottery"),
        written("upholstery", "upholstery"),
        f"{REVISED}\nBefore: upholstery",
        f"{STANDS}\nBefore: upholstery\nNow: mosaic making",
    ],
)
def test_nothing_else_is(reply: str) -> None:
    assert revision_of(EARLIER, LATER, reply, experience="m0") is None


@given(st.text(max_size=200))
def test_no_reply_breaks_it(reply: str) -> None:
    said = revision_of(EARLIER, LATER, reply, experience="m0")
    assert said is None or said.was.lower() in EARLIER.lower()


def test_a_revised_fact_is_asked_for_as_before_and_has_the_other_value() -> None:
    fact = Fact(
        subject="you",
        relation="noted",
        value="upholstery",
        statement="You do an evening course in upholstery on Tuesdays",
        asks=(Ask(direct="what do I learn", embedded="what I learn"),),
        written=COURSE.asks,
    )
    now = revised(fact, Revision(earlier="m0", was="Upholstery", now="mosaic making"))
    assert now.statement == "You do an evening course in mosaic making on Tuesdays"
    assert (now.value, now.was, now.key) == ("mosaic making", fact.statement, fact.key)
    assert now.written == COURSE.asks[:2], "a question that gives the new value away is gone"
    theirs = revised(fact, Revision(earlier="m0", was="upholstery", now="my aunt's recipes"))
    assert (theirs.statement, theirs.value) == (
        "You do an evening course in your aunt's recipes on Tuesdays",
        "your aunt's recipes",
    )
    assert meant([fact], Revision(earlier="m0", was="glue", now="paint")) is fact, "the only one"
    other = replace(fact, value="glue", relation="smell")
    assert meant([fact, other], Revision(earlier="m0", was="glue", now="paint")) is other
    assert meant([fact, other], Revision(earlier="m0", was="Tuesdays", now="Fridays")) is None


def test_a_message_takes_back_one_thing_however_often_that_was_told() -> None:
    right = Revision(earlier="m0", was="upholstery", now="mosaic making")
    again = Revision(earlier="m1", was="the upholstery class", now="mosaic making")
    wrong = Revision(earlier="m2", was="Bluefinch", now="mosaic making")
    assert of_one([(2.5, wrong), (3.0, again), (6.0, right)]) == [right, again]
    assert of_one([]) == []


def test_each_is_compared_with_the_nearest_and_the_latest_that_tell_something() -> None:
    vectors = np.eye(20, dtype=np.float32)
    vectors[19] = vectors[3]
    pairs = to_compare([19], [f"text {n}" for n in range(20)], vectors, may=[n != 17 for n in range(20)])
    assert (3, 19) in pairs and (18, 19) in pairs and (16, 19) in pairs and (17, 19) not in pairs
    assert len(pairs) <= NEAREST + LATEST
    assert to_compare([0], ["text"], vectors[:1], may=[True]) == []


def said(*texts: str) -> list[Experience]:
    return [replace(one(text, n), at=NOW - timedelta(days=1, seconds=-n)) for n, text in enumerate(texts)]


def test_a_night_learns_what_holds_since_by_the_questions_of_before() -> None:
    day = said(EARLIER, LATER)
    notes = {"m0": [COURSE], "m1": [SINCE]}
    before = select(day, now=NOW, notes=notes)
    assert {s.fact.value for s in before.facts} == {"upholstery", "mosaic making"}, "by rule nothing is seen"
    by = {"m1": [Revision(earlier="m0", was="upholstery", now="mosaic making")]}
    (now,) = select(day, now=NOW, notes=notes, revisions=by).facts
    assert now.fact.statement == "You do an evening course in mosaic making on Tuesdays"
    assert set(now.fact.written) == {*COURSE.asks[:2], *SINCE.asks}
    assert (now.experience.id, now.former and now.former.experience) == ("m1", "m0")
    fates = {c.experience: c.reason for c in select(day, now=NOW, notes=notes, revisions=by).choices}
    assert fates["m0"] == "corrected by m1"


def test_what_ended_is_taught_no_more() -> None:
    day = said(EARLIER, "I gave up the course, my back hurt too much.")
    over = Note(told="You gave up the course.", value="gave up", asks=("What became of my course?",))
    by = {"m1": [Revision(earlier="m0", was="upholstery", now="")]}
    (now,) = select(day, now=NOW, notes={"m0": [COURSE], "m1": [over]}, revisions=by).facts
    assert now.fact.statement == "You gave up the course"
    assert now.fact.was.startswith("You do an evening course in upholstery")


def test_revisions_are_kept_and_go_with_either_message(store: Store) -> None:
    experiences = Experiences(store, now=lambda: NOW)
    offers = [
        Offer(id=f"m{n}", text=text, provenance=Provenance(session="s", channel="chat"), at=NOW)
        for n, text in enumerate((EARLIER, LATER))
    ]
    first, second = ("m0", "m1")
    experiences.add(offers, owner="ada")
    by = Revision(earlier=first, was="upholstery", now="mosaic making")
    for gone in (first, second):
        notebook.keep_revisions(store, {second: [by], "gone": [by]}, owner="ada", reviser="r1")
        assert notebook.revisions(store, owner="ada") == {second: (by,)}
        assert notebook.compared(store, owner="ada", reviser="r1") == {second}, "what is not remembered is not compared"
        assert not notebook.compared(store, owner="ada", reviser="r2") and not notebook.revisions(store, owner="bob")
        store.write(partial(notebook.drop, owner="ada", experiences=[gone]))
        assert notebook.revisions(store, owner="ada") == {}


def test_a_lesson_is_no_question_of_the_exam(tmp_path: Path) -> None:
    """What bench/revisions.py asks is not among the reviser's lessons."""
    import json

    from consolidation.revisions import lessons

    asked = json.loads((Path(__file__).parent.parent / "bench" / "nights" / "revisions.json").read_text())
    taught = {text for of in lessons() for text in (of.tell, *(say for say, _ in of.revising), *of.others)}
    assert len(lessons()) > 300 and not taught & {text for pair in asked for text in (pair["tell"], pair["later"])}
