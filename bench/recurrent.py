"""Does what a network trained here has read cost it anything? `python -m bench.recurrent [RUN] --json`.

Milliseconds a token after 100 to 100,000 tokens, in turn, several rounds; what its state takes; and whether a state
that was put into a file and taken out of it gives the same logits and the same greedy tokens. Without RUN: 46 million
random weights, whose speed is the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.corpus import CHARACTERS, VOCABULARY
from models.kssm import Kssm, KssmShape
from models.language import PIECE, Chunk
from models.recurrent_lm import RecurrentLM, Spelling

CONTEXTS = (100, 1_000, 10_000, 100_000)
_TOKENS, _GREEDY = 32, 40


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(_measured(_model(args.run), args.rounds), indent=None if args.json else 2))


def _model(run: Path | None) -> RecurrentLM:
    if run is not None:
        return RecurrentLM.load(run, name=run.name, context_length=None)
    with tempfile.TemporaryDirectory() as folder:
        symbols = [chr(0x4E00 + n) for n in range(49_151)]
        told = {"vocabulary": CHARACTERS, "symbols": ["\n", *symbols], "separator": None}
        (Path(folder) / VOCABULARY).write_text(json.dumps(told))
        network = Kssm(KssmShape(vocab_size=49_152))
        network.train(False)
        return RecurrentLM(network, Spelling(Path(folder)), name="random", digest="random", context_length=1 << 17)


def _measured(model: RecurrentLM, rounds: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(model.card.vocab_size, (max(CONTEXTS) + _TOKENS,), generator=draw).tolist()
    state, at, states = model.new_state(), 0, {}
    began = time.perf_counter()
    for context in CONTEXTS:
        while at < context:
            end = min(context, at + 4 * PIECE)
            model.read([Chunk(token_ids=ids[at:end], state=state)])
            at = end
        states[context] = state.fork(context)
    prefill = max(CONTEXTS) / (time.perf_counter() - began)
    taken: dict[int, list[float]] = {context: [] for context in CONTEXTS}
    for _ in range(rounds):
        for context, resting in states.items():
            going = resting.fork(context)
            first = time.perf_counter()
            for n in range(_TOKENS):
                model.read([Chunk(token_ids=ids[context + n : context + n + 1], state=going, decoded=True)])
            taken[context].append(1000 * (time.perf_counter() - first) / _TOKENS)
    per_token = {str(context): median(times) for context, times in taken.items()}
    ratios = [late / early for early, late in zip(taken[CONTEXTS[0]], taken[CONTEXTS[-1]], strict=True)]
    return {
        "parameters": sum(p.numel() for p in model._network.parameters()),
        "prefill_tokens_per_second": prefill,
        "milliseconds_a_token": per_token,
        "spread": {str(context): [min(times), max(times)] for context, times in taken.items()},
        "longest_to_shortest": median(ratios),
        "state_bytes": {c: s.tensors()["state.held"].numel() * 4 for c, s in states.items()},
        "resumed": {str(c): _resumed(model, s) for c, s in states.items()},
    }


def _resumed(model: RecurrentLM, state: Any) -> dict[str, Any]:
    """The state by way of a file, beside itself."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        save_file(state.tensors(), file.name)
        again = model.new_state()
        again.fill(load_file(file.name))
    said: list[list[int]] = []
    logits = []
    for going in (state.fork(state.length), again):
        tokens, last = [], 5
        for _ in range(_GREEDY):
            read = model.read([Chunk(token_ids=[last], state=going, decoded=True)]).logits[0]
            last = int(read.argmax())
            tokens.append(last)
        said.append(tokens)
        logits.append(read)
    return {"same_tokens": said[0] == said[1], "logits_apart": float((logits[0] - logits[1]).abs().max())}


if __name__ == "__main__":
    main()
