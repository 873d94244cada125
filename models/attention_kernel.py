"""Compiled: one token's attention over its cache, a piece of 256 positions at a time (Dao 2023: flash-decoding)."""

from __future__ import annotations

import numba

from models.compiling import compiled
from models.simd import (
    add,
    divide,
    exp,
    fma,
    greater,
    greatest,
    load,
    load_bfloat16,
    load_one,
    load_splat,
    multiply,
    splat,
    store,
    store_bfloat16,
    store_one,
    store_totals,
    subtract,
    total,
    zeros,
)
from models.step_layout import (
    CAPACITY,
    COSINES,
    DRAFTED,
    HALF,
    HEADS,
    KEYS,
    KV_HEADS,
    PARTS,
    POSITION,
    SINES,
    SPLIT,
    SPLITS,
    VALUES,
    WIDTH,
    Ints,
)


@compiled
def _turned(x: int, position: int, width: int, cosines: int, sines: int, scale: float, out: int) -> None:
    """Rotary positions (Su et al. 2021): x cos + (its halves exchanged) sin; the first half's sines are negative."""
    half, at = 2 * width, 4 * width * position
    factor = splat(scale)
    for n in range(0, half, 64):
        low, high = load(x + n), load(x + half + n)
        a = fma(high, load(sines + at + n), multiply(low, load(cosines + at + n)))
        b = fma(low, load(sines + at + half + n), multiply(high, load(cosines + at + half + n)))
        store(out + n, multiply(a, factor))
        store(out + half + n, multiply(b, factor))


@compiled
def _written(plan: Ints, row: Ints, head: int, mixed: int, keys: int, values: int, own: int) -> None:
    """The new token's key and value, to where they stay."""
    heads, kv_heads, width, half = plan[HEADS], plan[KV_HEADS], plan[WIDTH], plan[HALF]
    key, value = mixed + 4 * (heads + head) * width, mixed + 4 * (heads + kv_heads + head) * width
    _turned(key, row[POSITION], width, plan[COSINES], plan[SINES], numba.float32(1.0), own)
    at = row[POSITION] * width
    for n in range(0, width, 16):
        if half:
            store_bfloat16(keys + 2 * (at + n), load(own + 4 * n))
            store_bfloat16(values + 2 * (at + n), load(value + 4 * n))
        else:
            store(keys + 4 * (at + n), load(own + 4 * n))
            store(values + 4 * (at + n), load(value + 4 * n))


@compiled
def _scored(queries: int, group: int, width: int, keys: int, half: int, seen: int, scores: int) -> None:
    """Each query by each key, [group, SPLIT]; what is behind the last key is the last again."""
    nbytes = (2 if half else 4) * width
    for j in range(0, seen, 4):
        k0, k1 = keys + j * nbytes, keys + min(j + 1, seen - 1) * nbytes
        k2, k3 = keys + min(j + 2, seen - 1) * nbytes, keys + min(j + 3, seen - 1) * nbytes
        for g in range(group):
            a, b, c, d = zeros(), zeros(), zeros(), zeros()
            for n in range(0, width, 16):
                q = load(queries + 4 * (g * width + n))
                if half:
                    a, b = fma(q, load_bfloat16(k0 + 2 * n), a), fma(q, load_bfloat16(k1 + 2 * n), b)
                    c, d = fma(q, load_bfloat16(k2 + 2 * n), c), fma(q, load_bfloat16(k3 + 2 * n), d)
                else:
                    a, b = fma(q, load(k0 + 4 * n), a), fma(q, load(k1 + 4 * n), b)
                    c, d = fma(q, load(k2 + 4 * n), c), fma(q, load(k3 + 4 * n), d)
            store_totals(scores + 4 * (g * SPLIT + j), a, b, c, d)


