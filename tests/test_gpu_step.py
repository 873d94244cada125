"""The step of decoding on a GPU: its kernels, interpreted, where there is none; the whole where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench import tiny
from models.causal_lm import CausalLM
from models.decode_step import Row
from models.gpu_step import MOST_ROWS, GpuStep
from models.kv_cache import KVCache
from models.language import BASE, Chunk
from models.llama import LlamaForward, _acting_on_all, _rotary, sizes_of
from models.ragged import Ragged
from models.steering import Steering, adding

LAYERS, HIDDEN = 2, 96
LENGTHS = (1, 200, 70)
"""Held before: less than a block of keys, several, and with a rest."""


def folder_of(home: Path, tiny_folder: Path) -> Path:
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(home)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=HIDDEN,
        intermediate_size=160,
        num_hidden_layers=LAYERS,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(home)
    return home


def prompts() -> list[list[int]]:
    chance = torch.Generator().manual_seed(1)
    return [torch.randint(3, 259, (length,), generator=chance).tolist() for length in LENGTHS]


STEERING = Steering(first=1, vectors=torch.linspace(-1, 1, HIDDEN).view(1, HIDDEN))


@torch.inference_mode()
def by_interpreter(folder: Path, adapter: Path) -> None:
    """Run in a process that Triton knows to interpret: the step beside the pass that reads, token by token."""
    model = CausalLM.load(folder, name="tiny", device="cpu")
    model.adopt(adapter, "taught")
    forward = model._forward
    assert isinstance(forward, LlamaForward)
    own = LlamaForCausalLM.from_pretrained(folder)
    step = forward.gpu_step_of(sizes_of(own), *_rotary(own.model, 16, 512))
    for name, steering in ((BASE, None), ("taught", STEERING)):
        states = [model.new_state() for _ in LENGTHS]
        model.read([Chunk(token_ids=p, state=s, adapter=name) for p, s in zip(prompts(), states, strict=True)])
        forks = [state.fork(state.length) for state in states]
        steered = [steering, None, steering]
        acting = None if name == BASE else _acting_on_all(name, model._adapters[name])
        for token in (7, 11):
            beside = Ragged(
                [
                    Chunk(
                        token_ids=[token + n],
                        state=state,
                        adapter=name,
                        steering=steered[n],
                        ends_at=-1,
                        by_heart=n > 0,
                    )
                    for n, state in enumerate(states)
                ],
                torch.device("cpu"),
                lambda: None,
            )
            adapted = [(model._adapters[id], rows) for id, rows in beside.adapted]
            expected, _ = forward(beside, adapted, adding(beside.steered))
            beside.finish()
            for fork in forks:
                fork.reserve(fork.length + 1)
            rows = [
                Row(token=token + n, state=s, steering=steered[n], place=n, by_heart=n > 0) for n, s in enumerate(forks)
            ]
            added = step._steering(rows, 4)
            made = step.run(step._given(rows, 4), added, acting=acting)[: len(rows)]
            for fork in forks:
                fork.advance(1)
            assert (added is not None) is (steering is not None)
            assert torch.allclose(made, expected, atol=1e-4 * float(expected.abs().max())), (name, token)
        for state, fork in zip(states, forks, strict=True):
            for one, other in zip(state.views().values(), fork.views().values(), strict=True):
                assert torch.allclose(one, other, atol=1e-4)
    sys.stdout.write("same\n")


def test_its_kernels_give_what_reading_gives(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    folder = folder_of(tmp_path / "model", tiny_folder)
    linears = CausalLM.load(folder, name="tiny", device="cpu").linears
    adapter = tiny.adapter(
        tmp_path / "adapter",
        {k: v for k, v in linears.items() if k[0] >= 1},
        rank=4,
        seed=1,
        gate=(HIDDEN, 0.0),
        book=(1, 0),
    )
    script = (
        "import sys, pathlib; from tests.test_gpu_step import by_interpreter as f; f(*map(pathlib.Path, sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(adapter)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "same\n", done.stderr[-2000:]


def test_rows_are_padded_to_numbers_that_a_graph_is_kept_for() -> None:
    from models.gpu_step import _ROWS, _power_of_two, _splits

    assert [_power_of_two(n) for n in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]
    assert all(_splits(n) & (_splits(n) - 1) == 0 and 1 <= _splits(n) <= 32 for n in range(1, 600))
    assert max(_ROWS) == MOST_ROWS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")
def test_a_step_in_one_launch_gives_what_reading_gives(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", tiny_folder)
    model = CausalLM.load(folder, name="tiny", device="cuda", dtype="float32")
    assert "one launch" in model.card.kernels
    adapter = tiny.adapter(tmp_path / "adapter", model.linears, rank=4, seed=1)
    model.adopt(adapter, "taught")
    names = (BASE, "taught", BASE)
    states: list[KVCache] = [model.new_state() for _ in LENGTHS]
    forks: list[KVCache] = [model.new_state() for _ in LENGTHS]
    for some in (states, forks):
        model.read([Chunk(token_ids=p, state=s, adapter=a) for p, s, a in zip(prompts(), some, names, strict=True)])
    for token in (7, 11, 13):
        for steering in (None, STEERING):
            read, decoded = (
                model.read(
                    [
                        Chunk(token_ids=[token + n], state=s, adapter=names[n], steering=steering, decoded=decoded)
                        for n, s in enumerate(some)
                    ]
                ).logits.cpu()
                for some, decoded in ((states, False), (forks, True))
            )
            assert torch.allclose(read, decoded, atol=2e-3 * float(read.abs().max()))
    assert isinstance(model._gpu_step, GpuStep)
