"""Pure: the phases of a night, its outcomes, and which may follow which.

    due ──> selecting ──> dreaming ──> training ──> examining ──> promoting ──> ended
              │               │            │             │             │
              └───────────────┴────────────┴─────────────┴─────────────┴──> ended

A night ends from any phase: with nothing to learn (selecting), rejected (examining), interrupted or failed (any), or
promoted (promoting alone). After a crash or a stop of the service a night starts over: no phase before promoting has
changed anything that serves, and promoting is one commit.
"""

from __future__ import annotations

from typing import Literal, get_args

Phase = Literal["due", "selecting", "dreaming", "training", "examining", "promoting", "ended"]
Outcome = Literal["promoted", "rejected", "nothing to learn", "interrupted", "failed"]
PHASES: tuple[Phase, ...] = get_args(Phase)

FOLLOWING: dict[Phase, frozenset[Phase]] = {
    "due": frozenset(["selecting", "ended"]),
    "selecting": frozenset(["dreaming", "ended"]),
    "dreaming": frozenset(["training", "ended"]),
    "training": frozenset(["examining", "ended"]),
    "examining": frozenset(["promoting", "ended"]),
    "promoting": frozenset(["ended"]),
    "ended": frozenset(),
}
"""What may come after each phase."""
ENDING: dict[Outcome, frozenset[Phase]] = {
    "promoted": frozenset(["promoting"]),
    "rejected": frozenset(["examining"]),
    "nothing to learn": frozenset(["selecting"]),
    "interrupted": frozenset(p for p in PHASES if p != "ended"),
    "failed": frozenset(p for p in PHASES if p != "ended"),
}
"""In which phases a night may end so."""


class WrongTurn(Exception):
    """A night was to go where it cannot."""


def advance(phase: Phase, to: Phase) -> Phase:
    """The next phase.

    Raises:
        WrongTurn: it does not follow; or it is the end, which needs an outcome.
    """
    if to == "ended" or to not in FOLLOWING[phase]:
        raise WrongTurn(f"a night does not go from {phase} to {to}")
    return to


def end(phase: Phase, outcome: Outcome) -> Outcome:
    """How a night in this phase ends.

    Raises:
        WrongTurn: it cannot end so.
    """
    if phase not in ENDING[outcome]:
        raise WrongTurn(f"a night that is {phase} does not end as {outcome}")
    return outcome


def after_crash(phase: Phase) -> Phase:
    """Where a night whose process died begins again: at its beginning, since nothing that it did lasts."""
    return "ended" if phase == "ended" else "due"
