"""Phases of coupled oscillators: their order parameters at several scales, their coupling, and its bistable core.

The order parameter of a group is Z_n = mean_j exp(i n theta_j), n its harmonic; R = |Z_1| says how much of one phase
the group is (Kuramoto 1975; Daido 1992 for the harmonics). Phases are held as unit numbers c = exp(i theta), by halves
(cosines, sines), so that nothing ever takes an angle. Pure functions of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

Phases = tuple[Tensor, Tensor]
"""Cosines and sines, each [..., oscillators]."""
_SOFT = 1e-2
"""Square of the length below which a number's phase fades to none: a phase of nearly nothing is not knowable, and its
gradient would be without bound."""
_APART = 0.25
"""Square of how near to 0 the core's determinant has its whole effect on what it divides."""
COEFFICIENTS = 10


def phases(z: Tensor) -> Phases:
    """Of complex numbers [2, ..., oscillators]: z / |z|."""
    length = torch.rsqrt(z[0].square() + z[1].square() + _SOFT)
    return z[0] * length, z[1] * length


def means(of: Phases, scales: Sequence[int], harmonics: int) -> list[Phases]:
    """Z_n of each group of each scale: for each n from 1, for each scale, [..., oscillators / scale].

    `scales`: sizes of groups of neighbours, each a multiple of the one before.
    """
    found = []
    cosines, sines = of
    for n in range(harmonics):
        if n:
            cosines, sines = cosines * of[0] - sines * of[1], cosines * of[1] + sines * of[0]
        real, imaginary, size = cosines, sines, 1
        for scale in scales:
            real, imaginary = (torch.unflatten(part, -1, (-1, scale // size)).mean(-1) for part in (real, imaginary))
            size = scale
            found.append((real, imaginary))
    return found


def order_parameters(of: Phases, scales: Sequence[int], harmonics: int) -> Tensor:
    """All that is read of a layer: Re, Im and |.| of each Z_n: [..., 3 x harmonics x sum of oscillators / scale]."""
    parts = []
    for real, imaginary in means(of, scales, harmonics):
        parts += [real, imaginary, length(real, imaginary)]
    return torch.cat(parts, -1)


def order(of: Phases) -> Tensor:
    """R of all oscillators together, in [0, 1]: [...]."""
    return length(of[0].mean(-1), of[1].mean(-1))


def length(real: Tensor, imaginary: Tensor) -> Tensor:
    """|.|, with a gradient at 0."""
    return (real.square() + imaginary.square() + 1e-8).sqrt()


def pull(of: Phases, coupling: Tensor) -> Tensor:
    """How far each phase turns towards its group's (away from it, where the coupling is negative), in radians a step.

    K R sin(psi - theta_j), by Im(conj(c_j) m). `coupling`: [..., groups], neighbours together; returns
    [..., oscillators].
    """
    cosines, sines = (torch.unflatten(part, -1, (coupling.shape[-1], -1)) for part in of)
    towards = cosines * sines.mean(-1, keepdim=True) - sines * cosines.mean(-1, keepdim=True)
    return torch.flatten(coupling[..., None] * towards, -2)


def core(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The bistable core: where its two stable points lie (+-sqrt(u)), and what speaks for one of them.

    Ten numbers a..j make three equations in u = x^2, y and z: a u + b y + c z = d; e u + f y + g z = h;
    i u + j y + z = 0 (the published core). Solved whole; what must hold is had by smooth functions, which pass a
    gradient everywhere: u > 0 by softplus, and a determinant off 0 by D / (D^2 + small) in place of 1 / D.
    `coefficients`: [..., 10, groups]; returns sqrt(u) and y, [..., groups] each.
    """
    a, b, c, d, e, f, g, h, i, j = coefficients.unbind(-2)
    # z = -i u - j y leaves two equations in u and y.
    u_first, y_first, u_second, y_second = a - c * i, b - c * j, e - g * i, f - g * j
    determinant = u_first * y_second - u_second * y_first
    inverse = determinant / (determinant.square() + _APART)
    u = softplus((d * y_second - h * y_first) * inverse)
    return (u + 1e-4).sqrt(), (u_first * h - u_second * d) * inverse


def forced(of: Phases, wanted: Tensor) -> Phases:
    """The same phases drawn together or apart around their mean, so that R is `wanted` ([...], in (0, 1)).

    Each angle to the mean phase is multiplied by one number, found by halving; where even three times the angles
    leave R higher than wanted, that is what is had.
    """
    mean = torch.atan2(of[1].mean(-1), of[0].mean(-1))[..., None]
    away = torch.atan2(of[1], of[0]) - mean
    away = torch.atan2(away.sin(), away.cos())
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, 3.0)
    for _ in range(30):
        middle = (low + high) / 2
        turned = away * middle[..., None]
        reached = (turned.cos().mean(-1).square() + turned.sin().mean(-1).square()).sqrt()
        low, high = torch.where(reached > wanted, middle, low), torch.where(reached > wanted, high, middle)
    turned = mean + away * low[..., None]
    return turned.cos(), turned.sin()
