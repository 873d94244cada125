"""Learning a model's transform (kv_transform.py) from texts: what its keys and values are like, and which errors cost.

    python -m models.kv_training --model SmolLM2-135M-Instruct --texts FILE.jsonl ... --out FILE

Each text gives a context and what follows it. The context is read; its keys (turned back) and values are the numbers
whose means and covariances are taken. Then what follows is read on top of them, and tokens are drawn from what the
model says: the gradients of their log-likelihood at the cache give its expected Fisher information (drawn tokens, so
that those of different positions do not correlate; only tokens after the context, since those within are not read
again).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from models import kv_transform
from models.causal_lm import CausalLM
from models.errors import UnsupportedModel
from models.kv_codec import SINKS
from models.kv_transform import Transform
from models.trainable import Trainable

CONTEXT, FOLLOWING, DRAWS = 1024, 64, 2
FLOOR = 0.03
"""Added to the Fisher information, a share of the layer's mean: a few dozen texts do not show that an error is free."""
STEPS = {"learned": 0.0095, "learned-fine": 0.001}
"""In units in which a squared error of one, in one number of a whole context, costs two nats a token. Chosen on
development texts, at 2,048 tokens: docs/log.md."""
_SHAPE = 1.4
"""Of the distributions: between Laplace's (1) and Gauss's (2)."""


def learn(
    trainable: Trainable,
    texts: Iterable[Sequence[int]],
    *,
    layout: str,
    seed: int = 0,
    told: Callable[[int], None] = lambda n: None,
) -> Transform:
    """Learn from token ids, each text CONTEXT + FOLLOWING of them or more; shorter ones are passed over.

    `layout`: of the model's card. `told` hears how many texts are done.

    Raises:
        UnsupportedModel: its keys are not turned the way that a transform turns them back.
        ValueError: no text is long enough.
    """
    model = trainable.model
    turns = _turns(model)
    chance = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    n = 0
    for ids in texts:
        if len(ids) < CONTEXT + FOLLOWING:
            continue
        keys, values = _cache(model, ids[:CONTEXT])
        held = [_unturned(keys, turns), values]
        _add(sums, "mean", torch.stack([x[..., SINKS:, :].sum(-2) for x in held]))
        _add(sums, "square", torch.stack([_square(x[..., SINKS:, :]) for x in held]))
        for _ in range(DRAWS):
            _add(
                sums,
                "fisher",
                torch.stack([_square(g[..., SINKS:, :]) for g in _gradients(model, held, turns, ids, chance)]),
            )
        n += 1
        told(n)
    if not n:
        raise ValueError(f"no text has {CONTEXT + FOLLOWING} tokens")
    tokens = n * (CONTEXT - SINKS)
    mean, fisher = sums["mean"] / tokens, sums["fisher"] / FOLLOWING
    covariance = sums["square"] / tokens - mean[..., :, None] * mean[..., None, :]
    floor = fisher.diagonal(dim1=-2, dim2=-1).mean((-2, -1)) * FLOOR
    root = _root(fisher + floor[..., None, None, None] * torch.eye(fisher.shape[-1]))
    # As if of 28 texts: a step then means the same however many there were.
    root = root * (28 / n) ** 0.5
    _, axes = torch.linalg.eigh(root @ covariance @ root)
    made = Transform(
        forward=(axes.mT @ root).float().numpy().swapaxes(0, 1),
        centre=mean.float().numpy().swapaxes(0, 1),
        turns=turns.numpy(),
        steps=STEPS,
        alphabets=kv_transform.alphabets(_SHAPE),
        layout=layout,
        digest="",
    )
    return kv_transform.of_bytes(kv_transform.to_bytes(made))


def _turns(model: Any) -> Tensor:
    rotary = getattr(getattr(model, "model", None), "rotary_emb", None)
    turns = getattr(rotary, "inv_freq", None)
    if turns is None or getattr(rotary, "attention_scaling", 1.0) != 1.0 or model.config.head_dim != 2 * len(turns):
        raise UnsupportedModel(
            "its keys are not turned in pairs half a head apart; a transform cannot be learnt of them"
        )
    return torch.as_tensor(turns, dtype=torch.float32, device="cpu")


def _unturned(keys: Tensor, turns: Tensor) -> Tensor:
    return _turn(keys, -turns)


def _turn(keys: Tensor, turns: Tensor) -> Tensor:
    angle = torch.arange(keys.shape[-2], dtype=torch.float32, device=keys.device)[:, None] * turns.to(keys.device)
    low, high = keys.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


@torch.no_grad()
def _cache(model: Any, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Keys and values, [layers, kv_heads, tokens, d]."""
    cache = DynamicCache(config=model.config)
    model(torch.tensor([list(ids)], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return torch.stack([c.keys[0] for c in cache.layers]), torch.stack([c.values[0] for c in cache.layers])


def _gradients(
    model: Any, held: Sequence[Tensor], turns: Tensor, ids: Sequence[int], chance: torch.Generator
) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in held]
    keys = _turn(leaves[0], turns)
    cache = DynamicCache(config=model.config)
    for layer in range(len(keys)):
        cache.update(keys[layer][None], leaves[1][layer][None], layer)
    following = torch.tensor([list(ids[CONTEXT : CONTEXT + FOLLOWING])], device=model.device)
    logits = model(following, past_key_values=cache, use_cache=True).logits[0].float()
    drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=chance).to(logits.device)
    loss = -logits.log_softmax(-1).gather(1, drawn).sum()
    return list(torch.autograd.grad(loss, leaves))


def _square(x: Tensor) -> Tensor:
    x = x.double().cpu()
    return x.mT @ x


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ (values.clamp_min(0).sqrt()[..., None] * vectors.mT)
    return root


def _add(sums: dict[str, Tensor], name: str, more: Tensor) -> None:
    more = more.double().cpu()
    sums[name] = sums[name] + more if name in sums else more


def main() -> int:
    """Learn, write."""
    from models.weights import resolve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a name, a folder, a .gguf file, a name on the hub")
    parser.add_argument("--texts", required=True, nargs="+", type=Path, help='JSON lines with "text" or "turns"')
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "slowwave")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    location = resolve(args.model, cache_dir=args.cache_dir).location
    card = CausalLM.load(location, name=args.model, device=args.device, dtype="float32").card
    trainable = Trainable.load(location, name=args.model, device=args.device, dtype="float32")
    trainable.model.requires_grad_(False)
    began = time.monotonic()

    def told(n: int) -> None:
        sys.stderr.write(f"\r{n} texts, {time.monotonic() - began:.0f} s")

    made = learn(trainable, _texts(trainable, args.texts), layout=card.layout, told=told)
    part = args.out.with_name(f".{args.out.name}.part")
    part.write_bytes(kv_transform.to_bytes(made))
    part.replace(args.out)
    sys.stdout.write(f"\n{args.out}: {args.out.stat().st_size} bytes, {made.digest}\n")
    return 0


def _texts(trainable: Trainable, paths: Sequence[Path]) -> Iterable[list[int]]:
    from models.language import Message

    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "text" in row:
                yield trainable.template.encode_plain(row["text"])
            else:
                roles = ("user", "assistant")
                chat = [Message(role=roles[n % 2], content=turn) for n, turn in enumerate(row["turns"])]  # type: ignore[arg-type]
                yield list(trainable.template.chat_ids(chat, after=0, reply=False) or [])


if __name__ == "__main__":
    raise SystemExit(main())
