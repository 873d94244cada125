"""How fast a session's state goes to a file and comes back: beside reading it again, and beside copying the file.

    python -m bench.checkpoint --json [--tokens 512 2048 8000] [--dtype float32]

For each length, `--repeats` times, in this process and without the service: a prompt nobody has read is read (cold, to
its first token); its state is copied, hashed, written and flushed (suspend), and let go; the file is checked, brought
back, and the same prompt with one token more gets its first token (resume); the file is copied and flushed (copy).
Medians in milliseconds, with least and most. The reply after resuming is compared with that of a state that never left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from models.causal_lm import CausalLM
from models.engine import Engine, EngineLimits
from models.generation import Prompt, Reply
from models.language import BASE
from models.sampling import Sampling
from models.state_file import opened, write
from models.tensor_blocks import to_blocks, to_tensors
from models.weights import DEFAULT_MODEL, resolve
from settings import Settings

_GREEDY = Sampling(temperature=0.0)
_REPLY = 16
"""Tokens compared."""


def measure(engine: Engine, tokens: int, repeats: int, folder: Path) -> dict[str, Any]:
    """One length."""
    chance = random.Random(tokens)
    runs: list[dict[str, float]] = []
    same = 0
    for n in range(repeats):
        ids = [chance.randrange(100, 40_000) for _ in range(tokens)]
        space = f"{tokens} {n}"
        cold, _ = _timed(lambda: _first(engine, ids, space))  # noqa: B023
        more = [*ids, 1234]
        suspend, path = _timed(lambda: _suspend(engine, ids, space, folder / "state"))  # noqa: B023
        copy, _ = _timed(lambda: _copy(path, folder / "copy"))  # noqa: B023
        resume, _ = _timed(lambda: _resume(engine, path, space, more))  # noqa: B023
        stayed = _first(engine, more, f"{space} stayed", tokens=_REPLY)
        back = _first(engine, more, space, tokens=_REPLY)
        same += stayed.token_ids == back.token_ids
        runs.append({"cold": cold, "suspend": suspend, "copy": copy, "resume": resume, "bytes": path.stat().st_size})
        engine.drop_states(space)
        engine.drop_states(f"{space} stayed")
    median = {name: statistics.median(r[name] for r in runs) for name in runs[0]}
    return {
        "tokens": tokens,
        "bytes": int(median["bytes"]),
        **{f"{name}_ms": _spread([r[name] for r in runs]) for name in ("cold", "suspend", "resume", "copy")},
        "suspend_gb_per_s": median["bytes"] / median["suspend"] / 1e6,
        "suspend_to_copy": median["suspend"] / median["copy"],
        "resume_to_cold": median["resume"] / median["cold"],
        "same_replies": f"{same} of {repeats}",
    }


def _first(engine: Engine, ids: Sequence[int], space: str, *, tokens: int = 1) -> Reply:
    prompt = Prompt(token_ids=ids, max_tokens=tokens, sampling=_GREEDY, ignore_eos=True, namespace=space)
    return engine.submit(prompt).wait()


def _suspend(engine: Engine, ids: Sequence[int], space: str, path: Path) -> Path:
    copied = engine.copy_state(space, ids, adapter=BASE)
    assert copied is not None
    assert copied.tokens == len(ids)
    read = {"token_ids": torch.tensor(ids, dtype=torch.int32)}
    write(path, to_blocks({**read, **copied.tensors}), {"of": space})
    engine.release_state(copied)
    return path


def _resume(engine: Engine, path: Path, space: str, more: Sequence[int]) -> None:
    tensors = to_tensors(opened(path)[1])
    read = [int(i) for i in tensors["token_ids"]]
    state = {name: tensor for name, tensor in tensors.items() if name != "token_ids"}
    engine.restore_state(space, read, state, adapter=BASE)
    cached = _first(engine, more, space).timings.cached_tokens
    assert cached == len(read), f"{cached} of {len(read)} tokens were there"


def _copy(path: Path, to: Path) -> None:
    with path.open("rb") as source, to.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 22)
        target.flush()
        os.fsync(target.fileno())


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    done = work()
    return (time.perf_counter() - began) * 1000, done


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="*", type=int, default=[512, 2048, 8000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    weights = Path(resolve(DEFAULT_MODEL, cache_dir=Settings().cache_dir).location)
    engine = Engine(
        lambda: CausalLM.load(weights, name="SmolLM2-135M-Instruct", device=args.device, dtype=args.dtype),
        EngineLimits(state_bytes=4 << 30),
    )
    try:
        engine.wait_until_loaded()
        card = engine.model.card
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
            measure(engine, 64, 1, Path(folder))  # warm
            rows = [measure(engine, n, args.repeats, Path(folder)) for n in args.tokens]
    finally:
        engine.close()
    report = {"dtype": card.dtype, "device": card.device, "kernels": card.kernels, "lengths": rows}
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
