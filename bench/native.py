"""Networks trained here beside what they are measured by, in one run: `python -m bench.native --corpus DIR --json`.

Counts of two to five tokens (where the vocabulary is small), the published K-SSM rebuilt, ours, and a transformer: the
same corpus, batches, steps and about the same number of parameters, for each seed. Each K-SSM is put to the five tests
of what its order parameter causes (models/order_tests.py). `--jobs` trains so many at a time, each in its own process,
and on a GPU of its own where there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from models.networks import PHASES, SHAPES, network

WITHOUT: dict[str, dict[str, Any]] = {
    "without hops": {"hops": False},
    "without towers": {"recalled": 0},
    "without hops and towers": {"hops": False, "recalled": 0},
    "without breath": {"breath": False},
    "without silence": {"silence": False},
}
"""A Spiralformer that lacks something: --models "spiralformer,spiralformer without hops,..."."""


def main() -> None:
    """Train all, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--models", default="kssm,kssm phases,published,gpt")
    parser.add_argument("--size", choices=("small", "large"), default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=0, help="As many of --steps as fit; 0: all.")
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="Keep each run there.")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.one is not None:
        name, seed = args.one.rsplit(":", 1)
        print(json.dumps(_one(name, int(seed), args)))
        return
    print(json.dumps(_all(args), indent=None if args.json else 2))


def _all(args: argparse.Namespace) -> dict[str, Any]:
    asked = [f"{name}:{seed}" for seed in range(args.seeds) for name in args.models.split(",")]
    waiting, running = list(asked), dict[str, subprocess.Popen[str]]()
    found: dict[str, dict[str, Any]] = {}
    slots: dict[str, int] = {}
    while waiting or running:
        while waiting and len(running) < args.jobs:
            one = waiting.pop(0)
            slot = next(n for n in range(args.jobs) if n not in slots.values())
            running[one], slots[one] = _start(one, slot, args), slot
        for one, process in list(running.items()):
            if process.poll() is not None:
                out = process.communicate()[0].strip().splitlines()
                if process.returncode or not out:
                    found[one] = {"failed": process.returncode}
                else:
                    found[one] = json.loads(out[-1])
                del running[one], slots[one]
        time.sleep(0.2)
    made: dict[str, Any] = {"corpus": str(args.corpus.name), "steps": args.steps, "batch": args.batch,
                            "context": args.context, "runs": found}  # fmt: skip
    made["held_nats"] = {
        name: median(one["held"] for key, one in found.items() if key.rsplit(":", 1)[0] == name and "held" in one)
        for name in args.models.split(",")
        if any("held" in one for key, one in found.items() if key.rsplit(":", 1)[0] == name)
    }
    made["counts"] = _counts(args.corpus)
    return made


def _start(one: str, slot: int, args: argparse.Namespace) -> subprocess.Popen[str]:
    given = "corpus size steps batch context learning_rate threads minutes warmup".split()
    passed = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in given]
    if args.folder is not None:
        passed.append(f"--folder={args.folder}")
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    import torch

    if gpus := torch.cuda.device_count():
        seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        env["CUDA_VISIBLE_DEVICES"] = seen.split(",")[slot % gpus]
    command = [sys.executable, "-m", "bench.native", *passed, "--one", one]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def _counts(folder: Path) -> dict[str, float]:
    from bench.counts import nats
    from models.corpus import open_corpus

    corpus = open_corpus(folder)
    if corpus.facts.vocab_size > 1000:
        return {}
    return {str(n): nats(corpus.train.tolist(), corpus.held.tolist(), n, corpus.facts.vocab_size) for n in range(2, 6)}


def network_of(name: str, shape: dict[str, Any], vocab_size: int, seed: int) -> Any:
    """The network of that name."""
    if name != "published":
        return network(name.split(maxsplit=1)[0], shape, vocab_size, seed=seed)
    from bench.published_kssm import PublishedKssm, PublishedShape

    return PublishedKssm(PublishedShape(vocab_size=vocab_size, **shape), seed=seed)


def _shape(name: str, size: str) -> dict[str, Any]:
    if name == "published":
        return {"width": 240, "layers": 4, "oscillators": 96, "harmonics": 16, "positions": 512}
    kind, *variant = name.split(maxsplit=1)
    changed = {"phases": PHASES[size], **WITHOUT}[variant[0]] if variant else {}
    return {**SHAPES[kind][size], **changed}


