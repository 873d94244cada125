"""Compiled: one token of each of some sequences through the layers of a Llama, by any number of threads.

Every product, attention and norm of a step is cut into units in a fixed way; threads take units until there are none,
and go on once all are done. A thread that comes late finds nothing left and costs nobody anything, and one that the
system takes off its core holds up no more than its own unit. A unit's numbers do not depend on who computes it, nor a
row's on the rows beside it: the same bits from one thread or many, alone or in company.

Addresses are integers, in bytes; what lies there is said in `decode_step`, which answers for it.
"""

from __future__ import annotations

import math

import numba

from models.attention_kernel import attend, joined, write
from models.block_products import block_of, sum_groups
from models.compiling import compiled
from models.grouped_weights import BLOCK, GROUP
from models.simd import (
    add,
    divide,
    exp,
    fma,
    give_way,
    greater,
    lesser,
    load,
    load_int,
    load_one,
    load_splat,
    look,
    minus,
    multiply,
    pause,
    splat,
    store,
    store_one,
    subtract,
    take,
    total,
    zeros,
)
from models.step_layout import (
    ADAPTERS,
    BEGIN,
    BFLOAT16,
    BLOCKS,
    BY_HEART,
    CLOSED,
    CODES,
    DEVIATION,
    DOWN,
    DOWN_BLOCKS,
    DOWN_CODES,
    DRAFTED,
    END,
    FARTHEST,
    FLOAT32,
    GATE_LAYER,
    GATE_UP,
    GATED,
    GRAIN,
    HEAD,
    HEADS,
    HIDDEN,
    INNER,
    INPUT_NORM,
    INT4,
    INTO,
    INTO_BIAS,
    INTO_BLOCKS,
    KV_HEADS,
    LINE,
    LOGITS,
    LOW,
    LOW_RANK,
    MEAN,
    MIXED,
    MLP_NORM,
    OPEN,
    OUT,
    OUT_BIAS,
    OUTPUT,
    PLACE,
    POSITION,
    PRODUCTS,
    QKV,
    RANK,
    RESIDUALS,
    ROWS,
    SCALES,
    SHARES,
    SPANS,
    SPLIT,
    STEERED_FROM,
    STEERED_TO,
    STEERING,
    UP_CODES,
    VOCABULARY_BLOCKS,
    WHOLLY,
    WIDTH,
    Ints,
)

_PATIENCE = 2000
"""Looks at a counter until another thread gets this core."""


@compiled
def _normed(x: int, size: int, weight: int, eps: float, out: int) -> None:
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""
    a, b = zeros(), zeros()
    for at in range(0, 4 * size, 128):
        p, q = load(x + at), load(x + at + 64)
        a, b = fma(p, p, a), fma(q, q, b)
    scale = splat(numba.float32(1.0 / math.sqrt(total(add(a, b)) / numba.float32(size) + eps)))
    for at in range(0, 4 * size, 64):
        store(out + at, multiply(multiply(load(x + at), scale), load(weight + at)))


@compiled
def _done(counters: int, mine: int, units: int) -> int:
    """Say what was done of a phase, and wait for the others. Returns the next phase's counters."""
    if mine:
        take(counters + 8, mine)
    looks = 0
    while look(counters + 8) < units:
        pause()
        looks += 1
        if looks > _PATIENCE:
            give_way()
    return counters + 8 * LINE


@compiled
def _lower(
    plan: Ints,
    low_rank: Ints,
    adapters: Ints,
    n: int,
    product: int,
    x: int,
    stride: int,
    size: int,
    counters: int,
    own: int,
) -> int:
    """A phase: what adapters make of x on the way down, to LOW. Returns the next phase's counters."""
    units = 0
    for a in range(plan[ADAPTERS]):
        units += low_rank[a, n, product, DOWN_BLOCKS] * adapters[a, OPEN]
    if units == 0:
        return counters
    mine = 0
    while True:
        unit = take(counters, 1)
        if unit >= units:
            return _done(counters, mine, units)
        mine += 1
        a = 0
        while unit >= low_rank[a, n, product, DOWN_BLOCKS] * adapters[a, OPEN]:
            unit -= low_rank[a, n, product, DOWN_BLOCKS] * adapters[a, OPEN]
            a += 1
        begin, end = adapters[a, BEGIN], adapters[a, END]
        codes = low_rank[a, n, product, DOWN_CODES]
        block_of(BFLOAT16, codes, 0, unit, size, x + begin * stride, stride, 0, 0, end - begin, own)
        for r in range(begin, end):
            to, of = plan[LOW] + 4 * (r * plan[RANK] + BLOCK * unit), own + 4 * BLOCK * (r - begin)
            store(to, load(of))
            store(to + 64, load(of + 64))


