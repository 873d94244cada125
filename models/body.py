"""Pure: how strained a body is, from its gauges. Each gauge is in [0, 1]; more strain asks for fewer words.

The published charge (ruppi86's Soma) has voltage inverted: a dead supply counted as ease. Here voltage strains by how
far it is from its middle, bandwidth by what is lacking of it, and the rest by what there is of it. Together: 1 minus
the root of the product of what each leaves, so that one gauge at its worst is enough, and many small ones add up.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

GAUGES = ("latency", "voltage", "temperature", "errors", "bandwidth")


@dataclass(frozen=True, slots=True)
class Signals:
    """What a body feels."""

    latency: float
    voltage: float
    """.5 is nominal."""
    temperature: float
    errors: float
    bandwidth: float

    def __post_init__(self) -> None:
        if not all(0.0 <= value <= 1.0 for value in astuple(self)):
            raise ValueError("every gauge is in [0, 1]")


def strains(signals: Signals) -> tuple[float, ...]:
    """Each gauge's own, in [0, 1], in the order of `GAUGES`."""
    s = signals
    return (s.latency, 2 * abs(s.voltage - 0.5), s.temperature, s.errors, 1 - s.bandwidth)


def charge(signals: Signals) -> float:
    """How strained the whole is, in [0, 1]."""
    return 1 - math.sqrt(math.prod(1 - strain for strain in strains(signals)))
