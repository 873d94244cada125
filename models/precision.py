"""Which precision this machine trains faster in. A processor without bfloat16 instructions emulates them.

On two cores with AVX2 alone a step of a night takes 1.5 s in float32 and 45 s in bfloat16; with AVX-512 and its
bfloat16 instructions 0.5 to 0.6 s in bfloat16 (bench/training.py, docs/log.md). Whether they are there is a question to
torch for which it has no public answer, so both are tried.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

CLEARLY = 0.8
"""bfloat16 is taken where it needs at most so much of float32's time: near to that, the same every night."""
_ROWS, _WIDTH, _TRIES = 256, 1024, 3


def quicker(device: str) -> str:
    """The dtype to train in on a device: "bfloat16" or "float32". On a CPU by timing products, for some 50 ms."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return chosen(full=_seconds(torch.float32), half=_seconds(torch.bfloat16))


def chosen(*, full: float, half: float) -> str:
    """The same from seconds in float32 and in bfloat16."""
    return "bfloat16" if half <= CLEARLY * full else "float32"


@torch.no_grad()
def _seconds(dtype: torch.dtype) -> float:
    """Of one product, the least of a few; the first, which sets things up, does not count."""
    x, weight = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    taken = []
    for _ in range(_TRIES + 1):
        began = time.perf_counter()
        F.linear(x, weight)
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
