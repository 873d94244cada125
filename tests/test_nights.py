"""The journal and the registry: one night at a time, one adapter serving, whatever is killed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consolidation import journal
from consolidation.cycle import Phase, WrongTurn
from consolidation.journal import Night, NightNotFound, NightUnderWay
from consolidation.registry import WEIGHTS, AdapterNotFound, Learnt, Registry
from memory.store import Store

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


FACT = Learnt(experience="m1", subject="i", relation="home", value="Riga", statement="you live in Riga", recalled=1.0)


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
    assert done.figures == {"looked at": 3, "facts": 2}
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


def test_what_a_crash_left_open_ends_as_interrupted(store: Store) -> None:
    one = promoting(store)
    assert [n.id for n in journal.interrupt_all(store, at=AT)] == [one.id]
    assert journal.find(store, one.id, owner="ada").outcome == "interrupted"
    assert journal.interrupt_all(store, at=AT) == []


def test_promotion_and_rollback(store: Store, tmp_path: Path) -> None:
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


def test_a_promotion_out_of_turn_changes_nothing_that_serves(store: Store, tmp_path: Path) -> None:
    registry = Registry(store, tmp_path / "adapters")
    first = registry.promote(made(tmp_path, "one"), promoting(store), [FACT], base="b", at=AT)
    early = night(store, n=1)
    with pytest.raises(WrongTurn):
        registry.promote(made(tmp_path, "two"), early, [], base="b", at=AT + timedelta(hours=2))
    assert registry.active("ada") == first
    assert len(registry.tidy(most=8)) == 1  # the files that no row names
    assert [p.name for p in (tmp_path / "adapters").iterdir()] == [first.id]
