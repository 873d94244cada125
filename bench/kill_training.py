"""Is a run that is killed again and again the run that was not? `python -m bench.kill_training --kills 20 --json`.

A small K-SSM on text made here, by the command line: once undisturbed, once with SIGKILL at random moments (while it
starts, trains, evaluates, saves) and `slowwave train continue` after each. The curves are compared point for point, the
weights bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from models.corpus import build
from models.pretraining import BEST, CHECKPOINTS, PLAN, read_curve

_WORDS = "the sea takes the sand and the wind takes the sea back to where the sand was before it went away".split()
_SHAPE = {"width": 32, "layers": 2, "oscillators": 32, "harmonics": 2, "scales": [2, 32], "choirs": 2, "inner": 32}


def main() -> None:
    """Kill, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = _killed(Path(folder), args.kills, args.steps, random.Random(args.seed))
    print(json.dumps(found, indent=None if args.json else 2))
    sys.exit(0 if found["same_curve"] and found["same_weights"] else 1)


def _killed(folder: Path, kills: int, steps: int, chance: random.Random) -> dict[str, Any]:
    for n in range(20):
        (folder / "text").mkdir(exist_ok=True)
        (folder / "text" / f"{n}.txt").write_text(" ".join(chance.choices(_WORDS, k=2000)))
    build(folder / "text", folder / "corpus", tokenizer=None)
    sizes = [part for name, value in _SHAPE.items() for part in ("--shape", f"{name}={json.dumps(value)}")]
    options = ["--corpus", str(folder / "corpus"), "--json", "--no-gates"]
    new = [*options, *sizes, "--steps", str(steps), "--batch", "8", "--context", "64"]
    began = time.monotonic()
    whole = _start("kssm", folder / "whole", new)
    if whole.wait() != 0:
        raise RuntimeError("the undisturbed run failed")
    undisturbed = time.monotonic() - began
    rounds: list[dict[str, Any]] = []
    while sum(len(r["after_steps"]) for r in rounds) < kills:
        left = kills - sum(len(r["after_steps"]) for r in rounds)
        rounds.append(_round(folder, f"killed-{len(rounds)}", left, new, options, undisturbed, chance))
    return {
        "kills": sum(len(r["after_steps"]) for r in rounds),
        "rounds": rounds,
        "same_curve": all(r["same_curve"] for r in rounds),
        "same_weights": all(r["same_weights"] for r in rounds),
        "steps": steps,
    }


def _round(
    folder: Path,
    name: str,
    kills: int,
    new: list[str],
    options: list[str],
    undisturbed: float,
    chance: random.Random,
) -> dict[str, Any]:
    """One run, killed at most so often before it ends."""
    run, moments = folder / name, list[int]()
    process = _start("kssm", run, new)
    while len(moments) < kills:
        deadline = time.monotonic() + chance.uniform(0.2, undisturbed / 4)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        points = read_curve(run)
        moments.append(points[-1]["step"] if points else 0)
        process = _start("continue", run, options) if (run / PLAN).exists() else _start("kssm", run, new)
    code = process.wait()
    curves = [[(p["step"], p["loss"], p["held"]) for p in read_curve(of)] for of in (folder / "whole", run)]
    files = [(of / BEST, max((of / CHECKPOINTS).iterdir())) for of in (folder / "whole", run)]
    same = all(_same(one, other) for one, other in zip(*files, strict=True))
    return {"after_steps": moments, "exit": code, "same_curve": curves[0] == curves[1], "same_weights": same}


def _same(one: Path, other: Path) -> bool:
    """The same tensors, bit for bit: weights, and the optimiser's moments."""
    a, b = load_file(one), load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _start(verb: str, run: Path, options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cli", "train", verb, str(run), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