@compiled
def _raise(plan: Ints, low_rank: Ints, adapters: Ints, n: int, product: int, block: int, tile: int, own: int) -> None:
    """Add to a block's outputs what adapters make of LOW on the way up."""
    for a in range(plan[ADAPTERS]):
        if low_rank[a, n, product, LOW_RANK] * adapters[a, OPEN] == 0:
            continue
        begin, end = adapters[a, BEGIN], adapters[a, END]
        spans = low_rank[a, n, product, SPANS] + 16 * block
        first, size = load_int(spans), load_int(spans + 8)
        if size == 0:
            continue
        codes = low_rank[a, n, product, UP_CODES] + 2 * BLOCK * (block * low_rank[a, n, product, LOW_RANK] + first)
        x = plan[LOW] + 4 * (begin * plan[RANK] + first)
        block_of(BFLOAT16, codes, 0, 0, size, x, 4 * plan[RANK], 0, 0, end - begin, own)
        for r in range(begin, end):
            share = load_splat(plan[SHARES] + 4 * r)
            to, of = tile + 4 * BLOCK * r, own + 4 * BLOCK * (r - begin)
            store(to, fma(share, load(of), load(to)))
            store(to + 64, fma(share, load(of + 64), load(to + 64)))


@compiled
def _gates(plan: Ints, rows: Ints, adapters: Ints, n: int, counters: int, own: int) -> int:
    """A phase, where adapters begin: how far each acts on its rows (gate.py), to SHARES. Returns the next counters."""
    units = 0
    for a in range(plan[ADAPTERS]):
        units += adapters[a, GATE_LAYER] == n
    if units == 0:
        return counters
    hidden = plan[HIDDEN]
    if take(counters, 1):
        return _done(counters, 0, 1)
    near = splat(numba.float32(FARTHEST))
    for a in range(plan[ADAPTERS]):
        if adapters[a, GATE_LAYER] != n:
            continue
        one, inner = splat(numba.float32(1.0)), own + 4 * hidden
        adapters[a, OPEN] = 0
        for r in range(adapters[a, BEGIN], adapters[a, END]):
            if adapters[a, WHOLLY] and rows[r, BY_HEART]:
                adapters[a, OPEN] = 1
                store_one(plan[SHARES] + 4 * r, numba.float32(1.0))
                continue
            for at in range(0, 4 * hidden, 64):
                apart = subtract(load(plan[RESIDUALS] + 4 * r * hidden + at), load(adapters[a, MEAN] + at))
                apart = divide(apart, load(adapters[a, DEVIATION] + at))
                store(own + at, lesser(greater(apart, minus(near)), near))
            judged = zeros()
            for block in range(adapters[a, INTO_BLOCKS]):
                block_of(FLOAT32, adapters[a, INTO], 0, block, hidden, own, 0, 0, 0, 1, inner)
                for half in range(0, 128, 64):
                    at = 128 * block + half
                    z = add(load(inner + half), load(adapters[a, INTO_BIAS] + at))
                    lit = divide(z, add(one, exp(minus(z))))
                    judged = fma(lit, load(adapters[a, OUT] + at), judged)
            sum_ = splat(total(judged) + load_one(adapters[a, OUT_BIAS]))
            store(inner, divide(one, add(one, exp(minus(sum_)))))
            share = load_one(inner) * load_one(plan[SHARES] + 4 * r)  # what gates below have let through
            if share >= CLOSED:
                adapters[a, OPEN] = 1
            else:  # also where another row keeps the adapter open: no row depends on another
                share = numba.float32(0.0)
            store_one(plan[SHARES] + 4 * r, share)
    return _done(counters, 1, 1)


@compiled
def _put(plan: Ints, rows: Ints, n: int, product: int, block: int, tile: int) -> None:
    """A block's outputs where they belong."""
    hidden = plan[HIDDEN]
    for r in range(plan[ROWS]):
        of = tile + 4 * BLOCK * r
        a, b = load(of), load(of + 64)
        if product == GATE_UP:  # SwiGLU (Shazeer 2020): 16 gates, and what each lets through
            shut = add(splat(numba.float32(1.0)), exp(minus(a)))
            store(plan[GATED] + 4 * (r * plan[INNER] + 16 * block), multiply(divide(a, shut), b))
            continue
        if product == QKV:
            to = plan[MIXED] + 4 * (r * (plan[HEADS] + 2 * plan[KV_HEADS]) * plan[WIDTH] + BLOCK * block)
        elif product == HEAD:
            to = plan[LOGITS] + 4 * BLOCK * (rows[r, PLACE] * plan[VOCABULARY_BLOCKS] + block)
        else:
            to = plan[RESIDUALS] + 4 * (r * hidden + BLOCK * block)
            a, b = add(load(to), a), add(load(to + 64), b)
            if product == DOWN and rows[r, STEERED_FROM] <= n < rows[r, STEERED_TO]:
                more = rows[r, STEERING] + 4 * ((n - rows[r, STEERED_FROM]) * hidden + BLOCK * block)
                a, b = add(a, load(more)), add(b, load(more + 64))
        store(to, a)
        store(to + 64, b)


