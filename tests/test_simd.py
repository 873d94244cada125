"""Sixteen numbers at a time, beside numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.compiling import compiled
from models.simd import (
    exp,
    greatest,
    load,
    load_bfloat16,
    load_float16,
    load_int8,
    load_pairs,
    second_of,
    store,
    store_bfloat16,
    store_totals,
    take,
    total,
)


@compiled
def _exps(x: int, n: int, out: int) -> None:
    for at in range(0, 4 * n, 64):
        store(out + at, exp(load(x + at)))


@compiled
def _through(x: int, out: int, kind: int) -> None:
    if kind == 0:
        store(out, load_float16(x))
    elif kind == 1:
        store(out, load_bfloat16(x))
    elif kind == 2:
        store(out, load_int8(x))
    elif kind == 3:
        store(out, second_of(load_pairs(x)))
    else:
        store_bfloat16(out, load(x))


@compiled
def _folded(x: int) -> tuple[float, float]:
    return total(load(x)), greatest(load(x))


@compiled
def _totals(x: int, out: int) -> None:
    store_totals(out, load(x), load(x + 64), load(x + 128), load(x + 192))


@compiled
def _took(at: int, by: int) -> Any:
    return take(at, by)


def test_exp_is_right_to_two_units_in_the_last_place_and_cut_beyond() -> None:
    x = np.linspace(-95, 95, 16 * 20_000).astype(np.float32)
    found = np.zeros_like(x)
    _exps(x.ctypes.data, len(x), found.ctypes.data)
    right = np.exp(np.clip(x, -87, 88).astype(np.float64))
    assert np.max(np.abs(found - right) / right) < 2 * 2.0**-23


@pytest.mark.parametrize("kind", range(5))
def test_numbers_are_widened_exactly_and_rounded_to_the_nearest(kind: int) -> None:
    rng = np.random.default_rng(kind)
    if kind == 4:
        whole = rng.standard_normal(16).astype(np.float32)
        halves = np.zeros(16, np.int16)
        _through(whole.ctypes.data, halves.ctypes.data, kind)
        assert torch.equal(torch.from_numpy(halves).view(torch.bfloat16), torch.from_numpy(whole).bfloat16())
        return
    octets = rng.integers(0, 256, 32 if kind < 2 else 16).astype(np.uint8)
    if kind == 0:
        octets = rng.standard_normal(16).astype(np.float16).view(np.uint8)
    found = np.zeros(16, np.float32)
    _through(octets.ctypes.data, found.ctypes.data, kind)
    right = (
        octets.view(np.float16)
        if kind == 0
        else torch.from_numpy(octets).view(torch.bfloat16).float().numpy()
        if kind == 1
        else octets.view(np.int8)
        if kind == 2
        else octets >> 4
    )
    np.testing.assert_array_equal(found, right.astype(np.float32))


def test_sums_and_the_greatest() -> None:
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    whole, most = _folded(x.ctypes.data)
    assert most == x[:16].max() and whole == pytest.approx(float(x[:16].sum()), rel=1e-5)
    four = np.zeros(4, np.float32)
    _totals(x.ctypes.data, four.ctypes.data)
    np.testing.assert_allclose(four, x.reshape(4, 16).sum(1), rtol=1e-5)


def test_a_counter_gives_each_its_own() -> None:
    counter = np.zeros(1, np.int64)
    assert [_took(counter.ctypes.data, by) for by in (1, 3, 2)] == [0, 1, 4]
    assert counter[0] == 6
