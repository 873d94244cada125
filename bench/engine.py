"""The engine beside llama.cpp on the same file and `transformers.generate`, in one run, in turn.

    python -m bench.engine --json [--bits int4] [--repeats 5] [--contexts 16 512 2048] [--sessions 1 4 8 16]
    python -m bench.engine --quality [--bits int4]

Each in a process of its own that waits while others are measured, two threads each: ours in float32 and in fewer bits,
llama.cpp by an installed wheel (pip install --no-deps xllamacpp==2026.10.11549), `generate` in bfloat16. Decode and
prefill speed at each context, all tokens a second of several sessions at once at context 16, peak memory, and seconds
from the process's start to its first token. Every round measures all, one after the other; ratios are round by round.

--quality: 200 texts that no night rehearses, read token by token by the weights of fewer bits and by float32: KL and
how often the likeliest token is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.serving import collect, ratio, seconds_to_generate, spread
from models.weights import DEFAULT_MODEL, packaged_gguf, resolve
from settings import load

NEW_TOKENS, THREADS = 64, 2
TEXTS, TEXT_TOKENS = 200, 48
_VOCABULARY = range(100, 40_000)
Measure = dict[str, float]


class Peer:
    """An engine in a process of its own, which does what it is told and then waits."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.engine", "--peer", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.ask(do="alone", context=16, new=1, seed=0)
        self.first_token_seconds = time.perf_counter() - began

    def ask(self, **what: Any) -> Measure:
        """Have something measured."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: {self._process.wait()}")
        return dict(json.loads(line))

    def peak_mib(self) -> float:
        """The most memory it ever had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def measure(bits: str, repeats: int, contexts: list[int], sessions: list[int]) -> dict[str, Any]:
    """All peers, in turn."""
    kinds = {"float32": "float32", bits: bits, "llama.cpp": "llama.cpp", "generate": "generate"}
    peers = [Peer(name, kind) for name, kind in kinds.items()]
    try:
        report: dict[str, Any] = {"start_to_first_token_s": {p.name: round(p.first_token_seconds, 2) for p in peers}}
        asked = [{"do": "alone", "context": n, "new": NEW_TOKENS} for n in contexts]
        asked += [{"do": "together", "sessions": n, "new": NEW_TOKENS} for n in sessions]
        for what in asked:
            rows: dict[str, dict[str, list[float]]] = {}
            for turn in range(repeats + 1):
                for peer in peers:
                    if what["do"] == "together" and peer.name == "generate":
                        continue
                    into = rows if turn else {}  # the first warms up
                    collect(lambda p=peer, w=what, t=turn: p.ask(**w, seed=t), into.setdefault(peer.name, {}))  # type: ignore[misc]
            report[" ".join(str(v) for v in what.values())] = {
                **{name: {k: spread(v) for k, v in of.items()} for name, of in rows.items()},
                **{
                    f"{k} of {bits}, to {name}": ratio(rows[bits][k], of[k])
                    for name, of in rows.items()
                    for k in of
                    if name != bits
                },
            }
            sys.stderr.write(f"{what}: {json.dumps(report[' '.join(str(v) for v in what.values())])}\n")
        report["peak_mib"] = {p.name: round(p.peak_mib()) for p in peers}
        return report
    finally:
        for peer in peers:
            peer.close()


def ids_of(seed: int, n: int) -> list[int]:
    """Tokens that nobody has read before."""
    return random.Random(seed).choices(_VOCABULARY, k=n)


def ours(kind: str) -> Callable[[dict[str, Any]], Measure]:
    """The product's engine, without the service around it."""
    import torch

    from models.causal_lm import CausalLM
    from models.engine import Engine
    from models.generation import Prompt
    from models.sampling import Sampling

    torch.set_num_threads(THREADS)
    source = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    bits: Any = None if kind == "float32" else kind
    engine = Engine(lambda: CausalLM.load(source, name="ours", device="cpu", bits=bits))
    engine.wait_until_loaded(120)

    def prompt(ids: list[int], new: int) -> Prompt:
        return Prompt(token_ids=ids, max_tokens=new, sampling=Sampling(temperature=0.0), ignore_eos=True, fleeting=True)

    def do(what: dict[str, Any]) -> Measure:
        if what["do"] == "alone":
            timings = engine.submit(prompt(ids_of(what["seed"], what["context"]), what["new"])).wait().timings
            return _speeds(what, timings.prefill, timings.decode, timings.completion_tokens)
        prompts = [prompt(ids_of(1000 * what["seed"] + n, 16), what["new"]) for n in range(what["sessions"])]
        began = time.perf_counter()
        replies = [generation.wait() for generation in [engine.submit(p) for p in prompts]]
        return {"tokens_a_second": sum(len(r.token_ids) for r in replies) / (time.perf_counter() - began)}

    return do


