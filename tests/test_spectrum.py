"""The size of an adapter beside the weights that it is on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.recipe import Recipe
from models.spectrum import BEYOND, norm
from models.trainable import Trainable
from models.training import Trainer


@given(st.integers(0, 1 << 30), st.floats(1e-3, 1e3))
def test_it_is_what_singular_values_say_and_grows_as_the_adapter_does(seed: int, by: float) -> None:
    torch.manual_seed(seed)
    weight, a, b = torch.randn(24, 40), torch.randn(4, 40), torch.randn(24, 4)
    true = torch.linalg.matrix_norm(b @ a, ord=2) / torch.linalg.matrix_norm(weight, ord=2)
    found = norm([(weight, a, b)])
    assert found == pytest.approx(float(true), rel=1e-3)
    assert norm([(weight, a, b * by)]) == pytest.approx(found * by, rel=1e-3)
    assert norm([(weight, a, b), (weight, a, b * 0.5)]) == found


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_beyond_every_bar(bad: float) -> None:
    a, b = torch.randn(2, 8), torch.randn(8, 2)
    b[3, 1] = bad
    assert norm([(torch.randn(8, 8), a, b)]) == BEYOND
    assert norm([(torch.randn(8, 8), a, torch.full((8, 2), 1e38) * a.sign()[0, 0])]) == BEYOND


def test_a_trained_adapter_has_a_norm_and_a_dose_of_it_less(tiny_folder: Path) -> None:
    recipe = Recipe(rank=4, alpha=8, epochs=4, rehearsed=0, gate=0)
    trainer = Trainer(Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="float32"), recipe)
    assert trainer.norm() == 0
    trainer.train([trainer.row("My dog?", "Your dog is called Rex.")], [])
    whole = trainer.norm()
    assert whole > 0
    trainer.scale(0.5)
    assert trainer.norm() == pytest.approx(whole / 2, rel=1e-4)
