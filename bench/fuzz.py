"""Files with something wrong in them, by the hundred thousand: refused, or the same as before; never anything else.

    python -m bench.fuzz --json [--mutations 100000] [--seed 1]

A session of a tiny model is exported in each codec. Three quarters of the mutations change bytes, as accidents do:
flipped, cut off, repeated, put elsewhere, exchanged with another file's. What is still taken must be what was written.
A quarter are a forger's, whose lengths, digests and seal are right again: manifest, table, entries or numbers are
changed. What is taken of those must be whole: shapes that the manifest names, numbers that are finite, ids of the
vocabulary. Anything else that is raised but a refusal counts as a crash, and so does a second spent on one file, or 64
MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from agent import carried
from agent.carried import Carried
from memory.transcripts import Entry
from models.kv_codec import CODECS, CodecMissing, block_of, coded, decoded, floats
from models.kv_transform import Transform, alphabets, of_bytes, to_bytes
from models.state_file import FORMAT, ITEM_BYTES, Block, BrokenStateFile, opened, pieces

_AT = datetime(2026, 11, 22, tzinfo=UTC)
_LAYERS, _HEADS, _D, _TOKENS, _VOCAB = 2, 2, 8, 90, 300
_MOST = 1 << 22


def originals() -> dict[str, bytes]:
    """A file in each codec."""
    chance = np.random.default_rng(7)
    ids = tuple(int(i) for i in chance.integers(0, _VOCAB, _TOKENS))
    entries = (
        Entry(id="a", role="user", content="Hello — о море", token_ids=ids[:50], created_at=_AT),
        Entry(id="b", role="assistant", content="Yes.", token_ids=ids[50:], created_at=_AT),
    )
    state = {
        f"{kind}.{n:03d}": block_of(chance.standard_normal((_HEADS, _TOKENS, _D)).astype("<f4"), "F32")
        for kind in ("keys", "values")
        for n in range(_LAYERS)
    }
    session = carried.to_blocks(Carried(tokenizer="t", entries=entries))
    read = {"token_ids": block_of(np.array(ids, "<i4"), "I32")}
    files: dict[str, bytes] = {}
    for codec in CODECS:
        made = coded(state, codec, TRANSFORM)
        manifest = {"identity": {"weights": "w"}, "codec": made.manifest, "made": _AT.isoformat()}
        files[codec] = b"".join(pieces({**read, **made.blocks, **session}, manifest))
    return files


def _transform() -> Transform:
    chance = np.random.default_rng(3)
    made = Transform(
        forward=(chance.standard_normal((_LAYERS, 2, _HEADS, _D, _D)) + 3 * np.eye(_D)).astype(np.float32),
        centre=np.zeros((_LAYERS, 2, _HEADS, _D), np.float32),
        turns=np.ones(_D // 2, np.float32),
        steps={"learned": 0.5, "learned-fine": 0.05},
        alphabets=alphabets(1.4),
        layout="tiny",
        digest="",
    )
    return of_bytes(to_bytes(made))


TRANSFORM = _transform()


def read(path: Path) -> Any:
    """All that an import looks at, as one value to compare. Raises: BrokenStateFile, CodecMissing."""
    contents, blocks = opened(path)
    codec = contents.manifest.get("codec", {"name": "none"})
    if not isinstance(codec, dict):
        raise BrokenStateFile("its manifest does not say how it is coded")
    kept = {n: b for n, b in blocks.items() if n.startswith(("keys.", "values."))}
    state = decoded(kept, codec, most_bytes=_MOST, transforms={TRANSFORM.digest: TRANSFORM})
    session = carried.of_blocks(blocks, vocab_size=_VOCAB, tokenizer="t", at=_AT)
    ids = blocks.get("token_ids")
    said = [(e.role, e.content, e.status, e.token_ids) for e in session.entries]
    return _plain(state), said, None if ids is None else bytes(ids.data), contents.manifest


def _plain(state: Mapping[str, Block]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (b.dtype, b.shape, bytes(b.data)) for name, b in sorted(state.items())}


def whole(found: Any) -> bool:
    """Whether what a forger made hangs together."""
    state, said, _, _ = found
    for dtype, shape, raw in state.values():
        size = ITEM_BYTES[dtype]
        for n in shape:
            size *= n
        if size != len(raw):
            return False
        if dtype in ("F32", "F16", "BF16"):
            block = Block.of(dtype, shape, memoryview(bytearray(raw)))
            if not np.isfinite(floats(block)).all():
                return False
    return all(0 <= i < _VOCAB for _, _, _, ids in said for i in ids)


def accident(raw: bytes, other: bytes, chance: random.Random) -> bytes:
    """Bytes changed as accidents change them."""
    made = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        at = chance.randrange(len(made)) if made else 0
        # The header is a small part of a file, and most of what there is to get wrong.
        at = chance.randrange(min(len(made), 2500)) if made and chance.random() < 0.5 else at
        n = chance.choice([1, 1, 2, 4, 8, 64, 1000])
        match chance.randrange(7):
            case 0:
                made[at : at + 1] = bytes([made[at] ^ 1 << chance.randrange(8)]) if made else b""
            case 1:
                made[at : at + n] = chance.randbytes(n)
            case 2:
                del made[at:]
            case 3:
                del made[at : at + n]
            case 4:
                made[at:at] = made[at : at + n]
            case 5:
                made[at : at + n] = bytes(n)
            case _:
                start = chance.randrange(len(other))
                made[at : at + n] = other[start : start + n]
    return bytes(made)


def forgery(raw: bytes, chance: random.Random) -> bytes:
    """Something changed by who knows the format: digests and seal are right again."""
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    manifest = json.loads(header.pop("__metadata__")["manifest"])
    data = raw[8 + n :]
    blocks = {name: bytearray(data[slice(*e["data_offsets"])]) for name, e in header.items()}
    name = chance.choice(sorted(blocks))
    match chance.randrange(6):
        case 0:
            block = blocks[name]
            for _ in range(chance.choice([1, 4, 32])):
                if block:
                    block[chance.randrange(len(block))] = chance.randrange(256)
        case 1:
            header[name][chance.choice(["shape", "dtype"])] = chance.choice(
                [[1], [2, 90, 8], [0], [1 << 40, 1 << 40], "F32", "U8", "F16", [2, 91, 8], [-1], "?", [[1]], None]
            )
        case 2:
            del blocks[name], header[name]
        case 3:
            _twist(manifest, chance)
        case 4:
            body = json.loads(bytes(blocks["transcript"])) if "transcript" in blocks else {}
            _twist(body, chance)
            blocks["transcript"] = bytearray(json.dumps(body).encode())
            header["transcript"] = {"dtype": "U8", "shape": [len(blocks["transcript"])]}
        case _:
            blocks[name] = blocks[name][: chance.randrange(len(blocks[name]) + 1)]
            if header[name]["dtype"] == "U8" and len(header[name]["shape"]) == 1:
                header[name]["shape"] = [len(blocks[name])]
    table, at = {}, 0
    for block_name, block in blocks.items():
        entry = {k: header[block_name][k] for k in ("dtype", "shape")}
        table[block_name] = {**entry, "data_offsets": [at, at + len(block)]}
        at += len(block)
    manifest["digests"] = {b: hashlib.sha256(block).hexdigest() for b, block in blocks.items()}
    text = json.dumps(manifest)
    seal = hashlib.sha256(json.dumps([FORMAT, text, table], sort_keys=True).encode()).hexdigest()
    made = json.dumps({"__metadata__": {"format": FORMAT, "manifest": text, "sha256": seal}, **table}).encode()
    return struct.pack("<Q", len(made)) + made + b"".join(blocks.values())


_ODD: tuple[Any, ...] = (None, "", "x", -1, 0, 1 << 70, 1.5, [], {}, True, "\ud800", [[]], "2026-01-01", float("1e300"))


def _twist(value: Any, chance: random.Random) -> None:
    """Change one thing, somewhere in JSON."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            value = inner
            continue
        if chance.random() < 0.2:
            del value[key]
        else:
            value[key] = chance.choice(_ODD)
        return