def _speeds(what: dict[str, Any], prefill: float, decode: float, made: int) -> Measure:
    return {
        "prefill_tokens_a_second": what["context"] / prefill,
        "decode_tokens_a_second": (made - 1) / decode if made > 1 else 0.0,
    }


def llama_cpp(_: str) -> Callable[[dict[str, Any]], Measure]:
    """llama.cpp's server, by its wheel, asked over HTTP; its own timings."""
    import httpx
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(packaged_gguf())
    params.n_ctx, params.n_parallel = 16 * 512 + 4096, 16
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.port = 0
    server = xllamacpp.Server(params)
    client = httpx.Client(base_url=server.listening_address, timeout=600)

    def complete(ids: list[int], new: int, slot: int) -> dict[str, Any]:
        body = {"prompt": ids, "n_predict": new, "id_slot": slot, "temperature": 0, "ignore_eos": True}
        answer = client.post("/completion", json={**body, "cache_prompt": False})
        answer.raise_for_status()
        return dict(answer.json()["timings"])

    def do(what: dict[str, Any]) -> Measure:
        if what["do"] == "alone":
            got = complete(ids_of(what["seed"], what["context"]), what["new"], 0)
            decode = got["predicted_ms"] / 1000
            return _speeds({"context": got["prompt_n"]}, got["prompt_ms"] / 1000, decode, got["predicted_n"])
        with ThreadPoolExecutor(what["sessions"]) as hands:
            began = time.perf_counter()
            asked = [
                hands.submit(complete, ids_of(1000 * what["seed"] + n, 16), what["new"], n)
                for n in range(what["sessions"])
            ]
            made = sum(future.result()["predicted_n"] for future in asked)
        return {"tokens_a_second": made / (time.perf_counter() - began)}

    do.server = server  # type: ignore[attr-defined]  # lives as long as what uses it
    return do


def generate(_: str) -> Callable[[dict[str, Any]], Measure]:
    """`transformers.generate` in bfloat16, as its documentation has it."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    source = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()

    def do(what: dict[str, Any]) -> Measure:
        ids = torch.tensor([ids_of(what["seed"], what["context"])])
        first = seconds_to_generate(model, ids, 1)
        decode = seconds_to_generate(model, ids, what["new"]) - first if what["new"] > 1 else 1.0
        return _speeds(what, first, decode, what["new"])

    return do


def quality(bits: Any) -> dict[str, Any]:
    """How far fewer bits are from float32, on texts that no night rehearses."""
    import torch

    from consolidation.rehearsal import exchanges, prompts
    from models.causal_lm import CausalLM
    from models.few_rows import MOST_ROWS
    from models.language import Chunk

    torch.set_num_threads(THREADS)
    source = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    whole = CausalLM.load(source, name="whole", device="cpu")
    few = CausalLM.load(source, name="few", device="cpu", bits=bits)
    held = [t for t in [*exchanges(), *prompts()] if t.held_back]
    texts = [whole.encode(f"{t.said}\n{t.reply or ''}")[:TEXT_TOKENS] for t in held]
    texts = [ids for ids in texts if len(ids) >= 8][:TEXTS]

    def read(model: CausalLM, some: list[list[int]]) -> list[torch.Tensor]:
        """Log-probabilities after each token, token by token, as in decoding; some texts at once."""
        states = [model.new_state() for _ in some]
        found: list[list[torch.Tensor]] = [[] for _ in some]
        for at in range(max(map(len, some))):
            going = [n for n, ids in enumerate(some) if at < len(ids)]
            logits = model.read([Chunk(token_ids=[some[n][at]], state=states[n]) for n in going]).logits
            for n, of in zip(going, torch.log_softmax(logits, -1), strict=True):
                found[n].append(of)
        return [torch.stack(of) for of in found]

    divergences, same = [], []
    for start in range(0, len(texts), MOST_ROWS):
        some = texts[start : start + MOST_ROWS]
        for p, q in zip(read(whole, some), read(few, some), strict=True):
            divergences.append(float((p.exp() * (p - q)).sum(-1).mean()))
            same.append(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
    return {
        "bits": bits,
        "texts": len(texts),
        "kl": statistics.mean(divergences),
        "kl_worst_text": max(divergences),
        "top1": statistics.mean(same),
    }


_KINDS: dict[str, Callable[[str], Callable[[dict[str, Any]], Measure]]] = {
    "float32": ours,
    "int4": ours,
    "int8": ours,
    "llama.cpp": llama_cpp,
    "generate": generate,
}


def serve(kind: str) -> None:
    """A peer's own process: a line of JSON in, one out."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for the reader
    do = _KINDS[kind](kind)
    for line in sys.stdin:
        out.write(json.dumps(do(json.loads(line))) + "\n")
        out.flush()


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", choices=["int4", "int8"], default="int4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="*", default=[16, 512, 2048])
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--peer", choices=sorted(_KINDS), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    if args.peer:
        serve(args.peer)
        return 0
    report = quality(args.bits) if args.quality else measure(args.bits, args.repeats, args.contexts, args.sessions)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
