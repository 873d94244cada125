"""What is said of a fact is what its message told, in few sentences, and nothing that holds no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consolidation.accounts import accounts
from consolidation.dreams import dream
from consolidation.english import sentence, spoken
from consolidation.exam import holds
from consolidation.examples import Amounts
from consolidation.facts import Fact
from consolidation.notes import Note
from consolidation.selection import select
from memory.experience import Experience, Provenance

NOW = datetime(2026, 11, 30, tzinfo=UTC)


def fact(statement: str, value: str, subject: str = "I") -> Fact:
    asks = (f"What of {value[::-1]}?", f"Which {value[::-1]} is it?")
    return Fact(subject=subject, relation=value, value=value, statement=statement, asks=(), written=asks)


def test_what_one_message_told_is_said_together_and_a_part_of_it_not_twice() -> None:
    told = [
        fact("your aunt has married again", "married"),
        fact("your aunt has married again, and her new husband comes from Zanzibar", "Zanzibar"),
        fact("your aunt's name is Philippa", "Philippa"),
    ]
    both = "Your aunt has married again, and her new husband comes from Zanzibar. Your aunt's name is Philippa."
    assert accounts(told) == [both] * 3


def test_what_says_the_opposite_is_not_left_out() -> None:
    told = [fact("you like tea", "tea"), fact("you don't like tea with milk", "tea with milk")]
    assert accounts(told) == ["You like tea. You don't like tea with milk."] * 2


def test_what_is_told_of_somebody_else_is_not_left_out() -> None:
    told = [fact("you were born in Riga", "Riga"), fact("your mum was born in Riga", "Riga", subject="my mum")]
    assert accounts(told) == ["You were born in Riga. Your mum was born in Riga."] * 2
    told = [fact("your sister is a nurse", "nurse"), fact("your sister's friend is a nurse", "nurse")]
    assert accounts(told) == ["Your sister is a nurse. Your sister's friend is a nurse."] * 2


def test_an_account_is_short_and_no_sentence_is_cut() -> None:
    told = [fact(f"your boat {n} is called Number{n}", f"Number{n}") for n in range(9)]
    said = accounts(told)
    assert {len(one.split()) for one in said} == {18}, "three of six words: four would be too many"
    assert all(sentence(f.statement) in one for f, one in zip(told, said, strict=True))
    [long] = accounts([fact(" ".join(["your"] * 30 + ["boat"]), "boat")])
    assert len(long.split()) == 31


WORDS = st.sampled_from(["boat", "Rex", "Tartu", "red", "is", "your", "in", "the", "seven", "aunt"])


@given(st.lists(st.lists(WORDS, min_size=1, max_size=12), min_size=1, max_size=6))
def test_whatever_was_told_its_own_account_gives_it(statements: list[list[str]]) -> None:
    told = [fact(" ".join(words), words[-1]) for words in statements]
    said = accounts(told)
    assert len(said) == len(told)
    assert all(holds(one, f) for f, one in zip(told, said, strict=True))
    words = [(spoken(f.statement), spoken(one)) for f, one in zip(told, said, strict=True)]
    assert all(" ".join(own) in " ".join(account) for own, account in words), "in its own words"
    assert accounts(told[:1]) == [sentence(told[0].statement)]


def experience(n: int, text: str, superseded_by: str | None = None) -> Experience:
    return Experience(
        n=n,
        id=f"e{n}",
        text=text,
        at=NOW - timedelta(hours=9 - n),
        provenance=Provenance(channel="chat", session=f"s{n}"),
        recorded_at=NOW - timedelta(hours=9 - n),
        copies=1,
        pinned=False,
        private=False,
        quarantined=None,
        superseded_by=superseded_by,
        salience=None,
        accesses=0,
        accessed_at=None,
    )


def test_what_was_corrected_is_in_no_account() -> None:
    told = [experience(0, "My dog is called Rex. I live in Tartu."), experience(1, "I live in Oslo now.")]
    (first,) = [s for s in select(told[:1], now=NOW).facts if s.fact.value == "Rex"]
    assert {"Rex", "Tartu"} <= {w.strip(".") for w in first.fact.account.split()}
    since = {s.fact.value: s.fact.account for s in select(told, now=NOW).facts}
    assert "Tartu" not in " ".join(since.values())
    assert "Oslo" not in since["Rex"], "another message's"


def test_both_ways_of_asking_are_answered_alike_and_only_where_wanted() -> None:
    told = [fact("your boat is small", "small"), fact("your boat is called Pearl", "Pearl")]
    both = [replace(f, account=one) for f, one in zip(told, accounts(told), strict=True)]
    for wanted in (True, False):
        night = dream(both, seed=1, amounts=Amounts(accounts=wanted))
        answers = {d.facts: d.answer for d in night.dreams if d.strategy == "written"}
        assert (answers[(0,)] == answers[(1,)] == both[0].account) == wanted
        assert len({d.asks_for for d in night.dreams if d.strategy == "written"}) == 2


@pytest.mark.parametrize("text", ["The hallway is finally painted, in a colour called Otter Smoke."])
def test_a_note_of_the_part_that_nobody_asks_for_is_answered_with_the_other(text: str) -> None:
    notes = (
        Note(told="The hallway is finally painted.", value="Finally painted", asks=("What of the hallway?",), never=()),
        Note(told="The hallway's colour is called Otter Smoke.", value="Otter Smoke", asks=("Which shade?",), never=()),
    )
    chosen = select([experience(0, text)], now=NOW, notes={"e0": notes})
    assert all("Otter Smoke" in s.fact.account for s in chosen.facts)
    assert len(chosen.facts) == 2
