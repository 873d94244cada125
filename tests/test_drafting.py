"""Replies drafted ahead: faster where they repeat their context, and the same to the last token everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from models.causal_lm import CausalLM
from models.drafting import MOST, Lookup, Pace
from models.engine import Engine, EngineLimits
from models.generation import Prompt, Reply
from models.language import BASE, Chunk
from models.sampling import Sampling
from models.steering import Steering
from tests.test_decode_step import HIDDEN, LAYERS, TEXT, adopted, wide_folder

__all__ = ["adopted", "wide_folder"]

tokens = st.lists(st.integers(0, 4), max_size=60)


@given(tokens, st.integers(0, 60), st.integers(1, 5))
def test_what_is_proposed_followed_the_same_tokens_last(said: list[int], cut: int, most: int) -> None:
    lookup = Lookup(said[:cut])
    lookup.extend(said[cut:])
    proposed = lookup.propose(most)
    assert proposed == Lookup(said).propose(most) and len(lookup) == len(said)
    for length in (3, 2):
        if len(said) < length:
            continue
        before = [i for i in range(length, len(said)) if said[i - length : i] == said[-length:]]
        if before:
            assert proposed == said[before[-1] : before[-1] + most]
            return
    assert proposed == []


def test_drafts_are_given_up_where_they_are_wrong_and_taken_up_again() -> None:
    pace = Pace()
    assert pace.many(4) > 0
    for _ in range(60):
        pace.learn(4, 0)
    assert [pace.many(4) for _ in range(200)].count(1) == 4, "one in 48 steps is tried"
    for _ in range(60):
        pace.learn(4, 4)
    assert pace.many(4) == MOST == 3 and pace.many(2) == 2 and pace.many(0) == 0 == pace.many(-3)


@pytest.fixture(scope="module")
def model(wide_folder: Path, adopted: Any) -> CausalLM:
    made: CausalLM = adopted(CausalLM.load(wide_folder, name="wide", device="cpu", bits="auto"))
    return made


@pytest.fixture(scope="module")
def looping(wide_folder: Path, adopted: Any, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    """A model that mostly says what comes next on one of many circles of seven tokens, and now and then not."""
    folder = tmp_path_factory.mktemp("looping")
    AutoTokenizer.from_pretrained(wide_folder).save_pretrained(folder)
    config = AutoConfig.from_pretrained(wide_folder)
    config.tie_word_embeddings = False
    torch.manual_seed(1)
    own = LlamaForCausalLM(config)
    with torch.no_grad():
        embedding = own.model.embed_tokens.weight
        embedding.copy_(torch.nn.functional.normalize(torch.randn_like(embedding), dim=-1))
        after = [i - i % 7 + (i + 1) % 7 for i in range(252)] + list(range(252, 259))
        own.lm_head.weight[after] = 4 * embedding
        for layer in own.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.012)
            layer.mlp.down_proj.weight.mul_(0.012)
    own.save_pretrained(folder)
    made: CausalLM = adopted(CausalLM.load(folder, name="looping", device="cpu", bits="auto"))
    return made


@pytest.mark.parametrize("adapter", [BASE, "low", "gated"])
@pytest.mark.parametrize("held", [1, 250, 255, 300])
def test_rows_of_one_sequence_see_each_other_to_the_last_bit(model: CausalLM, held: int, adapter: str) -> None:
    one, all_ = model.new_state(), model.new_state()
    for state in (one, all_):
        model.read([Chunk(token_ids=TEXT[:held], state=state, adapter=adapter)])
    steering = Steering(first=1, vectors=torch.linspace(-1, 1, (LAYERS - 1) * HIDDEN).view(LAYERS - 1, HIDDEN))
    ids = [7, 9, 11, 13, 15, 17, 19]
    in_turn = [
        model.read([Chunk(token_ids=[i], state=one, decoded=True, adapter=adapter, steering=steering)]).logits[0]
        for i in ids
    ]
    at_once = model.read(
        [
            Chunk(token_ids=[i], state=all_, decoded=True, adapter=adapter, steering=steering, ahead=n)
            for n, i in enumerate(ids)
        ]
    ).logits
    assert torch.equal(torch.stack(in_turn), at_once)
    assert one.length == all_.length == held + len(ids)
    assert all(torch.equal(a, b) for a, b in zip(one.views().values(), all_.views().values(), strict=True))


def replies(model: CausalLM, drafts: int, **how: Any) -> tuple[list[Reply], list[Any], tuple[int, int], int]:
    """Some replies one after the other: what came, choice by choice; how many were drafted and right; what rests."""
    engine = Engine(lambda: model, EngineLimits(drafts=drafts))
    engine.wait_until_loaded()
    try:
        made, told = [], []
        for n, start in enumerate(([5, 6, 7] * 12, TEXT[:40], [9] * 8, TEXT[100:130] * 2)):
            prompt = Prompt(token_ids=start, max_tokens=60, namespace=f"n{n}", **how)
            generation = engine.submit(prompt)
            told.append([delta.choice for delta in generation])
            made.append(generation.wait())
        stats = engine.stats()
        return made, told, (stats.drafted, stats.drafted_right), stats.state_bytes
    finally:
        engine.close()


@pytest.mark.parametrize(
    "how",
    [
        {"sampling": Sampling(temperature=0.0)},
        {"sampling": Sampling(temperature=0.0), "adapter": "gated"},
        {"sampling": Sampling(temperature=0.3, seed=3, logprobs=2)},
        {"sampling": Sampling(temperature=1.0, top_p=0.9, seed=4)},
        {"sampling": Sampling(temperature=0.0, frequency_penalty=0.3, repetition_penalty=1.1)},
        {"sampling": Sampling(temperature=0.0), "ignore_eos": True},
        {"sampling": Sampling(temperature=0.0), "stop": ("e", "a")},
    ],
    ids=["greedy", "adapter", "cool", "warm", "penalties", "past the end", "stop texts"],
)
def test_drafts_change_no_token(looping: CausalLM, how: dict[str, Any]) -> None:
    plain, told, none, rest = replies(looping, 0, **how)
    drafted, retold, counts, resting = replies(looping, 3, **how)
    assert none == (0, 0)
    for one, other in zip(plain, drafted, strict=True):
        assert (one.token_ids, one.kept_ids, one.text, one.finish_reason) == (
            other.token_ids,
            other.kept_ids,
            other.text,
            other.finish_reason,
        )
    assert told == retold
    assert rest == resting, "what has been read rests, and no draft"
    assert counts[0] > counts[1] > 0, "some were right, and some wrong"


def test_a_reply_is_stopped_in_the_middle_of_drafts(looping: CausalLM) -> None:
    engine = Engine(lambda: looping, EngineLimits(drafts=3))
    engine.wait_until_loaded()
    try:
        prompt = Prompt(
            token_ids=[5, 6, 7] * 12, max_tokens=400, sampling=Sampling(temperature=0.0), ignore_eos=True, namespace="n"
        )
        generation = engine.submit(prompt)
        for seen, _ in enumerate(generation):
            if seen == 40:
                generation.stop()
        reply = generation.wait()
        again = engine.submit(prompt).wait()
        assert reply.finish_reason == "cancelled" and again.token_ids[: len(reply.token_ids)] == reply.token_ids
    finally:
        engine.close()
