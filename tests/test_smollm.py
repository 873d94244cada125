"""What only the real default model can show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from agent.calibration import judged_in, shipped
from agent.steering import VARIABLES
from bench.server import Server
from memory.salience import Observation, Statistics, observe, score
from models.causal_lm import CausalLM
from models.generation import Prompt
from models.language import Chunk, Message
from models.sampling import Sampling
from models.weights import DEFAULT_MODEL, packaged_gguf, resolve
from settings import load
from tests.conftest import EngineFactory

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def folder() -> Path:
    location = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    assert isinstance(location, Path)
    return location


@pytest.fixture(scope="module")
def smollm(folder: Path) -> CausalLM:
    return CausalLM.load(folder, name=DEFAULT_MODEL, context_length=None)


@pytest.fixture
def client(smollm_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=smollm_server.url, timeout=120) as made:
        yield made


def test_the_converted_weights_are_the_files_own(folder: Path) -> None:
    """Rows of q and k are interleaved in GGUF; a missed permutation would show here and nowhere in the shapes."""
    import gguf
    from safetensors import safe_open

    file = packaged_gguf()
    assert file is not None
    tensors = {t.name: t for t in gguf.GGUFReader(file).tensors}

    def original(name: str) -> torch.Tensor:
        return torch.from_numpy(gguf.dequantize(tensors[name].data, tensors[name].tensor_type))

    with safe_open(folder / "model.safetensors", framework="pt") as ours:
        for layer in (0, 17, 29):
            for name, heads in (("q", 9), ("k", 3)):
                rows = original(f"blk.{layer}.attn_{name}.weight")
                straight = rows.view(heads, 32, 2, 576).transpose(1, 2).reshape(heads * 64, 576)
                torch.testing.assert_close(
                    ours.get_tensor(f"model.layers.{layer}.self_attn.{name}_proj.weight"), straight, rtol=0, atol=0
                )
            down = original(f"blk.{layer}.ffn_down.weight")
            torch.testing.assert_close(
                ours.get_tensor(f"model.layers.{layer}.mlp.down_proj.weight"), down, rtol=0, atol=0
            )


def test_every_digit_is_a_token_and_blank_space_before_it_stays_whole(smollm: CausalLM) -> None:
    """As llama.cpp reads the same file; transformers' own reading of it gives 198, 198 for the blank line."""
    assert smollm.encode("1.\n\n2") == [33, 30, 1116, 34]
    assert smollm.encode("2026") == [34, 32, 34, 38]


def test_greedy_output_is_that_of_transformers_generate(
    folder: Path, smollm: CausalLM, make_engine: EngineFactory
) -> None:
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = make_engine(smollm)
    for question in ("What is gravity?", "Write a haiku about the sea.", "List three prime numbers."):
        ids = smollm.chat_ids([Message(role="user", content=question)])
        assert ids is not None
        theirs = reference.generate(torch.tensor([ids]), max_new_tokens=48, do_sample=False)[0, len(ids) :].tolist()
        ours = engine.submit(Prompt(token_ids=ids, max_tokens=48, sampling=GREEDY)).wait().token_ids
        assert list(ours) == theirs[: len(ours)] and len(ours) in (48, len(theirs))


def test_a_second_turn_reads_only_its_new_tokens_and_says_what_a_full_reading_says(client: httpx.Client) -> None:
    for first, second in (
        ("Hi! My name is Ada and I live in Oslo.", "What is a good hobby for the winter there?"),
        ("List five fruits.", "Now list five animals, one a line."),
        ("Explain photosynthesis in two sentences.", "And now for a child."),
    ):
        session = client.post("/v1/sessions").json()["id"]
        ask = {"temperature": 0, "max_tokens": 60}
        one = client.post(f"/v1/sessions/{session}/turns", json={"content": first, **ask}).json()
        two = client.post(f"/v1/sessions/{session}/turns", json={"content": second, **ask}).json()
        assert two["timings"]["cached_tokens"] >= one["usage"]["prompt_tokens"] + one["usage"]["completion_tokens"] - 1
        assert two["timings"]["prefill_tokens"] == two["usage"]["prompt_tokens"] - two["timings"]["cached_tokens"] < 40

        # The same conversation under another system message's cache: nothing of it has been read before.
        fork = client.post(f"/v1/sessions/{session}/fork").json()["id"]
        shown = client.get(f"/v1/sessions/{fork}").json()["transcript"]
        assert [e["content"] for e in shown] == [first, one["text"], second, two["text"]]


def test_greedy_output_after_reuse_equals_one_full_prefill(smollm: CausalLM, make_engine: EngineFactory) -> None:
    engine = make_engine(smollm)
    texts = ["Tell me about the moon.", "How far away is it?", "Who was there?", "Sum it up in one line."]
    context: list[int] = []
    messages: list[Message] = []
    for text in texts:
        messages.append(Message(role="user", content=text))
        added = smollm.chat_ids(messages, after=len(messages) - 1)
        assert added is not None
        context += added
        options: dict[str, Any] = {"token_ids": tuple(context), "max_tokens": 40, "sampling": GREEDY}
        warm = engine.submit(Prompt(**options, namespace="a")).wait()
        cold = engine.submit(Prompt(**options, namespace=text)).wait()
        assert warm.token_ids == cold.token_ids and cold.timings.cached_tokens == 0
        if len(messages) > 1:
            assert warm.timings.prefill_tokens < 60
        context += warm.token_ids
        closing = smollm.closing_ids
        context += closing[1:] if context[-1] == closing[0] else closing
        messages.append(Message(role="assistant", content=warm.text))


