"""Pure: which alarms on gauges sound. An alarm sounds once its gauge has been above its bound for so long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory.beats import GaugeAlarm, Owner

Key = tuple[str, Owner]


def above(
    alarms: Sequence[GaugeAlarm], gauges: Mapping[str, float], since: Mapping[Key, float], at: float
) -> dict[Key, float]:
    """Since when each gauge has been above each of its bounds without a break; those that are below are not there."""
    return {
        (alarm.gauge, alarm.owner): since.get((alarm.gauge, alarm.owner), at)
        for alarm in alarms
        if gauges.get(alarm.gauge, 0.0) > alarm.bound
    }


def sounding(alarms: Sequence[GaugeAlarm], since: Mapping[Key, float], at: float) -> dict[str, float]:
    """Gauges whose alarm sounds, and for how many seconds they have been above its bound."""
    found: dict[str, float] = {}
    for alarm in alarms:
        began = since.get((alarm.gauge, alarm.owner))
        if began is not None and at - began >= alarm.seconds:
            found[alarm.gauge] = max(found.get(alarm.gauge, 0.0), at - began)
    return found
