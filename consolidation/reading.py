"""Pure: what a message tells: facts by rule, with the writer's note on it where there is one; else its own words."""

from __future__ import annotations

from dataclasses import replace

from consolidation.clauses import Talk, clauses
from consolidation.echoes import echo_of
from consolidation.facts import Fact, facts_of, marks
from consolidation.notes import Note
from consolidation.relations import RELATIONS

NOTED = "noted"
"""The relation of what only the writer found."""


def read(text: str, talk: Talk, note: Note | None = None) -> list[Fact]:
    """The facts in one message; `talk` learns whom it spoke of."""
    facts = [fact for clause in clauses(text, talk) for fact in facts_of(clause)]
    if note is not None:
        return _with_note(facts, note)
    if facts:
        return facts
    echo = echo_of(text)
    return [echo] if echo else []


def _with_note(facts: list[Fact], note: Note) -> list[Fact]:
    """The note's fact, in the rule's words where a rule found it too; beside it, what is commonly told."""
    value = marks(note.value)
    same = [i for i, fact in enumerate(facts) if marks(fact.value) & value]
    told = note.told.rstrip(".")
    if not same:
        subject = f"({' '.join(sorted(value))})"
        noted = Fact(subject=subject, relation=NOTED, value=note.value, statement=told, asks=(), written=note.asks)
        return [noted, *(f for f in facts if _common(f))]
    first = max(same, key=lambda i: (_common(facts[i]), len(marks(facts[i].value) & value)))
    bears = marks(facts[first].value) <= marks(told)
    joined = replace(facts[first], statement=told if bears else facts[first].statement, written=note.asks)
    return [joined, *(f for i, f in enumerate(facts) if i != first and (_common(f) or i in same))]


def _common(fact: Fact) -> bool:
    return fact.relation.split(" ")[0] in RELATIONS or fact.relation in RELATIONS
