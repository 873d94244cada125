"""Who gives memory back without being asked, and what is let go when the disk's share is used up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st

from agent.keeping import HALF_LIFE, Keeper, Kept, let_go, worth
from agent.turn import TurnRequest, take_turn
from bench.server import Server
from models.language import Message
from models.sampling import Sampling
from service import open_runtime
from settings import Settings
from tests.test_going_on import call, session_of

KEPT = st.builds(
    Kept,
    session=st.uuids().map(str),
    owner=st.just("local"),
    nbytes=st.integers(1, 10**9),
    tokens=st.integers(0, 10**5),
    age=st.timedeltas(timedelta(0), timedelta(days=300)),
)


@given(st.lists(KEPT, max_size=12), st.integers(0, 3 * 10**9))
def test_what_is_let_go_is_worth_least_and_no_more_than_needed(kept: list[Kept], budget: int) -> None:
    gone = let_go(kept, budget=budget)
    stay = [k for k in kept if k not in gone]
    assert sum(k.nbytes for k in stay) <= budget
    assert all(worth(g) <= worth(s) for g in gone for s in stay)
    if gone:
        assert sum(k.nbytes for k in stay) + gone[-1].nbytes > budget, "the last of them had to go"


def test_worth_falls_with_age_and_with_bytes() -> None:
    one = Kept(session="a", owner="o", nbytes=1000, tokens=10, age=timedelta(0))
    assert worth(replace(one, age=HALF_LIFE)) == worth(one) / 2
    assert worth(replace(one, nbytes=2000)) == worth(one) / 2


def test_who_is_quiet_is_suspended_and_the_budget_is_kept(tmp_path: Path) -> None:
    settings = Settings(model="scripted", data_dir=tmp_path / "data", embedding="none", sleep_at="none")
    with open_runtime(settings) as runtime:
        runtime.engine.wait_until_loaded(30)
        awake, checkpoints = runtime.service.awake, runtime.service.checkpoints

        def say(n: int) -> str:
            message = Message(role="user", content=f"{n} " + "something long to read " * 20)
            asked = TurnRequest(owner="local", messages=(message,), max_tokens=8, sampling=Sampling(temperature=0.0))
            return take_turn(awake, asked).session

        sessions = [say(n) for n in range(3)]
        later = awake.now() + timedelta(minutes=31)
        keeper = Keeper(checkpoints=checkpoints, leases=awake.leases, idle=timedelta(minutes=30), budget=1 << 30)
        keeper.look()
        assert not any(checkpoints.suspended(s, owner="local") for s in sessions), "nobody has been quiet for long"
        keeper = replace(keeper, checkpoints=replace(checkpoints, now=lambda: later))
        with awake.leases.hold(sessions[0]):
            keeper.look()
        assert [checkpoints.suspended(s, owner="local") for s in sessions] == [False, True, True], "one was talking"
        assert runtime.engine.stats().states_at_rest == 1
        size = checkpoints.path(sessions[1], "local").stat().st_size
        replace(keeper, idle=timedelta(0), budget=size).look()
        assert [checkpoints.suspended(s, owner="local") for s in sessions] == [False, False, True], "the older one went"
        assert [e.event for e in runtime.service.checkpoint_log(sessions[1])] == ["suspended", "evicted"]


def test_a_shutdown_puts_all_away_and_the_next_start_brings_them_back(tiny_folder: Path, tmp_path: Path) -> None:
    with Server(tmp_path / "data", model=str(tiny_folder)) as server:
        body = {"content": "A long story. " * 20, "max_tokens": 8, "temperature": 0, "slowwave": {"recall": False}}
        with httpx.Client(base_url=server.url, timeout=60) as http:
            session = session_of(http)
            call(http, "POST", f"/v1/sessions/{session}/turns", json=body)
        server.stop()
        server.start()
        with httpx.Client(base_url=server.url, timeout=60) as http:
            assert call(http, "GET", f"/v1/sessions/{session}")["state"] == "suspended"
            reply = call(http, "POST", f"/v1/sessions/{session}/turns", json={**body, "content": "And?"})
            assert reply["timings"]["cached_tokens"] > 100
            other = session_of(http)
            call(http, "POST", f"/v1/sessions/{other}/turns", json=body)
            assert (
                call(http, "POST", f"/v1/sessions/{other}/turns", json={**body, "content": "And?"})["text"]
                == reply["text"]
            )
