"""The mood: a reservoir that follows time, a readout that feedback teaches within limits, rest after silence."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pysqlite3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import coherence
from agent.errors import ReservoirRefused
from agent.mood import LEVELS, MOST_A_BEAT, Feeling, Mood, level, named
from agent.mood_file import packed, packed_array, unpacked, unpacked_array
from agent.persona import Persona
from agent.readout import MOST_IN_ALL
from agent.reservoir import FELT_SECONDS, POOLS, Echo, Pool
from agent.senses import SENSES, Senses, pressure, tension
from agent.steering import Steerer
from agent.temperament import VARIABLES, Temperament, resting
from bench.server import Here, Server
from causality import gauged, replayed
from models.errors import SteeringRefused
from tests.test_cli import run

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PRAISE = Senses(reward=0.9, sentiment=0.6)
BLAME = Senses(reward=-0.9, sentiment=-0.6, conflict=0.5)
ANY = st.floats(allow_nan=True, allow_infinity=True, width=64)


@pytest.fixture(scope="module")
def feeling() -> Feeling:
    return Feeling()


def lived(feeling: Feeling, events: list[Senses], *, apart: float = 45.0, mood: Mood | None = None) -> Mood:
    mood = mood or feeling.begin()
    at = mood.at or NOON
    for event in events:
        at += timedelta(seconds=apart)
        mood = feeling.feel(mood, event, at).mood
    return mood


def value(mood: Mood, name: str) -> float:
    return named(mood.values)[name]


def test_a_mood_follows_praise_and_blame_by_small_steps_and_goes_home_in_an_hour(feeling: Feeling) -> None:
    for event, sign in ((PRAISE, 1), (BLAME, -1)):
        mood, seen = feeling.begin(), []
        for _ in range(200):
            before = feeling.now(mood, (mood.at or NOON) + timedelta(seconds=45))
            mood = lived(feeling, [event], mood=mood)
            seen.append(mood)
            assert np.abs(mood.values - before.values).max() <= MOST_A_BEAT + 1e-12
        assert sign * value(mood, "pleasure") > 0.4 and sign * value(mood, "dominance") > 0.3
        assert all(np.abs(m.values).max() <= 1 for m in seen)
        assert sign * value(seen[3], "pleasure") > 0.1, "within a few turns it shows"
        home = feeling.now(mood, NOON + timedelta(seconds=200 * 45, hours=1))
        assert np.abs(home.values - feeling.rest).max() < 0.01
    nothing = named(lived(feeling, [Senses(daylight=1.0)] * 50).values)  # a placebo: nothing happens
    assert abs(nothing["pleasure"]) < 0.15 and abs(nothing["dominance"]) < 0.15, nothing
    assert nothing["fatigue"] > 0.2 and nothing["arousal"] < 0, "they tire, and bore"


def test_a_slow_heartbeat_does_not_slow_the_moods_own_clock() -> None:
    echo = Echo(len(SENSES))
    struck = echo.moved(echo.rest, PRAISE.vector(), 60)
    silent = np.zeros(len(SENSES))
    rarely = echo.moved(struck, silent, 600)
    often = struck
    for _ in range(20):
        often = echo.moved(often, silent, 600 / 20)
    distance = np.linalg.norm(struck - echo.rest)
    assert np.linalg.norm(rarely - often) < 0.05 * distance, "as far after ten minutes, however often it was looked at"
    assert np.linalg.norm(rarely - echo.rest) < 0.5 * distance
    assert FELT_SECONDS == 30


def test_the_same_state_gives_the_same_next_state_bit_for_bit_and_another_reservoir_another_digest() -> None:
    one, other = Echo(len(SENSES)), Echo(len(SENSES))
    state = one.moved(one.rest, PRAISE.vector(), 5)
    one.moved(one.rest, BLAME.vector(), 7)  # nodes hold no state between calls
    assert one.digest == other.digest and (other.moved(other.rest, PRAISE.vector(), 5) == state).all()
    assert Echo(len(SENSES), seed=1).digest != one.digest


def test_a_reservoir_that_never_forgets_is_refused() -> None:
    with pytest.raises(ReservoirRefused, match="forget"):
        Echo(len(SENSES), pools=(Pool(60, 20.0, 1.6),))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(ANY, min_size=len(SENSES), max_size=len(SENSES)), ANY), min_size=1, max_size=8))
def test_nothing_that_is_felt_leads_out_of_range(given: list[tuple[list[float], float]]) -> None:
    feeling = Feeling()
    mood, at = feeling.begin(), NOON
    for numbers, seconds in given:
        at += timedelta(seconds=max(-1e6, min(1e6, seconds)) if math.isfinite(seconds) else 0)
        felt = feeling.feel(mood, Senses(**dict(zip(SENSES, numbers, strict=True))), at)
        mood = felt.mood
        assert np.isfinite(mood.state).all() and np.abs(mood.state).max() <= 1
        assert np.isfinite(mood.values).all() and np.abs(mood.values).max() <= 1
        assert np.isfinite(mood.phases).all() and set(mood.levels) <= set(LEVELS)


def test_feedback_is_a_direction_within_limits(feeling: Feeling) -> None:
    moment = feeling.feel(lived(feeling, [Senses(novelty=0.4)] * 5), Senses(surprise=0.6), NOON + timedelta(hours=1))
    later = NOON + timedelta(hours=2)

    def felt(mood: Mood) -> np.ndarray:
        """Where the readout has the variables at that moment."""
        at_rest = feeling.begin()
        fresh = Mood(**{n: getattr(at_rest, n) for n in ("state", "phases", "values", "levels")}, learnt=mood.learnt)
        return feeling.feel(fresh, Senses(surprise=0.6), later).mood.values

    for reward in (1.0, -1.0):
        taught = feeling.rated(moment.mood, moment.moment, reward)
        assert taught.updates == 1 and np.sign(moment.moment @ taught.learnt)[0] == np.sign(reward)
    hostile = moment.mood
    for n in range(500):
        hostile = feeling.rated(hostile, moment.moment, -1.0 if n % 3 else (-1.0) ** n)
    assert np.isfinite(hostile.learnt).all() and hostile.spread is not None and np.isfinite(hostile.spread).all()
    assert np.abs(felt(hostile)).max() <= 1
    swing = np.clip(moment.moment @ hostile.learnt, -MOST_IN_ALL, MOST_IN_ALL)
    untouched = [VARIABLES.index(n) for n in ("arousal", "dominance", "curiosity", "fatigue", "focus")]
    assert np.abs(swing).max() <= MOST_IN_ALL and (swing[untouched] == 0).all()
    home = feeling.now(lived(feeling, [PRAISE] * 5, mood=hostile), later + timedelta(hours=3))
    assert np.abs(home.values - feeling.rest).max() < 0.01
    with pytest.raises(ReservoirRefused):
        feeling.rated(moment.mood, moment.moment[:-1], 1.0)


def test_a_mood_is_the_same_bits_after_it_was_put_away(feeling: Feeling) -> None:
    felt = feeling.feel(lived(feeling, [PRAISE, BLAME, PRAISE]), BLAME, NOON + timedelta(minutes=9))
    mood = feeling.rated(felt.mood, felt.moment, 0.7)
    assert mood.spread is not None
    body, spread = packed(mood, feeling.digest), packed_array(mood.spread)
    back = unpacked(body, feeling.begin(), feeling.digest, spread)
    assert packed(back, feeling.digest) == body and packed_array(back.spread) == spread  # type: ignore[arg-type]
    one, other = (feeling.feel(m, PRAISE, NOON + timedelta(hours=1)).mood for m in (mood, back))
    assert packed(one, feeling.digest) == packed(other, feeling.digest)
    assert (unpacked_array(packed_array(felt.moment)) == felt.moment).all()


def test_bytes_that_are_no_mood_of_this_reservoir_are_refused(feeling: Feeling) -> None:
    good = packed(lived(feeling, [PRAISE]), feeling.digest)
    fresh = feeling.begin()
    for body in (b"", b"\x80\x04\x95" + bytes(90), good[:-8], good.replace(feeling.digest.encode(), b"0" * 32)):
        with pytest.raises(ReservoirRefused):
            unpacked(body, fresh, feeling.digest)
    wild = Mood(state=fresh.state * np.nan, phases=fresh.phases, values=fresh.values, levels=fresh.levels)
    with pytest.raises(ReservoirRefused):
        unpacked(packed(wild, feeling.digest), fresh, feeling.digest)
    for spread in (bytes(7), bytes(8), packed_array(np.full(len(fresh.learnt) ** 2, np.inf))):
        with pytest.raises(ReservoirRefused):
            unpacked(good, fresh, feeling.digest, spread)


def test_neuroticism_lowers_pleasure_at_rest_and_raises_arousal() -> None:
    calm, nervous = (resting(Temperament(neuroticism=n)) for n in (-0.5, 0.5))
    assert nervous["pleasure"] < calm["pleasure"] and nervous["arousal"] > calm["arousal"]
    assert set(calm) == set(VARIABLES) and not any(resting(Temperament()).values())
    with pytest.raises(ValueError, match="openness"):
        Temperament(openness=1.5)
    kind = Feeling(Temperament(agreeableness=0.8))
    away = lived(kind, [BLAME] * 10)
    assert kind.rest[0] > 0.4 > value(away, "pleasure")
    assert value(kind.now(away, NOON + timedelta(days=1)), "pleasure") == pytest.approx(kind.rest[0], abs=1e-3)


def test_a_level_holds_until_the_value_is_clearly_beyond_its_border() -> None:
    assert level(0.27, 0.0) == 0.0 and level(0.31, 0.0) == 0.5 and level(0.22, 0.5) == 0.5 and level(0.19, 0.5) == 0.0
    assert level(-1.0, 0.0) == -1.0 and level(0.9, 0.5) == 1.0


def test_oscillators_fall_into_step_when_coupled_and_events_move_their_zone() -> None:
    bank = coherence.bank(len(SENSES))
    begun = coherence.beginning(bank)
    assert coherence.order(begun)[0] < 1e-9
    drive = np.clip(np.random.default_rng(1).normal(0, 1, len(SENSES)), -1, 1)
    quiet = coherence.swung(bank, np.random.default_rng(2).uniform(0, 1, len(begun)), np.zeros(len(SENSES)), 120)
    driven = coherence.swung(bank, np.random.default_rng(2).uniform(0, 1, len(begun)), drive, 120)
    assert coherence.order(quiet)[0] > coherence.order(driven)[0] + 0.2, "each listens to something else"
    assert (coherence.swung(bank, begun, drive, 1e9) == coherence.swung(bank, begun, drive, 120)).all()
    earlier = [n / 100 for n in range(100)]
    assert [coherence.zone(r, earlier, "mixed") for r in (0.1, 0.5, 0.9)] == ["scattered", "mixed", "in step"]
    assert (
        coherence.zone(0.335, earlier, "scattered") == "scattered"
        and coherence.zone(0.335, earlier, "mixed") == "mixed"
    )


def test_every_variable_follows_its_rules_and_not_the_clock() -> None:
    for name, found in replayed().items():
        assert found["deviation"] > 0.05 and found["follows"] > 0.4 and found["by the clock"] < 0.5, (name, found)


def test_coherence_moves_what_it_claims_to_move_and_its_placebo_hardly_does() -> None:
    found = gauged()
    assert found["effect"] > 0.5 and found["effect"] > 3 * found["placebo"], found


def test_a_mood_that_cannot_act_leaves_replies_alone_and_what_is_asked_for_is_refused() -> None:
    def refuses() -> Steerer:
        raise SteeringRefused("no layers to steer")

    pinned: dict[str, float] = {}
    persona = Persona(pins=lambda _: pinned, moods=lambda _: {"pleasure": 0.5}, steerer=refuses)
    values, bearing = persona.feeling("local", None)
    assert set(values.values()) == {0.0} and bearing.steering is None and bearing.end_bias == 0
    with pytest.raises(SteeringRefused):
        persona.feeling("local", {"pleasure": 0.5})
    pinned["pleasure"] = 1.0
    with pytest.raises(SteeringRefused):
        persona.feeling("local", None)


@pytest.mark.parametrize("wrong", ["temperament=openness=3", "temperament=grump=1", "exam_bars=grump=1"])
def test_a_wrong_setting_ends_the_service_with_a_sentence(tmp_path: Path, wrong: str) -> None:
    done = run("serve", "--model", "scripted", "--port", "0", "--data-dir", str(tmp_path), "--set", wrong)
    assert done.returncode == 1 and "SettingsError" in done.stderr and "terminate" not in done.stderr


def test_charge_has_its_signs_right() -> None:
    assert tension(1.0, 2.0) == tension(2.0, 2.0) == tension(math.nan, 1.0) == 0 and tension(4.0, 2.0) == 0.5
    assert pressure(failed=0, memory=0.5) == 0 and pressure(failed=1, memory=0.5) == 1
    assert 0 < pressure(failed=0, memory=0.9) < pressure(failed=0.5, memory=0.9) < 1


def test_what_is_said_and_what_is_thought_of_it_move_the_mood_and_a_restart_keeps_it(
    tiny_folder: Path, tmp_path: Path
) -> None:
    environment = {
        "SLOWWAVE_CACHE_DIR": str(tmp_path / "cache"),
        "SLOWWAVE_EMBEDDING": "none",
        "SLOWWAVE_MOOD": "true",
    }
    options = ["--set", "temperament=agreeableness=0.2"]
    server = Server(tmp_path / "data", model=str(tiny_folder), environment=environment, options=options)
    body = {"content": "What a lovely, wonderful day, I am so happy, best friend!", "max_tokens": 4}

    def persona(client: httpx.Client) -> dict[str, object]:
        return dict(client.get("/v1/persona").json())

    with server, httpx.Client(base_url=server.url, timeout=120) as client:
        begun = persona(client)["mood"]
        assert begun["values"] == begun["rest"] and not begun["trace"]  # type: ignore[index]
        turns = [
            client.post(f"/v1/sessions/{client.post('/v1/sessions', json={}).json()['id']}/turns", json=body).json()
            for _ in range(8)
        ]
        mood = persona(client)["mood"]
        assert mood["values"]["pleasure"] > 0.3 and mood["levels"]["pleasure"] == 0.5  # type: ignore[index]
        assert [e["turn"] for e in mood["trace"]] == [t["id"] for t in reversed(turns)]  # type: ignore[index]
        assert mood["trace"][0]["senses"]["sentiment"] == 1.0  # type: ignore[index]
        assert turns[-1]["persona"]["pleasure"] == 0.5, "the replies hear of it"
        for reward in (1, -1, -1):  # once a turn is heard
            answer = client.post("/v1/feedback", json={"turn": turns[0]["id"], "reward": reward})
            assert answer.status_code == 200
        taught = persona(client)["mood"]
        assert taught["taught"] == 1 and taught["trace"][0]["kind"] == "feedback"  # type: ignore[index]
        server.kill()
        server.start()
        with httpx.Client(base_url=server.url, timeout=120) as again:
            kept = persona(again)["mood"]
            assert kept["trace"] == taught["trace"] and kept["taught"] == 1  # type: ignore[index]
            assert 0 < kept["values"]["pleasure"] <= taught["values"]["pleasure"]  # type: ignore[index]


def test_a_mood_travels_bit_for_bit_to_where_there_is_none_yet(tiny_folder: Path, tmp_path: Path) -> None:
    environment = {
        "SLOWWAVE_CACHE_DIR": str(tmp_path / "cache"),
        "SLOWWAVE_EMBEDDING": "none",
        "SLOWWAVE_MOOD": "true",
    }

    def server(name: str, **more: str) -> Here:
        return Here(tmp_path / name, model=str(tiny_folder), environment=environment | more)

    def kept(name: str) -> list[tuple[bytes, bytes | None]]:
        db = pysqlite3.connect(tmp_path / name / "slowwave.db")
        rows = db.execute("SELECT body, spread FROM moods").fetchall()
        db.close()
        return [(bytes(body), spread and bytes(spread)) for body, spread in rows]

    def said(client: httpx.Client, text: str) -> tuple[str, str]:
        session = client.post("/v1/sessions", json={}).json()["id"]
        turn = client.post(f"/v1/sessions/{session}/turns", json={"content": text, "max_tokens": 4}).json()["id"]
        return session, turn

    with server("here") as here, server("there") as there, server("still", SLOWWAVE_MOOD="false") as still:
        with httpx.Client(base_url=here.url, timeout=120) as client:
            session, turn = said(client, "What a lovely, wonderful day, I am so happy, best friend!")
            client.post("/v1/feedback", json={"turn": turn, "reward": 1})
            file = client.get(f"/v1/sessions/{session}/checkpoint").content
            _, _ = said(client, "And now it is terrible, I am sad, I hate it.")
            later = client.get(f"/v1/sessions/{session}/checkpoint").content
        assert later != file, "the mood has moved, and is in it"
        octets = {"Content-Type": "application/octet-stream"}
        for url, name, expected in ((there.url, "there", 1), (still.url, "still", 0)):
            with httpx.Client(base_url=url, timeout=120) as client:
                assert client.post("/v1/checkpoints", content=file, headers=octets).status_code == 201
                assert len(kept(name)) == expected
                came = kept(name)
                assert client.post("/v1/checkpoints", content=later, headers=octets).status_code == 201
                assert kept(name) == came, "there is one already"
        with httpx.Client(base_url=there.url, timeout=120) as client:
            mood = client.get("/v1/persona").json()["mood"]
            assert mood["taught"] == 1 and mood["values"]["pleasure"] > mood["rest"]["pleasure"]
    with server("again") as again, httpx.Client(base_url=again.url, timeout=120) as client:
        assert client.post("/v1/checkpoints", content=later, headers=octets).status_code == 201
        assert kept("again") == kept("here"), "bit for bit"


def test_the_shipped_reservoir_is_what_it_says() -> None:
    echo = Echo(len(SENSES))
    for pool, (weights, inputs, bias) in zip(POOLS, echo.weights(), strict=True):
        assert weights.shape == (pool.units, pool.units) and inputs.shape == (pool.units, len(SENSES))
        assert np.abs(np.linalg.eigvals(weights)).max() == pytest.approx(pool.radius, abs=1e-6)
        assert np.abs(bias).max() <= 0.5 and 0 < np.abs(inputs).max() <= 0.5
    assert echo.digest == "415b9f1de7638d40166a792fd7680ecc", "moods that travel live in this one"
