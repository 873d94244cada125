"""A converted model is read again without transformers, gives the same to the last bit, and is proved each time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from models import known_llama
from models.causal_lm import CausalLM
from models.known_llama import GROUPS, PROOF, KnownLlama
from models.language import Chunk, Message
from models.vocabulary import kept, to_keep, vocabulary_of
from models.weights import MANIFEST

CHAT = [
    Message(role="system", content="Be kind."),
    Message(role="user", content="What <|im_end|> is  a\n\nleap year? é 你好"),
    Message(role="assistant", content="One of 366 days."),
    Message(role="user", content="And 2,100?"),
]


@pytest.fixture
def converted(tiny_folder: Path, tmp_path: Path) -> Path:
    """A Llama with sizes that few bits fit, in a folder as conversion leaves it."""
    folder = tmp_path / "converted"
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / MANIFEST).write_text(json.dumps({"sha256": "0" * 64}))
    return folder


def load(folder: Path) -> CausalLM:
    return CausalLM.load(folder, name="m", device="cpu", bits="auto")


def said(model: CausalLM) -> torch.Tensor:
    """Logits after a prompt, then after a decoded token."""
    state = model.new_state()
    ids = model.chat_ids(CHAT)
    assert ids
    read = model.read([Chunk(token_ids=ids, state=state)]).logits
    return torch.cat([read, model.read([Chunk(token_ids=[7], state=state, decoded=True)]).logits])


def test_the_second_start_gives_the_same_to_the_last_bit(converted: Path) -> None:
    first = load(converted)
    assert (converted / PROOF).is_file() and (converted / GROUPS).is_file()
    known = known_llama.known(converted)
    assert known is not None and known.proof.groups
    second = load(converted)
    assert second.card == first.card
    assert torch.equal(said(first), said(second))
    for text in ("", " a  b\n\n<|im_start|> é 你好 123", "\ud7ff\u200b"):
        assert first.encode(text) == second.encode(text)
    ids = first.chat_ids(CHAT)
    assert ids is not None and ids == second.chat_ids(CHAT)
    assert first.decode(ids) == second.decode(ids)
    assert [first.token_bytes(i) for i in range(259)] == [second.token_bytes(i) for i in range(259)]
    assert (first.closing_ids, first.linears) == (second.closing_ids, second.linears)


def test_groups_are_kept_whoever_came_first(converted: Path) -> None:
    CausalLM.load(converted, name="m", device="cpu", bits="whole")
    assert (converted / PROOF).is_file() and not (converted / GROUPS).exists()
    first = said(load(converted))
    assert (converted / GROUPS).is_file() and torch.equal(first, said(load(converted)))


def test_transformers_is_not_imported_for_it(converted: Path) -> None:
    load(converted)
    script = (
        "import sys; from pathlib import Path; from models.causal_lm import CausalLM;"
        "CausalLM.load(Path(sys.argv[1]), name='m', device='cpu', bits='auto'); print('transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(converted)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr[-1000:]


@pytest.mark.parametrize("broken", ["own logits", "weights", "groups", "cut off", "no JSON", "version"])
def test_what_is_kept_is_proved_again(converted: Path, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = said(load(converted))
    proof = converted / PROOF
    about = {"version": "1", "vocabulary": known_about(proof)["vocabulary"]}
    if broken == "own logits":
        save_file({"own": load_file(proof)["own"] + 1.0}, proof, metadata=about)
    elif broken == "weights":
        weights = load_file(converted / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
        save_file(weights, converted / "model.safetensors", metadata={"format": "pt"})
    elif broken == "groups":
        told = known_about(converted / GROUPS)
        groups = {n: t * 2 if n.endswith("0.codes") else t for n, t in load_file(converted / GROUPS).items()}
        save_file(groups, converted / GROUPS, metadata=told)
    elif broken == "cut off":
        proof.write_bytes(proof.read_bytes()[:100])
    elif broken == "no JSON":
        save_file(load_file(proof), proof, metadata=about | {"vocabulary": "{"})
    else:
        save_file(load_file(proof), proof, metadata=about | {"version": "0"})
    again = load(converted)
    if broken == "weights":
        assert not torch.equal(said(again), expected)
        assert torch.equal(said(again), said(load(converted))), "and it is known anew"
    else:
        assert torch.allclose(said(again), expected, atol=1e-3 * float(expected.abs().max()))


def known_about(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as opened:
        return dict(opened.metadata())


@pytest.mark.parametrize(
    "changed",
    [{"attention_bias": True}, {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, {"dtype": "bfloat16"}],
)
def test_only_a_plain_llama_is_known(converted: Path, changed: dict[str, object]) -> None:
    config = json.loads((converted / "config.json").read_text())
    (converted / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(ValueError, match="plain Llama"):
        KnownLlama(converted)


def test_a_folder_that_was_not_converted_is_left_as_it_is(tiny_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "own"))
    before = sorted(folder.iterdir())
    load(folder)
    assert sorted(folder.iterdir()) == before


def test_a_template_that_needs_more_is_not_kept(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    vocabulary = vocabulary_of(tokenizer, frozenset({2}))
    told = to_keep(tokenizer, vocabulary, tiny_folder)
    assert told is not None and kept(told, tiny_folder).digest == vocabulary.digest
    tokenizer.chat_template = "{% set ns = namespace(n=0) %}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert to_keep(tokenizer, vocabulary_of(tokenizer, frozenset({2})), tiny_folder) is None
