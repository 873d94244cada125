"""The heart: why it beats, what it does at a beat, and who notices when it stops."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from agent import alarms, pacing
from agent.breath import Part
from agent.governor import Arena, Wish
from agent.heartbeat import STUCK_SECONDS, Beat, Chore, Heart, Watch, at_once
from agent.pulse import STOPPED, Lag, Pulse
from agent.signals import Signals
from agent.vitals import Vitals
from bench.server import Server
from memory import beats
from memory.beats import GaugeAlarm
from memory.store import Store

BEGAN = datetime(2026, 11, 28, tzinfo=UTC)


class Simulated:
    """A machine whose time is ours."""

    def __init__(self) -> None:
        self.time, self.load, self.running, self.cost = 0.0, 0.2, 0, 0.0
        self.written = 0
        self.free = 0.5

    def sense(self) -> Vitals:
        return Vitals(
            at=self.time,
            cpu=self.load,
            running=self.running,
            disk_free=self.free,
            written_bytes=self.written,
            memory=0.3,
        )

    def heart(self, *, arena: Arena | None = None, wish: float = 1.0, chores: tuple[Chore, ...] = ()) -> Heart:
        self.beaten: list[Beat] = []
        spent = iter(range(1 << 30))
        return Heart(
            sense=self.sense,
            arena=arena or Arena(),
            now=lambda: BEGAN + timedelta(seconds=self.time),
            wish=lambda: Wish(factor=wish),
            chores=chores,
            clock=lambda: self.time,
            cpu_clock=lambda: next(spent) * self.cost,
            hand=at_once,
            chance=random.Random(1),
            on_beat=self.beaten.append,
        )

    def run(self, heart: Heart, seconds: int) -> None:
        for _ in range(seconds):
            self.time += 1.0
            heart.look()


def counting(done: list[float], machine: Simulated) -> Callable[[], str]:
    def do() -> str:
        done.append(machine.time)
        return "done"

    return do


def test_every_beat_says_who_decided_and_why() -> None:
    machine = Simulated()
    heart = machine.heart()
    machine.run(heart, 600)
    machine.load = 0.99
    machine.run(heart, 1200)
    assert {b.decided_by for b in machine.beaten} >= {"wish", "machine"}
    assert all(b.reason and b.interval >= 2 for b in machine.beaten)
    assert [b.n for b in machine.beaten] == list(range(1, len(machine.beaten) + 1))
    gaps = [b.at - a.at for a, b in zip(machine.beaten, machine.beaten[1:], strict=False)]
    assert gaps[-1] > 5 * gaps[0]  # under load it slowed down


def test_a_chore_is_done_no_oftener_than_it_says_and_waits_while_somebody_is_answered() -> None:
    machine, light, heavy = Simulated(), list[float](), list[float]()
    chores = (
        Chore(name="light", act="write", every=100.0, do=counting(light, machine)),
        Chore(name="heavy", act="write", every=0.0, do=counting(heavy, machine), heavy=True),
    )
    heart = machine.heart(chores=chores)
    machine.running = 1
    machine.run(heart, 600)
    assert heavy == [] and len(light) >= 4
    assert all(b - a >= 100 for a, b in itertools.pairwise(light))
    assert {d.outcome for b in machine.beaten for d in b.did if d.name == "heavy"} == {"waiting"}
    machine.running = 0
    machine.run(heart, 120)
    assert heavy


def test_a_chore_that_would_break_a_constraint_is_refused_and_the_log_says_which() -> None:
    machine, done = Simulated(), list[float]()
    machine.free = 0.05
    heart = machine.heart(chores=(Chore(name="tidy", act="write", every=0.0, do=counting(done, machine)),))
    machine.run(heart, 60)
    (refused,) = machine.beaten[0].did
    assert not done and refused.outcome == "refused" and "share of the disk that is free" in refused.detail
    machine.free = 0.5
    machine.written = 2**31  # somebody filled the day's allowance
    machine.run(heart, 60)
    assert not done and "bytes written in a day" in machine.beaten[-1].did[0].detail


def test_a_chore_that_fails_stops_nothing() -> None:
    machine = Simulated()

    def fail() -> str:
        raise RuntimeError("no")

    heart = machine.heart(chores=(Chore(name="bad", act="beat", every=0.0, do=fail, metrics=lambda: {}),))
    machine.run(heart, 200)
    assert len(machine.beaten) >= 4
    assert machine.beaten[-1].did[0].outcome == "failed" and "RuntimeError: no" in machine.beaten[-1].did[0].detail


def test_an_eager_agent_stays_within_its_processor_time() -> None:
    machine = Simulated()
    machine.cost = 3.0  # two readings of the clock a beat, so 3 seconds each
    heart = machine.heart(arena=Arena(cpu_seconds_an_hour=60), wish=0.0)
    machine.run(heart, 2 * 3600)
    assert 30 <= len(machine.beaten) <= 44
    assert any("processor seconds" in b.reason for b in machine.beaten)


def test_a_hand_that_hangs_is_given_up() -> None:
    machine = Simulated()
    heart = machine.heart()
    heart._hand = lambda work: None  # it never comes back
    machine.run(heart, 60)
    assert machine.beaten == []
    heart._hand = at_once
    machine.run(heart, int(STUCK_SECONDS) + 60)
    assert machine.beaten


def test_a_hand_that_was_given_up_does_no_more_when_it_wakes() -> None:
    machine, done, held = Simulated(), list[float](), list[Callable[[], None]]()
    heart = machine.heart(chores=(Chore(name="tidy", act="write", every=0.0, do=counting(done, machine)),))
    heart.deeds.edits.add(0.0)
    heart._hand = held.append
    machine.run(heart, int(STUCK_SECONDS) + 60)
    assert len(held) == 2 and not done
    held[0]()
    assert not done and heart.working  # the second is at it
    held[1]()
    assert len(done) == 1 and not heart.working
    assert heart.deeds.metrics(machine.time)["edits of itself in a day"] == 1  # giving up forgets no day


def test_a_look_that_was_overtaken_changes_nothing() -> None:
    machine = Simulated()
    heart = machine.heart()
    machine.time = 1000.0
    assert not heart.look(lambda: False) and heart.gauges().vitals is None
    assert heart.look()


def test_a_look_that_fails_is_followed_by_the_next() -> None:
    failing = iter((True, True, False))

    def sense() -> Vitals:
        if next(failing, False):
            raise OSError("no gauge")
        return Vitals(at=time.monotonic(), cpu=0.1)

    watch = Watch(Heart(sense=sense, arena=Arena(resting=2.0), now=lambda: datetime.now(UTC)))
    watch.start()
    try:
        wait_for(lambda: watch.heart.vitals is not None)
        assert watch.restarts == 0
    finally:
        watch.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_a_heart_that_stops_is_noticed_within_two_beats_and_beats_again(how: str) -> None:
    hang, broken = threading.Event(), threading.Event()

    def sense() -> Vitals:
        if broken.is_set():
            broken.clear()
            if how == "killed":
                raise SystemExit
            hang.wait(30)
        return Vitals(at=time.monotonic(), cpu=0.1)

    heart = Heart(sense=sense, arena=Arena(resting=2.0), now=lambda: datetime.now(UTC), wish=lambda: Wish(factor=0.5))
    watch = Watch(heart)
    watch.start()
    try:
        wait_for(lambda: heart.gauges().beats >= 1)
        broken.set()
        began = time.monotonic()
        wait_for(lambda: not watch.check(), every=0.5)
        noticed = time.monotonic() - began
        assert noticed <= 2 * 2.0 + 1.0, noticed
        before = heart.gauges().beats
        wait_for(lambda: heart.gauges().beats > before)
        assert watch.gauges().restarts == 1 and watch.check()
    finally:
        hang.set()
        watch.stop()


def wait_for(holds: Callable[[], bool], *, seconds: float = 20.0, every: float = 0.05) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(every)


def test_the_switch_stops_it_also_across_restarts(tmp_path: Path) -> None:
    def pulse() -> Pulse:
        machine = Simulated()
        found = Pulse(
            watch=Watch(machine.heart()),
            store=Store(tmp_path / "db"),
            data_dir=tmp_path,
            lag=Lag(),
            arena=Arena(),
            signals=Signals(),
        )
        machine.run(found.watch.heart, 200)
        before = len(machine.beaten)
        found.obey()
        machine.run(found.watch.heart, 2000)
        found.store.close()
        assert (len(machine.beaten) == before) is (tmp_path / STOPPED).exists()
        return found

    pulse().switch(stopped=True)
    assert pulse().gauges().status == "stopped"
    (tmp_path / STOPPED).unlink()
    assert pulse().gauges().status != "stopped"


def test_the_agents_alarms_only_ever_get_tighter(tmp_path: Path) -> None:
    store = Store(tmp_path / "db")
    beats.set_alarm(store, GaugeAlarm(gauge="memory", bound=0.9, seconds=60, owner="operator"), at=BEGAN)
    loose = GaugeAlarm(gauge="memory", bound=0.95, seconds=600, owner="agent")
    assert beats.set_alarm(store, loose, at=BEGAN) == GaugeAlarm(gauge="memory", bound=0.9, seconds=60, owner="agent")
    tight = GaugeAlarm(gauge="memory", bound=0.7, seconds=90, owner="agent")
    assert beats.set_alarm(store, tight, at=BEGAN).bound == 0.7
    assert beats.set_alarm(store, loose, at=BEGAN).bound == 0.7
    assert {a.owner: a.bound for a in beats.alarms(store)} == {"operator": 0.9, "agent": 0.7}
    store.close()


def test_a_loop_that_says_nothing_is_late() -> None:
    assert Lag().now(5.0) == 0.0
    assert Lag(seconds=0.1, said_at=5.0).now(5.3) == 0.1
    assert Lag(seconds=0.1, said_at=5.0).now(9.5) == pytest.approx(4.0)


def test_alarms_are_heard_where_no_beat_comes(tmp_path: Path) -> None:
    machine, store = Simulated(), Store(tmp_path / "db")
    found = Pulse(
        watch=Watch(machine.heart(arena=Arena(stopped=True)), clock=lambda: machine.time),
        store=store,
        data_dir=tmp_path,
        lag=Lag(),
        arena=Arena(stopped=True),
        signals=Signals(),
    )
    beats.set_alarm(store, GaugeAlarm(gauge="processor", bound=0.5, seconds=10, owner="operator"), at=BEGAN)
    machine.load = 0.9
    for _ in range(15):
        machine.run(found.watch.heart, 1)
        found.listen(machine.time)
    assert not machine.beaten and found.sounding["processor"] >= 10
    machine.load = 0.1
    machine.run(found.watch.heart, 1)
    found.listen(machine.time)
    assert found.sounding == {}
    store.close()


def test_an_alarm_sounds_once_its_gauge_has_been_above_for_so_long() -> None:
    (alarm,) = [GaugeAlarm(gauge="memory", bound=0.8, seconds=10, owner="operator")]
    since = alarms.above([alarm], {"memory": 0.9}, {}, 100.0)
    assert alarms.sounding([alarm], since, 105.0) == {}
    since = alarms.above([alarm], {"memory": 0.9}, since, 110.0)
    assert alarms.sounding([alarm], since, 110.0) == {"memory": 10.0}
    assert alarms.above([alarm], {"memory": 0.5}, since, 111.0) == {}


def test_choices_carry_the_pace_so_far_and_no_further() -> None:
    factor = 1.0
    for _ in range(20):
        factor = pacing.moved(factor, "faster")
    assert factor == 1 / pacing.FURTHEST
    for _ in range(40):
        factor = pacing.moved(factor, "slower")
    assert factor == pacing.FURTHEST
    assert pacing.moved(1.0, "same") == 1.0


def test_moods_quicken_and_slow_the_wish() -> None:
    assert pacing.wished(1.0, {"arousal": 0.8}).factor < 1 < pacing.wished(1.0, {"fatigue": 0.8}).factor
    assert pacing.wished(1.0, {}).why == "at rest"
    assert "arousal +0.8" in pacing.wished(1.25, {"arousal": 0.8}).why


def test_gauges_are_put_into_the_words_that_were_measured() -> None:
    for load in (0.0, 0.3, 0.7, 2.0):
        for fatigue in (-1.0, 0.2, 0.5, 1.0):
            for waiting in (0, 5, 100):
                shown = pacing.shown(load=load, fatigue=fatigue, waiting=waiting)
                assert all(value in pacing.LEVELS[name] for name, value in shown.items())


def test_over_http_it_is_seen_stopped_and_started(scripted_server: Server) -> None:
    with httpx.Client(base_url=scripted_server.url, timeout=30) as client:
        wait_for(lambda: bool(client.get("/v1/heartbeat").json()["vitals"]), seconds=60)
        found = client.get("/v1/heartbeat").json()
        assert found["status"] == "beating" and found["reason"] and found["decided_by"] in ("wish", "machine", "arena")
        assert len(found["conduct"]) == 18 and 0 <= found["gauges"]["memory"] < 1
        stopped = client.put("/v1/heartbeat", json={"stopped": True}).json()
        assert stopped["status"] == "stopped" and stopped["interval_seconds"] is None
        assert stopped["reason"] == "it is switched off"
        assert client.put("/v1/heartbeat", json={"stopped": False}).json()["status"] == "beating"
        alarm = {"gauge": "memory", "bound": 0.99, "seconds": 5}
        assert client.put("/v1/heartbeat", json={"alarm": alarm}).json()["alarms"][0]["bound"] == 0.99
        refused = client.put("/v1/heartbeat", json={"alarm": {**alarm, "gauge": "courage"}})
        assert refused.status_code == 400 and "memory" in refused.json()["error"]["message"]


def test_over_http_its_looks_and_replies_are_heard_as_they_happen(scripted_server: Server) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
    heard: dict[str, dict[str, float]] = {}
    with (
        httpx.Client(base_url=scripted_server.url, timeout=30) as client,
        client.stream("GET", "/v1/heartbeat/events") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines) == ": ping"
        assert httpx.post(f"{scripted_server.url}/v1/chat/completions", json=body, timeout=30).status_code == 200
        name = ""
        while set(heard) < {"look", "reply"}:
            line = next(lines)
            name = line.removeprefix("event: ") if line.startswith("event: ") else name
            if line.startswith("data: "):
                heard[name] = json.loads(line.removeprefix("data: "))
    assert heard["reply"]["tokens"] == 4 and heard["reply"]["seconds"] >= heard["reply"]["first_token"] > 0
    assert 0 < heard["look"]["memory"] < 1 and heard["look"]["ago_seconds"] < 5


def test_of_several_keys_only_the_operators_works_the_switch(tmp_path: Path) -> None:
    environment = {"SLOWWAVE_API_KEYS": "first-key-1,second-key-2", "SLOWWAVE_API_KEY": "operators-key"}
    with (
        Server(tmp_path / "data", model="scripted", environment=environment) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        for key, status in (("first-key-1", 403), ("second-key-2", 403), ("operators-key", 200)):
            headers = {"Authorization": f"Bearer {key}"}
            assert client.put("/v1/heartbeat", json={"stopped": False}, headers=headers).status_code == status
            made = client.post("/v1/backups", headers=headers).status_code
            assert made == (201 if status == 200 else 403)
            assert client.get("/v1/heartbeat", headers=headers).status_code == 200
            with client.stream("GET", "/v1/heartbeat/events", headers=headers) as heard:
                assert heard.status_code == status


def _slow(machine: Simulated, name: str, done: list[str], seconds: float) -> Callable[[], str]:
    def do() -> str:
        machine.time += seconds
        done.append(name)
        return "done"

    return do


def test_a_part_of_a_breath_that_is_used_up_begins_nothing_more_and_nobody_starves() -> None:
    def breathed(resting: float) -> list[tuple[str, ...]]:
        machine, done = Simulated(), list[str]()
        names = ("a", "b", "c", "d")
        chores = tuple(Chore(name=n, act="write", every=20.0, do=_slow(machine, n, done, 8.0)) for n in names)
        machine.run(machine.heart(arena=Arena(resting=resting, greatest=900.0), chores=chores), 2000)
        assert set(done) == set(names)
        assert max(map(done.count, names)) - min(map(done.count, names)) <= 1, "they take turns"
        return [tuple(d.name for d in b.did if d.outcome == "done") for b in machine.beaten]

    short, long = breathed(30.0), breathed(400.0)
    assert all(len(did) <= 1 for did in short), "a sixth of 30 s is over after 8"
    assert any(len(did) == 4 for did in long), "a sixth of 400 s holds them all"


def test_a_beat_looks_then_decides_then_does_then_puts_away() -> None:
    machine, done = Simulated(), list[str]()
    parts: tuple[Part, ...] = ("pause", "exhale", "inhale", "hold")
    chores = tuple(Chore(name=p, act="write", part=p, every=0.0, do=_slow(machine, p, done, 0.1)) for p in parts)
    machine.run(machine.heart(chores=chores), 60)
    assert done[:4] == ["inhale", "hold", "exhale", "pause"]


def test_a_message_that_comes_during_a_breath_goes_first() -> None:
    machine, done = Simulated(), list[str]()
    heart = machine.heart()

    def first() -> str:
        machine.running = 1
        heart.vitals = machine.sense()  # as the next look sees it
        return "done"

    heart.chores = (
        Chore(name="first", act="write", part="inhale", every=0.0, do=first, heavy=True),
        Chore(name="second", act="write", every=0.0, do=_slow(machine, "second", done, 1.0), heavy=True),
    )
    machine.run(heart, 60)
    assert done == []
    assert [d.outcome for d in machine.beaten[0].did] == ["done", "waiting"]
