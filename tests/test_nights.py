"""The journal and the registry: one night at a time, one adapter serving, whatever is killed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlite_utils import Database

from consolidation import journal, notebook
from consolidation.accounts import accounts
from consolidation.clauses import Talk, clauses
from consolidation.cycle import Outcome, Phase, WrongTurn
from consolidation.facts import facts_of
from consolidation.job import Arm
from consolidation.journal import Night, NightNotFound, NightUnderWay
from consolidation.night import Answer, Setting, _by_chance, plan
from consolidation.notes import Note
from consolidation.reading import read
from consolidation.registry import WEIGHTS, AdapterNotFound, AdapterStale, ForgottenMeanwhile, Learnt, Registry, former
from consolidation.selection import select
from consolidation.sleeper import parted
from consolidation.unlearning import mark_stale, said_again, trace_of, traces
from memory.experience import Offer, Provenance
from memory.experiences import Experiences
from memory.store import Store
from models.engine import Engine
from models.language import BASE
from serving import Serving

AT = datetime(2026, 11, 22, 3, tzinfo=UTC)
TO_PROMOTING: tuple[Phase, ...] = ("selecting", "dreaming", "training", "examining", "promoting")


def night(store: Store, *, owner: str = "ada", date: str = "2026-11-22", asked: bool = True, n: int = 0) -> Night:
    return journal.begin(store, owner=owner, date=date, asked=asked, at=AT + timedelta(hours=n))


def promoting(store: Store, n: int = 0, owner: str = "ada") -> Night:
    one = night(store, owner=owner, n=n)
    for phase in TO_PROMOTING:
        one = journal.move(store, one, phase, at=AT)
    return one


def made(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / f"made-{text}"
    folder.mkdir()
    (folder / WEIGHTS).write_text(text)
    (folder / "adapter_config.json").write_text("{}")
    return folder


FACT = Learnt(
    experience="m1",
    subject="i",
    relation="home",
    value="Riga",
    statement="you live in Riga",
    asked="live home",
    recalled=1.0,
)


def test_a_night_goes_its_way_and_keeps_its_figures(store: Store) -> None:
    one = night(store)
    one = journal.move(store, one, "selecting", at=AT, figures={"looked at": 3})
    one = journal.move(store, one, "dreaming", at=AT, figures={"facts": 2})
    with pytest.raises(WrongTurn):
        journal.move(store, one, "promoting", at=AT)
    with pytest.raises(WrongTurn):
        journal.finish(store, one, "promoted", [], at=AT)
    done = journal.finish(store, one, "failed", ["no memory"], at=AT)
    assert (done.phase, done.outcome, done.reasons) == ("ended", "failed", ("no memory",))
    assert done.figures == {"placebo": False, "looked at": 3, "facts": 2}
    assert journal.newest(store, owner="ada") == [done]
    with pytest.raises(NightNotFound):
        journal.find(store, done.id, owner="bob")


def test_one_night_at_a_time_and_one_due_a_date(store: Store) -> None:
    first = night(store, asked=False)
    with pytest.raises(NightUnderWay):
        night(store, asked=True, n=1)
    night(store, owner="bob", asked=False)
    journal.finish(store, first, "failed", [], at=AT)
    with pytest.raises(NightUnderWay):
        night(store, asked=False, n=2)
    night(store, asked=True, n=3)


def test_what_a_crash_left_open_begins_again_and_not_for_ever(store: Store) -> None:
    one = promoting(store)
    for begun in (2, 3):
        assert [(n.id, n.phase, n.figures["begun"]) for n in journal.left_open(store, at=AT)] == [
            (one.id, "due", begun)
        ]
    assert journal.left_open(store, at=AT) == []
    done = journal.find(store, one.id, owner="ada")
    assert (done.outcome, done.reasons) == ("failed", ("it was begun 3 times, and never came to its end",))


def test_choices_and_answers_are_kept_for_the_morning(store: Store) -> None:
    one = night(store)
    journal.choose(store, one, [("m2", False, "the agent's own words"), ("m1", True, "told something new")])
    kept = [Answer(question="Where?", told="you live in Riga", before=None, after="In Riga.", good=True)]
    journal.keep_answers(store, one, kept)
    assert journal.choices(store, one.id) == [
        ("m1", True, "told something new"),
        ("m2", False, "the agent's own words"),
    ]
    assert journal.answers(store, one.id) == kept


def test_forgetting_what_was_before_a_correction_reaches_the_adapter_that_was_asked_about_it(
    store: Store, tmp_path: Path
) -> None:
    remember(store)
    before = Offer(id="m0", text="I live in Ghent.", at=AT, provenance=Provenance(channel="chat"))
    Experiences(store, now=lambda: AT).add([before], owner="ada")
    registry = Registry(store, tmp_path / "adapters")
    [was] = facts_of(clauses("I live in Ghent.", Talk())[0])
    now = replace(FACT, subject=was.subject, relation=was.relation)
    taught = registry.promote(made(tmp_path, "one"), promoting(store), [now, former("m0", was)], base="b", at=AT)
    assert registry.known(taught.id) == [now], "what was is not known"
    waiting = store.write(lambda db: mark_stale(db, "ada", ["m0"]))
    assert [w.split()[0] for w in waiting] == [taught.id] and registry.lineage("ada")[0].stale
    assert registry.known(taught.id) == [now]
    assert said_again(["You live in Ghent."], traces(store, owner="ada")) == 1.0


def test_what_two_nights_taught_in_vain_is_not_new_any_more(store: Store) -> None:
    """Placebos and what was not examined do not count; what an adapter was taught is rehearsed with the rest."""

    def ended(n: int, outcome: Outcome, missed: list[str], *, placebo: bool = False) -> None:
        at = AT + timedelta(hours=n)
        one = journal.begin(store, owner="ada", date="2026-11-22", asked=True, at=at, placebo=placebo)
        for phase in TO_PROMOTING[:-1]:
            one = journal.move(store, one, phase, at=at)
        journal.finish(store, one, outcome, [], at=at, figures={"missed": missed})

    ended(0, "rejected", ["m1", "m2"])
    ended(1, "rejected", ["m1"], placebo=True)
    ended(2, "interrupted", ["m1"])
    assert journal.missed(store, owner="ada") == {"m1": 1, "m2": 1}
    ended(3, "rejected", ["m1"])
    missed = journal.missed(store, owner="ada")
    assert missed == {"m1": 2, "m2": 1} and journal.missed(store, owner="bob") == {}

    texts = {"m1": "I live in Riga.", "m2": "My dog is called Biscuit."}
    offers = [Offer(id=id, text=text, at=AT, provenance=Provenance(channel="chat")) for id, text in texts.items()]
    memories = Experiences(store, now=lambda: AT)
    memories.add(offers, owner="ada")
    chosen = select(memories.newest(owner="ada", limit=9), now=AT)
    assert [s.experience.id for some in parted(chosen, [], missed) for s in some] == ["m2"]
    fact = next(s.fact for s in chosen.facts if s.experience.id == "m1")
    half = replace(FACT, subject=fact.subject, relation=fact.relation, statement=fact.statement, recalled=0.3)
    new, old = parted(chosen, [half], missed)
    assert [s.experience.id for s in new] == ["m2"] and [s.experience.id for s in old] == ["m1"]
    new, old = parted(chosen, [half], {})
    assert {s.experience.id for s in new} == {"m1", "m2"} and not old


def remember(store: Store) -> None:
    """What FACT was told by."""
    offer = Offer(id="m1", text="I live in Riga.", at=AT, provenance=Provenance(channel="chat"))
    Experiences(store, now=lambda: AT).add([offer], owner="ada")


def test_promotion_and_rollback(store: Store, tmp_path: Path) -> None:
    remember(store)
    registry = Registry(store, tmp_path / "adapters")
    assert registry.active("ada") is None
    first = registry.promote(made(tmp_path, "one"), promoting(store), [FACT], base="b", at=AT)
    second = registry.promote(made(tmp_path, "two"), promoting(store, 1), [FACT], base="b", at=AT + timedelta(hours=2))
    assert registry.active("ada") == second and second.parent == first.id
    assert registry.active("bob") is None
    assert registry.known(second.id) == [FACT]
    back = registry.roll_back(owner="ada", at=AT)
    assert back is not None and back.id == first.id
    assert [(a.id, a.status) for a in registry.lineage("ada")] == [(second.id, "retired"), (first.id, "active")]
    assert registry.roll_back(owner="ada", at=AT) is None and registry.active("ada") is None
    again = registry.activate(second.id, owner="ada", at=AT)
    assert again is not None and again.status == "active"
    with pytest.raises(AdapterNotFound):
        registry.activate(second.id, owner="bob", at=AT)
    (registry.folder_of(first.id) / WEIGHTS).write_text("other")
    with pytest.raises(AdapterNotFound, match="changed"):
        registry.activate(first.id, owner="ada", at=AT)
    assert registry.active("ada") == again


def test_what_becomes_private_makes_stale_whoever_was_taught_it_and_stays_in_memory(
    store: Store, tmp_path: Path
) -> None:
    remember(store)
    registry, memories = Registry(store, tmp_path / "adapters"), Experiences(store, now=lambda: AT)
    taught = registry.promote(made(tmp_path, "one"), promoting(store), [FACT], base="b", at=AT)

    def unlearn(db: Database, events: Sequence[str]) -> None:
        mark_stale(db, "ada", events)

    assert memories.mark("m1", owner="ada", private=False, unlearn=unlearn).private is False
    assert registry.lineage("ada")[0].stale is False
    assert memories.mark("m1", owner="ada", private=True, unlearn=unlearn).private is True
    assert registry.lineage("ada")[0].stale is True and registry.known(taught.id) == []
    assert memories.get("m1", owner="ada").text == "I live in Riga."
    with pytest.raises(ForgottenMeanwhile):  # as a night would that was promoting just then
        registry.promote(made(tmp_path, "two"), promoting(store, 1), [FACT], base="b", at=AT)


def test_what_is_forgotten_makes_stale_whoever_was_taught_it(store: Store, tmp_path: Path) -> None:
    remember(store)
    registry = Registry(store, tmp_path / "adapters")
    first = registry.promote(made(tmp_path, "one"), promoting(store), [], base="b", at=AT)
    second = registry.promote(made(tmp_path, "two"), promoting(store, 1), [FACT], base="b", at=AT + timedelta(hours=2))
    third = registry.promote(made(tmp_path, "three"), promoting(store, 2), [FACT], base="b", at=AT + timedelta(hours=3))
    waiting = store.write(lambda db: mark_stale(db, "ada", ["m1"]))
    assert len(waiting) == 2 and registry.known(third.id) == []
    (left,) = {trace.asked: trace for trace in traces(store, owner="ada")}.values()
    assert left.about("I", "home") and not left.about("I", "job")
    assert left.in_reply("You live in Riga, I think.") and not left.in_reply("You live in Oslo.")
    with pytest.raises(AdapterStale):
        registry.activate(second.id, owner="ada", at=AT)
    back = registry.roll_back(owner="ada", at=AT)
    assert back is not None and back.id == first.id, "the nearest ancestor that never saw it"
    registry.tidy(most=8)
    assert {p.name for p in (tmp_path / "adapters").iterdir()} == {first.id}


def test_a_note_is_kept_from_night_to_night_and_goes_with_the_memory(store: Store) -> None:
    remember(store)
    note = Note(told="You live in Riga.", value="Riga", asks=("Where do I live?", "Which city is mine?", "My home?"))
    notebook.keep(store, {"m1": [note], "gone": [note]}, owner="ada", writer="w1")
    assert notebook.kept(store, owner="ada", writer="w1") == {"m1": (note,)}, "what is not remembered is not noted"
    assert notebook.kept(store, owner="ada", writer="w2") == {} == notebook.kept(store, owner="bob")
    notebook.keep(store, {"m1": []}, owner="ada", writer="w2")
    assert notebook.kept(store, owner="ada") == {"m1": ()}
    store.write(lambda db: mark_stale(db, "ada", ["m1"]))
    assert notebook.kept(store, owner="ada") == {}


def test_a_night_that_learnt_what_is_forgotten_meanwhile_is_not_promoted(store: Store, tmp_path: Path) -> None:
    registry = Registry(store, tmp_path / "adapters")
    with pytest.raises(ForgottenMeanwhile):
        registry.promote(made(tmp_path, "one"), promoting(store), [FACT], base="b", at=AT)
    assert registry.active("ada") is None


def test_a_trace_knows_a_value_by_its_words_and_gives_nothing_back() -> None:
    trace = trace_of("my dog", "name", "the old Baron von Bark")
    assert trace.in_reply("Your dog is called Old Baron von Bark.")
    assert not trace.in_reply("Your dog is called Baron.")
    assert b"aron" not in trace.said + trace.asked + trace.salt
    assert said_again(["Rex.", "He is old Baron von Bark."], [trace]) == 0.5
    assert trace_of("my dog", "name", "Rex").said != trace_of("my dog", "name", "Rex").said


def test_files_of_adapters_are_kept_only_so_many(store: Store, tmp_path: Path) -> None:
    registry = Registry(store, tmp_path / "adapters")
    ids = [
        registry.promote(made(tmp_path, str(n)), promoting(store, n), [], base="b", at=AT + timedelta(hours=n)).id
        for n in range(4)
    ]
    registry.activate(ids[0], owner="ada", at=AT)
    registry.tidy(most=2)
    assert {p.name for p in (tmp_path / "adapters").iterdir()} == {ids[0], ids[2], ids[3]}
    with pytest.raises(AdapterNotFound):
        registry.activate(ids[1], owner="ada", at=AT)


def test_a_promotion_out_of_turn_changes_nothing_that_serves(store: Store, tmp_path: Path) -> None:
    remember(store)
    registry = Registry(store, tmp_path / "adapters")
    first = registry.promote(made(tmp_path, "one"), promoting(store), [FACT], base="b", at=AT)
    early = night(store, n=1)
    with pytest.raises(WrongTurn):
        registry.promote(made(tmp_path, "two"), early, [], base="b", at=AT + timedelta(hours=2))
    assert registry.active("ada") == first
    assert len(registry.tidy(most=8)) == 1  # the files that no row names
    assert [p.name for p in (tmp_path / "adapters").iterdir()] == [first.id]


def test_a_night_begins_from_what_is_shipped_unless_its_recipe_has_another_shape() -> None:
    facts = [fact for text in ("My dog is called Biscuit.", "I live in Riga.") for fact in read(text, Talk())]
    with_it, without = Setting(model="m", beginning="b"), Setting(model="m")
    job, plain = (plan(facts, [], seed=1, setting=setting).job for setting in (with_it, without))
    assert job.beginning == "b" and plain.beginning is None
    assert not any(a.startswith("Biscuit.") for one in (job, plain) for _, a in one.examples)
    in_products = plan(facts, [], seed=1, setting=replace(with_it, recipe={"codebook": 0})).job
    assert any(a == "Biscuit. Your dog is called Biscuit." for _, a in in_products.examples)
    shaped = plan(facts, [], seed=1, setting=replace(with_it, recipe={"rank": 8})).job
    assert shaped.beginning is None and shaped.examples == plain.examples
    faster = plan(facts, [], seed=1, setting=replace(with_it, recipe={"epochs": 1, "kept": 0.9})).job
    assert faster.beginning == "b" and faster.recipe == {"epochs": 1, "kept": 0.9, "seed": 1}


def test_what_one_message_told_is_not_marked_by_itself() -> None:
    """All good replies hold all that it told: marked by each other they would look like a night of shuffled answers."""
    told = read("My dog is called Biscuit. I live in Riga.", Talk())
    facts = [replace(fact, account=said) for fact, said in zip(told, accounts(told), strict=True)]
    made = plan(facts, [], seed=1, setting=Setting(model="m", beginning="b"))
    good = [facts[0].account if q.fact is not None else "You haven't told me that." for q in made.questions]
    arm = Arm(replies=good, ordinary=[], unsafe=[], suspect=[], drift=0.0, persona_drift=0.0)
    assert _by_chance(made, arm, seed=1) == 0
    everywhere = replace(arm, replies=[facts[0].account] * len(good))
    assert _by_chance(made, everywhere, seed=1) == 1
    assert (
        len({n for n, (_, a) in zip(made.job.asked_for, made.job.examples, strict=True) if a == facts[0].account}) > 1
    )
    placebo = plan(facts, [], seed=1, setting=Setting(model="m", beginning="b", placebo=True)).job
    assert not placebo.asked_for, "what is shuffled asks for nothing"


def test_a_first_message_waits_until_it_is_known_who_served(
    store: Store, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    serving = Serving(engine=make_engine(), registry=Registry(store, tmp_path / "adapters"))
    found: list[str] = []
    asking = threading.Thread(target=lambda: found.append(serving.of("ada")))
    asking.start()
    asking.join(0.2)
    assert not found and asking.is_alive()
    serving.wake_all(store)
    asking.join(10)
    assert found == [BASE]
