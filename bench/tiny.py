"""A Llama of a few layers with random weights and a byte-level tokenizer, and random adapters, saved as by others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from models.vocabulary import CHATML


def save(folder: Path, *, layers: int = 2) -> Path:
    """Write the model's files."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate([*specials, *alphabet])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(20261121)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.6,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def adapter(
    folder: Path,
    linears: Mapping[tuple[int, str], tuple[int, int]],
    *,
    rank: int,
    seed: int,
    gate: tuple[int, float] | None = None,
    book: tuple[int, int] | None = None,
) -> Path:
    """Write a random LoRA on these linears (layer and name: in, out), of bfloat16's numbers.

    `gate`: the width of what enters its layer, the lowest, and what its last product begins from; None: it has none.
    `book`: the layer of a random codebook, and the token after which it is asked.
    """
    import torch
    from safetensors.torch import save_file

    from models import codebook as codebooks
    from models import gate as gates

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {}
    for (n, name), (into, out) in linears.items():
        part = "self_attn" if name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        at = f"base_model.model.model.layers.{n}.{part}.{name}"
        for half, shape in (("A", (rank, into)), ("B", (out, rank))):
            tensors[f"{at}.lora_{half}.weight"] = (torch.randn(shape) * 0.2).bfloat16().float()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "bias": "none", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if gate is not None:
        made = gates.Gate(min(n for n, _ in linears), torch.randn(gate[0]), torch.rand(gate[0]) + 0.5, width=24)
        torch.nn.init.constant_(made.out.bias, gate[1])
        gates.save([made], folder)
        if book is not None:
            size = gate[0]
            known = codebooks.Codebook(*book, torch.zeros(size), torch.ones(size), entries=codebooks.FIRST + 2)
            torch.nn.init.normal_(known.keys)
            torch.nn.init.normal_(known.values, std=0.2)
            known.save(folder)
    return folder
