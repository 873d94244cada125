"""Tensors handed to another process: the same numbers, the same memory, and nothing that is not what it was said."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from models.shared_tensors import BrokenHandOver, Shared, mapped, share, share_files

CHILD = """
import json, sys
from models.shared_tensors import mapped
said = json.loads(sys.stdin.read())
tensors, again = mapped(said), mapped(said)  # a night has a model for each of its adapters
total = {name: float(t.double().sum()) for name, t in tensors.items()}
tensors["a"][:] = 7.0
print(json.dumps({"sums": total, "written": float(tensors["a"].mean()), "again": float(again["a"].double().sum())}))
"""


def _again(shared: Shared) -> dict[str, Tensor]:
    return mapped({**shared.said(), "fd": os.dup(shared.fd)})


def test_another_process_finds_the_same_numbers_and_what_it_writes_is_its_own() -> None:
    given_ones = {"a": torch.randn(300, 70), "b": torch.arange(11), "c": torch.randn(5).bfloat16()}
    shared = share(given_ones)
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(shared.said()),
        capture_output=True,
        text=True,
        check=True,
        pass_fds=(shared.fd,),
        cwd=Path(__file__).parent.parent,
    )
    said = json.loads(child.stdout)
    assert said["sums"] == pytest.approx({name: float(t.double().sum()) for name, t in given_ones.items()})
    assert said["written"] == 7.0 and said["again"] == said["sums"]["a"], "each its own"
    assert torch.equal(_again(shared)["a"], given_ones["a"])
    shared.close()


def test_mapping_takes_no_memory_of_its_own() -> None:
    shared = share({"a": torch.ones(64 << 20, dtype=torch.uint8)})
    before = _anonymous_kib()
    tensors = _again(shared)
    assert int(tensors["a"].sum(dtype=torch.int64)) == 64 << 20  # every page was looked at
    assert _anonymous_kib() - before < 8 << 10
    shared.close()


def _anonymous_kib() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def test_it_lives_as_long_as_somebody_holds_it() -> None:
    shared = share({"a": torch.arange(9)})
    tensors = _again(shared)
    shared.close()
    shared.close()
    assert tensors["a"].tolist() == list(range(9))


def test_nobody_can_change_it_any_more() -> None:
    shared = share({"a": torch.zeros(4096)})
    with pytest.raises(OSError, match="not permitted"):
        mmap.mmap(shared.fd, shared.nbytes)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(shared.fd, 1)
    shared.close()


def test_files_are_shared_in_another_dtype(tmp_path: Path) -> None:
    weights = {"w": torch.randn(40, 8), "n": torch.arange(3)}
    save_file(weights, tmp_path / "model.safetensors")
    shared = share_files([tmp_path / "model.safetensors"], "bfloat16")
    found = _again(shared)
    assert torch.equal(found["w"], weights["w"].bfloat16())
    assert torch.equal(found["n"], weights["n"])
    shared.close()


@given(st.data())
def test_what_does_not_fit_is_refused(data: st.DataObject) -> None:
    shared = share({"a": torch.zeros(100), "b": torch.zeros(3, 4)})
    said = json.loads(json.dumps(shared.said()))
    piece = said["pieces"][data.draw(st.integers(0, 1))]
    field, bad = data.draw(
        st.sampled_from(
            [
                ("offset", 1 << 40),
                ("offset", -64),
                ("offset", 3),
                ("shape", [1 << 30]),
                ("shape", [-1, 4]),
                ("dtype", "object"),
                ("shape", "x"),
                ("extra", 1),
            ]
        )
    )
    piece[field] = bad
    with pytest.raises(BrokenHandOver):
        mapped({**said, "fd": shared.fd})
    shared.close()


def test_memory_that_could_still_change_is_refused() -> None:
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    with pytest.raises(BrokenHandOver, match="sealed"):
        mapped({"fd": fd, "pieces": []})
    os.close(fd)
    with pytest.raises(BrokenHandOver):
        mapped({"fd": fd, "pieces": []})


def test_a_model_upon_shared_weights_says_the_same(tiny_folder: Path) -> None:
    from models.trainable import Trainable

    shared = share_files(sorted(tiny_folder.glob("*.safetensors")), "bfloat16")
    read = Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="bfloat16")
    taken = Trainable.load(
        tiny_folder, name="tiny", device="cpu", dtype="auto", shared={**shared.said(), "fd": os.dup(shared.fd)}
    )
    ids = torch.arange(1, 9)[None]
    assert taken.dtype == "bfloat16"
    assert torch.equal(read.model(ids).logits, taken.model(ids).logits)
    shared.close()
