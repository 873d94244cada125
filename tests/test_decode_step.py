"""The compiled step of decoding beside the pass that prompts are read by: the same model, in any company."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench import tiny
from models.causal_lm import CausalLM
from models.engine import Engine
from models.errors import UnsupportedModel
from models.generation import Delta, Prompt
from models.grouped_weights import KINDS, Bits, Kind, grouped, ungrouped
from models.kv_cache import KVCache
from models.language import BASE, Chunk
from models.packed_linear import packing_works
from models.sampling import Sampling
from models.steering import Steering
from models.step_layout import CLOSED, SPLIT

LAYERS, HIDDEN = 4, 128
ADAPTERS = ("low", "high", "gated", "shut", "taught", "taught above")
TEXT = [(7919 * (i + 1)) % 250 + 3 for i in range(3 * SPLIT)]


@pytest.fixture(scope="module")
def wide_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose sizes fall into blocks."""
    folder = tmp_path_factory.mktemp("wide-llama")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=HIDDEN,
        intermediate_size=192,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adopted(wide_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[CausalLM], CausalLM]:
    """Gives a model adapters: of other ranks, on other products, with gates that are open in part, and shut, and with
    codebooks, from whose layers on they act wholly on what is said by heart."""
    home = tmp_path_factory.mktemp("adapters")

    def some(first: int, *names: str) -> dict[tuple[int, str], tuple[int, int]]:
        linears = CausalLM.load(wide_folder, name="wide", device="cpu").linears
        return {(n, name): size for (n, name), size in linears.items() if n >= first and (name in names or not names)}

    folders = {
        "low": tiny.adapter(home / "low", some(0, "q_proj", "v_proj", "down_proj"), rank=3, seed=1),
        "high": tiny.adapter(home / "high", some(2, "k_proj", "o_proj", "gate_proj"), rank=40, seed=2),
        "gated": tiny.adapter(home / "gated", some(1), rank=8, seed=3, gate=(HIDDEN, 0.0)),
        "shut": tiny.adapter(home / "shut", some(2), rank=8, seed=4, gate=(HIDDEN, -40.0)),
        "taught": tiny.adapter(home / "taught", some(2), rank=8, seed=5, gate=(HIDDEN, 0.0), book=(2, TEXT[0])),
        "taught above": tiny.adapter(home / "above", some(1), rank=4, seed=6, gate=(HIDDEN, 0.0), book=(3, TEXT[0])),
    }

    def adopt(model: CausalLM) -> CausalLM:
        for id, folder in folders.items():
            model.adopt(folder, id)
        return model

    return adopt


@pytest.fixture(scope="module")
def models(wide_folder: Path, adopted: Callable[[CausalLM], CausalLM]) -> dict[str, CausalLM]:
    kinds: dict[str, dict[str, Any]] = {
        "few": {"bits": "auto"},
        "whole": {},
        "few bfloat16": {"bits": "auto", "dtype": "bfloat16"},
    }
    return {name: adopted(CausalLM.load(wide_folder, name=name, device="cpu", **how)) for name, how in kinds.items()}


def steering(seed: int) -> Steering:
    return Steering(first=1, vectors=torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(seed)))


Case = tuple[int, str, bool, bool]
"""Tokens read before, adapter, whether it is steered, and whether it says what was found."""
lengths = st.sampled_from([1, 2, 17, SPLIT - 1, SPLIT, SPLIT + 1, 2 * SPLIT + 3])
cases = st.lists(
    st.tuples(lengths, st.sampled_from((BASE, *ADAPTERS)), st.booleans(), st.booleans()), min_size=1, max_size=17
)


def begun(model: CausalLM, case: Case, seed: int) -> KVCache:
    state = model.new_state()
    model.read(
        [Chunk(token_ids=[TEXT[(seed + i) % len(TEXT)] for i in range(case[0] + 1)], state=state, adapter=case[1])]
    )
    return state


def next_of(case: Case, state: KVCache, token: int, r: int) -> Chunk:
    return Chunk(
        token_ids=[token + r],
        state=state,
        adapter=case[1],
        steering=steering(r) if case[2] else None,
        ends_at=-1,
        by_heart=case[3],
        decoded=True,
    )


