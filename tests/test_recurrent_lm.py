"""A network trained here, as a session's model: its state cut back, suspended, and served by the real service."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.server import Here
from models.corpus import build, carry_vocabulary, open_corpus
from models.errors import TemplateRefused, UnsupportedModel, WeightsNotFound
from models.language import PIECE, Chunk, Message, SequenceState
from models.networks import network
from models.pretraining import Plan, Training, run, write_plan
from models.recurrent_lm import RecurrentLM, Spelling

SPEECH = (
    "KING:\nWhat say the lords, and what says the sea?\n\nLORD:\nThe sea says nothing, sir; the lords say less.\n\n"
)


def read_in_pieces(model: RecurrentLM, ids: list[int]) -> SequenceState:
    state = model.new_state()
    for at in range(0, len(ids), PIECE):
        model.read([Chunk(token_ids=ids[at : at + PIECE], state=state)])
    return state


@settings(max_examples=20, deadline=None)
@given(length=st.integers(60, 700), cut=st.integers(0, 700))
def test_a_state_cut_back_is_bit_for_bit_the_state_of_then(recurrent: RecurrentLM, length: int, cut: int) -> None:
    ids = [(7 * n * n + 3 * n) % 250 for n in range(length)]
    cut = min(cut, length)
    state = read_in_pieces(recurrent, ids)
    before = state.tensors()
    fork = state.fork(cut)
    expected = read_in_pieces(recurrent, ids[:cut]).tensors()
    for name, tensor in fork.tensors().items():
        assert torch.equal(tensor, expected[name])
    assert all(torch.equal(t, before[name]) for name, t in state.tensors().items())
    state.crop(cut)
    assert all(torch.equal(t, expected[name]) for name, t in state.tensors().items())


def test_a_state_by_way_of_tensors_goes_on_bit_for_bit(recurrent: RecurrentLM) -> None:
    state = read_in_pieces(recurrent, list(range(200)))
    again = recurrent.new_state()
    again.fill(state.tensors())
    logits = [recurrent.read([Chunk(token_ids=[9], state=s)]).logits for s in (state, again)]
    assert torch.equal(*logits)
    again.crop(70)
    assert again.length == 70
    with pytest.raises(ValueError, match="another network"):
        again.fill({**state.tensors(), "state.held": torch.zeros(1, 2, 1, 7)})
    with pytest.raises(ValueError, match="not the state"):
        again.fill({"state.read": torch.zeros(3)})


def test_the_oscillators_state_does_not_grow(recurrent: RecurrentLM) -> None:
    sizes = [read_in_pieces(recurrent, [1] * n).tensors()["state.held"].numel() for n in (1, 100, 3000)]
    assert len(set(sizes)) == 1
    state = read_in_pieces(recurrent, [1] * 10_000)
    assert len(state._marks) < 20  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "play.txt").write_text(SPEECH * 60)
    facts = build(folder / "play.txt", folder / "corpus", tokenizer=None)
    shape = {"width": 32, "layers": 1, "oscillators": 32, "harmonics": 2, "scales": [2, 32], "choirs": 2, "inner": 48}
    plan = Plan(
        kind="kssm",
        shape=shape,
        corpus={str(k): v for k, v in facts.digests.items()},
        steps=150,
        batch=8,
        context=48,
        learning_rate=8e-3,
        warmup=10,
        evaluate_every=50,
    )
    write_plan(folder / "run", plan)
    carry_vocabulary(folder / "corpus", folder / "run")
    corpus = open_corpus(folder / "corpus")
    outcome, _ = run(Training(plan, network("kssm", shape, facts.vocab_size), corpus, folder / "run"))
    assert outcome == "done"
    return folder / "run"


def test_it_is_served_streams_suspends_and_goes_on(trained_run: Path, tmp_path: Path) -> None:
    with Here(tmp_path / "data", model=str(trained_run)) as server, httpx.Client(base_url=server.url) as http:
        said = {"content": "KING:\nWhat say the lords", "max_tokens": 12, "temperature": 0}
        options = {"recall": False}
        session = http.post("/v1/sessions").json()["id"]
        first = http.post(f"/v1/sessions/{session}/turns", json={**said, "slowwave": options}, timeout=60).json()
        assert first["text"]
        assert first["usage"]["completion_tokens"] > 0
        fork = http.post(f"/v1/sessions/{session}/fork").json()["id"]
        done = http.post(f"/v1/sessions/{session}/suspend", timeout=60).json()
        assert done["state"] == "suspended"
        assert http.post(f"/v1/sessions/{session}/resume", timeout=60).json()["how"] == "exact"
        more = {"content": "LORD:\nThe sea", "max_tokens": 16, "temperature": 0, "slowwave": options}
        resumed, forked = (http.post(f"/v1/sessions/{s}/turns", json=more, timeout=60).json() for s in (session, fork))
        assert resumed["text"] == forked["text"]
        assert resumed["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
        with http.stream(
            "POST",
            "/v1/chat/completions",
            json={
                "model": trained_run.name,
                "messages": [{"role": "user", "content": "KING:\nWhat"}],
                "stream": True,
                "max_tokens": 5,
                "slowwave": options,
            },
        ) as stream:
            events = [line for line in stream.iter_lines() if line.startswith("data: ")]
        assert events[-1] == "data: [DONE]"
        assert sum("content" in json.loads(e[6:])["choices"][0]["delta"] for e in events[:-1] if "choices" in e) >= 1
        strange = http.post(f"/v1/sessions/{fork}/turns", json={"content": "naïve?", "slowwave": options}, timeout=60)
        assert strange.status_code == 400
        assert "ï" in strange.json()["error"]["message"]
        night = http.post("/v1/sleep", timeout=60)
        assert night.status_code in (202, 400, 409), night.text


def test_what_cannot_be_served_says_why(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFound, match="what its tokens mean"):
        Spelling(tmp_path)
    spelling = Spelling(trained_run)
    with pytest.raises(TemplateRefused, match="does not know '€'"):
        spelling.encode("5€"[1:])
    (tmp_path / "vocabulary.json").write_text(
        json.dumps({"vocabulary": "characters", "symbols": ["a"], "separator": None})
    )
    with pytest.raises(UnsupportedModel, match="end of a line"):
        _ = Spelling(tmp_path).closing
    model = RecurrentLM.load(trained_run, name="run", context_length=None)
    ids = model.chat_ids((Message(role="user", content="KING:"),))
    assert ids is not None
    assert model.decode(ids) == "KING:\n\n"
