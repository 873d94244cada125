"""Adapters in serving: what training made is what serving says, in any company, and broken files are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.adapters import CONFIG, WEIGHTS
from models.causal_lm import CausalLM
from models.engine import Engine
from models.errors import AdapterRefused
from models.generation import Prompt
from models.language import BASE, Chunk, Message
from models.recipe import TARGETS, Recipe
from models.sampling import Sampling
from models.trainable import Trainable
from models.training import Trainer

FACTS = [("Where do I live?", "You live in Tartu."), ("My dog?", "Your dog is called Rex.")]


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """An adapter on every linear of the tiny model that has learnt two facts."""
    recipe = Recipe(
        rank=8, alpha=16, targets=TARGETS, trained_share=1.0, epochs=150, batch=2, learning_rate=1e-2, rehearsed=0
    )
    trainer = Trainer(Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="float32"), recipe)
    trainer.train([trainer.row(q, a) for q, a in FACTS], [])
    folder = tmp_path_factory.mktemp("adapter")
    trainer.save(folder)
    return trainer, folder


@pytest.fixture
def adapted(tiny: CausalLM, trained: tuple[Trainer, Path]) -> CausalLM:
    tiny.adopt(trained[1], "night-1")
    return tiny


def last_logits(model: CausalLM, ids: list[int], adapter: str = BASE) -> torch.Tensor:
    return model.read([Chunk(token_ids=ids, state=model.new_state(), adapter=adapter)]).logits[0]


def prompt_ids(model: CausalLM, text: str) -> list[int]:
    ids = model.chat_ids([Message(role="user", content=text)])
    assert ids is not None
    return ids


def test_serving_gives_the_logits_that_peft_gives(adapted: CausalLM, trained: tuple[Trainer, Path]) -> None:
    for question, _ in FACTS:
        ids = prompt_ids(adapted, question)
        with torch.no_grad():
            expected = trained[0].peft(torch.tensor([ids])).logits[0, -1]
            with trained[0].peft.disable_adapter():
                base = trained[0].peft(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(last_logits(adapted, ids, "night-1"), expected, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(last_logits(adapted, ids), base, atol=1e-3, rtol=1e-3)
        assert not torch.allclose(expected, base, atol=0.1)


def test_sequences_with_and_without_an_adapter_share_a_step(adapted: CausalLM) -> None:
    ids = [prompt_ids(adapted, q) for q, _ in FACTS]
    names = ["night-1", BASE]
    chunks = [Chunk(token_ids=i, state=adapted.new_state(), adapter=a) for i in ids for a in names]
    together = adapted.read(chunks).logits
    for row, (i, a) in zip(together, [(i, a) for i in ids for a in names], strict=True):
        torch.testing.assert_close(row, last_logits(adapted, i, a), atol=1e-4, rtol=1e-4)


def test_the_engine_answers_with_the_adapter_asked_for(
    make_engine: Callable[..., Engine], tiny: CausalLM, trained: tuple[Trainer, Path]
) -> None:
    engine = make_engine(tiny)
    question = prompt_ids(tiny, FACTS[0][0])

    def reply(adapter: str) -> str:
        prompt = Prompt(token_ids=question, max_tokens=30, sampling=Sampling(temperature=0), adapter=adapter)
        return engine.submit(prompt).wait().text

    base = reply(BASE)
    with pytest.raises(AdapterRefused, match="no adapter"):
        reply("night-1")
    engine.adopt(trained[1], "night-1")
    assert reply("night-1") == FACTS[0][1]
    assert reply(BASE) == base  # and not from what the adapter has read
    again = engine.submit(Prompt(token_ids=question, max_tokens=2, adapter="night-1")).wait()
    assert again.timings.cached_tokens > 0
    engine.let_go("night-1")
    with pytest.raises(AdapterRefused):
        reply("night-1")
    assert reply(BASE) == base


def test_an_adapter_is_let_go_only_when_no_reply_needs_it(
    make_engine: Callable[..., Engine], tiny: CausalLM, trained: tuple[Trainer, Path]
) -> None:
    engine = make_engine(tiny)
    engine.adopt(trained[1], "night-1")
    long = Prompt(token_ids=prompt_ids(tiny, "My dog?"), max_tokens=300, adapter="night-1", ignore_eos=True)
    running = engine.submit(long)
    assert not engine.let_go("night-1")
    assert len(running.wait().token_ids) == 300
    assert engine.let_go("night-1")


def _changed(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors, config = load_file(copy / WEIGHTS), json.loads((copy / CONFIG).read_text())
    name = next(iter(tensors))
    if "tensor" in changes:
        tensors[name] = changes["tensor"](tensors[name])
    if "rename" in changes:
        tensors[changes["rename"](name)] = tensors.pop(name)
    if changes.get("drop"):
        del tensors[name]
    save_file(tensors, copy / WEIGHTS)
    (copy / CONFIG).write_text(json.dumps(config | changes.get("config", {})))
    return copy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensor": lambda t: t * float("nan")}, "finite"),
        ({"tensor": lambda t: t[:, :-1].contiguous()}, "shape"),
        ({"tensor": lambda t: t.to(torch.int32)}, "finite"),
        ({"rename": lambda n: n.replace(".0.", ".7.")}, "no linear"),
        ({"rename": lambda n: n.replace("layers", "../layers")}, "no linear"),
        ({"drop": True}, "half"),
        ({"config": {"r": 4}}, "shape"),
        ({"config": {"r": 0}}, "rank"),
        ({"config": {"use_dora": True}}, "plain LoRA"),
        ({"config": {"peft_type": "IA3"}}, "plain LoRA"),
    ],
)
def test_what_is_not_this_models_adapter_is_refused(
    tiny: CausalLM, trained: tuple[Trainer, Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(AdapterRefused, match=said):
        tiny.adopt(_changed(trained[1], tmp_path, **changes), "bad")
    assert "bad" not in tiny.adapters


@pytest.mark.parametrize("bytes_kept", [0, 7, 100, 5000])
def test_a_file_cut_short_is_refused(
    tiny: CausalLM, trained: tuple[Trainer, Path], tmp_path: Path, bytes_kept: int
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(trained[1], copy)
    whole = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(whole[:bytes_kept])
    with pytest.raises(AdapterRefused):
        tiny.adopt(copy, "bad")
    with pytest.raises(AdapterRefused):
        tiny.adopt(tmp_path / "nowhere", "bad")
