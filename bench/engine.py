"""The engine beside llama.cpp on the same file and `transformers.generate`, in one run, in turn.

    python -m bench.engine --json [--repeats 5] [--contexts 16 512 2048] [--sessions 1 4 8 16] [--bits int8]
    python -m bench.engine --adapters | --busy | --drafts | --quality [--bits int4]

Each in a process of its own that waits while others are measured, two threads each: ours as it serves by default, ours
in bfloat16 (caches, and prompts), and with all weights whole; llama.cpp by an installed wheel (pip install --no-deps
xllamacpp==2026.10.11549); `generate` in bfloat16. Decode and prefill speed at each context, all tokens a second of
several sessions at once at context 16, peak memory, and seconds from the process's start to its first token. Every
round measures all, one after the other; ratios are round by round. `of the bandwidth`: of what the machine can read in
a second, the share that the weights of a token are. Nothing is drafted ahead in any of this.

--adapters: what adapters cost, one for all and four in a batch of eight, in turn with the base alone.
--drafts: what a step of several rows of one sequence costs; and greedy replies to requests that no night rehearses,
plain ones and such as ask for a text to be repeated, with drafts and without, in turn, and whether they are the same.
--busy: decode beside processes that do nothing but count.
--quality: 200 texts that no night rehearses, read token by token by the weights that decode and by float32: KL and
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
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import tiny
from bench.serving import collect, ratio, seconds_to_generate, spread
from models.engine import Engine, EngineLimits
from models.generation import Prompt
from models.language import BASE
from models.sampling import Sampling
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
    kinds = {
        "ours": f"float32 {bits}",
        "ours, bfloat16": f"bfloat16 {bits}",
        "ours, whole": "float32 whole",
        "llama.cpp": f"llama.cpp 1 {max(contexts, default=16) + 2 * NEW_TOKENS}",
        "llama.cpp's slots": f"llama.cpp {max(sessions, default=1)} {4 * NEW_TOKENS}",
        "generate": "generate",
    }
    does = {"ours, whole": "alone", "llama.cpp": "alone", "llama.cpp's slots": "together", "generate": "alone"}
    peers = [Peer(name, kind) for name, kind in kinds.items()]
    try:
        report: dict[str, Any] = {"start_to_first_token_s": {p.name: round(p.first_token_seconds, 2) for p in peers}}
        asked = [{"do": "alone", "context": n, "new": NEW_TOKENS} for n in contexts]
        asked += [{"do": "together", "sessions": n, "new": NEW_TOKENS} for n in sessions]
        for what in asked:
            rows: dict[str, dict[str, list[float]]] = {}
            for turn in range(repeats + 1):
                for peer in peers:
                    if does.get(peer.name, what["do"]) != what["do"]:
                        continue
                    into = rows if turn else {}  # the first warms up
                    collect(lambda p=peer, w=what, t=turn: p.ask(**w, seed=t), into.setdefault(peer.name, {}))  # type: ignore[misc]
            name = " ".join(str(v) for v in what.values())
            report[name] = {
                **{peer: {k: spread(v) for k, v in of.items()} for peer, of in rows.items()},
                **{
                    f"{k} of {mine}, to {peer}": ratio(rows[mine][k], of[k])
                    for mine in ("ours", "ours, bfloat16")
                    for peer, of in rows.items()
                    for k in of
                    if not peer.startswith("ours")
                },
            }
            sys.stderr.write(f"{what}: {json.dumps(report[name])}\n")
        report["peak_mib"] = {p.name: round(p.peak_mib()) for p in peers}
        report["bandwidth"] = peers[0].ask(do="bandwidth")  # last: it needs memory
        return report
    finally:
        for peer in peers:
            peer.close()


def ids_of(seed: int, n: int) -> list[int]:
    """Tokens that nobody has read before."""
    return random.Random(seed).choices(_VOCABULARY, k=n)


def engine_of(kind: str) -> Engine:
    """The product's engine, without the service around it, and without drafts. `kind`: dtype and bits."""
    import torch

    from models.causal_lm import CausalLM

    torch.set_num_threads(THREADS)
    source = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    dtype, bits = kind.split()
    engine = Engine(
        lambda: CausalLM.load(source, name="ours", device="cpu", dtype=dtype, bits=bits),  # type: ignore[arg-type]
        EngineLimits(drafts=0),
    )
    engine.wait_until_loaded(120)
    return engine


def prompt(ids: list[int], new: int, adapter: str = BASE) -> Prompt:
    """Greedy, to the last token."""
    sampling = Sampling(temperature=0.0)
    return Prompt(token_ids=ids, max_tokens=new, sampling=sampling, ignore_eos=True, fleeting=True, adapter=adapter)