def step(model: CausalLM, some: list[Case], states: list[KVCache], token: int) -> torch.Tensor:
    of = enumerate(zip(some, states, strict=True))
    return model.read([next_of(case, state, token, r) for r, (case, state) in of]).logits


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=cases, seed=st.integers(0, 100))
def test_a_step_is_the_models_own(models: dict[str, CausalLM], some: list[Case], seed: int) -> None:
    found = {}
    for name in ("few", "whole"):
        states = [begun(models[name], case, seed + r) for r, case in enumerate(some)]
        found[name] = torch.stack([step(models[name], some, states, token) for token in (5, 40)])
        assert [s.length for s in states] == [case[0] + 3 for case in some]
        found[f"{name} state"] = torch.cat([t.flatten() for s in states for t in s.views().values()])
    torch.testing.assert_close(found["few"], found["whole"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found["few state"], found["whole state"], atol=1e-3, rtol=1e-3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=cases, seed=st.integers(0, 100), name=st.sampled_from(["few", "few bfloat16"]))
def test_a_row_has_the_same_bits_alone_and_in_any_company(
    models: dict[str, CausalLM], some: list[Case], seed: int, name: str
) -> None:
    model = models[name]
    together, alone = ([begun(model, case, seed + r) for r, case in enumerate(some)] for _ in range(2))
    logits = step(model, some, together, 9)
    for r, (case, state) in enumerate(zip(some, alone, strict=True)):
        assert torch.equal(model.read([next_of(case, state, 9, r)]).logits[0], logits[r])
        mine, theirs = state.views(), together[r].views()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_threads_change_nothing(
    models: dict[str, CausalLM], wide_folder: Path, adopted: Callable[[CausalLM], CausalLM]
) -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            model = adopted(CausalLM.load(wide_folder, name=f"{n} threads", device="cpu", bits="auto"))
            torch.set_num_threads(threads)
            some = [
                (300, "gated", True, False),
                (2, BASE, False, False),
                (40, "low", False, False),
                (5, "gated", False, False),
                (9, "taught", False, True),
            ]
            for _ in range(10):  # who takes which part differs from time to time
                states = [begun(models["few"], case, r) for r, case in enumerate(some)]
                found.append(step(model, some, states, 9))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, found[0]) for one in found)


def test_a_gate_that_is_shut_on_a_row_is_shut_whoever_stands_beside_it(wide_folder: Path, tmp_path: Path) -> None:
    """Of tokens on which the gate is about at its least: some are below it, others above."""
    model = CausalLM.load(wide_folder, name="shut", device="cpu", bits="auto")
    linears = {(n, name): size for (n, name), size in model.linears.items() if n >= 2}
    model.adopt(tiny.adapter(tmp_path / "edge", linears, rank=8, seed=9, gate=(HIDDEN, math.log(CLOSED))), "edge")
    some: list[Case] = [(3, "edge", False, False)] * 16
    together, alone = ([begun(model, case, r) for r, case in enumerate(some)] for _ in range(2))
    logits = step(model, some, together, 9)
    for r, state in enumerate(alone):
        chunk = Chunk(token_ids=[9 + r], state=state, adapter="edge", decoded=True)
        assert torch.equal(model.read([chunk]).logits[0], logits[r])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_is_said_by_heart_is_acted_on_wholly_where_there_is_a_codebook(
    models: dict[str, CausalLM], adapter: str
) -> None:
    """The intervention: whether it is said by heart, with all else equal."""
    model = models["few"]
    heart, plain = (
        step(model, [(17, adapter, False, how)], [begun(model, (17, adapter, False, False), 3)], 9)
        for how in (True, False)
    )
    assert torch.equal(heart, plain) is ("taught" not in adapter)


@pytest.mark.parametrize("tokens", [65, 129, 190])
def test_a_prompt_is_read_the_same_in_company(
    make_engine: Callable[..., Engine], models: dict[str, CausalLM], tokens: int
) -> None:
    """Also where the last of its tokens is read by itself: it is no reply's."""
    engine = make_engine(models["few"])

    def reply(n: int) -> list[float]:
        sampling = Sampling(temperature=0.0, logprobs=1)
        asked = Prompt(token_ids=TEXT[:tokens], max_tokens=n, sampling=sampling, ignore_eos=True, fleeting=True)
        deltas = [d for d in engine.submit(asked) if isinstance(d, Delta)]
        return [d.choice.logprob.logprob for d in deltas if d.choice.logprob is not None]

    alone = reply(4)
    long = Prompt(token_ids=TEXT[100:110], max_tokens=200, sampling=Sampling(temperature=0.0), ignore_eos=True)
    other = engine.submit(long)
    next(iter(other))
    assert reply(4) == alone
    other.wait()


