"""Vectors that are found beside each other, each by Adam (Kingma and Ba 2015) and by its own age."""

from __future__ import annotations

import math

import torch
from torch import Tensor

VISITS = 48
"""Steps in which a value is found."""
RATE = 0.8
"""At first; to zero by a cosine. A value is measured in deviations of what it is added to."""
_FIRST, _SECOND, _LEAST = 0.9, 0.99, 1e-8


class Values:
    """`now`: [n, width], float32, whose gradients `step` goes by."""

    def __init__(self, begun: Tensor, *, visits: int = VISITS, rate: float = RATE) -> None:
        self.now = begun.clone().requires_grad_(True)
        self.age = torch.zeros(len(begun), device=begun.device)
        """Steps of each."""
        self._visits, self._rate = visits, rate
        self._first, self._second = torch.zeros_like(begun), torch.zeros_like(begun)

    def step(self, which: Tensor) -> None:
        """One step of these, each of which is named once."""
        gradient = self.now.grad
        assert gradient is not None
        gradient = gradient[which]
        self.age[which] += 1
        age = self.age[which, None]
        self._first[which] = first = torch.lerp(gradient, self._first[which], _FIRST)
        self._second[which] = second = torch.lerp(gradient**2, self._second[which], _SECOND)
        way = (first / (1 - _FIRST**age)) / ((second / (1 - _SECOND**age)).sqrt() + _LEAST)
        rate = self._rate * 0.5 * (1 + torch.cos(math.pi * (age - 1) / self._visits))
        with torch.no_grad():
            self.now[which] -= rate * way
        self.now.grad = None

    def begin(self, n: int, at: Tensor) -> None:
        """Find the n-th anew, from here."""
        with torch.no_grad():
            self.now[n] = at
        for state in (self.age, self._first, self._second):
            state[n] = 0
