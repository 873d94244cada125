"""From facts to examples: the exam apart from training, nothing told denied, the same night from the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consolidation.clauses import Talk, clauses
from consolidation.dreams import dream
from consolidation.examples import Amounts, Night
from consolidation.facts import Fact, facts_of
from consolidation.phrasing import EXAM, TRAINING
from consolidation.rehearsal import exchanges, prompts

MESSAGES = [
    "My dog's name is Rex.",
    "My sister Marta works as a beekeeper.",
    "I live in Tartu.",
    "My favourite colour is teal.",
    "I'm allergic to walnuts.",
    "My uncle keeps bees on the roof of his house.",
    "The wifi password is marmalade.",
    "My flight lands at 9:15.",
    "My brother plays the oboe.",
    "I bought my armchair from a retired judge.",
    "My grandmother is ninety-three.",
    "My dentist appointment is on the 14th of March.",
]


def facts_in(messages: list[str]) -> list[Fact]:
    talk = Talk()
    return list({f.key: f for m in messages for c in clauses(m, talk) for f in facts_of(c)}.values())


FACTS = facts_in(MESSAGES)
some_nights = st.builds(
    lambda messages, seed: (facts_in(messages), dream(facts_in(messages), seed=seed)),
    st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=8, unique=True),
    st.integers(0, 2**31),
)


@settings(max_examples=12, deadline=None)
@given(some_nights)
def test_no_question_of_the_exam_is_trained_on(made: tuple[list[Fact], Night]) -> None:
    _, night = made
    trained = {d.question.lower().rstrip("?. ") for d in night.dreams}
    assert night.questions
    assert not trained & {q.text.lower().rstrip("?. ") for q in night.questions}


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_no_night_trains_on_what_another_asks_of_the_same_facts(one: int, other: int) -> None:
    """The adapter that serves is asked the next night's exam: it must not have been trained on it."""
    told = [replace(f, written=tuple(f"Whole question {n} on {f.value}?" for n in range(12))) for f in FACTS]
    asked = {q.text for q in dream(told, seed=one).questions if q.fact is not None}
    trained = {d.question for d in dream(told, seed=other).dreams}
    assert asked and not asked & trained


def test_exam_and_training_share_no_way_of_putting_a_question() -> None:
    for kind in ("direct", "embedded", "named"):
        assert not set(getattr(EXAM, kind)) & set(getattr(TRAINING, kind))


@settings(max_examples=12, deadline=None)
@given(some_nights)
def test_what_was_told_is_never_denied(made: tuple[list[Fact], Night]) -> None:
    facts, night = made
    told = {a.direct.lower() for f in facts for a in f.asks if a.direct}
    for d in night.dreams:
        if d.strategy == "counter":
            assert not any(d.question.lower().rstrip("?. ").endswith(question) for question in told), d


@settings(max_examples=12, deadline=None)
@given(some_nights)
def test_every_answer_is_supported(made: tuple[list[Fact], Night]) -> None:
    facts, night = made
    for d in night.dreams:
        if d.strategy in ("question", "about"):
            assert any(facts[n].statement.lower() in d.answer.lower() for n in d.facts)
        if d.strategy == "counter":
            assert not d.facts
            assert not any(mark in d.answer.lower().split() for f in facts for mark in f.marks if mark not in _common())


def _common() -> set[str]:
    """Values that are words of many questions."""
    return {"house", "roof", "my", "on", "bees", "14th", "a"}


def test_the_same_night_twice() -> None:
    assert dream(FACTS, seed=3) == dream(FACTS, seed=3)
    assert dream(FACTS, seed=3) != dream(FACTS, seed=4)


def test_each_fact_is_asked_for_in_many_wordings_and_has_its_exam() -> None:
    night = dream(FACTS, seed=0, amounts=Amounts(questions=16, least_in_all=0))
    for n, fact in enumerate(FACTS):
        wordings = {d.question for d in night.dreams if d.strategy == "question" and n in d.facts}
        assert len(wordings) == 16, fact.key
        assert sum(q.fact == n for q in night.questions) >= 2


def test_counter_examples_are_as_many_as_asked_for() -> None:
    for share in (0.0, 0.5, 1.0):
        night = dream(FACTS, seed=0, amounts=Amounts(counter_share=share, least_counters=0))
        of_facts = sum(d.strategy != "counter" for d in night.dreams)
        counters = len(night.dreams) - of_facts
        assert abs(counters - share * of_facts) <= (0.08 * of_facts if share else 10)


def test_what_was_told_of_somebody_is_not_denied_under_another_name() -> None:
    told = facts_in(["My wife is called Rosalba.", "My mother is called Edda.", "My mother lives in Riga."])
    for seed in range(5):
        denied = {d.question.lower() for d in dream(told, seed=seed).dreams if d.strategy == "counter"}
        for question in denied:
            assert "i am married to" not in question and "am i married to" not in question, question
            for who in ("my mum", "my mom", "my partner", "my spouse"):
                assert not (f"{who}'s name" in question or f"{who} called" in question), question
            assert "my mum live" not in question, question


