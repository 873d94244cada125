"""What a decode step does between its products on a GPU, as Triton kernels. Imported only where there is a GPU.

Each sequence's keys and values lie in a cache of its own, found by its address, so that nothing is gathered and a
recorded graph serves whatever sequences a step is given. Attention over a long cache is split and put together again
(flash decoding, Dao et al. 2023). Triton's types are its own: nothing here is checked by mypy.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normed(x, delta, weight, out, eps, width: tl.constexpr, block: tl.constexpr, has_delta: tl.constexpr):
    """x += delta, out = RMS norm of x; one program a row. All [rows, width]."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, block)
    inside = at < width
    value = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    if has_delta:
        value += tl.load(delta + row * width + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + row * width + at, value.to(x.dtype.element_ty), mask=inside)
        value = value.to(x.dtype.element_ty).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, 0) / width + eps)
    times = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (value * scale * times).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gated(gate_up, out, inner: tl.constexpr, block: tl.constexpr):
    """silu(gate) * up; [rows, 2 inner] -> [rows, inner]."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * block + tl.arange(0, block)
    inside = at < inner
    gate = tl.load(gate_up + row * 2 * inner + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * inner + inner + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * inner + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["layer"])
def turned(
    qkv,
    cosines,
    sines,
    positions,
    key_addresses,
    value_addresses,
    capacities,
    query,
    layer,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """Rotary positions (Su et al. 2021): queries to `query`, keys and values into the sequences' caches.

    One program for each row and head of `qkv` [rows, (heads + 2 kv_heads) width].
    """
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.arange(0, block)
    inside = at < width
    begin = qkv + (row * (heads + 2 * kv_heads) + head) * width
    own = tl.load(begin + at, mask=inside, other=0.0).to(tl.float32)
    position = tl.load(positions + row)
    if head < heads + kv_heads:
        other = tl.load(begin + (at + width // 2) % width, mask=inside, other=0.0).to(tl.float32)
        cos = tl.load(cosines + position * width + at, mask=inside, other=0.0)
        sin = tl.load(sines + position * width + at, mask=inside, other=0.0)
        own = own * cos + other * sin
    if head < heads:
        tl.store(query + (row * heads + head) * width + at, own.to(query.dtype.element_ty), mask=inside)
    else:
        capacity = tl.load(capacities + row)
        if head < heads + kv_heads:
            address = tl.load(key_addresses + row)
            place = (layer * kv_heads + head - heads) * capacity + position
        else:
            address = tl.load(value_addresses + row)
            place = (layer * kv_heads + head - heads - kv_heads) * capacity + position
        cache = address.to(tl.pointer_type(query.dtype.element_ty))
        tl.store(cache + place * width + at, own.to(query.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["layer"])
def attended(
    query,
    key_addresses,
    value_addresses,
    capacities,
    positions,
    part,
    greatest,
    weight,
    layer,
    scale,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    width: tl.constexpr,
    wide: tl.constexpr,
    group: tl.constexpr,
    splits: tl.constexpr,
    keys_at_once: tl.constexpr,
):
    """One split of one row's keys, for the queries that share a head of keys; `group` of them, padded.

    Leaves the mixed values, `part` [rows, heads, splits, width], not yet divided by `weight` [rows, heads, splits], and
    the greatest score, `greatest`, that all are relative to.
    """
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    shared: tl.constexpr = heads // kv_heads
    seen = tl.load(positions + row) + 1
    capacity = tl.load(capacities + row)
    element = query.dtype.element_ty
    keys = tl.load(key_addresses + row).to(tl.pointer_type(element))
    values = tl.load(value_addresses + row).to(tl.pointer_type(element))
    start = (layer * kv_heads + kv_head) * capacity * width
    of = tl.arange(0, group)
    at = tl.arange(0, wide)
    mine = (of < shared)[:, None] & (at < width)[None, :]
    first = (row * heads + kv_head * shared + of)[:, None] * width
    q = tl.load(query + first + at[None, :], mask=mine, other=0.0)
    each = tl.cdiv(tl.cdiv(seen, splits), keys_at_once) * keys_at_once
    begin = split * each
    end = tl.minimum(begin + each, seen)
    top = tl.full([group], -1e30, tl.float32)
    total = tl.zeros([group], tl.float32)
    mixed = tl.zeros([group, wide], tl.float32)
    for block in range(begin, end, keys_at_once):
        place = block + tl.arange(0, keys_at_once)
        there = (place < end)[:, None] & (at < width)[None, :]
        offset = start + place[:, None].to(tl.int64) * width + at[None, :]
        k = tl.load(keys + offset, mask=there, other=0.0)
        v = tl.load(values + offset, mask=there, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where((place < end)[None, :], scores, -1e30)
        now = tl.maximum(top, tl.max(scores, 1))
        shares = tl.exp(scores - now[:, None])
        fade = tl.exp(top - now)
        total = total * fade + tl.sum(shares, 1)
        mixed = mixed * fade[:, None] + tl.dot(shares.to(element), v, input_precision="ieee")
        top = now
    where = (row * heads + kv_head * shared + of) * splits + split
    tl.store(greatest + where, top, mask=of < shared)
    tl.store(weight + where, total, mask=of < shared)
    tl.store(part + where[:, None] * width + at[None, :], mixed, mask=mine)


@triton.jit
def together(
    part, greatest, weight, out, heads: tl.constexpr, width: tl.constexpr, wide: tl.constexpr, splits: tl.constexpr
):
    """The splits of one row and head as one: `out` [rows, heads width]."""
    place = tl.program_id(0).to(tl.int64) * heads + tl.program_id(1)
    at, of = tl.arange(0, wide), tl.arange(0, splits)
    top = tl.load(greatest + place * splits + of)
    share = tl.exp(top - tl.max(top, 0))
    total = tl.sum(tl.load(weight + place * splits + of) * share, 0)
    inside = (at < width)[None, :]
    parts = tl.load(part + (place * splits + of)[:, None] * width + at[None, :], mask=inside, other=0.0)
    mixed = tl.sum(parts * share[:, None], 0) / total
    tl.store(out + place * width + at, mixed.to(out.dtype.element_ty), mask=at < width)
