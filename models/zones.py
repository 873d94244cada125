"""Pure: in which zone an order parameter is. Names and bounds are the published K-SSM's; they are labels, no more."""

from __future__ import annotations

from collections.abc import Iterable

BOUNDS = (0.10, 0.30, 0.50, 0.70, 0.85, 0.95)
NAMES = ("unformed", "intimacy", "balance", "mystery", "wonder", "passion", "ache")
_HYSTERESIS, _DWELL = 0.02, 3


def zone_of(r: float) -> int:
    """The zone by number, of one value alone."""
    return sum(r >= bound for bound in BOUNDS)


def zones(series: Iterable[float]) -> list[str]:
    """The zone at each of a series: another is entered only .02 beyond its border, for three values on end."""
    found: list[str] = []
    at, waiting, waited = -1, -1, 0
    for r in series:
        new = zone_of(r)
        if at < 0:
            at = new
        elif new != at and zone_of(r - _HYSTERESIS if new > at else r + _HYSTERESIS) != at:
            waited = waited + 1 if new == waiting else 1
            waiting = new
            if waited >= _DWELL:
                at, waiting, waited = new, -1, 0
        else:
            waiting, waited = -1, 0
        found.append(NAMES[at])
    return found
