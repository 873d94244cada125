"""What a small network learns of glyphs, and by which of its parts: `python -m bench.glyphs --json`.

A Spiralformer, the same without each of its mechanisms, and a dense transformer of its size are trained on scenarios
(models/glyphs.py) and asked others. Accuracy by kind; proportionality (does an answer grow shorter as the body is
strained? falsified by a rank correlation above -.5); silence (is it kept where nothing was told, and there alone?
falsified if it is no likelier there); memory (does another value told change the answer to it, and another word between
not?). Beside each, what always saying the commonest answer would get.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from bench.native import WITHOUT
from models import glyphs
from models.body import charge
from models.corpus import build, open_corpus
from models.glyphs import KINDS, Kind, Scenario
from models.networks import network
from models.pretraining import Plan, Training, run

_SIZES = {"width": 72, "layers": 3, "heads": 4}
_LONGEST_ANSWER = 6


def main() -> None:
    """Train and ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="spiralformer,spiralformer without hops,spiralformer without towers,gpt")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--asked", type=int, default=150, help="Scenarios of each kind.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {name: _one(name, args) for name in args.models.split(",")}
    found["the commonest answer"] = _constant(args)
    print(json.dumps(found, indent=None if args.json else 2))


def _one(name: str, args: argparse.Namespace) -> dict[str, Any]:
    kind, *lacking = name.split(maxsplit=1)
    shape = {**_SIZES, **({"phases": 8} if kind == "spiralformer" else {}), **(WITHOUT[lacking[0]] if lacking else {})}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text"
        source.mkdir()
        (source / "train.txt").write_text(glyphs.text(12_000, seed=args.seed, held=False))
        (source / "val.txt").write_text(glyphs.text(600, seed=args.seed + 1, held=True))
        facts = build(source, Path(folder) / "corpus", tokenizer=None)
        corpus = open_corpus(Path(folder) / "corpus")
        net = network(kind, shape, facts.vocab_size, seed=args.seed)
        plan = Plan(
            kind=kind,
            shape=shape,
            corpus={str(part): digest for part, digest in facts.digests.items()},
            steps=args.steps,
            context=128,
            learning_rate=3e-3,
            seed=args.seed,
            evaluate_every=max(1, args.steps // 5),
        )
        training = Training(plan, net, corpus, None)
        run(training, gates=False, on_point=lambda p: print(name, p.step, p.loss, p.held, file=sys.stderr, flush=True)
            if p.held else None)  # fmt: skip
        number = {ord(symbol) - 0x2800: n for n, symbol in enumerate(facts.symbols)}
        net.train(False)
        asker = Asker(net, number)
        return {
            "parameters": sum(p.numel() for p in net.parameters()),
            "held_nats": training.best,
            **_probed(asker.answer, args),
        }


class Asker:
    """Answers a prompt greedily."""

    def __init__(self, net: Any, number: dict[int, int]) -> None:
        self._net, self._number = net, number
        self._glyph = {n: glyph for glyph, n in number.items()}

    @torch.no_grad()
    def answer(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Glyphs until the end."""
        ids = [self._number[g] for g in prompt]
        said: list[int] = []
        while len(said) < _LONGEST_ANSWER and (not said or said[-1] != glyphs.END):
            logits: Tensor = self._net(torch.tensor([ids]))
            best = int(logits[0, -1].argmax())
            ids.append(best)
            said.append(self._glyph[best])
        return tuple(said)


def _probed(answer: Any, args: argparse.Namespace) -> dict[str, Any]:
    asked = {kind: _held(kind, args.asked, args.seed + 7) for kind in KINDS}
    said = {kind: [answer(s.prompt) for s in scenarios] for kind, scenarios in asked.items()}
    right = {kind: mean(a == s.answer for a, s in zip(said[kind], asked[kind], strict=True)) for kind in KINDS}
    lengths = [sum(g in glyphs.CONTENT for g in a) for a in said["echo"]]
    strains = [charge(s.signals) for s in asked["echo"]]
    told = [s for s in asked["keep"] if s.told is not None]
    never = _held("keep", args.asked, args.seed + 8, known=False)
    return {
        "right": right,
        "proportionality": _rank_correlation(strains, lengths),
        "silent_where_never_told": mean(answer(s.prompt)[0] == glyphs.SILENCE for s in never),
        "silent_where_told": mean(answer(s.prompt)[0] == glyphs.SILENCE for s in told),
        **_memory(answer, told, random.Random(args.seed)),
    }


def _memory(answer: Any, told: list[Scenario], chance: random.Random) -> dict[str, float]:
    """How often another value told is answered, and how often another word between changes the answer."""
    followed, moved = [], []
    for s in told:
        assert s.told is not None
        other = chance.choice([g for g in glyphs.CONTENT if g != s.prompt[s.told]])
        swapped = (*s.prompt[: s.told], other, *s.prompt[s.told + 1 :])
        followed.append(answer(swapped)[0] == other)
        place = len(s.prompt) - 6
        between = (*s.prompt[:place], other, *s.prompt[place + 1 :])
        moved.append(answer(between) != answer(s.prompt))
    return {"follows_another_value": mean(followed), "moved_by_another_word": mean(moved)}


def _held(kind: Kind, count: int, seed: int, known: bool | None = None) -> list[Scenario]:
    chance, found = random.Random(seed), list[Scenario]()
    while len(found) < count:
        one = glyphs.drawn(chance, kind, known=known)
        if one.held:
            found.append(replace(one))
    return found


def _constant(args: argparse.Namespace) -> dict[str, Any]:
    asked = {kind: _held(kind, args.asked, args.seed + 7) for kind in KINDS}
    common = {kind: Counter(s.answer for s in scenarios).most_common(1)[0][0] for kind, scenarios in asked.items()}
    return {"right": {kind: mean(s.answer == common[kind] for s in scenarios) for kind, scenarios in asked.items()}}


def _rank_correlation(x: list[float], y: list[int]) -> float:
    """Spearman's, ties by their mean rank."""
    if len(set(y)) < 2:
        return 0.0
    a, b = torch.tensor(_ranks(x)), torch.tensor(_ranks([float(v) for v in y]))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt())


def _ranks(values: list[float]) -> list[float]:
    order = sorted(values)
    first = {v: order.index(v) for v in set(values)}
    count = Counter(values)
    return [first[v] + (count[v] - 1) / 2 for v in values]


if __name__ == "__main__":
    main()
