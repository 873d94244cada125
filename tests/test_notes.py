"""The writer's notes: what the message does not bear out is not kept, whoever wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.clauses import Talk
from consolidation.dreams import dream
from consolidation.notes import Note, answers, beginning, notes_of, tellings, written
from consolidation.reading import NOTED, read
from consolidation.sentences import told_in

SAID = "When my godmother passed away she left me a brass sextant. Funny old thing."
ASKS = (
    "What did my godmother leave me?",
    "What did I inherit from my godmother?",
    "Do you remember what I got when my godmother died?",
    "Which heirloom do I have from my godmother?",
    "My godmother's will, what was in it for me?",
)
TOLD = "Your godmother left you a brass sextant."
NEVER = ("What did my grandmother leave me?", "Where does my godmother lie buried?")


def test_a_note_that_the_message_bears_out_is_kept() -> None:
    (note,) = notes_of(SAID, [written(TOLD, "a brass sextant", ASKS, NEVER)])
    assert (note.told, note.value, note.asks, note.never) == (TOLD, "a brass sextant", ASKS, NEVER)


def test_without_a_value_of_its_own_it_is_what_no_question_says() -> None:
    (note,) = notes_of(SAID, ["\n".join([TOLD, *ASKS])])
    assert note.value == "brass sextant"


@pytest.mark.parametrize(
    "reply",
    [
        "Nothing.",
        "",
        written("Your godmother left you a golden Zeppelin.", "Zeppelin", ASKS),
        written("Your uncle Marmaduke lives in Perth.", "Perth", ASKS),
        written(TOLD, "a brass sextant", ["What is a brass sextant?", "Do I own a sextant?"]),
        written(TOLD, "a brass sextant", ["who", "what", "Tell her."]),
        written("When your godmother passed away she left you something.", "away", ASKS),
    ],
)
def test_what_the_message_does_not_bear_out_is_not(reply: str) -> None:
    assert notes_of(SAID, [reply]) == ()


@pytest.mark.parametrize("value", ["finally", "gone up", "next month", "last night", "again", "put", "", "?"])
def test_what_everybody_says_of_everything_answers_nothing(value: str) -> None:
    assert not answers(value, f"Your rent is {value}.")


@pytest.mark.parametrize(
    "value",
    [
        "vegan",
        "every other week",
        "twice",
        "7",
        "the back room",
        "Otto",
        "Guy",
        "Nice",
        "right",
        "alone",
        "in the morning",
    ],
)
def test_all_else_may_answer(value: str) -> None:
    assert answers(value, f"You said that it is {value}.")


def test_questions_that_give_the_answer_away_are_dropped() -> None:
    (note,) = notes_of(SAID, [written(TOLD, "a brass sextant", (*ASKS, "Where did I put the sextant?"))])
    assert note.asks == ASKS


def test_replies_that_agree_make_one_note_and_others_another() -> None:
    said = "My stepdaughter is pregnant! The baby should come on February 19th."
    due = ("When is my stepdaughter due?", "Which day do I become a grandparent?", "When does my grandchild come?")
    news = (
        "What did my stepdaughter tell me?",
        "Do you know my stepdaughter's news?",
        "What is up with her, I forgot?",
    )
    first = written("Your stepdaughter is pregnant.", "pregnant", news)
    apart = written("The baby is due on February 19th.", "February 19th", due)
    again = written("The baby should come on February 19th.", "February 19th", ("What date is in my diary?",))
    one, other = notes_of(said, [first, apart, again])
    assert (one.value, one.asks) == ("pregnant", news)
    assert (other.value, other.asks) == ("February 19th", (*due, "What date is in my diary?"))
    assert [f.statement for f in read(said, Talk(), (one, other))][:2] == [
        "Your stepdaughter is pregnant",
        "The baby is due on February 19th",
    ]


def test_a_question_that_what_was_said_may_answer_is_no_counter_example() -> None:
    (note,) = notes_of(SAID, [written(TOLD, "a brass sextant", ASKS, ("When did my godmother pass away?", *NEVER))])
    assert note.never == NEVER


def test_a_reply_begins_with_what_was_told() -> None:
    reply = written(TOLD, "a brass sextant", ASKS)
    assert beginning(reply) == f"{TOLD}\nAnswer: a brass sextant\n"
    assert beginning("Nothing.") == "Nothing.\n"


@given(st.text(max_size=200), st.lists(st.text(max_size=200), max_size=3))
def test_no_reply_breaks_the_check(message: str, replies: list[str]) -> None:
    for note in notes_of(message, replies):
        assert note.value and note.asks


def test_a_note_joins_the_fact_that_a_rule_found() -> None:
    note = Note(told="Your dog is called Bo.", value="Bo", asks=("Who barks in my house?", "What's my pup's name?"))
    (fact,) = read("My dog is called Bo.", Talk(), [note])
    assert (fact.key, fact.written) == (("my dog", "name"), note.asks)


def test_what_only_the_writer_found_is_learnt_and_examined() -> None:
    (fact,) = read(SAID, Talk(), notes_of(SAID, [written(TOLD, "a brass sextant", ASKS, NEVER)]))
    assert fact.relation == NOTED
    night = dream([fact], seed=1)
    trained = {d.question for d in night.dreams if 0 in d.facts}
    asked = {q.text for q in night.questions if q.fact == 0}
    assert trained and asked and not trained & asked
    assert all(any(ask in text for ask in ASKS) for text in trained | asked)
    assert any(q.fact is None for q in night.questions)
    assert {*NEVER} <= {d.question for d in night.dreams if d.strategy == "counter"}


def test_what_is_told_before_it_is_asked_stays_in_nearly_all_of_the_writers_lessons() -> None:
    asking = [one for one in tellings() if one.say.rstrip().endswith("?")]
    telling = [one for one in asking if one.tell]
    kept = [one for one in telling if all(word in told_in(one.say) for word in one.value.split())]
    assert len(telling) >= 150
    assert len(telling) - len(kept) <= 3


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Our house used to be a forge of what?", ""),
        ("Which river did we cross by bike?", ""),
        ("I need a new bulb for the torch, who made it?", ""),
        ("The ticket machine is broken again, which zone do I live in?", ""),
        ("My aunt has a windmill. Where do you even put a wardrobe?", "My aunt has a windmill."),
        ("We moved to Oslo, is it far from Bergen?", "We moved to Oslo"),
        ("i pay the gardener eleven pounds an hour, is that fair?", "i pay the gardener eleven pounds an hour"),
        ("Did I tell you my brother runs a bakery?", "my brother runs a bakery"),
    ],
)
def test_what_is_only_asked_is_not_told(message: str, told: str) -> None:
    assert told_in(message) == told
    if not told:
        assert read(message, Talk()) == []
        reply = written(
            message.replace("Our", "Your").rstrip("?") + ".",
            message.rsplit(maxsplit=1)[-1],
            [f"{a}?" for a in "Is my x|Who is my y|Where am I".split("|")],
        )
        assert notes_of(message, [reply]) == ()
