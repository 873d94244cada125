"""How fast a GPU decodes, beside transformers with a static cache and compiled, in one run.

    python -m bench.gpu --json [--parameters 1.1e9 3e9] [--batches 1 64] [--context 512] [--repeats 3]

Llamas of random weights in bfloat16. Ours: `CausalLM.read` of one token of each sequence, the likeliest next one chosen
on the CPU from logits that were copied there, as the engine does; the peer: `generate` with `cache_implementation` =
"static", which compiles its step, greedy, first token and prompt not counted. In turn, medians. The share of bandwidth
counts weights, and keys and values held, once a step; it is of what `torch.sum` reads in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from models.causal_lm import CausalLM
from models.language import Chunk
from models.weights import resolve
from settings import Settings

_TOKENS = 128
_SHAPES = {1.1e9: (2048, 5632, 22, 32, 4), 3e9: (3072, 8192, 28, 24, 8), 1e8: (576, 1536, 30, 9, 3)}
"""Hidden, inner, layers, heads, heads of keys; by parameters, about."""


def measure(parameters: float, batch: int, *, context: int, repeats: int, compiled: bool) -> dict[str, Any]:
    """One model at one number of sequences."""
    peer = _model(parameters, context)
    weights = sum(p.numel() for p in peer.parameters()) - peer.model.embed_tokens.weight.numel()
    tokenizer = AutoTokenizer.from_pretrained(resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location)
    ours = CausalLM(_model(parameters, context), tokenizer, name="random")
    held = ours.card.state_bytes_per_token * batch * (context + _TOKENS // 2)
    ways: dict[str, Callable[[], float]] = {"ours": lambda: _ours(ours, batch, context)}
    if compiled:
        ways["transformers"] = lambda: _peer(peer, batch, context)
    for way in ways.values():
        way()  # compiles, records
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    speed = {name: statistics.median(of) for name, of in found.items()}
    bandwidth = _bandwidth()
    read = 2 * weights + held
    return {
        "parameters": sum(p.numel() for p in peer.parameters()),
        "batch": batch,
        "context": context,
        "kernels": ours.card.kernels,
        "tokens_per_second": speed,
        "spread": {name: [min(of), max(of)] for name, of in found.items()},
        "ratio": speed["ours"] / speed["transformers"] if compiled else None,
        "bandwidth_gb_s": bandwidth / 1e9,
        "share_of_bandwidth": {name: read * of / batch / bandwidth for name, of in speed.items()},
    }


def _model(parameters: float, context: int) -> Any:
    hidden, inner, layers, heads, kv_heads = _SHAPES[parameters]
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max(2048, context + 2 * _TOKENS),
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return model.eval()


def _prompts(batch: int, context: int) -> torch.Tensor:
    return torch.randint(100, 40_000, (batch, context), generator=torch.Generator().manual_seed(1))


def _ours(model: CausalLM, batch: int, context: int) -> float:
    states = [model.new_state() for _ in range(batch)]
    tokens = []
    for state, prompt in zip(states, _prompts(batch, context).tolist(), strict=True):
        state.reserve(context + _TOKENS + 1)
        tokens.append(int(model.read([Chunk(token_ids=prompt, state=state)]).logits[0].argmax()))
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_TOKENS):
        reading = model.read([Chunk(token_ids=[t], state=s, decoded=True) for t, s in zip(tokens, states, strict=True)])
        tokens = reading.logits.numpy().argmax(-1).tolist()
    return batch * _TOKENS / (time.perf_counter() - began)


@torch.inference_mode()
def _peer(model: Any, batch: int, context: int) -> float:
    ids = _prompts(batch, context).cuda()
    mask = torch.ones_like(ids)

    def timed(tokens: int) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
        )
        torch.cuda.synchronize()
        return time.perf_counter() - began

    timed(4)
    return batch * _TOKENS / (timed(_TOKENS + 4) - timed(4))


def _bandwidth() -> float:
    """Bytes a second."""
    data = torch.ones(1 << 30, dtype=torch.float32, device="cuda")
    data.sum()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(5):
        data.sum()
    torch.cuda.synchronize()
    return 5 * data.nbytes / (time.perf_counter() - began)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, nargs="+", default=[1.1e9, 3e9], choices=sorted(_SHAPES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", action="store_true", help="one line for each")
    args = parser.parse_args()
    for parameters in args.parameters:
        for batch in args.batches:
            with torch.inference_mode():
                done = measure(parameters, batch, context=args.context, repeats=args.repeats, compiled=not args.no_peer)
            sys.stdout.write(json.dumps(done, indent=None if args.json else 2) + "\n")
            sys.stdout.flush()
            torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
