"""The persona: variables that act on replies and on nothing else, pinned by an owner or named in a request."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from agent.errors import UnknownVariable
from agent.manner import MANNERS
from agent.persona import Found, Persona
from agent.steering import ENDINGS, REACHES, VARIABLES, Reach, Steerer, contrasts
from bench.server import Here, Server
from causality import effect, interval, spearman
from models.causal_lm import CausalLM
from models.sampling import Sampling, choose
from tests.conftest import EngineFactory
from tests.test_cli import run

SAID = {"content": "How are you this morning?", "max_tokens": 300, "temperature": 1, "seed": 3, "ignore_eos": True}


@pytest.fixture(scope="module")
def client(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("persona")
    environment = {
        "SLOWWAVE_CACHE_DIR": str(folder / "cache"),
        "SLOWWAVE_EMBEDDING": "none",
    }
    server = Server(folder / "data", model=str(tiny_folder), environment=environment)
    with server, httpx.Client(base_url=server.url, timeout=120) as made:
        yield made


def said(client: httpx.Client, **more: object) -> dict[str, object]:
    session = client.post("/v1/sessions", json={}).json()["id"]
    answer = client.post(f"/v1/sessions/{session}/turns", json={**SAID, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_pin_acts_from_the_next_reply_on_until_it_is_let_go(client: httpx.Client) -> None:
    name = next(iter(REACHES))
    rest = said(client)
    assert rest["persona"] == dict.fromkeys(VARIABLES, 0.0)
    held = client.put("/v1/persona", json={"variables": {name: 1.0}}).json()
    assert held["pinned"] == {name: 1.0} and held["variables"][name] == 1.0
    moved = said(client)
    assert moved["text"] != rest["text"] and moved["persona"] == {**dict.fromkeys(VARIABLES, 0.0), name: 1.0}
    assert said(client, slowwave={"persona": False})["text"] == rest["text"]
    assert said(client, slowwave={"persona": {}})["text"] == rest["text"]
    assert client.get("/v1/persona").json() == held
    assert client.put("/v1/persona", json={"variables": {name: None}}).json()["pinned"] == {}
    assert said(client)["text"] == rest["text"]


def test_a_request_names_its_own_and_high_is_not_low(client: httpx.Client) -> None:
    name = next(iter(REACHES))
    high, low = (said(client, slowwave={"persona": {name: value}}) for value in (1.0, -1.0))
    assert len({str(r["text"]) for r in (high, low, said(client))}) == 3
    body = {"model": client.get("/v1/models").json()["data"][0]["id"], "temperature": 1, "seed": 3, "max_tokens": 300,
            "messages": [{"role": "user", "content": SAID["content"]}], "ignore_eos": True}  # fmt: skip
    chat = client.post("/v1/chat/completions", json={**body, "slowwave": {"persona": {name: 1.0}}}).json()
    assert chat["choices"][0]["message"]["content"] == high["text"]
    assert chat["slowwave"]["persona"][name] == 1.0


def test_the_tired_say_less(client: httpx.Client) -> None:
    def lengths(value: float) -> list[int]:
        asked = {"ignore_eos": False, "slowwave": {"persona": {"fatigue": value}}}
        return [said(client, seed=seed, **asked)["usage"]["completion_tokens"] for seed in range(6)]  # type: ignore

    assert sum(lengths(1.0)) < sum(lengths(0.0)) < sum(lengths(-1.0))


@pytest.mark.parametrize(
    "variables", [{"grumpiness": 0.5}, {next(iter(REACHES)): 1.5}, {next(iter(REACHES)): "high"}, {"": 0.1}]
)
def test_what_there_is_not_is_refused_and_nothing_changes(client: httpx.Client, variables: dict[str, object]) -> None:
    before = client.get("/v1/persona").json()
    assert client.put("/v1/persona", json={"variables": variables}).status_code == 400
    session = client.post("/v1/sessions", json={}).json()["id"]
    answer = client.post(f"/v1/sessions/{session}/turns", json={**SAID, "slowwave": {"persona": variables}})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("slowwave.persona")
    assert client.get("/v1/persona").json() == before
    assert client.get(f"/v1/sessions/{session}").json()["transcript"] == []


def test_a_reply_suspended_under_a_mood_goes_on_in_it(client: httpx.Client) -> None:
    name = next(iter(REACHES))
    ours = {"persona": {name: -1.0}}
    whole = said(client, slowwave=ours)
    session = client.post("/v1/sessions", json={}).json()["id"]
    with client.stream(
        "POST", f"/v1/sessions/{session}/turns", json={**SAID, "stream": True, "slowwave": ours}
    ) as stream:
        for seen, line in enumerate(stream.iter_lines()):
            if seen == 20:
                client.post(f"/v1/sessions/{session}/suspend")
            assert "event: error" not in line
    begun = client.get(f"/v1/sessions/{session}").json()["transcript"][-1]
    assert begun["status"] == "interrupted" and len(begun["content"]) < len(str(whole["text"]))
    done = client.post(f"/v1/sessions/{session}/resume", json={"continue": True}).json()
    assert done["reply"]["persona"][name] == -1.0
    assert done["reply"]["text"] == whole["text"]


def test_branches_of_one_reply_go_on_under_other_personas(client: httpx.Client) -> None:
    name = next(iter(REACHES))
    session = client.post("/v1/sessions", json={}).json()["id"]
    with client.stream("POST", f"/v1/sessions/{session}/turns", json={**SAID, "stream": True}) as stream:
        for seen, _ in enumerate(stream.iter_lines()):
            if seen == 20:
                client.post(f"/v1/sessions/{session}/suspend")
    begun = client.get(f"/v1/sessions/{session}").json()["transcript"][-1]["content"]
    told = {}
    for value in (None, 0.0, 1.0, -1.0):
        branch = client.post(f"/v1/sessions/{session}/fork", json={}).json()["id"]
        body = {} if value is None else {"persona": {name: value}}
        told[value] = client.post(f"/v1/sessions/{branch}/resume", json=body).json()["reply"]
    assert told[None]["text"] == told[0.0]["text"] and told[1.0]["persona"][name] == 1.0
    assert len({told[value]["text"] for value in (0.0, 1.0, -1.0)}) == 3
    assert all(reply["text"].startswith(begun.rstrip("\ufffd")) for reply in told.values())
    wrong = client.post(f"/v1/sessions/{session}/resume", json={"persona": {"no such": 0.5}})
    assert wrong.status_code == 400


def test_by_command(client: httpx.Client) -> None:
    url, name = str(client.base_url), next(iter(REACHES))
    shown = run("persona", "pin", f"{name}=0.5", "--url", url)
    assert shown.returncode == 0 and "+0.50" in shown.stdout and "pinned" in shown.stdout, shown.stderr
    assert json.loads(run("persona", "show", "--json", "--url", url).stdout)["pinned"] == {name: 0.5}
    assert json.loads(run("persona", "release", "--json", "--url", url).stdout)["pinned"] == {}
    assert run("persona", "pin", name, "--url", url).returncode == 2
    refused = run("persona", "pin", f"{name}=3", "--url", url)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr


def test_the_suite_runs_on_any_model_and_says_what_does_not_act(tiny_folder: Path, tmp_path: Path) -> None:
    """A random model has no manner to change."""
    here = {"SLOWWAVE_CACHE_DIR": str(tmp_path)}
    asked = ("persona", "test", "--variable", "pleasure")
    done = run(*asked, "--model", str(tiny_folder), "--prompts", "20", "--json", **here)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["prompts"] == 20 and list(told["variables"]) == ["pleasure"]
    found = told["variables"]["pleasure"]
    assert not found["kept"] and list(found["levels"]) == ["-1.0", "-0.5", "0.0", "0.5", "1.0"]
    assert {"deviation", "follows", "by the clock"} == set(told["replayed"]["pleasure"])
    with Here(tmp_path / "data", model=str(tiny_folder), environment=here) as server:
        shown = httpx.get(f"{server.url}/v1/persona").json()["causality"]
    assert list(shown) == ["pleasure"] and not shown["pleasure"]["kept"] and shown["pleasure"]["prompts"] == 20
    assert shown["pleasure"]["effect"] == found["effect"] and [shown["pleasure"][n] for n in ("low", "high")] == list(
        found["interval"]
    )
    for wrong in ((*asked, "--model", "scripted"), ("persona", "test", "--variable", "grumpiness")):
        refused = run(*wrong)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr


def test_a_model_that_cannot_be_steered_has_no_variables(scripted_server: Server) -> None:
    with httpx.Client(base_url=scripted_server.url, timeout=30) as client:
        assert client.get("/v1/persona").json() == {"variables": {}, "pinned": {}, "mood": None, "causality": {}}
        assert client.put("/v1/persona", json={"variables": {"warmth": 0.1}}).status_code == 400


def test_directions_are_found_once(tiny: CausalLM, make_engine: EngineFactory, tmp_path: Path) -> None:
    engine = make_engine(tiny)
    first = Found(engine, tmp_path, lambda: "weights")()
    (file,) = tmp_path.iterdir()
    stamp = file.stat().st_mtime_ns
    again = Found(engine, tmp_path, lambda: "weights")()
    assert file.stat().st_mtime_ns == stamp and len(list(tmp_path.iterdir())) == 1
    assert all(torch.equal(first.directions[n], again.directions[n]) for n in REACHES)
    Found(engine, tmp_path, lambda: "other weights")()
    assert len(list(tmp_path.iterdir())) == 2


def test_values_come_from_the_request_else_from_pins_else_rest() -> None:
    steerer = Steerer(directions={name: torch.ones(4, 8) for name in REACHES})
    persona = Persona(pins=lambda owner: {"pleasure": 0.25} if owner == "me" else {}, steerer=lambda: steerer)
    rest = dict.fromkeys(VARIABLES, 0.0)
    assert persona.values("me") == {**rest, "pleasure": 0.25} and persona.values("you") == rest
    assert persona.values("me", {}) == rest and persona.values("me", {"pleasure": -1.0}) == {**rest, "pleasure": -1.0}
    still = persona.bearing(rest)
    assert still.steering is None and still.end_bias == 0
    for wrong in ({"mood": 0.0}, {"pleasure": math.nan}, {"pleasure": 1.01}, {"dominance": 0.0}):
        with pytest.raises(UnknownVariable):
            persona.values("me", wrong)
    with pytest.raises(UnknownVariable):
        Persona().values("me", {"pleasure": 0.0})


def test_half_the_value_is_half_the_vector() -> None:
    reaches = {"warmth": Reach(begin=0.25, end=0.5, scale=2.0)}
    steerer = Steerer(directions={"warmth": torch.arange(32.0).view(8, 4)}, reaches=reaches)
    whole, half = steerer({"warmth": 1.0}).steering, steerer({"warmth": 0.5}).steering
    assert whole is not None and half is not None and (whole.first, len(whole.vectors)) == (2, 2)
    torch.testing.assert_close(whole.vectors, 2 * torch.arange(8.0, 16.0).view(2, 4))
    torch.testing.assert_close(half.vectors, whole.vectors / 2)


def test_together_they_go_no_further_than_one_alone() -> None:
    reaches = {name: Reach(begin=0.25, end=0.5, scale=1.0) for name in ("warmth", "pleasure")}
    directions = {"warmth": torch.eye(4)[0].repeat(8, 1), "pleasure": torch.eye(4)[1].repeat(8, 1)}
    steerer = Steerer(directions=directions, reaches=reaches)
    both = steerer({"warmth": 1.0, "pleasure": -1.0}).steering
    little = steerer({"warmth": 0.5, "pleasure": 0.5}).steering
    assert both is not None and little is not None
    torch.testing.assert_close(both.vectors.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(little.vectors[:, :2], torch.full((2, 2), 0.5))


def test_the_tired_end_sooner_and_at_rest_nothing_changes() -> None:
    steerer = Steerer(directions={name: torch.ones(30, 8) for name in REACHES})
    tired, awake = (steerer({"fatigue": value}) for value in (1.0, -0.5))
    assert tired.steering is None and tired.end_bias == ENDINGS["fatigue"] and awake.end_bias == -tired.end_bias / 2
    logits, ends = torch.tensor([0.0, 2.0, 1.0]), {2}
    chosen = [
        choose(logits, Sampling(temperature=0, end_bias=bias), prompt=[], reply=[], ends=ends).token_id
        for bias in (0.0, tired.end_bias, -3.0)
    ]
    assert chosen == [1, 2, 1] and logits.tolist() == [0.0, 2.0, 1.0]


def test_every_variable_has_contrasts_and_its_measure_tells_them_apart() -> None:
    pairs = contrasts()
    assert set(pairs) == set(REACHES) and set(VARIABLES) == {*REACHES, *ENDINGS} == set(MANNERS)
    for name in REACHES:
        assert len(pairs[name]) >= 16
        high = torch.tensor([MANNERS[name](c.high) for c in pairs[name]])
        low = torch.tensor([MANNERS[name](c.low) for c in pairs[name]])
        assert high.mean() > low.mean() + low.std(), name


def test_the_figures_of_the_benchmark_are_right() -> None:
    import numpy as np

    high, low = np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0, 3.0])
    assert effect(high, low) == pytest.approx(2.0) and effect(low, low) == 0.0
    assert interval(high + 0.0, low)[0] <= 2.0 <= interval(high, low)[1]
    assert spearman([1, 2, 3, 4, 5], [2, 3, 5, 8, 9]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0) and spearman([1, 2, 3], [4, 4, 4]) == 0.0
