"""Other architectures with random weights: served exactly as by themselves, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoTokenizer, PretrainedConfig

from models import llama
from models.causal_lm import CausalLM
from models.errors import UnsupportedModel
from models.language import Chunk

SMALL: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,
    "pad_token_id": None,
}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SMALL),
    "llama, long rope": transformers.LlamaConfig(
        **SMALL,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "llama, with biases": transformers.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "qwen2": transformers.Qwen2Config(**SMALL),
    "qwen3": transformers.Qwen3Config(**SMALL),
    "mistral, sliding": transformers.MistralConfig(**SMALL, sliding_window=8),
    "gemma": transformers.GemmaConfig(**SMALL),
    "gpt2": transformers.GPT2Config(
        vocab_size=259, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2
    ),
}


def build(config: PretrainedConfig) -> Any:
    torch.manual_seed(7)
    own = copy.deepcopy(config)  # a model that is served marks its configuration
    return transformers.AutoModelForCausalLM.from_config(own, dtype=torch.float32).eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_the_architectures_own_at_every_position(name: str, tiny_folder: Any) -> None:
    ids = [(31 * n) % 250 + 3 for n in range(60)]
    own = build(CONFIGS[name])(torch.tensor([ids]), use_cache=False).logits[0].detach()
    model = CausalLM(build(CONFIGS[name]), AutoTokenizer.from_pretrained(tiny_folder), name=name)
    state, at = model.new_state(), 0
    for step in (17, 1, 1, 20, 1, 13, 7):
        at += step
        ours = model.read([Chunk(token_ids=ids[at - step : at], state=state)]).logits[0]
        torch.testing.assert_close(ours, own[at - 1], rtol=1e-3, atol=1e-3)


def test_positions_that_depend_on_the_row_are_refused(tiny_folder: Any) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = transformers.LlamaConfig(**SMALL, rope_parameters=rope)
    with pytest.raises(UnsupportedModel, match="dynamic"):
        CausalLM(build(config), AutoTokenizer.from_pretrained(tiny_folder), name="dynamic")


def test_the_window_is_what_the_memory_holds(tiny_folder: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    config = transformers.LlamaConfig(**{**SMALL, "max_position_embeddings": 4096})
    a_token = 2 * 2 * 2 * 16 * 4
    model = CausalLM(build(config), tokenizer, name="x", state_bytes=300 * a_token)
    assert model.card.context_length == 300
    with pytest.raises(UnsupportedModel, match="kv_cache_mib"):
        CausalLM(build(config), tokenizer, name="x", state_bytes=100 * a_token)


def test_only_plain_llamas_get_the_fused_forward_pass() -> None:
    assert {name for name in CONFIGS if llama.fits(build(CONFIGS[name]))} == {"llama", "llama, long rope"}


@pytest.mark.parametrize(
    "config",
    [
        transformers.MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=8),
        transformers.Gemma2Config(**SMALL, query_pre_attn_scalar=16, attn_logit_softcapping=5.0),
    ],
    ids=["recurrent", "soft-capped"],
)
def test_what_cannot_be_served_exactly_is_refused(config: PretrainedConfig, tiny_folder: Any) -> None:
    with pytest.raises(UnsupportedModel):
        CausalLM(build(config), AutoTokenizer.from_pretrained(tiny_folder), name="refused")
