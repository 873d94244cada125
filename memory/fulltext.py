"""Full-text tables, one set an owner: word statistics of one owner must not show in another's scores.

`turn_N` holds a text with its date and speaker, `window_N` the same with the texts before and after. They keep no text:
what is deleted is taken out of the index at once (`secure-delete`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from memory.words import content_words, words

POSTINGS_BUDGET = 1000
"""Entries that one question may visit in the turn table: terms are taken rarest first while they fit."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The words that a question is searched by."""

    used: tuple[str, ...]
    dropped: tuple[str, ...]
    """Too frequent for the postings budget."""
    absent: tuple[str, ...]
    """In no text at all."""


@dataclass(frozen=True, slots=True)
class Page:
    """One text as the tables index it, by its row number."""

    n: int
    turn: str
    window: str


def create(db: Database, owner: int) -> None:
    """Make an owner's tables."""
    for table in (f"turn_{owner}", f"window_{owner}"):
        db.execute(f"CREATE VIRTUAL TABLE {table} USING fts5(text, content='', tokenize='porter unicode61')")
        db.execute(f"INSERT INTO {table}({table}, rank) VALUES ('secure-delete', 1)")


def add(db: Database, owner: int, pages: Sequence[Page]) -> None:
    """Index texts."""
    db.conn.executemany(f"INSERT INTO turn_{owner}(rowid, text) VALUES (?, ?)", [(p.n, p.turn) for p in pages])
    db.conn.executemany(f"INSERT INTO window_{owner}(rowid, text) VALUES (?, ?)", [(p.n, p.window) for p in pages])


def replace_window(db: Database, owner: int, n: int, *, old: str, new: str) -> None:
    """A neighbour came or went."""
    table = f"window_{owner}"
    db.execute(f"INSERT INTO {table}({table}, rowid, text) VALUES ('delete', ?, ?)", [n, old])
    db.execute(f"INSERT INTO {table}(rowid, text) VALUES (?, ?)", [n, new])


def remove(db: Database, owner: int, page: Page) -> None:
    """Take a text out. `page` must be what was indexed: the tables do not know it."""
    for table, text in ((f"turn_{owner}", page.turn), (f"window_{owner}", page.window)):
        db.execute(f"INSERT INTO {table}({table}, rowid, text) VALUES ('delete', ?, ?)", [page.n, text])


def turn_text(speaker: str, text: str, at: datetime) -> str:
    """What the turn table indexes."""
    return f"{at.day} {at:%B %Y} {speaker}: {text}"


def window_text(lines: Sequence[tuple[str, str]]) -> str:
    """What the window table indexes: speakers and texts, in order."""
    return " ".join(f"{speaker}: {text}" for speaker, text in lines)


def terms(db: Database, owner: int, query: str, *, budget: int = POSTINGS_BUDGET) -> Terms:
    """Choose the words to search by."""
    asked = dict.fromkeys(w.removesuffix("'s") for w in content_words(query))
    counted: list[tuple[int, str]] = []
    absent = []
    for word in asked:
        count = _occurrences(db, owner, word, most=budget + 1)
        if count:
            counted.append((count, word))
        else:
            absent.append(word)
    most = budget + 1
    while counted and min(counted)[0] >= most:  # all are frequent: one has to do, the rarest
        most *= 8
        counted = [(_occurrences(db, owner, word, most=most), word) for _, word in counted]
    used: list[str] = []
    dropped: list[str] = []
    spent = 0
    for count, word in sorted(counted):
        if used and spent + count > budget:
            dropped.append(word)
        else:
            used.append(word)
            spent += count
    return Terms(tuple(used), tuple(dropped), tuple(absent))


def containing(db: Database, owner: int, text: str) -> list[int]:
    """Row numbers of the texts in which the words of `text` follow each other, endings aside."""
    phrase = " ".join(words(text))
    if not phrase:
        return []
    found = db.execute(f"SELECT rowid FROM turn_{owner} WHERE turn_{owner} MATCH ?", [f'"{phrase}"']).fetchall()
    return [n for (n,) in found]


def _occurrences(db: Database, owner: int, word: str, *, most: int) -> int:
    """In how many texts a word occurs, counted up to `most`: to count all takes as long as to search by it."""
    sql = f"SELECT count(*) FROM (SELECT 1 FROM turn_{owner} WHERE turn_{owner} MATCH ? LIMIT ?)"
    return int(db.execute(sql, [f'"{word}"', most]).fetchone()[0])


def search(
    db: Database, owner: int, table: str, used: Sequence[str], *, limit: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Row numbers of `table` ("turn" or "window") with any of the words, and minus their bm25(); with `limit`, the
    best only."""
    if not used:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    name = f"{table}_{owner}"
    match = " OR ".join(f'"{word}"' for word in used)
    best = f" ORDER BY rank LIMIT {int(limit)}" if limit is not None else ""
    rows = db.execute(f"SELECT rowid, -rank FROM {name} WHERE {name} MATCH ?{best}", [match]).fetchall()
    ns = np.fromiter((n for n, _ in rows), np.int64, len(rows))
    return ns, np.fromiter((score for _, score in rows), np.float32, len(rows))