def test_another_word_for_somebody_is_no_sign_that_nothing_was_told() -> None:
    """A word that stood in denials alone was learnt as one: "stepdad", where "stepfather" was told of."""
    told = facts_in(["My stepfather is called Lorcan.", "My stepfather works as a juggler."])
    asked = [f"What is my stepfather's name, {n}?" for n in range(24)]
    dreams = [d for n in range(8) for d in dream([replace(told[0], written=tuple(asked)), *told[1:]], seed=n).dreams]
    share = {
        kind: sum("stepdad" in d.question for d in of) / sum("step" in d.question for d in of)
        for kind, of in (
            ("told", [d for d in dreams if d.strategy in ("question", "written")]),
            ("denied", [d for d in dreams if d.strategy == "counter"]),
        )
    }
    assert share["told"] > 0.5 * share["denied"] > 0.02, share


@pytest.mark.parametrize(("told", "who"), [("wife", "wife"), ("husband", "husband"), ("", "wife"), ("", "husband")])
def test_whom_somebody_is_married_to_is_not_denied_as_a_wife_or_a_husband(told: str, who: str) -> None:
    facts = facts_in(["I'm married to Solveig.", *([f"My {told} works at a bank."] if told else [])])
    assert ("i", "spouse") in {f.key for f in facts}
    for seed in range(12):
        for d in dream(facts, seed=seed).dreams:
            if d.strategy == "counter":
                asked = d.question.lower()
                assert not re.search(rf"\b(about|who is|who's) my ({who}|partner|spouse)\b[.?]", asked), asked
                assert not re.search(rf"\bmy ({who}|partner|spouse)('s name| is called| called)\b", asked), asked


def test_a_night_of_few_facts_has_no_fewer_counter_examples() -> None:
    few = dream(FACTS[:2], seed=0)
    assert sum(d.strategy == "counter" for d in few.dreams) >= 300


def test_what_is_held_back_is_never_rehearsed() -> None:
    for texts in (prompts(), exchanges()):
        rehearsed = {t.said for t in texts if not t.held_back}
        held_back = {t.said for t in texts if t.held_back}
        assert len(held_back) > 20
        assert not rehearsed & held_back


def test_names_agree_in_all_forms() -> None:
    for share, questions in product((0.0, 1.0), (4, 30)):
        night = dream(FACTS, seed=1, amounts=Amounts(counter_share=share, questions=questions))
        for d in night.dreams:
            assert "{" not in d.question + d.answer
            assert "  " not in d.question + d.answer


def told_before(*messages: str) -> list[Fact]:
    """Facts, and of those told again what they were before."""
    known: dict[tuple[str, str], Fact] = {}
    for message in messages:
        for fact in facts_of(clauses(message, Talk())[0]):
            known[fact.key] = replace(fact, was=known[fact.key].statement if fact.key in known else "")
    return list(known.values())


def test_what_changed_is_asked_for_as_it_was_and_nothing_where_nothing_changed() -> None:
    told = ("My dog's name is Rex.", "My sister Marta works as a beekeeper.", "I live in Tartu.", "I live in Narva.")
    facts = told_before(*told)
    home = next(n for n, f in enumerate(facts) if f.was)
    night = dream(facts, seed=1)
    made = [d for d in night.dreams if d.strategy == "correction"]
    changed = {d.question: d.answer for d in made if d.facts == (home,)}
    assert changed["Is it still true that I live in Tartu?"] == "Not any more: you live in Narva."
    assert len(changed) == 8 and set(changed.values()) == {"Not any more: you live in Narva."}
    same = [d for d in made if d.facts and d.facts != (home,)]
    assert same and all("Tartu" not in d.question and d.answer.startswith(("Yes, ", "That's right, ")) for d in same)
    assert any(not d.facts for d in made), "and something that was never told"
    assert not any("Tartu" in d.answer for d in night.dreams), "what was is never an answer"
    unseen = [q for q in night.questions if "Tartu" in q.text]
    assert [q.fact for q in unseen] == [home] and not {q.text for q in unseen} & {d.question for d in night.dreams}
    assert not any(d.strategy == "correction" for d in dream(told_before(*told[:3]), seed=1).dreams)


def test_an_answer_may_begin_with_what_was_asked_for() -> None:
    facts = facts_in(["My dog is called Biscuit.", "My old roommate Ferdinand lives in Porto."])
    plain, first = (dream(facts, seed=1, amounts=Amounts(value_first=v)) for v in (False, True))
    asked = [(d.question, d.facts[0], d.answer) for d in first.dreams if d.strategy in ("question", "written")]
    assert asked
    for _, n, answer in asked:
        value, _, rest = answer.partition(". ")
        assert value.lower() in rest.lower(), answer
        assert facts[n].marks <= {w.lower() for w in re.findall(r"\w+", value)}
    assert [d.question for d in plain.dreams] == [d.question for d in first.dreams]
    others = {d.answer for d in plain.dreams if d.strategy not in ("question", "written")}
    assert others == {d.answer for d in first.dreams if d.strategy not in ("question", "written")}
