"""Waking with another adapter while somebody is answered: whoever serves is there, whoever is asked answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.turn import Awake, TurnRequest, take_turn
from bench import tiny as made
from consolidation.registry import Registered, Registry
from memory.store import Store
from models.causal_lm import CausalLM
from models.engine import Engine
from models.errors import AdapterRefused
from models.generation import Prompt
from models.language import BASE, Message
from nights import Serving

AT = datetime(2026, 11, 29, tzinfo=UTC)


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