def test_a_position_beyond_the_window_is_refused(models: dict[str, CausalLM]) -> None:
    state = models["few"].new_state()
    state.reserve(1100)
    state.advance(models["few"].card.context_length)
    with pytest.raises(IndexError, match="beyond a window"):
        models["few"].read([Chunk(token_ids=[5], state=state, decoded=True)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", ["int4", "int8", "bfloat16"])
def test_fewer_bits_are_the_model_of_its_rounded_weights(wide_folder: Path, bits: Bits, dtype: str) -> None:
    if not packing_works(getattr(torch, dtype)):
        pytest.skip(f"this processor has no products of {dtype}: nothing is decoded in fewer bits beside them")
    model = AutoModelForCausalLM.from_pretrained(wide_folder, dtype=torch.float32)
    for path, linear in model.named_modules():
        if isinstance(linear, nn.Linear):
            kind: Kind = "int8" if bits == "int4" and path == "lm_head" else bits  # type: ignore[assignment]
            linear.weight.data = ungrouped(grouped(linear.weight.data, kind))
    few = CausalLM.load(wide_folder, name="few", device="cpu", bits=bits, dtype=dtype)
    assert bits in few.card.kernels and few.card.dtype == dtype
    state = few.new_state()
    few.read([Chunk(token_ids=[TEXT[0]], state=state, decoded=True)])
    ours = torch.cat([few.read([Chunk(token_ids=[t], state=state, decoded=True)]).logits for t in TEXT[1:30]])
    with torch.no_grad():
        right = model(torch.tensor([TEXT[:30]])).logits[0, 1:]
    error = float((ours - right).norm() / right.norm())
    assert error < (1e-4 if dtype == "float32" else 0.03), "keys and values are rounded, and nothing else"


def test_what_is_decoded_on_a_fork_is_not_seen_by_its_origin(models: dict[str, CausalLM]) -> None:
    model = models["few"]
    origin = begun(model, (300, BASE, False, False), 0)
    fork = origin.fork(280)
    before = {k: v.clone() for k, v in origin.views().items()}
    for token in range(5, 40):
        model.read([Chunk(token_ids=[token], state=fork, decoded=True)])
    assert fork.length == 315 and all(torch.equal(before[k], v) for k, v in origin.views().items())


def test_replies_are_the_same_alone_and_among_others_that_join_and_leave(
    make_engine: Callable[..., Engine], models: dict[str, CausalLM]
) -> None:
    engine = make_engine(models["few"])

    def prompt(n: int, most: int) -> Prompt:
        sampling = Sampling(temperature=0.0 if n % 2 else 0.9, top_p=0.9, seed=n)
        adapter = (BASE, *ADAPTERS)[n % 5]
        return Prompt(
            token_ids=TEXT[n : 2 * n + 40], max_tokens=most, sampling=sampling, adapter=adapter, ignore_eos=True
        )

    alone = [engine.submit(prompt(n, 10 + 5 * n)).wait().token_ids for n in range(12)]
    together = [g.wait().token_ids for g in [engine.submit(prompt(n, 10 + 5 * n)) for n in range(12)]]
    assert alone == together


def test_what_does_not_fall_into_blocks_is_whole_or_refused(tiny_folder: Path) -> None:
    assert "decodes" not in CausalLM.load(tiny_folder, name="tiny", device="cpu", bits="auto").card.kernels
    with pytest.raises(UnsupportedModel, match="`bits`"):
        CausalLM.load(tiny_folder, name="tiny", device="cpu", bits="int8")


def test_other_layouts_are_read_as_ever_in_the_dtype_asked_for(
    wide_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.llama.fits", lambda model: False)
    model = CausalLM.load(wide_folder, name="other", device="cpu", bits="auto", dtype="bfloat16")
    state = begun(model, (3, BASE, False, False), 0)
    assert "decodes" not in model.card.kernels
    assert all(t.dtype is torch.bfloat16 for t in state.views().values())
    assert step(model, [(3, BASE, False, False)], [state], 5).isfinite().all()


def test_each_kind_has_its_number() -> None:
    from models.step_layout import BFLOAT16, FLOAT32, INT4, INT8

    assert [KINDS[n] for n in (INT4, INT8, BFLOAT16, FLOAT32)] == ["int4", "int8", "bfloat16", "float32"]


def test_a_model_that_is_gone_leaves_no_threads(wide_folder: Path) -> None:
    model = CausalLM.load(wide_folder, name="gone", device="cpu", bits="auto")
    step(model, [(1, BASE, False, False)], [begun(model, (1, BASE, False, False), 0)], 5)
    gc.collect()  # of other tests'
    before = threading.active_count()
    helpers = torch.get_num_threads() - 1
    del model
    gc.collect()
    assert threading.active_count() == before - helpers
