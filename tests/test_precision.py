"""What a night's weights are trained in follows from what the machine does quickly, and is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.dtypes import DTYPES
from models.precision import CLEARLY, chosen, quicker
from models.trainable import Trainable


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [
        (14.8, 107.8, "float32"),  # measured: emulated on AVX2
        (1.0, 0.45, "bfloat16"),  # with instructions of its own
        (1.0, 1.0, "float32"),
        (1.0, CLEARLY + 0.01, "float32"),  # too near to be the same tomorrow
    ],
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(full: float, half: float, expected: str) -> None:
    assert chosen(full=full, half=half) == expected


def test_a_machine_decides_the_same_twice_and_the_model_is_loaded_so(tiny_folder: Path) -> None:
    found = quicker("cpu")
    assert quicker("cpu") == found
    loaded = Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="auto")
    assert loaded.dtype == found
    assert {p.dtype for p in loaded.model.parameters()} == {DTYPES[found]}


def test_a_dtype_that_is_asked_for_is_taken(tiny_folder: Path) -> None:
    loaded = Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="bfloat16")
    assert loaded.dtype == "bfloat16"
    assert next(loaded.model.parameters()).dtype is torch.bfloat16
