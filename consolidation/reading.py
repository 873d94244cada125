"""Pure: what a message tells: facts by rule, else the message's own words."""

from __future__ import annotations

from consolidation.clauses import Talk, clauses
from consolidation.echoes import echo_of
from consolidation.facts import Fact, facts_of


def read(text: str, talk: Talk) -> list[Fact]:
    """The facts in one message; `talk` learns whom it spoke of."""
    facts = [fact for clause in clauses(text, talk) for fact in facts_of(clause)]
    if facts:
        return facts
    echo = echo_of(text)
    return [echo] if echo else []
