"""Broken and hostile adapters, models, imports and settings, by the ten thousand: refused by name, or taken whole.

    python -m bench.fuzz_inputs --json [--inputs 20000] [--seed 1]

Adapters: files of a random LoRA with bytes changed, cut, exchanged, and forged with other shapes, dtypes, names and
numbers that are not finite; taken or refused as a promotion does. Imports: JSON lines with values changed anywhere,
sent to the application as a client would. Models: a GGUF file's header changed, read as a start does. Settings: TOML
with values and bytes changed. Anything raised but the package's own refusal, a 5xx, a second spent, or
256 MiB grown counts as bad. HTTP itself is fuzzed by schemathesis (tests/test_openapi.py; at length: `make fuzz`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import tiny
from bench.fuzz import _twist, accident
from bench.steps import service

_SHARES = {"adapter": 0.3, "import": 0.4, "settings": 0.25, "model": 0.05}


class _Wrong(Exception):
    """What was taken, and should not have been; or refused in a way that nobody can read."""


def adapters(model: Path, folder: Path) -> Callable[[random.Random], str]:
    """What tries a broken adapter on a model."""
    from models.causal_lm import CausalLM
    from models.errors import AdapterRefused

    lm = CausalLM.load(model, name="tiny", device="cpu", context_length=None)
    good = tiny.adapter(folder / "good", {(1, "gate_proj"): (64, 128)}, rank=2, seed=3)
    weights, config = ((good / n).read_bytes() for n in ("adapter_model.safetensors", "adapter_config.json"))
    bad = folder / "bad"
    bad.mkdir()

    def once(chance: random.Random) -> str:
        changed, told = weights, config
        match chance.randrange(3):
            case 0:
                changed = accident(weights, weights[::-1], chance)
            case 1:
                changed = _forged(weights, chance)
            case _:
                body = json.loads(config)
                _twist(body, chance)
                told = json.dumps(body).encode() if chance.random() < 0.8 else accident(config, weights, chance)
        (bad / "adapter_model.safetensors").write_bytes(changed)
        (bad / "adapter_config.json").write_bytes(told)
        try:
            lm.adopt(bad, "bad")
        except AdapterRefused as refused:
            if not str(refused).strip():
                raise _Wrong("refused without a word") from refused
            return "refused"
        lm.let_go("bad")
        if changed != weights and not _finite(changed):
            raise _Wrong("an adapter with numbers that are not finite was taken")
        return "taken"

    return once


def _forged(raw: bytes, chance: random.Random) -> bytes:
    (n,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + n]), bytearray(raw[8 + n :])
    name = chance.choice([k for k in header if k != "__metadata__"])
    match chance.randrange(5):
        case 0:
            header[name]["shape"] = chance.choice([[1], [0], [1 << 40, 1 << 40], [64, 2], [2, 64, 1], [-1]])
        case 1:
            header[name]["dtype"] = chance.choice(["F16", "BF16", "I8", "F64", "BOOL", "?"])
        case 2:
            header[f"base_model.model.model.layers.99.mlp.{name}"] = header.pop(name)
        case 3:
            value = chance.choice([math.nan, math.inf, -math.inf])
            start = header[name]["data_offsets"][0] + 4 * chance.randrange(8)
            data[start : start + 4] = struct.pack("<f", value)
        case _:
            header[name]["data_offsets"] = [chance.randrange(99999), chance.randrange(99999)]
    told = json.dumps(header).encode()
    length = chance.choice([len(told)] * 9 + [1 << 62])
    return struct.pack("<Q", length) + told + bytes(data)


def _finite(raw: bytes) -> bool:
    from safetensors.numpy import load

    return all(bool(np.isfinite(t).all()) for t in load(raw).values() if t.dtype.kind == "f")


def imports(http: Any) -> Callable[[random.Random], str]:
    """What sends broken lines to a service."""
    whole = {
        "id": "m1",
        "text": "The boat is called Wren.",
        "speaker": "Ada",
        "session": "s1",
        "at": "2026-11-28T10:00:00Z",
    }

    def once(chance: random.Random) -> str:
        line = dict(whole, id=f"m{chance.getrandbits(48)}", text=f"The boat {chance.getrandbits(30)} is called Wren.")
        for _ in range(chance.choice([1, 1, 2, 3])):
            _twist(line, chance)
        raw = json.dumps(line).encode()
        if chance.random() < 0.3:
            raw = accident(raw, raw[::-1], chance)
        before = http.get("/health").status_code if chance.random() < 0.02 else 200
        answer = http.post("/v1/memories/import", content=raw, headers={"Content-Type": "application/jsonl"})
        if answer.status_code >= 500 or before != 200:
            raise _Wrong(f"{answer.status_code}: {answer.text[:200]}")
        if answer.status_code >= 400 and not answer.json()["error"]["message"]:
            raise _Wrong("refused without a word")
        return "refused" if answer.status_code >= 400 else "taken"

    return once


def settings(folder: Path) -> Callable[[random.Random], str]:
    """What reads broken settings."""
    from settings import Settings, SettingsError, load

    names = list(Settings.model_fields)
    values: tuple[str, ...] = (
        "0",
        "-1",
        "1e999",
        "nan",
        "true",
        '""',
        '"x"',
        "[]",
        '["x", 1]',
        "{}",
        f'"{"y" * 5000}"',
        "2026-01-01",
    )
    values += ('"\\u0000"', '"../.."', '"25:61"', '"key scopes=all"')
    file = folder / "settings.toml"

    def once(chance: random.Random) -> str:
        lines = [f"{chance.choice(names)} = {chance.choice(values)}" for _ in range(chance.choice([1, 1, 2, 5]))]
        raw = "\n".join(dict.fromkeys(lines)).encode()
        file.write_bytes(accident(raw, raw[::-1], chance) if chance.random() < 0.4 else raw)
        try:
            load({}, config=file)
        except SettingsError as refused:
            if not str(refused).strip():
                raise _Wrong("refused without a word") from refused
            return "refused"
        return "taken"

    return once


def models(folder: Path) -> Callable[[random.Random], str]:
    """What reads a GGUF file whose beginning is broken."""
    from models.errors import ModelError
    from models.weights import packaged_gguf, resolve

    source = packaged_gguf()
    head = source.read_bytes()[: 1 << 20] if source else b"GGUF" + bytes(2048)
    file = folder / "broken.gguf"

    def once(chance: random.Random) -> str:
        raw = accident(head[: chance.choice([64, 4096, 1 << 20])], head[4096:8192], chance)
        file.write_bytes(raw)
        try:
            resolve(str(file), cache_dir=folder / "cache")
        except ModelError as refused:
            if not str(refused).strip():
                raise _Wrong("refused without a word") from refused
            return "refused"
        return "taken"

    return once


def run(inputs: int, seed: int, folder: Path) -> dict[str, Any]:
    """All of them."""
    chance = random.Random(seed)
    model = tiny.save(folder / "tiny")
    counts: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    slowest: dict[str, float] = {}
    home = folder / "home"
    home.mkdir()
    with service(home, model) as (http, _):
        kinds = {
            "adapter": adapters(model, folder),
            "import": imports(http),
            "settings": settings(folder),
            "model": models(folder),
        }
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for n in range(inputs):
            kind = chance.choices(list(_SHARES), list(_SHARES.values()))[0]
            began = time.perf_counter()
            state = chance.getrandbits(40)
            try:
                counts[f"{kind}, {kinds[kind](random.Random(state))}"] += 1
            except Exception as error:  # what this looks for
                bad.append({"n": n, "kind": kind, "state": state, "why": f"{type(error).__name__}: {error}"[:300]})
            slowest[kind] = max(slowest.get(kind, 0.0), time.perf_counter() - began)
            if n % 200 == 199:
                sys.stderr.write(f"\r{n + 1} inputs, {len(bad)} bad   ")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    late = [f"{kind} took {took:.1f} s" for kind, took in slowest.items() if took > (10 if kind == "model" else 1.5)]
    more = [f"memory grew by {grown:.0f} MiB"] if grown > 256 else []
    return {
        "inputs": inputs,
        "seed": seed,
        "by_kind": dict(sorted(counts.items())),
        "bad": [*bad[:20], *late, *more],
        "bad_in_all": len(bad) + len(late) + len(more),
        "slowest_ms": {kind: round(took * 1000) for kind, took in slowest.items()},
    }


def main() -> int:
    """Break, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as given:
        done = run(args.inputs, args.seed, Path(given))
    sys.stdout.write("\n" + json.dumps(done, indent=None if args.json else 2) + "\n")
    return 1 if done["bad_in_all"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