@compiled
def _product(
    plan: Ints,
    layer: Ints,
    rows: Ints,
    low_rank: Ints,
    adapters: Ints,
    n: int,
    product: int,
    x: int,
    stride: int,
    size: int,
    counters: int,
    own: int,
) -> int:
    """A product of all rows, with what adapters add to it. Returns the next phase's counters."""
    n_rows = plan[ROWS]
    sums, groups = own, 4 * (size // GROUP)
    tile = sums + n_rows * groups
    spare = tile + 4 * BLOCK * n_rows
    at = PRODUCTS + (0 if product == HEAD else 4 * product)
    kind, codes, scales, blocks = layer[at], layer[at + CODES], layer[at + SCALES], layer[at + BLOCKS]
    if product != HEAD:
        counters = _lower(plan, low_rank, adapters, n, product, x, stride, size, counters, spare)
    if kind == INT4:
        for r in range(n_rows):
            sum_groups(x + r * stride, size, sums + r * groups)
    grain = -(-blocks // plan[GRAIN])
    mine = 0
    while True:
        begin = take(counters, grain)
        if begin >= blocks:
            return _done(counters, mine, blocks)
        for block in range(begin, min(begin + grain, blocks)):
            block_of(kind, codes, scales, block, size, x, stride, sums, groups, n_rows, tile)
            if product != HEAD:
                _raise(plan, low_rank, adapters, n, product, block, tile, spare)
            _put(plan, rows, n, product, block, tile)
            mine += 1


@compiled
def _written(plan: Ints, rows: Ints, n: int, counters: int, own: int) -> int:
    """A phase, where there are drafts: all rows' keys and values. Returns the next phase's counters."""
    kv_heads = plan[KV_HEADS]
    units, mine = kv_heads * plan[ROWS], 0
    while True:
        unit = take(counters, 1)
        if unit >= units:
            return _done(counters, mine, units)
        r = unit // kv_heads
        mixed = plan[MIXED] + 4 * r * (plan[HEADS] + 2 * kv_heads) * plan[WIDTH]
        write(plan, rows[r], n, unit % kv_heads, mixed, own)
        mine += 1


@compiled
def _attention(plan: Ints, rows: Ints, n: int, scale: float, counters: int, own: int) -> int:
    """Attention of all rows. Returns the next phase's counters."""
    kv_heads, n_rows = plan[KV_HEADS], plan[ROWS]
    units = 0
    for r in range(n_rows):
        units += kv_heads * (rows[r, POSITION] // SPLIT + 1)
    mine = 0
    while True:
        unit = take(counters, 1)
        if unit >= units:
            return _done(counters, mine, units)
        r = 0
        while unit >= kv_heads * (rows[r, POSITION] // SPLIT + 1):
            unit -= kv_heads * (rows[r, POSITION] // SPLIT + 1)
            r += 1
        mixed = plan[MIXED] + 4 * r * (plan[HEADS] + 2 * kv_heads) * plan[WIDTH]
        attend(plan, rows[r], r, n, unit % kv_heads, unit // kv_heads, mixed, scale, own)
        mine += 1


@compiled
def walk(
    plan: Ints,
    layers: Ints,
    rows: Ints,
    low_rank: Ints,
    adapters: Ints,
    eps: float,
    scale: float,
    counters: int,
    own: int,
) -> None:
    """One token of each row through all layers, and its logits.

    plan int64 [PLAN], layers int64 [layers + 1, LAYER] (the last: the final norm and the head), rows int64 [rows, ROW],
    low_rank int64 [adapters, layers, 4, LOW_RANK_PRODUCT], adapters int64 [adapters, ADAPTER]. `counters`: zeros, a
    line a phase, shared; `own`: this thread's memory.
    """
    hidden, inner, n_rows, mixed = plan[HIDDEN], plan[INNER], plan[ROWS], plan[HEADS] * plan[WIDTH]
    residuals, gated = plan[RESIDUALS], plan[GATED]
    stride = 4 * max(hidden, mixed)
    x, scratch = own, own + n_rows * stride
    for n in range(len(layers) - 1):
        layer = layers[n]
        counters = _gates(plan, rows, adapters, n, counters, scratch)
        for r in range(n_rows):
            _normed(residuals + 4 * r * hidden, hidden, layer[INPUT_NORM], eps, x + r * stride)
        counters = _product(plan, layer, rows, low_rank, adapters, n, QKV, x, stride, hidden, counters, scratch)
        if plan[DRAFTED]:
            counters = _written(plan, rows, n, counters, scratch)
        counters = _attention(plan, rows, n, scale, counters, scratch)
        for r in range(n_rows):
            joined(plan, rows[r], r, x + r * stride)
        counters = _product(plan, layer, rows, low_rank, adapters, n, OUTPUT, x, stride, mixed, counters, scratch)
        for r in range(n_rows):
            _normed(residuals + 4 * r * hidden, hidden, layer[MLP_NORM], eps, x + r * stride)
        counters = _product(plan, layer, rows, low_rank, adapters, n, GATE_UP, x, stride, hidden, counters, scratch)
        counters = _product(plan, layer, rows, low_rank, adapters, n, DOWN, gated, 4 * inner, inner, counters, scratch)
    layer = layers[len(layers) - 1]
    for r in range(n_rows):
        _normed(residuals + 4 * r * hidden, hidden, layer[INPUT_NORM], eps, x + r * stride)
    _product(plan, layer, rows, low_rank, adapters, -1, HEAD, x, stride, hidden, counters, scratch)