def test_seeds_repeat_over_http(client: httpx.Client) -> None:
    def reply(seed: int) -> str:
        messages = [{"role": "user", "content": "Tell me a short story."}]
        body = {"model": DEFAULT_MODEL, "messages": messages, "temperature": 1.0, "max_tokens": 24, "seed": seed}
        return str(client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"])

    assert reply(1) == reply(1) != reply(2)


def test_the_window_is_the_models_own(client: httpx.Client) -> None:
    body = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "word " * 9000}]}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"


SNARC = json.loads((Path(__file__).parents[1] / "docs" / "snarc-vectors.json").read_text())["texts"]


def test_salience_tells_what_people_say_from_noise(smollm: CausalLM, make_engine: EngineFactory) -> None:
    """The text classes of docs/snarc-vectors.json, by the default model, as a first message each."""
    engine = make_engine(smollm)
    known = shipped(engine.model.card)
    assert known is not None, "run python -m bench.calibration --write"

    def scored(text: str) -> tuple[float, float]:
        ids = engine.model.chat_ids([Message(role="user", content=text)]) or []
        judged = judged_in(engine.model, ids, text)
        reply = engine.submit(Prompt(token_ids=ids, max_tokens=1, judged=judged, namespace=text)).wait()
        raw = observe(Observation(text=text, surprisals=reply.surprisals, similarity=0.4), strangest=known.strangest)
        salience = score(raw, Statistics.calibrated(known))
        return salience.total, salience.gate

    real = [scored(t) for t in SNARC["real"]]
    shuffled = [scored(t) for t in SNARC["shuffled"]]
    noise = [scored(t) for t in SNARC["noise"]]
    unusual = [scored(r["text"]) for r in SNARC["unusual"]]
    below = sum(s[0] < r[0] for r, s in zip(real, shuffled, strict=True)) / len(real)
    assert below >= 0.9
    fifth = float(np.percentile([total for total, _ in real], 20))
    assert sum(total < fifth for total, _ in noise) == len(noise)
    for kept in (real, unusual):
        assert sum(gate >= 0.9 for _, gate in kept) / len(kept) >= 0.95


def test_surprise_read_in_chunks_is_the_models_own_loss(smollm: CausalLM, make_engine: EngineFactory) -> None:
    """However the prefill is cut, each token's surprise is -ln P of one pass over everything before it."""
    engine = make_engine(smollm, prefill_chunk=64)
    text = "The ferry to the island leaves at noon, unless the captain has lost his keys again. " * 12
    ids = engine.model.chat_ids([Message(role="user", content=text)]) or []
    judged = range(1, len(ids))
    cut = engine.submit(Prompt(token_ids=ids, max_tokens=1, judged=judged, namespace="cut")).wait().surprisals
    state = engine.model.new_state()
    whole = engine.model.read([Chunk(token_ids=ids, state=state, judged=judged)]).surprisals[0]
    np.testing.assert_allclose(cut, whole, atol=2e-3)


def test_the_directions_that_come_with_it_are_its_own(smollm: CausalLM) -> None:
    from agent.persona import SHIPPED
    from agent.steering import REACHES, contrasts
    from models import directions
    from nights import base_digest

    pairs = contrasts(tuple(REACHES))
    name = directions.name_of(base_digest(load().settings)(), pairs)
    found = directions.kept(SHIPPED / name, tuple(pairs))
    assert found is not None, f"the contrasts or the weights changed: copy the cache's directions/{name} to {SHIPPED}"
    again = directions.find(lambda: smollm, {"pleasure": pairs["pleasure"]}, run=lambda work: work())["pleasure"]
    torch.testing.assert_close(again, found["pleasure"], rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    "name", [n if n in ("pleasure", "fatigue") else pytest.param(n, marks=pytest.mark.slow) for n in VARIABLES]
)
def test_a_variable_forced_high_is_not_what_it_is_forced_low(
    smollm: CausalLM, make_engine: EngineFactory, tmp_path: Path, name: str
) -> None:
    """bench/persona.py measures each on 180 prompts; this is on twelve of those that scales were settled on."""
    from agent.persona import Found
    from causality import Bench, measured, prompts
    from nights import base_digest

    engine = make_engine(smollm)
    found = Found(engine, tmp_path, base_digest(load().settings))
    bench = Bench(engine, found, prompts(development=True)[:12])
    high, low = (measured(name, bench.replies(bench.forced({name: value}))) for value in (1.0, -1.0))
    assert high.mean() > low.mean() + 0.2 * low.std()
