"""Waking with another adapter while somebody is answered: whoever serves is there, whoever is asked answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest

from agent.turn import Awake, TurnRequest, take_turn
from bench import tiny as made
from consolidation import journal
from consolidation.cycle import Phase
from consolidation.registry import Registered, Registry
from memory.store import Store
from models.causal_lm import CausalLM
from models.engine import Engine
from models.errors import AdapterRefused
from models.generation import Prompt
from models.language import BASE, Message
from serving import Serving

AT = datetime(2026, 11, 29, tzinfo=UTC)
PHASES: tuple[Phase, ...] = ("selecting", "dreaming", "training", "examining", "promoting")


@pytest.fixture
def serving(store: Store, tmp_path: Path, make_engine: Callable[..., Engine], tiny: CausalLM) -> Serving:
    """Two adapters that may serve Ada; the first one does."""
    registry = Registry(store, tmp_path / "adapters")
    for n, name in enumerate(("first", "second")):
        made.adapter(registry.folder_of(name), {(1, "gate_proj"): (64, 128)}, rank=2, seed=n)
    serving = Serving(engine=make_engine(tiny), registry=registry)
    serving.awake.set()
    serving.wake("ada", registered("first"))
    return serving


def registered(id: str) -> Registered:
    return Registered(
        id=id,
        owner="ada",
        night="n",
        parent=None,
        base="tiny",
        status="active",
        digest="",
        stale=False,
        created_at=AT,
        activated_at=AT,
    )


def test_who_is_woken_again_before_they_were_let_go_stays(serving: Serving) -> None:
    ids = serving.engine.model.encode("And on")
    running = serving.engine.submit(Prompt(token_ids=ids, max_tokens=200, adapter="first", ignore_eos=True))
    serving.wake("ada", registered("second"))  # the reply under way keeps the first
    serving.wake("ada", registered("first"))
    assert len(running.wait().token_ids) == 200
    until = time.monotonic() + 10
    while "second" in serving.engine.model.adapters and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)  # as long as the first would have been looked at again, several times
    assert serving.engine.model.adapters == {"first"}
    assert serving.engine.submit(Prompt(token_ids=ids, max_tokens=1, adapter=serving.of("ada"))).wait().token_ids


def promoted(serving: Serving, store: Store, tmp_path: Path, *, at_once: bool) -> list[tuple[bool, str]]:
    """What somebody sees who looks all the time, while a night ends: whether it has, and then who serves."""
    night = journal.begin(store, owner="ada", date="2026-11-29", asked=True, at=AT)
    for phase in PHASES:
        night = journal.move(store, night, phase, at=AT)
    third = tmp_path / "made"
    made.adapter(third, {(1, "gate_proj"): (64, 128)}, rank=2, seed=7)
    seen: list[tuple[bool, str]] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            ended = journal.find(store, night.id, owner="ada").phase == "ended"
            seen.append((ended, serving.of("ada")))

    looking = threading.Thread(target=look)
    looking.start()
    time.sleep(0.05)
    promote = partial(serving.registry.promote, third, night, [], base="tiny", at=AT)
    quick = serving.engine.model.adopt

    def adopt(folder: Path, id: str) -> None:
        time.sleep(0.3)  # as long as a real adapter takes
        quick(folder, id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.engine.model, "adopt", adopt)
        if at_once:
            with serving.changing() as ready:
                serving.wake("ada", promote(ready=ready))
        else:
            serving.wake("ada", promote())
    time.sleep(0.05)
    over.set()
    looking.join()
    return seen


def test_whoever_sees_that_a_night_has_ended_is_answered_by_what_it_made(
    serving: Serving, store: Store, tmp_path: Path
) -> None:
    seen = promoted(serving, store, tmp_path, at_once=True)
    assert (False, "first") in seen, "what served went on serving"
    after = {who for ended, who in seen if ended}
    assert len(after) == 1 and "first" not in after


def test_else_there_would_be_a_while_in_which_the_old_one_answers(
    serving: Serving, store: Store, tmp_path: Path
) -> None:
    assert (True, "first") in promoted(serving, store, tmp_path, at_once=False)


def test_what_came_to_nothing_is_let_go_and_who_served_goes_on(serving: Serving) -> None:
    with pytest.raises(OSError), serving.changing() as ready:
        ready("second")
        raise OSError("no room")
    until = time.monotonic() + 10
    while "second" in serving.engine.model.adapters and time.monotonic() < until:
        time.sleep(0.02)
    assert serving.engine.model.adapters == {"first"} and serving.of("ada") == "first"


def test_who_was_let_go_between_the_look_and_the_line_is_replaced_by_who_serves(
    awake: Awake, serving: Serving, store: Store
) -> None:
    looks: list[str] = []

    def of(owner: str) -> str:
        looks.append(serving.of(owner))
        if len(looks) == 1:  # right after it was looked who serves
            serving.wake(owner, registered("second"))
            while "first" in serving.engine.model.adapters:
                time.sleep(0.01)
        return looks[-1]

    talked = replace(awake, engine=serving.engine, serving=of)
    said = TurnRequest(owner="ada", messages=(Message(role="user", content="Hello."),), max_tokens=3)
    assert take_turn(talked, said).adapter == "second"
    assert looks[0] == "first"


def test_an_adapter_that_was_asked_for_by_name_is_not_replaced(awake: Awake, serving: Serving) -> None:
    talked = replace(awake, engine=serving.engine, serving=serving.of)
    said = TurnRequest(owner="ada", messages=(Message(role="user", content="Hello."),), max_tokens=3, adapter="third")
    with pytest.raises(AdapterRefused):
        take_turn(talked, said)
    assert take_turn(talked, replace(said, adapter=BASE)).adapter == BASE
