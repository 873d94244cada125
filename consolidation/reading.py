"""Pure: what a message tells: facts by rule, with the writer's note on it where there is one; else its own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from consolidation.clauses import Talk, clauses
from consolidation.echoes import echo_of
from consolidation.facts import Fact, facts_of, marks
from consolidation.notes import Note
from consolidation.relations import RELATIONS

NOTED = "noted"
"""The relation of what only the writer found."""


def read(text: str, talk: Talk, notes: Sequence[Note] = ()) -> list[Fact]:
    """The facts in one message; `talk` learns whom it spoke of."""
    facts = [fact for clause in clauses(text, talk) for fact in facts_of(clause)]
    if notes:
        return _with_notes(facts, notes)
    if facts:
        return facts
    echo = echo_of(text)
    return [echo] if echo else []


def _with_notes(facts: Sequence[Fact], notes: Sequence[Note]) -> list[Fact]:
    """Each note's fact, in the rule's words where a rule found it too; beside them, what is commonly told."""
    noted: dict[int, Fact] = {}
    alone: list[Fact] = []
    same: set[int] = set()
    for note in notes:
        value = marks(note.value)
        found = [i for i, fact in enumerate(facts) if marks(fact.value) & value and i not in noted]
        same.update(found)
        if found:
            first = max(found, key=lambda i: (_common(facts[i]), len(marks(facts[i].value) & value)))
            noted[first] = _joined(facts[first], note)
        else:
            alone.append(_alone(note))
    rest = (f for i, f in enumerate(facts) if i not in noted and (_common(f) or i in same))
    return [*noted.values(), *alone, *rest]


def _joined(fact: Fact, note: Note) -> Fact:
    told = note.told.rstrip(".")
    statement = told if marks(fact.value) <= marks(told) else fact.statement
    return replace(fact, statement=statement, written=note.asks, never=note.never)


def _alone(note: Note) -> Fact:
    return Fact(
        subject=f"({' '.join(sorted(marks(note.value)))})",
        relation=NOTED,
        value=note.value,
        statement=note.told.rstrip("."),
        asks=(),
        written=note.asks,
        never=note.never,
    )


def _common(fact: Fact) -> bool:
    return fact.relation.split(" ")[0] in RELATIONS or fact.relation in RELATIONS