def run(mutations: int, seed: int) -> dict[str, Any]:
    """All of them."""
    chance = random.Random(seed)
    files = originals()
    counts: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one"
        want = {}
        for codec, raw in files.items():
            path.write_bytes(raw)
            want[codec] = read(path)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for n in range(mutations):
            codec = chance.choice(CODECS)
            forged = n % 4 == 3
            raw = (
                forgery(files[codec], chance)
                if forged
                else accident(files[codec], files[chance.choice(CODECS)], chance)
            )
            path.write_bytes(raw)
            began = time.perf_counter()
            kind = "forged" if forged else "accident"
            try:
                found = read(path)
                fine = whole(found) if forged else any(found == w for w in want.values())
                counts[f"{kind}, taken"] += 1
                if not fine:
                    bad.append({"n": n, "codec": codec, "why": "what was taken is wrong"})
            except (BrokenStateFile, CodecMissing):
                counts[f"{kind}, refused"] += 1
            except Exception as error:  # what this looks for
                bad.append({"n": n, "codec": codec, "why": f"{type(error).__name__}: {error}"[:200]})
            slowest = max(slowest, time.perf_counter() - began)
            if n % 1000 == 999:
                sys.stderr.write(f"\r{n + 1} files, {len(bad)} bad")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    report = {"mutations": mutations, "seed": seed, **counts, "bad": bad[:20], "bad_in_all": len(bad)}
    return report | {"slowest_ms": round(slowest * 1000, 1), "memory_growth_mib": round(grown, 1)}


def main() -> int:
    """Mutate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    report = run(args.mutations, args.seed)
    sys.stdout.write(json.dumps(report, indent=None if args.json else 2) + "\n")
    return 1 if report["bad_in_all"] or report["slowest_ms"] > 1000 or report["memory_growth_mib"] > 64 else 0


if __name__ == "__main__":
    raise SystemExit(main())
