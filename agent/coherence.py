"""Pure: a small bank of Kuramoto oscillators that events force; how much in step they are says how much events agree.

    theta_i += dt (omega_i + K (1/N) sum_j sin(theta_j - theta_i) + a_i . u)        (Kuramoto 1975, with forcing)

Each oscillator listens to the senses with weights of its own. R = |mean exp(i theta)| is the order parameter, |Z2| that
of the doubled angles: high with low R, the bank has fallen into two camps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Zone = Literal["scattered", "mixed", "in step"]
OSCILLATORS, SECONDS_A_STEP = 24, 3.0
_COUPLING, _SPREAD, _FORCING, _MOST_STEPS = 0.06, 0.03, 0.25, 40
_HYSTERESIS = 0.05
"""Of the quantiles: how far beyond a border R must be before the zone changes."""


@dataclass(frozen=True, slots=True)
class Bank:
    """What the oscillators are: fixed by a seed."""

    omega: NDArray[np.float64]
    """[oscillators], radians per second."""
    listening: NDArray[np.float64]
    """[oscillators, senses]."""


def bank(senses: int, *, seed: int = 0) -> Bank:
    """A bank that listens to `senses` numbers."""
    chance = np.random.default_rng(seed)
    return Bank(
        omega=chance.normal(0.0, _SPREAD, OSCILLATORS),
        listening=_FORCING * chance.normal(0.0, 1.0, (OSCILLATORS, senses)) / np.sqrt(senses),
    )


def beginning(bank: Bank) -> NDArray[np.float64]:
    """The phases of a bank to which nothing has happened, spread evenly; [oscillators], radians."""
    return np.linspace(0.0, 2 * np.pi, len(bank.omega), endpoint=False)


def swung(bank: Bank, phases: NDArray[np.float64], senses: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """The phases after some seconds of the same senses; beyond two minutes they are where two minutes bring them."""
    steps = int(min(_MOST_STEPS, max(0.0, round(seconds / SECONDS_A_STEP))))
    drive = bank.omega + bank.listening @ senses
    for _ in range(steps):
        each = np.exp(1j * phases)
        pull = (each.sum() / len(each) * each.conj()).imag  # R sin(psi - theta_i)
        phases = phases + SECONDS_A_STEP * (drive + _COUPLING * pull)
    return np.mod(phases, 2 * np.pi)


def order(phases: NDArray[np.float64]) -> tuple[float, float]:
    """(R, |Z2|), each in [0, 1]."""
    return float(np.abs(np.exp(1j * phases).mean())), float(np.abs(np.exp(2j * phases).mean()))


def zone(r: float, earlier: Sequence[float], before: Zone) -> Zone:
    """In which zone R is: below a third of what it has been, between, above; it leaves one only beyond the border."""
    if len(earlier) < OSCILLATORS:
        return "mixed"
    low, high = np.quantile(earlier, (1 / 3, 2 / 3))
    low += _HYSTERESIS * (1 if before == "scattered" else -1) * (high - low)
    high += _HYSTERESIS * (-1 if before == "in step" else 1) * (high - low)
    return "scattered" if r < low else "in step" if r > high else "mixed"
