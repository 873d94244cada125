"""Compiled: 32 outputs of a product of few rows, from weights in groups (`grouped_weights`).

A row's sums are made in one order, whether it is alone or one of four: its numbers do not depend on who is beside it.
Addresses and strides are in bytes.
"""

from __future__ import annotations

from typing import Any

from models.compiling import compiled
from models.grouped_weights import BLOCK, GROUP
from models.simd import (
    add,
    first_of,
    fma,
    load,
    load_bfloat16,
    load_float16,
    load_int8,
    load_pairs,
    load_splat,
    second_of,
    store,
    store_one,
    total,
    zeros,
)
from models.step_layout import BFLOAT16, INT4, INT8


@compiled
def _one_int4(codes: int, scales: int, size: int, x: int, sums: int, out: int) -> None:
    """32 outputs of one row."""
    t0, t1 = zeros(), zeros()
    for group in range(size // GROUP):
        a0, a1, b0, b1 = zeros(), zeros(), zeros(), zeros()
        at, w = x + 4 * GROUP * group, codes + 16 * BLOCK * group
        for _ in range(GROUP // 2):
            even, odd = load_splat(at), load_splat(at + 4)
            p0, p1 = load_pairs(w), load_pairs(w + 16)
            a0, a1 = fma(first_of(p0), even, a0), fma(first_of(p1), even, a1)
            b0, b1 = fma(second_of(p0), odd, b0), fma(second_of(p1), odd, b1)
            at, w = at + 8, w + BLOCK
        s, whole = scales + 4 * BLOCK * group, load_splat(sums + 4 * group)
        t0 = fma(load_float16(s), add(a0, b0), fma(load_float16(s + 64), whole, t0))
        t1 = fma(load_float16(s + 32), add(a1, b1), fma(load_float16(s + 96), whole, t1))
    store(out, t0)
    store(out + 64, t1)


@compiled
def _four_int4(
    codes: int,
    scales: int,
    size: int,
    x0: int,
    x1: int,
    x2: int,
    x3: int,
    s0: int,
    s1: int,
    s2: int,
    s3: int,
    o0: int,
    o1: int,
    o2: int,
    o3: int,
) -> None:
    """32 outputs of four rows: as `_one_int4`, sum by sum; the weights are read and widened once."""
    for half in range(2):
        t0, t1, t2, t3 = zeros(), zeros(), zeros(), zeros()
        for group in range(size // GROUP):
            a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
            b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
            at, w = 4 * GROUP * group, codes + 16 * BLOCK * group + 16 * half
            for _ in range(GROUP // 2):
                pairs = load_pairs(w)
                even, odd = first_of(pairs), second_of(pairs)
                a0, b0 = fma(even, load_splat(x0 + at), a0), fma(odd, load_splat(x0 + at + 4), b0)
                a1, b1 = fma(even, load_splat(x1 + at), a1), fma(odd, load_splat(x1 + at + 4), b1)
                a2, b2 = fma(even, load_splat(x2 + at), a2), fma(odd, load_splat(x2 + at + 4), b2)
                a3, b3 = fma(even, load_splat(x3 + at), a3), fma(odd, load_splat(x3 + at + 4), b3)
                at, w = at + 8, w + BLOCK
            s, n = scales + 4 * BLOCK * group + 32 * half, 4 * group
            step, least = load_float16(s), load_float16(s + 64)
            t0 = fma(step, add(a0, b0), fma(least, load_splat(s0 + n), t0))
            t1 = fma(step, add(a1, b1), fma(least, load_splat(s1 + n), t1))
            t2 = fma(step, add(a2, b2), fma(least, load_splat(s2 + n), t2))
            t3 = fma(step, add(a3, b3), fma(least, load_splat(s3 + n), t3))
        store(o0 + 64 * half, t0)
        store(o1 + 64 * half, t1)
        store(o2 + 64 * half, t2)
        store(o3 + 64 * half, t3)


@compiled
def _one_int8(codes: int, scales: int, size: int, x: int, out: int) -> None:
    t0, t1 = zeros(), zeros()
    for group in range(size // GROUP):
        a0, a1, b0, b1 = zeros(), zeros(), zeros(), zeros()
        at, w = x + 4 * GROUP * group, codes + GROUP * BLOCK * group
        for _ in range(GROUP // 2):
            even, odd = load_splat(at), load_splat(at + 4)
            a0, a1 = fma(load_int8(w), even, a0), fma(load_int8(w + 16), even, a1)
            b0, b1 = fma(load_int8(w + 32), odd, b0), fma(load_int8(w + 48), odd, b1)
            at, w = at + 8, w + 2 * BLOCK
        s = scales + 2 * BLOCK * group
        t0, t1 = fma(load_float16(s), add(a0, b0), t0), fma(load_float16(s + 32), add(a1, b1), t1)
    store(out, t0)
    store(out + 64, t1)


@compiled
def _four_int8(
    codes: int, scales: int, size: int, x0: int, x1: int, x2: int, x3: int, o0: int, o1: int, o2: int, o3: int
) -> None:
    for half in range(2):
        t0, t1, t2, t3 = zeros(), zeros(), zeros(), zeros()
        for group in range(size // GROUP):
            a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
            b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
            at, w = 4 * GROUP * group, codes + GROUP * BLOCK * group + 16 * half
            for _ in range(GROUP // 2):
                even, odd = load_int8(w), load_int8(w + BLOCK)
                a0, b0 = fma(even, load_splat(x0 + at), a0), fma(odd, load_splat(x0 + at + 4), b0)
                a1, b1 = fma(even, load_splat(x1 + at), a1), fma(odd, load_splat(x1 + at + 4), b1)
                a2, b2 = fma(even, load_splat(x2 + at), a2), fma(odd, load_splat(x2 + at + 4), b2)
                a3, b3 = fma(even, load_splat(x3 + at), a3), fma(odd, load_splat(x3 + at + 4), b3)
                at, w = at + 8, w + 2 * BLOCK
            step = load_float16(scales + 2 * BLOCK * group + 32 * half)
            t0, t1 = fma(step, add(a0, b0), t0), fma(step, add(a1, b1), t1)
            t2, t3 = fma(step, add(a2, b2), t2), fma(step, add(a3, b3), t3)
        store(o0 + 64 * half, t0)
        store(o1 + 64 * half, t1)
        store(o2 + 64 * half, t2)
        store(o3 + 64 * half, t3)


def _plain(load_weights: Any, nbytes: int) -> Any:
    """The same, of weights that stand as they are, in so many bytes each."""

    @compiled
    def one(codes: int, size: int, x: int, out: int) -> None:
        a0, a1, b0, b1 = zeros(), zeros(), zeros(), zeros()
        for k in range(0, size, 2):
            even, odd, w = load_splat(x + 4 * k), load_splat(x + 4 * k + 4), codes + nbytes * BLOCK * k
            a0, a1 = fma(load_weights(w), even, a0), fma(load_weights(w + 16 * nbytes), even, a1)
            b0, b1 = fma(load_weights(w + 32 * nbytes), odd, b0), fma(load_weights(w + 48 * nbytes), odd, b1)
        store(out, add(a0, b0))
        store(out + 64, add(a1, b1))

    @compiled
    def four(codes: int, size: int, x0: int, x1: int, x2: int, x3: int, o0: int, o1: int, o2: int, o3: int) -> None:
        for half in range(2):
            a0, a1, a2, a3 = zeros(), zeros(), zeros(), zeros()
            b0, b1, b2, b3 = zeros(), zeros(), zeros(), zeros()
            for k in range(0, size, 2):
                at, w = 4 * k, codes + nbytes * (BLOCK * k + 16 * half)
                even, odd = load_weights(w), load_weights(w + 32 * nbytes)
                a0, b0 = fma(even, load_splat(x0 + at), a0), fma(odd, load_splat(x0 + at + 4), b0)
                a1, b1 = fma(even, load_splat(x1 + at), a1), fma(odd, load_splat(x1 + at + 4), b1)
                a2, b2 = fma(even, load_splat(x2 + at), a2), fma(odd, load_splat(x2 + at + 4), b2)
                a3, b3 = fma(even, load_splat(x3 + at), a3), fma(odd, load_splat(x3 + at + 4), b3)
            store(o0 + 64 * half, add(a0, b0))
            store(o1 + 64 * half, add(a1, b1))
            store(o2 + 64 * half, add(a2, b2))
            store(o3 + 64 * half, add(a3, b3))

    return one, four


_one_bfloat16, _four_bfloat16 = _plain(load_bfloat16, 2)
_one_float32, _four_float32 = _plain(load, 4)


@compiled
def _one(kind: int, codes: int, scales: int, size: int, x: int, sums: int, out: int) -> None:
    if kind == INT4:
        _one_int4(codes, scales, size, x, sums, out)
    elif kind == INT8:
        _one_int8(codes, scales, size, x, out)
    elif kind == BFLOAT16:
        _one_bfloat16(codes, size, x, out)
    else:
        _one_float32(codes, size, x, out)


@compiled
def block_of(
    kind: int,
    codes: int,
    scales: int,
    block: int,
    size: int,
    x: int,
    x_stride: int,
    sums: int,
    sums_stride: int,
    rows: int,
    out: int,
) -> None:
    """`block`'s 32 outputs of so many rows, [rows, 32]. `sums` [rows, groups]: of x, for int4 alone."""
    if kind == INT4:
        codes, scales = codes + block * size * BLOCK // 2, scales + block * (size // GROUP) * 4 * BLOCK
    elif kind == INT8:
        codes, scales = codes + block * size * BLOCK, scales + block * (size // GROUP) * 2 * BLOCK
    else:
        codes += block * size * BLOCK * (2 if kind == BFLOAT16 else 4)
    for r in range(0, rows, 4):
        x0, s0, o0 = x + r * x_stride, sums + r * sums_stride, out + r * 4 * BLOCK
        if rows - r == 1:
            _one(kind, codes, scales, size, x0, s0, o0)
            return
        # Two or three rows are four, of which the last is done again.
        n1, n2, n3 = min(1, rows - r - 1), min(2, rows - r - 1), min(3, rows - r - 1)
        x1, x2, x3 = x0 + n1 * x_stride, x0 + n2 * x_stride, x0 + n3 * x_stride
        o1, o2, o3 = o0 + n1 * 4 * BLOCK, o0 + n2 * 4 * BLOCK, o0 + n3 * 4 * BLOCK
        if kind == INT4:
            s1, s2, s3 = s0 + n1 * sums_stride, s0 + n2 * sums_stride, s0 + n3 * sums_stride
            _four_int4(codes, scales, size, x0, x1, x2, x3, s0, s1, s2, s3, o0, o1, o2, o3)
        elif kind == INT8:
            _four_int8(codes, scales, size, x0, x1, x2, x3, o0, o1, o2, o3)
        elif kind == BFLOAT16:
            _four_bfloat16(codes, size, x0, x1, x2, x3, o0, o1, o2, o3)
        else:
            _four_float32(codes, size, x0, x1, x2, x3, o0, o1, o2, o3)


@compiled
def sum_groups(x: int, size: int, sums: int) -> None:
    """The sum of each group of one row."""
    for group in range(size // GROUP):
        at = x + 4 * GROUP * group
        store_one(sums + 4 * group, total(add(load(at), load(at + 64))))
