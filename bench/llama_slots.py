"""llama.cpp's slot files, for comparison: run by bench/checkpoint.py in a process of its own, since a bad file aborts
it.

    python -m bench.llama_slots MODEL.gguf --tokens 512 2048 --kv f16 --repeats 3

Prints JSON: for each length the file's bytes, and milliseconds to read the prompt cold, to save, to restore, and from
restoring to the first token. Needs xllamacpp (pip install --no-deps xllamacpp==2026.10.11549).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx


def measure(client: httpx.Client, folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """One length."""
    runs: list[dict[str, float]] = []
    for n in range(repeats):
        chance = random.Random(tokens * 100 + n)
        ids = [chance.randrange(100, 40_000) for _ in range(tokens)]
        _post(client, "/slots/0?action=erase", {})
        cold = _complete(client, ids)
        save = _timed(client, "/slots/0?action=save", {"filename": "one"})
        _post(client, "/slots/0?action=erase", {})
        began = time.perf_counter()
        restore = _timed(client, "/slots/0?action=restore", {"filename": "one"})
        _complete(client, [*ids, 1234])
        first = (time.perf_counter() - began) * 1000
        size = (folder / "one").stat().st_size
        runs.append({"cold": cold, "save": save, "restore": restore, "first": first, "bytes": size})
    return {"tokens": tokens, **{name: statistics.median(r[name] for r in runs) for name in runs[0]}}


def _complete(client: httpx.Client, ids: list[int]) -> float:
    body = {"prompt": ids, "n_predict": 1, "id_slot": 0, "temperature": 0, "ignore_eos": True, "cache_prompt": True}
    return _timed(client, "/completion", body)


def _timed(client: httpx.Client, path: str, body: dict[str, Any]) -> float:
    began = time.perf_counter()
    _post(client, path, body)
    return (time.perf_counter() - began) * 1000


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, json=body)
    answer.raise_for_status()


def main() -> int:
    """Measure, print."""
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", nargs="+", type=int, default=[512, 2048])
    parser.add_argument("--kv", choices=["f16", "f32"], default="f16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        params = xllamacpp.CommonParams()
        params.model.path = args.model
        params.n_ctx = -(-(max(args.tokens) + 64) // 256) * 256
        params.n_parallel = 1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
        kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{args.kv.upper()}")
        params.cache_type_k = params.cache_type_v = kind
        params.endpoint_slots, params.slot_save_path = True, f"{folder}/"
        params.port = 0
        server = xllamacpp.Server(params)
        with httpx.Client(base_url=server.listening_address, timeout=600) as client:
            _complete(client, list(range(100, 164)))  # warm
            rows = [measure(client, Path(folder), n, args.repeats) for n in args.tokens]
        sys.stdout.write(json.dumps({"kv": args.kv, "lengths": rows}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
