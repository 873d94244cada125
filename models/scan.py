"""The linear recurrence z_t = a_t z_{t-1} + b_t over complex numbers, for all of a sequence at once.

Three ways to the same numbers. A GPU's kernel holds each channel in registers and walks through time, thousands of
channels beside each other (`scan_kernels.py`). A CPU walks through time too, a row of all channels a step: the least
work. `doubling` takes log2(time) steps over everything (Hillis and Steele 1986, with the operator of Blelloch 1990):
for accelerators without Triton. The gradient is the same recurrence backwards: g_t = dz_t + conj(a_{t+1}) g_{t+1},
db_t = g_t, da_t = conj(z_{t-1}) g_t (Martin and Cundy 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scan(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    """z, for z_{-1} = `first`.

    `a` and `b`: float32 [2, rows, time, channels], real parts and imaginary ones; `first`: [2, rows, channels].
    Returns float32 [2, rows, time, channels].
    """
    z: Tensor = _scan(a, b, first)
    return z


# Custom operators: a compiled model calls them as they are, and has its own code before and after.
@torch.library.custom_op("slowwave::scan", mutates_args=())
def _scan(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    if a.is_cuda:
        from models.scan_kernels import forwards

        return forwards(a, b, first)  # type: ignore[no-untyped-call, no-any-return]
    return walked(a, b, first) if a.device.type == "cpu" else doubling(a, b, first)


@torch.library.custom_op("slowwave::scan_backwards", mutates_args=())
def _scan_backwards(a: Tensor, z: Tensor, first: Tensor, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if a.is_cuda:
        from models.scan_kernels import backwards

        return backwards(a, z, first, dz)  # type: ignore[no-untyped-call, no-any-return]
    later = torch.cat((a[:, :, 1:], torch.zeros_like(a[:, :, :1])), 2)
    conjugate = torch.stack((later[0], -later[1])).flip(2)
    recurrence = walked if a.device.type == "cpu" else doubling
    g = recurrence(conjugate, dz.flip(2), torch.zeros_like(first)).flip(2)
    before = torch.cat((first[:, :, None], z[:, :, :-1]), 2)
    return _conjugate_times(before, g), g, _conjugate_times(a[:, :, 0], g[:, :, 0])


@_scan.register_fake
def _(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    return torch.empty_like(b, memory_format=torch.contiguous_format)


@_scan_backwards.register_fake
def _(a: Tensor, z: Tensor, first: Tensor, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(a, memory_format=contiguous),
        torch.empty_like(z, memory_format=contiguous),
        torch.empty_like(first, memory_format=contiguous),
    )


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    a, _b, first = inputs
    ctx.save_for_backward(a, output, first)


def _differentiated(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _scan_backwards(*ctx.saved_tensors, dz)  # type: ignore[no-any-return]


_scan.register_autograd(_differentiated, setup_context=_keep)


def _times(x: Tensor, y: Tensor) -> Tensor:
    """x y, by halves."""
    return torch.stack((x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]))


def _conjugate_times(x: Tensor, y: Tensor) -> Tensor:
    """conj(x) y, by halves."""
    return torch.stack((x[0] * y[0] + x[1] * y[1], x[0] * y[1] - x[1] * y[0]))


def walked(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    """The recurrence, a step after another."""
    gates, drives = torch.complex(a[0], a[1]), torch.complex(b[0], b[1])
    state = torch.complex(first[0], first[1])
    # Time first, so that each step reads and writes one block.
    gates, drives = gates.transpose(0, 1).contiguous(), drives.transpose(0, 1).contiguous()
    made = torch.empty_like(drives)
    for t in range(len(gates)):
        torch.addcmul(drives[t], gates[t], state, out=made[t])
        state = made[t]
    made = made.transpose(0, 1)
    return torch.stack((made.real, made.imag))


def doubling(a: Tensor, b: Tensor, first: Tensor) -> Tensor:
    """The recurrence, each step reaching twice as far back."""
    gates = a
    opened = b[:, :, :1] + _times(a[:, :, :1], first[:, :, None])
    z = torch.cat((opened, b[:, :, 1:]), 2)
    reach = 1
    while reach < a.shape[2]:
        late = gates[:, :, reach:]
        z = torch.cat((z[:, :, :reach], z[:, :, reach:] + _times(late, z[:, :, :-reach])), 2)
        gates = torch.cat((gates[:, :, :reach], _times(late, gates[:, :, :-reach])), 2)
        reach *= 2
    return z
