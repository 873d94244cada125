"""Files of tensors: what is written comes back, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from models import state_file
from models.state_file import FORMAT, MOST_HEADER, BrokenStateFile, inspect, opened
from models.tensor_blocks import to_blocks, to_tensors

TENSORS = {
    "token_ids": torch.arange(40, dtype=torch.int32),
    "keys.00": torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16),
    "values.00": torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(2)),
    "nothing": torch.empty(0, 8),
}
MANIFEST = {"identity": {"weights": "ab"}, "made": "2026-11-22", "n": 40}


def write(path: Path, tensors: dict[str, Tensor], manifest: dict[str, Any]) -> int:
    return state_file.write(path, to_blocks(tensors), manifest)


def pieces(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> list[memoryview]:
    return list(state_file.pieces(to_blocks(tensors), manifest))


def saved(folder: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    path = folder / "one.state"
    write(path, TENSORS if tensors is None else tensors, MANIFEST)
    return path


def read(path: Path) -> dict[str, Tensor]:
    return to_tensors(opened(path)[1])


def test_what_is_written_comes_back_and_others_can_read_it(tmp_path: Path) -> None:
    path = saved(tmp_path)
    found = read(path)
    assert all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in TENSORS.items())
    assert inspect(path).manifest == MANIFEST
    assert torch.equal(load_file(path)["keys.00"], TENSORS["keys.00"]), "plain safetensors"
    assert path.stat().st_mode & 0o777 == 0o600 and [p.name for p in tmp_path.iterdir()] == ["one.state"]
    assert b"".join(pieces(TENSORS, MANIFEST)) == path.read_bytes(), "the same over a network"


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
        st.tuples(
            st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.int32, torch.uint8]),
            st.lists(st.integers(0, 5), max_size=4),
        ),
        max_size=6,
    ),
    st.dictionaries(st.text(max_size=5).filter(lambda k: k != "digests"), st.integers() | st.text(max_size=8)),
)
def test_any_tensors_come_back(tmp_path_factory: Any, given_: dict[str, Any], manifest: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("any") / "f"
    tensors = {
        name: (torch.rand(shape) * 100).to(dtype) if shape else torch.tensor(7).to(dtype)
        for name, (dtype, shape) in given_.items()
    }
    write(path, tensors, manifest)
    found = read(path)
    assert found.keys() == tensors.keys() and inspect(path).manifest == manifest
    assert all(torch.equal(found[n], t) and found[n].shape == t.shape for n, t in tensors.items())


def test_what_the_format_does_not_have_is_not_written(tmp_path: Path) -> None:
    for tensors in (
        {"../x": torch.zeros(1)},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {"a": torch.zeros(1, 1, 1, 1, 1)},
    ):
        with pytest.raises(ValueError, match=r"a|x"):
            write(tmp_path / "f", tensors, {})
    with pytest.raises(ValueError, match="manifest"):
        write(tmp_path / "f", {}, {"long": "x" * MOST_HEADER})
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, {"a": torch.ones(9)}, {})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["one.state"]


LARGE = {f"keys.{n:03d}": torch.rand(3, 1000 + n, 64, generator=torch.Generator().manual_seed(n)) for n in range(9)}
"""Enough to be written by several threads."""


def test_a_file_is_the_same_by_the_disk_and_by_the_network(tmp_path: Path) -> None:
    for tensors in (TENSORS, LARGE):
        assert saved(tmp_path, tensors).read_bytes() == b"".join(pieces(tensors, MANIFEST))
        assert all(torch.equal(t, tensors[name]) for name, t in read(tmp_path / "one.state").items())


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path) -> None:
    """The kernel itself refuses, in the middle."""
    before = saved(tmp_path).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            saved(tmp_path, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("one.state", before)]


def parts(file: bytes) -> tuple[dict[str, Any], bytes]:
    (n,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + n]), file[8 + n :]


def sealed(header: dict[str, Any], data: bytes) -> bytes:
    """A forger's file: its seal is right."""
    table = {name: entry for name, entry in header.items() if name != "__metadata__"}
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict) and isinstance(metadata.get("manifest"), str):
        text = json.dumps([FORMAT, metadata["manifest"], table], sort_keys=True)
        metadata["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def forged(change: Callable[[dict[str, Any]], None], data: Callable[[bytes], bytes] = lambda d: d) -> bytes:
    header, rest = parts(b"".join(pieces(TENSORS, MANIFEST)))
    change(header)
    return sealed(header, data(rest))


def manifest_of(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def changed(header: dict[str, Any]) -> None:
        manifest = json.loads(header["__metadata__"]["manifest"])
        change(manifest)
        header["__metadata__"]["manifest"] = json.dumps(manifest)

    return changed


GOOD = b"".join(pieces(TENSORS, MANIFEST))
HEADER, DATA = parts(GOOD)
RAW = len(GOOD) - len(DATA) - 8
BAD: dict[str, bytes] = {
    **{f"cut off at {n}": GOOD[:n] for n in (0, 1, 7, 8, 9, 100, RAW + 7, RAW + 8, RAW + 9, len(GOOD) - 1)},
    "a byte too many": GOOD + b"\0",
    "another file": b"PK\x03\x04" + bytes(2000),
    "a pickle": b"\x80\x04\x95" + bytes(500),
    "noise": random.Random(1).randbytes(4000),
    "all zeros": bytes(4096),
    "a header of 2^63": struct.pack("<Q", 1 << 63) + GOOD[8:],
    "a header of all there is": struct.pack("<Q", len(GOOD)) + GOOD[8:],
    "a header a little too long": struct.pack("<Q", RAW + 8) + GOOD[8:],
    "a header a little too short": struct.pack("<Q", RAW - 8) + GOOD[8:],
    "an empty header": struct.pack("<Q", 0) + GOOD[8:],
    "a header that is no JSON": struct.pack("<Q", 16) + b"{" * 16 + DATA,
    "a header of lists 100,000 deep": struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
    "a header of another encoding": struct.pack("<Q", 8) + b'{"\xff\xfe":',
    "a header that is a list": struct.pack("<Q", 2) + b"[]",
    "no metadata": sealed({k: v for k, v in HEADER.items() if k != "__metadata__"}, DATA),
    "metadata that is a text": sealed({**HEADER, "__metadata__": "x"}, DATA),
    "no manifest": sealed({**HEADER, "__metadata__": {"format": FORMAT, "sha256": ""}}, DATA),
    "more metadata": sealed({**HEADER, "__metadata__": {**HEADER["__metadata__"], "more": ""}}, DATA),
    "an older version": sealed(
        {**HEADER, "__metadata__": {**HEADER["__metadata__"], "format": "slowwave-state-0"}}, DATA
    ),
    "a newer version": sealed(
        {**HEADER, "__metadata__": {**HEADER["__metadata__"], "format": "slowwave-state-2"}}, DATA
    ),
    "a manifest that is no JSON": forged(lambda h: h["__metadata__"].update(manifest="{")),
    "a manifest that is a list": forged(lambda h: h["__metadata__"].update(manifest="[]")),
    "a name twice": GOOD[:8] + GOOD[8:].replace(b'"values.00"', b'"keys.00"', 1) + b"  ",
    "no digests": forged(manifest_of(lambda m: m.pop("digests"))),
    "a digest too few": forged(manifest_of(lambda m: m["digests"].pop("keys.00"))),
    "a digest too many": forged(manifest_of(lambda m: m["digests"].update(more="00"))),
    "a wrong digest": forged(manifest_of(lambda m: m["digests"].update({"keys.00": "0" * 64}))),
    "digests that are a list": forged(manifest_of(lambda m: m.update(digests=[]))),
    "digests exchanged": forged(
        manifest_of(lambda m: m["digests"].update({"keys.00": m["digests"]["values.00"], "values.00": "x"}))
    ),
    "a seal of another header": sealed(HEADER, DATA).replace(HEADER["__metadata__"]["sha256"].encode(), b"0" * 64, 1),
}
for name in ("../keys", "/etc/passwd", "keys/00", "", "KEYS", "k" * 65, "keys\0", "ключи", "__metadata"):
    BAD[f"a tensor called {name!r}"] = forged(lambda h, name=name: h.update({name: h.pop("keys.00")}))  # type: ignore[misc]
wrongs: dict[str, list[Any]] = {
    "dtype": ["F64", "", None, 7, "f32", ["F32"]],
    "shape": [
        [-1, 40, 8],
        [3.0, 40, 8],
        [3, 40, "8"],
        [1 << 60, 40, 8],
        None,
        "3",
        [3, 40, 8, 1, 1],
        [True, 40, 8],
        [0],
    ],
    "data_offsets": [[0, 0], [-1, 5], [160, 161], [1 << 62, 1 << 63], None, [160], [160, 2080, 1], ["160", 2080]],
}
for change, several in wrongs.items():
    for wrong in several:
        BAD[f"{change} {wrong!r}"[:60]] = forged(lambda h, c=change, w=wrong: h["keys.00"].update({c: w}))  # type: ignore[misc]
BAD["an entry that is a list"] = forged(lambda h: h.update({"keys.00": []}))
BAD["an entry with more in it"] = forged(lambda h: h["keys.00"].update(code="import os"))
BAD["a petabyte of zeros"] = forged(
    lambda h: h.update(
        {"bomb": {"dtype": "U8", "shape": [1 << 47], "data_offsets": [len(DATA), len(DATA) + (1 << 47)]}}
    )
)
BAD["five thousand tensors of nothing"] = forged(
    lambda h: h.update(
        {f"e{n}": {"dtype": "U8", "shape": [0], "data_offsets": [len(DATA), len(DATA)]} for n in range(5000)}
    )
)


def with_nan() -> bytes:
    tensors = {**TENSORS, "values.00": TENSORS["values.00"].clone()}
    tensors["values.00"][1, 2, 3] = float("nan")
    return b"".join(pieces(tensors, MANIFEST))


BAD["a number that is none"] = with_nan()
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for odd in ("inf", "-inf", "nan"):
        number = torch.tensor([1.0, float(odd)], dtype=dtype)
        BAD[f"{odd} in {dtype}"] = b"".join(pieces({"a": number}, MANIFEST))


def test_there_are_enough_bad_files() -> None:
    assert len(BAD) >= 60 and len(set(BAD.values())) == len(BAD)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_quickly_and_cheaply(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(BAD[name])
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(BrokenStateFile):
        opened(path)
    assert time.monotonic() - began < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path_factory: Any, at: int, flip: int) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(GOOD[:at] + bytes([GOOD[at] ^ flip]) + GOOD[at + 1 :])
    try:
        found = read(path)
    except BrokenStateFile:
        return
    # What JSON does not tell apart: white space behind the header's last brace.
    assert all(torch.equal(found[n], t) for n, t in TENSORS.items()) and inspect(path).manifest == MANIFEST
