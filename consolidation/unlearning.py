"""Forgetting that reaches the weights: which adapters have seen it, and whether the next one still says it.

What is forgotten leaves no text behind, so the exam of the night that is rebuilt without it cannot be told what to ask.
It has salted digests instead: of what the fact was about, to be found again among the questions about what was never
told, and of its value, to be found again in what the candidate says. They go when that night has been promoted.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from consolidation import notebook
from consolidation.english import spoken
from consolidation.facts import marks
from memory.store import Store

_LONGEST = 6
"""Words of a value that are looked for."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What is left of a forgotten fact until the weights are rid of it."""

    salt: bytes
    asked: bytes
    said: bytes

    def about(self, subject: str, relation: str) -> bool:
        """Whether the fact was about this."""
        return _digest(self.salt, f"{subject.lower()}\0{relation}") == self.asked

    def in_reply(self, reply: str) -> bool:
        """Whether a reply says its value."""
        said = spoken(reply)
        runs = (said[i : i + n] for n in range(1, _LONGEST + 1) for i in range(len(said) - n + 1))
        return any(_digest(self.salt, " ".join(run)) == self.said for run in runs)


def mark_stale(db: Database, owner: str, experiences: Sequence[str]) -> list[str]:
    """Within the transaction that forgets: mark the owner's adapters that were taught these; what now has to wait."""
    marks_ = ",".join("?" for _ in experiences)
    taught = db.execute(
        "SELECT l.rowid, l.adapter, l.subject, l.relation, l.value FROM learnt l JOIN adapters a ON a.id = l.adapter"
        f" WHERE a.owner = ? AND l.experience IN ({marks_})",
        [owner, *experiences],
    ).fetchall()
    notebook.drop(db, owner, experiences)
    db.execute(f"DELETE FROM choices WHERE experience IN ({marks_})", list(experiences))
    db.execute("DELETE FROM answers WHERE night IN (SELECT id FROM nights WHERE owner = ?)", [owner])
    for subject, relation, value in {(s, r, v) for _, _, s, r, v in taught}:
        trace = trace_of(subject, relation, value)
        db.execute(
            "INSERT INTO unlearning (owner, salt, asked, said) VALUES (?, ?, ?, ?)",
            [owner, trace.salt, trace.asked, trace.said],
        )
    for row, *_ in taught:
        db.execute("DELETE FROM learnt WHERE rowid = ?", [row])
    adapters = sorted({str(adapter) for _, adapter, *_ in taught})
    for adapter in adapters:
        db.execute("UPDATE adapters SET stale = 1 WHERE id = ?", [adapter])
    return [f"{adapter} was taught it; the next night is rebuilt without it" for adapter in adapters]


def trace_of(subject: str, relation: str, value: str) -> Trace:
    """The digests of a fact, salted."""
    salt = secrets.token_bytes(16)
    heard, heavy = spoken(value), marks(value)
    carried = [i for i, word in enumerate(heard) if word in heavy] or [0]
    return Trace(
        salt=salt,
        asked=_digest(salt, f"{subject.lower()}\0{relation}"),
        said=_digest(salt, " ".join(heard[carried[0] : carried[-1] + 1][:_LONGEST])),
    )


def traces(store: Store, *, owner: str) -> list[Trace]:
    """What the next night has to be rid of."""
    with store.reading() as db:
        rows = db.execute("SELECT salt, asked, said FROM unlearning WHERE owner = ?", [owner]).fetchall()
    return [Trace(salt=bytes(salt), asked=bytes(asked), said=bytes(said)) for salt, asked, said in rows]


def said_again(replies: Iterable[str], left: Sequence[Trace]) -> float | None:
    """The share of replies that say what is forgotten; None: there are none."""
    found = [any(trace.in_reply(reply) for trace in left) for reply in replies]
    return sum(found) / len(found) if found else None


def _digest(salt: bytes, text: str) -> bytes:
    return hashlib.blake2b(text.encode(), key=salt, digest_size=16).digest()