@compiled
def _weighed(scores: int, seen: int, width: int, values: int, half: int, out: int) -> None:
    """The greatest score and the sum of e to all less it, 16 times each, and the values by these, [width]."""
    padded = -(-seen // 16) * 16
    for j in range(seen, padded):
        store_one(scores + 4 * j, load_one(scores))
    top = load(scores)
    for j in range(16, padded, 16):
        top = greater(top, load(scores + 4 * j))
    highest = splat(greatest(top))
    for j in range(0, padded, 16):
        store(scores + 4 * j, exp(subtract(load(scores + 4 * j), highest)))
    for j in range(seen, padded):
        store_one(scores + 4 * j, numba.float32(0.0))
    whole = zeros()
    for j in range(0, padded, 16):
        whole = add(whole, load(scores + 4 * j))
    store(out, highest)
    store(out + 64, splat(total(whole)))
    nbytes = (2 if half else 4) * width
    for n in range(0, width, 32):
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        v = values + (2 if half else 4) * n
        for j in range(0, padded, 2):  # nothing of what is behind the last
            p, q, w = load_splat(scores + 4 * j), load_splat(scores + 4 * j + 4), v + (nbytes if j + 1 < seen else 0)
            if half:
                a, b = fma(p, load_bfloat16(v), a), fma(p, load_bfloat16(v + 32), b)
                c, d = fma(q, load_bfloat16(w), c), fma(q, load_bfloat16(w + 32), d)
            else:
                a, b = fma(p, load(v), a), fma(p, load(v + 64), b)
                c, d = fma(q, load(w), c), fma(q, load(w + 64), d)
            v += 2 * nbytes if j + 2 < seen else 0
        store(out + 128 + 4 * n, add(a, c))
        store(out + 192 + 4 * n, add(b, d))


@compiled
def write(plan: Ints, row: Ints, layer: int, head: int, mixed: int, own: int) -> None:
    """One row's key and value of one head: before anybody attends, where rows of one sequence look at each other."""
    place = (layer * plan[KV_HEADS] + head) * row[CAPACITY] * (2 if plan[HALF] else 4) * plan[WIDTH]
    _written(plan, row, head, mixed, row[KEYS] + place, row[VALUES] + place, own)


@compiled
def attend(
    plan: Ints, row: Ints, r: int, layer: int, head: int, piece: int, mixed: int, scale: float, own: int
) -> None:
    """One piece of one row's positions, for the heads that share keys: to PARTS what `_weighed` makes of it.

    mixed: this row's queries, keys and values. `own`: scratch of this thread.
    """
    heads, kv_heads, width, half = plan[HEADS], plan[KV_HEADS], plan[WIDTH], plan[HALF]
    group, position = heads // kv_heads, row[POSITION]
    first = piece * SPLIT
    seen = min(position + 1 - first, SPLIT)
    nbytes = (2 if half else 4) * width
    place = (layer * kv_heads + head) * row[CAPACITY] * nbytes
    keys, values = row[KEYS] + place, row[VALUES] + place
    if first + seen == position + 1 and not plan[DRAFTED]:
        _written(plan, row, head, mixed, keys, values, own)
    for g in range(group):
        query = mixed + 4 * (head * group + g) * width
        _turned(query, position, width, plan[COSINES], plan[SINES], scale, own + 4 * g * width)
    scores = own + 4 * group * width
    _scored(own, group, width, keys + first * nbytes, half, seen, scores)
    for g in range(group):
        out = plan[PARTS] + 4 * (((r * heads + head * group + g) * plan[SPLITS] + piece) * (width + 32))
        _weighed(scores + 4 * g * SPLIT, seen, width, values + first * nbytes, half, out)


@compiled
def joined(plan: Ints, row: Ints, r: int, out: int) -> None:
    """The pieces of one row's attention as one: [heads, width]."""
    heads, width = plan[HEADS], plan[WIDTH]
    pieces = row[POSITION] // SPLIT + 1
    for h in range(heads):
        part = plan[PARTS] + 4 * ((r * heads + h) * plan[SPLITS] * (width + 32))
        step = 4 * (width + 32)
        highest = load(part)
        for p in range(1, pieces):
            highest = greater(highest, load(part + p * step))
        whole = zeros()
        for n in range(0, width, 16):
            store(out + 4 * (h * width + n), zeros())
        for p in range(pieces):
            at = part + p * step
            weight = exp(subtract(load(at), highest))
            whole = fma(weight, load(at + 64), whole)
            for n in range(0, width, 16):
                to = out + 4 * (h * width + n)
                store(to, fma(weight, load(at + 128 + 4 * n), load(to)))
        for n in range(0, width, 16):
            to = out + 4 * (h * width + n)
            store(to, divide(load(to), whole))