def ours(kind: str) -> Callable[[dict[str, Any]], Measure]:
    """The product's."""
    engine = engine_of(kind)

    def do(what: dict[str, Any]) -> Measure:
        if what["do"] == "bandwidth":
            return bandwidth(engine)
        if what["do"] == "alone":
            timings = engine.submit(prompt(ids_of(what["seed"], what["context"]), what["new"])).wait().timings
            return _speeds(what, timings.prefill, timings.decode, timings.completion_tokens)
        prompts = [prompt(ids_of(1000 * what["seed"] + n, 16), what["new"]) for n in range(what["sessions"])]
        return {"tokens_a_second": together(engine, prompts)}

    return do


def together(engine: Engine, prompts: Sequence[Prompt]) -> float:
    """All tokens a second of replies that begin at once, prompts included."""
    began = time.perf_counter()
    replies = [generation.wait() for generation in [engine.submit(p) for p in prompts]]
    return sum(len(r.token_ids) for r in replies) / (time.perf_counter() - began)


def decoded(engine: Engine, prompts: Sequence[Prompt]) -> float:
    """The same without the prompts: each reply's from its first token on."""
    timings = [generation.wait().timings for generation in [engine.submit(p) for p in prompts]]
    return sum((t.completion_tokens - 1) / t.decode for t in timings)


def bandwidth(engine: Engine) -> Measure:
    """What the machine reads in a second, and what the weights of a token are."""
    import torch

    from models.causal_lm import CausalLM

    much = torch.ones(1 << 27)
    taken = []
    for _ in range(6):
        began = time.perf_counter()
        much.sum()
        taken.append(time.perf_counter() - began)
    model = engine.model
    assert isinstance(model, CausalLM)
    return {"read_gb_a_second": much.nbytes / min(taken) / 1e9, "weights_mb_a_token": model.decoded_bytes / 1e6}