class Published:
    """The published one as the tests look into it."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def logits(self, ids: Any, force: Any = None) -> Any:
        """[rows, time, vocab]."""
        return self.network.looked(ids, force)[0]

    def order(self, ids: Any) -> Any:
        """R [rows, time]."""
        from models.kuramoto import order

        return order(self.network.looked(ids)[1])


def _one(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from models.corpus import open_corpus
    from models.kssm import Looked
    from models.order_tests import examine, visited
    from models.pretraining import Measured, Plan, Training, run, write_plan

    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    gpu = torch.cuda.is_available()
    corpus = open_corpus(args.corpus)
    shape = _shape(name, args.size)
    subject = network_of(name, shape, corpus.facts.vocab_size, seed)
    looked: Any = Looked(subject) if name.startswith("kssm") else Published(subject) if name == "published" else None
    plan = Plan(
        kind=name,
        shape=shape,
        corpus=dict(corpus.facts.digests),  # type: ignore[arg-type]
        steps=args.steps,
        batch=args.batch,
        context=args.context,
        learning_rate=args.learning_rate,
        warmup=args.warmup,
        precision="bfloat16" if gpu else "float32",
        seed=seed,
        evaluate_every=max(1, args.steps // 16),
        save_every=max(1, args.steps // 4),
    )
    folder = None if args.folder is None else args.folder / f"{name.replace(' ', '-')}-{seed}"
    if folder is not None:
        write_plan(folder, plan)
    device = "cuda" if gpu else "cpu"
    training = Training(plan, subject, corpus, folder, device=device, compiled=gpu)
    watched = torch.from_numpy(corpus.window([n * args.context for n in range(8)], args.context, "held"))
    points: list[Measured] = []

    def describe(_network: Any) -> dict[str, float]:
        if looked is None:
            return {}
        with torch.no_grad():
            r = looked.order(watched.to(device)).float()
        return {"R": float(r.mean()), "R_std": float(r.std(1).mean())}

    def on_point(point: Measured) -> None:
        points.append(point)
        if point.held is not None:
            told = " ".join(f"{k} {v:.3f}" for k, v in point.told.items())
            print(f"{name}:{seed} {point.step} loss {point.loss:.3f} held {point.held:.4f} {told} "
                  f"{point.tokens_per_second:,.0f} tokens/s", file=sys.stderr, flush=True)  # fmt: skip

    if args.minutes:
        training.plan = plan = replace(plan, steps=min(args.steps, _fitting(training, args.minutes)))
        print(f"{name}:{seed} takes {plan.steps} steps", file=sys.stderr, flush=True)
    began = time.perf_counter()
    outcome, why = run(training, on_point=on_point, describe=describe, gates=False)
    seconds = time.perf_counter() - began
    made: dict[str, Any] = {
        "outcome": outcome,
        "steps": plan.steps,
        "why": why,
        "parameters": sum(p.numel() for p in subject.parameters()),
        "held": points[-1].held,
        "best_on_the_way": training.best,
        "perplexity": points[-1].perplexity,
        "seconds": seconds,
        "tokens_per_second": median(p.tokens_per_second for p in points[1:] or points),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "curve": [[p.step, p.loss, p.held, p.told.get("R"), p.told.get("R_std")] for p in points if p.held],
    }
    if name.startswith("spiralformer") and shape.get("silence", True):
        subject.train(False)
        with torch.no_grad():
            made["silence"] = _silence(subject, watched.to(device))
    if looked is not None:
        subject.train(False)
        windows = (len(corpus.held) - 1) // args.context
        chosen = [n * windows // 48 * args.context for n in range(48)]
        ids = torch.from_numpy(corpus.window(chosen, args.context, "held")).to(device)
        # From the end of the warm-up on: before it, R falls from where it began, whatever is read.
        curve = [(p.told["R"], p.told["R_std"]) for p in points if "R" in p.told and p.step > plan.warmup]
        torch.manual_seed(seed)
        made["tests"] = {f.test: {"passed": f.passed, **f.figures} for f in examine(looked, ids, curve)}
        with torch.no_grad():
            made["zones"] = visited(torch.cat([looked.order(part) for part in torch.split(ids, 8)]).float())
    return made


def _silence(subject: Any, ids: Any) -> dict[str, float]:
    """The share wrong among half of the answers, the least doubted: by its head, by entropy, and of all."""
    from torch.nn.functional import linear

    from models.spiralformer import risk_at_coverage

    hidden = subject.hidden(ids)[:, :-1]
    logs = linear(hidden, subject.embedding).float().log_softmax(-1)
    wrong = logs.argmax(-1) != ids[:, 1:]
    entropy = -(logs.exp() * logs).sum(-1)
    return {
        "wrong": float(wrong.float().mean()),
        "wrong_of_the_surer_half": risk_at_coverage(subject.doubt(hidden).float(), wrong, 0.5)[0],
        "by_entropy": risk_at_coverage(entropy, wrong, 0.5)[0],
    }


def _fitting(training: Any, minutes: float) -> int:
    """Steps that fit, by the speed of some (they count); the last 40 s are for evaluation."""
    began = time.perf_counter()
    for _ in range(20):
        training.advance()
    training.point()
    early, first = time.perf_counter(), training.step
    for _ in range(40):
        training.advance()
    training.point()
    a_step = (time.perf_counter() - early) / (training.step - first)
    return int(training.step + (60 * minutes - 40 - (time.perf_counter() - began)) / a_step)


if __name__ == "__main__":
    main()
