"""The linear recurrence of `scan.py` on a GPU, as Triton kernels. Imported only where there is a GPU."""

# mypy: ignore-errors
from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 32


@triton.jit
def _forwards(a, b, first, z, rows, time, channels, block: tl.constexpr):
    """One program for some channels of one row, all of its time."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < channels
    plane = rows.to(tl.int64) * time * channels
    z_real = tl.load(first + row * channels + channel, mask=inside, other=0.0)
    z_imaginary = tl.load(first + (rows + row) * channels + channel, mask=inside, other=0.0)
    at = row * time * channels + channel
    for _ in range(time):
        a_real = tl.load(a + at, mask=inside, other=0.0)
        a_imaginary = tl.load(a + plane + at, mask=inside, other=0.0)
        b_real = tl.load(b + at, mask=inside, other=0.0)
        b_imaginary = tl.load(b + plane + at, mask=inside, other=0.0)
        real = a_real * z_real - a_imaginary * z_imaginary + b_real
        z_imaginary = a_real * z_imaginary + a_imaginary * z_real + b_imaginary
        z_real = real
        tl.store(z + at, z_real, mask=inside)
        tl.store(z + plane + at, z_imaginary, mask=inside)
        at += channels


@triton.jit
def _backwards(a, z, first, dz, da, db, dfirst, rows, time, channels, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * block + tl.arange(0, block)
    inside = channel < channels
    plane = rows.to(tl.int64) * time * channels
    start = row * time * channels + channel
    at = start + (time - 1) * channels
    g_real = tl.zeros((block,), tl.float32)
    g_imaginary = tl.zeros((block,), tl.float32)
    for n in range(time):
        # What came from the step after: conj(a) g, made at its own turn.
        g_real += tl.load(dz + at, mask=inside, other=0.0)
        g_imaginary += tl.load(dz + plane + at, mask=inside, other=0.0)
        tl.store(db + at, g_real, mask=inside)
        tl.store(db + plane + at, g_imaginary, mask=inside)
        before = inside & (n < time - 1)
        z_real = tl.load(z + at - channels, mask=before, other=0.0)
        z_imaginary = tl.load(z + plane + at - channels, mask=before, other=0.0)
        opening = inside & (n == time - 1)
        z_real += tl.load(first + row * channels + channel, mask=opening, other=0.0)
        z_imaginary += tl.load(first + (rows + row) * channels + channel, mask=opening, other=0.0)
        tl.store(da + at, z_real * g_real + z_imaginary * g_imaginary, mask=inside)
        tl.store(da + plane + at, z_real * g_imaginary - z_imaginary * g_real, mask=inside)
        a_real = tl.load(a + at, mask=inside, other=0.0)
        a_imaginary = tl.load(a + plane + at, mask=inside, other=0.0)
        real = a_real * g_real + a_imaginary * g_imaginary
        g_imaginary = a_real * g_imaginary - a_imaginary * g_real
        g_real = real
        at -= channels
    tl.store(dfirst + row * channels + channel, g_real, mask=inside)
    tl.store(dfirst + (rows + row) * channels + channel, g_imaginary, mask=inside)


def forwards(a, b, first):
    """z: float32 [2, rows, time, channels]."""
    _, rows, time, channels = a.shape
    a, b, first = a.contiguous(), b.contiguous(), first.contiguous()
    z = torch.empty_like(b)
    _forwards[(rows, triton.cdiv(channels, _BLOCK))](a, b, first, z, rows, time, channels, block=_BLOCK, num_warps=1)
    return z


def backwards(a, z, first, dz):
    """The gradients of a, b and first."""
    _, rows, time, channels = a.shape
    a, z, first, dz = a.contiguous(), z.contiguous(), first.contiguous(), dz.contiguous()
    da, db, dfirst = torch.empty_like(a), torch.empty_like(z), torch.empty_like(first)
    grid = (rows, triton.cdiv(channels, _BLOCK))
    _backwards[grid](a, z, first, dz, da, db, dfirst, rows, time, channels, block=_BLOCK, num_warps=1)
    return da, db, dfirst
