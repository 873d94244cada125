"""How fast a night trains: tokens a second, and which share of the machine's peak that is.

    python -m bench.training --json [--device cuda] [--dtype float32] [--parameters 1.7e9 3e9] [--peak 989e12]

A Llama with random weights of each size (0: the default model), LoRA on the MLPs of the upper half, the
default recipe and larger batches. Counted are the products that a step needs: forward through the trained layers and
back to the first of them, the adapter's own three, and the head where there is something to learn; not what packing
and rounding add. `--dtype`: auto is what nights take, whichever is quicker. `--peak`: of the device, in FLOP/s, dense
bfloat16 (H100 SXM: 989e12).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import torch

from models.dtypes import DTYPES
from models.precision import quicker
from models.recipe import Recipe
from models.rows import Row
from models.trainable import Trainable
from models.training import Progress, Trainer
from models.weights import resolve
from settings import Settings

_BATCHES = ((8, 4), (64, 32), (256, 128))
"""Examples and rehearsals a step."""
_STEPS, _WARM = 24, 6
_EXAMPLE, _TARGETS, _REHEARSED = 22, 10, 48
"""Tokens of an example, to be learnt of them, and of a rehearsal: what nights have."""


def measure(parameters: float, batch: tuple[int, int], device: str, dtype: str) -> dict[str, Any]:
    """One model, one size of step."""
    recipe = Recipe(batch=batch[0], rehearsed=batch[1], epochs=1, pack_tokens=1 << 16)
    model = _model(parameters, device, dtype)
    trainer = Trainer(model, recipe)
    chance = random.Random(1)
    vocabulary = int(trainer.peft.get_base_model().config.vocab_size)

    def rows(many: int, tokens: int, targets: int) -> list[Row]:
        return [
            Row(token_ids=tuple(chance.choices(range(1000, vocabulary), k=tokens)), target_from=tokens - targets)
            for _ in range(many)
        ]

    held = trainer.judged_by_base(rows(batch[1] * 2, _REHEARSED, 28))
    ticks: list[tuple[float, int]] = []

    def each(progress: Progress) -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        ticks.append((time.monotonic(), progress.tokens))

    trainer.train(rows(batch[0] * _STEPS, _EXAMPLE, _TARGETS), held, each=each)
    seconds = [b - a for (a, _), (b, _) in zip(ticks[_WARM:], ticks[_WARM + 1 :], strict=False)]
    tokens = (ticks[-1][1] - ticks[_WARM][1]) / (len(ticks) - 1 - _WARM)
    flops = _flops(trainer, tokens, batch[0] * _TARGETS + batch[1] * 28)
    median = statistics.median(seconds)
    return {
        "parameters": sum(p.numel() for p in trainer.peft.get_base_model().parameters()) - trainer.trainable,
        "dtype": model.dtype,
        "batch": batch,
        "tokens_a_step": round(tokens),
        "seconds_a_step": median,
        "spread": [min(seconds), max(seconds)],
        "tokens_a_second": tokens / median,
        "flop_a_second": flops / median,
    }


def _model(parameters: float, device: str, dtype: str) -> Trainable:
    source = resolve("SmolLM2-135M-Instruct", cache_dir=Settings().cache_dir).location
    small = Trainable.load(source, name="base", device=device if parameters == 0 else "cpu", dtype=dtype)
    if parameters == 0:
        return small
    from transformers import LlamaConfig, LlamaForCausalLM  # as a stand-in for a model of that size

    width = 2048 if parameters < 2.5e9 else 3072
    a_layer = 2 * width * width * (1 + 0.25) + 3 * width * 4 * width
    config = LlamaConfig(
        vocab_size=small.model.config.vocab_size,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(2, round((parameters - small.model.config.vocab_size * width) / a_layer)),
        num_attention_heads=width // 128,
        num_key_value_heads=width // 512,
        tie_word_embeddings=True,
    )
    with torch.device(device):
        model = LlamaForCausalLM(config).to(DTYPES[small.dtype])
    return replace(small, model=model.eval())


def _flops(trainer: Trainer, tokens: float, targets: int) -> float:
    """Of one step, by its products alone."""
    model = trainer.peft.get_base_model()
    config = model.config
    head = config.vocab_size * config.hidden_size
    layers = sum(
        p.numel()
        for name, p in model.named_parameters()
        if ".layers." in name and "lora_" not in name and int(name.split(".layers.")[1].split(".")[0]) >= trainer.first
    )
    return float(4 * layers * tokens + 6 * trainer.trainable * tokens + 4 * head * targets)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--parameters", nargs="*", type=float, default=[0.0])
    parser.add_argument("--peak", type=float, default=None)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    dtype = quicker(args.device) if args.dtype == "auto" else args.dtype
    found = []
    for parameters in args.parameters:
        for batch in _BATCHES if args.device != "cpu" else _BATCHES[:1]:
            one = measure(parameters, batch, args.device, dtype)
            if args.peak:
                one["share_of_peak"] = one["flop_a_second"] / args.peak
            found.append(one)
            sys.stderr.write(f"{one}\n")
    device = torch.cuda.get_device_name() if args.device != "cpu" else "cpu"
    sys.stdout.write(json.dumps({"device": device, "runs": found}, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
