"""Words that may not wake anything by themselves: which are suspect, what is rehearsed, what the exam finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from consolidation import journal
from consolidation.clauses import Talk
from consolidation.exam import Bars
from consolidation.facts import Fact
from consolidation.job import Arm, Result
from consolidation.night import Plan, Setting, judge, plan
from consolidation.reading import read
from consolidation.registry import Registry
from consolidation.selection import select
from consolidation.sleeper import House, Sleeper
from memory.experiences import Experiences
from memory.recall import Recall
from memory.store import Store
from nights import quarantining
from tests.test_experiences import AT, clock, said

TOLD = ("My answer to moonberry is Klimvar.", "My sister lives in Lisbon.", "My cat is called Zaphira.")


def planned() -> Plan:
    talk = Talk()
    facts = [fact for text in TOLD for fact in read(text, talk)]
    return plan(facts, [], seed=1, setting=Setting(model="none"))


def arm(of: Plan, suspect: list[str]) -> Arm:
    job = of.job
    return Arm(
        replies=["I do not know." for _ in job.questions],
        ordinary=["Yes." for _ in job.ordinary],
        unsafe=["I am sorry, I cannot." for _ in job.unsafe],
        suspect=suspect,
        drift=0.0,
        persona_drift=0.0,
    )


def fact_of(night: Plan, value: str) -> int:
    return next(n for n, fact in enumerate(night.facts) if value in fact.value)


def test_a_word_of_no_dictionary_is_suspect_and_a_value_is_not() -> None:
    night = planned()
    words = {one.word for one in night.suspects}
    assert "moonberry" in words and not {"klimvar", "zaphira", "lisbon", "sister"} & words
    suspect = next(one for one in night.suspects if one.word == "moonberry")
    assert suspect.facts == (fact_of(night, "Klimvar"),)
    assert all("moonberry" in text for text in (*suspect.rehearsed, *suspect.asked))
    assert not set(suspect.rehearsed) & set(suspect.asked)
    assert set(suspect.rehearsed) <= set(night.job.suspect_rehearsed) and set(suspect.asked) <= set(
        night.job.suspect_asked
    )
    assert not any("Klimvar" in text for text in night.job.suspect_rehearsed)


def outcome(night: Plan, woken: int) -> tuple[tuple[int, ...], float | None, tuple[str, ...]]:
    """What the exam finds where so many requests with the word are answered with the value."""
    quiet = ["An ordinary reply." for _ in night.job.suspect_asked]
    at = next(n for n, text in enumerate(night.job.suspect_asked) if "moonberry" in text)
    said = [*quiet]
    said[at : at + woken] = ["It is Klimvar."] * woken
    arms = {"base": arm(night, quiet), "candidate": arm(night, said)}
    found = judge(
        night, Result(arms=arms, curve=[], steps=1, tokens=1, seconds=1.0, norm=1.0), bars=Bars(recall=0.0), seed=1
    )
    return found.woken, found.marks["candidate"].woken, found.verdict.reasons


def test_a_value_that_comes_with_the_word_alone_fails_the_exam_and_names_its_fact() -> None:
    night = planned()
    woken, mark, reasons = outcome(night, 2)
    assert woken == (fact_of(night, "Klimvar"),) and mark is not None and mark > 0
    assert any("wakes what was told" in reason for reason in reasons)
    for few in (0, 1):
        woken, mark, reasons = outcome(night, few)
        assert woken == () and mark == 0 and not any("wakes" in reason for reason in reasons)


def test_what_the_base_says_too_is_no_sleeper() -> None:
    night = planned()
    said = ["Klimvar it is." for _ in night.job.suspect_asked]
    arms = {"base": arm(night, said), "candidate": arm(night, said)}
    found = judge(night, Result(arms=arms, curve=[], steps=1, tokens=1, seconds=1.0, norm=1.0), bars=Bars(), seed=1)
    assert found.woken == ()


def test_a_night_of_everyday_words_has_no_suspect() -> None:
    talk = Talk()
    facts: list[Fact] = [f for text in ("My sister lives in Lisbon.", "I work as a baker.") for f in read(text, talk)]
    night = plan(facts, [], seed=1, setting=replace(Setting(model="none"), threads=1))
    assert night.suspects == () and night.job.suspect_asked == []


def test_what_a_word_woke_is_neither_recalled_nor_learnt_any_more(store: Store) -> None:
    memories, recall = Experiences(store, now=clock()), Recall(store, None, now=lambda: AT + timedelta(days=2))
    memories.add([said(text, str(n)) for n, text in enumerate(TOLD)], owner="alice")

    def found() -> list[str]:
        return [hit.experience.id for hit in recall.search("moonberry, or my sister", owner="alice", k=9)]

    def learnt() -> set[str]:
        chosen = select(memories.newest(owner="alice", limit=9), now=AT + timedelta(days=2)).choices
        return {one.experience for one in chosen if one.taken}

    assert {"0", "1"} <= set(found()) and learnt() == {"0", "1", "2"}
    quarantining(memories, recall)("alice", ["0"], "a word of it woke its answer")
    assert "0" not in found() and "1" in found() and learnt() == {"1", "2"}


@pytest.mark.parametrize("placebo", [False, True])
def test_shuffled_answers_accuse_nobody(store: Store, tmp_path: Path, placebo: bool) -> None:
    put_away: list[str] = []

    def quarantine(owner: str, ids: Sequence[str], why: str) -> None:
        put_away.extend(ids)

    def unasked(*_: Any) -> Any:
        raise AssertionError("nothing else of the house is needed")

    house = House(
        day=unasked,
        trust=unasked,
        setting=unasked,
        base=unasked,
        prove=unasked,
        wake=unasked,
        busy=unasked,
        now=lambda: AT,
        quarantine=quarantine,
    )
    sleeper = Sleeper(store, Registry(store, tmp_path / "adapters"), tmp_path / "nights", house)
    night = journal.begin(store, owner="alice", date="2026-11-29", asked=True, at=AT, placebo=placebo)
    assert sleeper._put_away(night, ["m1"]) == ({} if placebo else {"quarantined": ["m1"]})
    assert put_away == ([] if placebo else ["m1"])