def adapters(repeats: int, rank: int) -> dict[str, Any]:
    """What adapters of a night's size cost: random, on the upper half, with open gates."""
    from models.causal_lm import CausalLM

    engine = engine_of("float32 auto")
    model = engine.model
    assert isinstance(model, CausalLM)
    names = [f"adapter-{n}" for n in range(4)]
    layers = 1 + max(n for n, _ in model.linears)
    upper = {linear: sizes for linear, sizes in model.linears.items() if linear[0] >= layers // 2}
    size = model.linears[0, "q_proj"][0]
    cases = {
        "one session": ([BASE], [names[0]]),
        "eight, one adapter": ([BASE] * 8, [names[0]] * 8),
        "eight, four adapters": ([BASE] * 8, names * 2),
    }
    found: dict[str, dict[str, list[float]]] = {name: {"base": [], "adapters": []} for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(names):
            tiny.adapter(Path(folder) / name, upper, rank=rank, seed=seed, gate=(size, 40.0))
            engine.adopt(Path(folder) / name, name)
        for turn in range(repeats + 1):
            for case, (plain, adapted) in cases.items():
                for kind, of in (("base", plain), ("adapters", adapted)):
                    ids = [ids_of(100 * turn + n, 16) for n in range(len(of))]
                    speed = decoded(engine, [prompt(i, 4 * NEW_TOKENS, a) for i, a in zip(ids, of, strict=True)])
                    if turn:  # the first warms up
                        found[case][kind].append(speed)
    engine.close()
    return {"rank": rank} | {
        case: {kind: spread(v) for kind, v in of.items()} | {"to base": ratio(of["adapters"], of["base"])}
        for case, of in found.items()
    }


def drafts(repeats: int) -> dict[str, Any]:
    """What drafting costs and gains."""
    from consolidation.rehearsal import exchanges, prompts
    from models.language import Chunk, Message

    plain = engine_of("float32 auto")
    model = plain.model
    costs: dict[int, list[float]] = {rows: [] for rows in (1, 2, 3, 4, 5)}
    state = model.new_state()
    model.read([Chunk(token_ids=ids_of(0, 256), state=state)])
    for turn in range(60):
        for rows, into in costs.items():
            chunks = [Chunk(token_ids=[n], state=state, decoded=True, ahead=n - 100) for n in range(100, 100 + rows)]
            began = time.perf_counter()
            model.read(chunks)
            into.extend([time.perf_counter() - began] * (turn > 5))
            state.crop(256)
    said = [t.said for t in prompts() if t.held_back][:12]
    repeated = [f"Repeat this text word for word:\n\n{t.reply}" for t in exchanges() if t.held_back and t.reply][:12]
    drafting = Engine(lambda: model, EngineLimits())
    drafting.wait_until_loaded()
    found: dict[str, Any] = {}
    for name, texts in (("plain", said), ("repeated", repeated)):
        speeds: dict[str, list[float]] = {"without": [], "with": []}
        before, same = drafting.stats(), True
        for _ in range(repeats):
            for text in texts:
                ids = model.chat_ids([Message(role="user", content=text)]) or []
                made = {}
                for kind, engine in (("without", plain), ("with", drafting)):
                    asked = Prompt(token_ids=ids, max_tokens=160, sampling=Sampling(temperature=0.0), fleeting=True)
                    made[kind] = reply = engine.submit(asked).wait()
                    speeds[kind].append(max(1, len(reply.token_ids) - 1) / max(reply.timings.decode, 1e-6))
                same = same and made["with"].token_ids == made["without"].token_ids
        after = drafting.stats()
        drafted, right = after.drafted - before.drafted, after.drafted_right - before.drafted_right
        found[name] = {
            **{kind: spread(of) for kind, of in speeds.items()},
            "with to without": ratio(speeds["with"], speeds["without"]),
            "drafted": drafted,
            "right": right / max(1, drafted),
            "same tokens": same,
        }
    drafting.close()
    plain.close()
    one = statistics.median(costs[1])
    return {"cost of rows": {rows: round(statistics.median(of) / one, 3) for rows, of in costs.items()}, **found}


def busy(repeats: int) -> dict[str, Any]:
    """Decode beside processes that count, in turn with none."""
    engine = engine_of("float32 auto")
    found: dict[int, list[float]] = {n: [] for n in (0, 1, 2, 4)}
    for turn in range(repeats + 1):
        for beside, into in found.items():
            counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
            try:
                timings = engine.submit(prompt(ids_of(turn, 16), 2 * NEW_TOKENS)).wait().timings
            finally:
                for process in counting:
                    process.kill()
                    process.wait()
            if turn:
                into.append((timings.completion_tokens - 1) / timings.decode)
    engine.close()
    return {f"{beside} beside": spread(speeds) for beside, speeds in found.items()}


def _speeds(what: dict[str, Any], prefill: float, decode: float, made: int) -> Measure:
    return {
        "prefill_tokens_a_second": what["context"] / prefill,
        "decode_tokens_a_second": (made - 1) / decode if made > 1 else 0.0,
    }


def llama_cpp(kind: str) -> Callable[[dict[str, Any]], Measure]:
    """llama.cpp's server, by its wheel, asked over HTTP; its own timings. `kind`: slots, and the context of each."""
    import httpx
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(packaged_gguf())
    slots, context = map(int, kind.split()[1:])
    params.n_ctx, params.n_parallel = slots * context, slots
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


def quality(dtype: str, bits: Any) -> dict[str, Any]:
    """How far fewer bits are from float32, on texts that no night rehearses."""
    import torch

    from consolidation.rehearsal import exchanges, prompts
    from models.causal_lm import CausalLM
    from models.decode_step import MOST_ROWS
    from models.language import Chunk

    torch.set_num_threads(THREADS)
    source = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    whole = CausalLM.load(source, name="whole", device="cpu")
    few = CausalLM.load(source, name="few", device="cpu", dtype=dtype, bits=bits)
    held = [t for t in [*exchanges(), *prompts()] if t.held_back]
    texts = [whole.encode(f"{t.said}\n{t.reply or ''}")[:TEXT_TOKENS] for t in held]
    texts = [ids for ids in texts if len(ids) >= 8][:TEXTS]

    def read(model: CausalLM, some: list[list[int]]) -> list[torch.Tensor]:
        """Log-probabilities after each token, token by token, as in decoding; some texts at once."""
        states = [model.new_state() for _ in some]
        found: list[list[torch.Tensor]] = [[] for _ in some]
        for at in range(max(map(len, some))):
            going = [n for n, ids in enumerate(some) if at < len(ids)]
            logits = model.read([Chunk(token_ids=[some[n][at]], state=states[n], decoded=True) for n in going]).logits
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
        "dtype": dtype,
        "bits": bits,
        "texts": len(texts),
        "kl": statistics.mean(divergences),
        "kl_worst_text": max(divergences),
        "top1": statistics.mean(same),
    }


_OTHERS: dict[str, Callable[[str], Callable[[dict[str, Any]], Measure]]] = {
    "llama.cpp": llama_cpp,
    "generate": generate,
}


def serve(kind: str) -> None:
    """A peer's own process: a line of JSON in, one out."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not for the reader
    do = _OTHERS.get(kind.split(maxsplit=1)[0], ours)(kind)
    for line in sys.stdin:
        out.write(json.dumps(do(json.loads(line))) + "\n")
        out.flush()


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", choices=["auto", "int4", "int8", "bfloat16"], default="auto")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="with --quality")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="*", default=[16, 512, 2048])
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 4, 8, 16])
    parser.add_argument("--adapters", action="store_true")
    parser.add_argument("--rank", type=int, default=64, help="with --adapters; that of what nights begin from")
    parser.add_argument("--drafts", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    if args.peer:
        serve(args.peer)
        return 0
    if args.quality:
        report = quality(args.dtype, args.bits)
    elif args.adapters:
        report = adapters(args.repeats, args.rank)
    elif args.drafts:
        report = drafts(args.repeats)
    elif args.busy:
        report = busy(args.repeats)
    else:
        report = measure(args.bits, args.repeats, args.contexts, args.sessions)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
