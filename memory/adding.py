"""How an offer becomes an experience: what it is compared with, what is decided (`admission`), what is written."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlite_utils import Database

from memory import fulltext
from memory.admission import Kept, Verdict, admit
from memory.experience import Offer, Outcome
from memory.fulltext import Page, turn_text, window_text
from memory.traits import traits_of
from memory.words import fingerprint, letters

RESEMBLING = 10
"""Stored experiences that an offer is compared with."""
CANDIDATE_BUDGET = 300
"""Postings visited to find them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """How much memory may grow."""

    per_source_and_day: int = 5_000
    """Experiences that one source may add within 24 hours. Imports are the operator's own act and not counted."""


class Adding:
    """Offers on their way in, within one transaction. Full text is written at the end, when neighbours are known."""

    def __init__(self, db: Database, owner: int, at: datetime, quotas: Quotas) -> None:
        self._db = db
        self._owner = owner
        self._at = at
        self._quotas = quotas
        self._new: dict[str | None, list[tuple[int, str, str, datetime]]] = {}
        self._today: dict[tuple[str, str], int] = {}

    def take(self, offer: Offer) -> Outcome:
        """Decide what becomes of an offer, and write it."""
        known = self._db.execute(
            "SELECT id FROM experiences WHERE owner = ?1 AND id = ?2 UNION ALL SELECT e.id FROM wordings w"
            " JOIN experiences e ON e.n = w.experience WHERE w.owner = ?1 AND w.id = ?2",
            [self._owner, offer.id],
        ).fetchone()
        if known is not None:
            return Outcome(fate="known", id=known[0], reason="this event was taken before")
        verdict = admit(offer, self._resembling(offer) if offer.merge else (), over_quota=self._over_quota(offer))
        if verdict.fate == "refused":
            return Outcome(fate="refused", id=None, reason=verdict.reason)
        if verdict.fate in ("merged", "echo"):
            if verdict.fate == "merged":
                self._merge(offer, verdict)
            return Outcome(fate=verdict.fate, id=verdict.kept, reason=verdict.reason)
        self._insert(offer, quarantined=verdict.reason if verdict.fate == "quarantined" else None)
        if verdict.fate == "replaced":
            self._db.execute(
                "UPDATE experiences SET superseded_by = ? WHERE owner = ? AND id = ?",
                [offer.id, self._owner, verdict.kept],
            )
        return Outcome(fate=verdict.fate, id=offer.id, reason=verdict.reason, replaced=verdict.kept)

    def finish(self) -> None:
        """Index what came in, and what stands beside it anew."""
        pages: list[Page] = []
        for session, added in self._new.items():
            before: list[tuple[str, str]] = []
            if session is not None:
                first = added[0][0]
                rows = self._db.execute(
                    "SELECT n, speaker, text FROM experiences WHERE owner = ? AND session = ? AND n < ?"
                    " ORDER BY n DESC LIMIT 2",
                    [self._owner, session, first],
                ).fetchall()[::-1]
                before = [(speaker, text) for _, speaker, text in rows]
                if before:
                    fulltext.replace_window(
                        self._db,
                        self._owner,
                        rows[-1][0],
                        old=window_text(before),
                        new=window_text([*before, (added[0][1], added[0][2])]),
                    )
                    before = before[-1:]
            lines = [*before, *((speaker, text) for _, speaker, text, _ in added)]
            for place, (n, speaker, text, at) in enumerate(added, len(before)):
                window = [lines[place]] if session is None else lines[max(0, place - 1) : place + 2]
                pages.append(Page(n=n, turn=turn_text(speaker, text, at), window=window_text(window)))
        fulltext.add(self._db, self._owner, pages)
        self._new.clear()

    def _insert(self, offer: Offer, *, quarantined: str | None) -> None:
        where, raw = offer.provenance, offer.raw
        n = self._db.execute(
            """
            INSERT INTO experiences (owner, id, text, fingerprint, letters, speaker, session, at, recorded_at, channel,
                author, message, turn, traits, quarantined, tokens, raw_surprise, raw_arousal, raw_reward, raw_conflict,
                gate)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING n
            """,
            [
                self._owner,
                offer.id,
                offer.text,
                fingerprint(offer.text),
                letters(offer.text),
                where.speaker,
                where.session,
                offer.at.isoformat(),
                self._at.isoformat(),
                where.channel,
                where.author,
                where.message,
                where.turn,
                traits_of(offer.text),
                quarantined,
                offer.tokens,
                *((raw.surprise, raw.arousal, raw.reward, raw.conflict, raw.gate) if raw else (None,) * 5),
            ],
        ).fetchone()[0]
        self._new.setdefault(where.session, []).append((n, where.speaker, offer.text, offer.at))

    def _merge(self, offer: Offer, verdict: Verdict) -> None:
        n, text = self._db.execute(
            "SELECT n, text FROM experiences WHERE owner = ? AND id = ?", [self._owner, verdict.kept]
        ).fetchone()
        self._db.execute("UPDATE experiences SET copies = copies + 1 WHERE n = ?", [n])
        wording = None if offer.text == text or verdict.reason == "the same words" else offer.text
        self._db.execute(
            "INSERT INTO wordings (owner, id, experience, text, at) VALUES (?, ?, ?, ?, ?)",
            [self._owner, offer.id, n, wording, offer.at.isoformat()],
        )
        self._db.execute(
            "INSERT OR IGNORE INTO evidence (pattern, event, at) SELECT id, ?, ? FROM patterns WHERE experience = ?",
            [offer.id, offer.at.isoformat(), n],
        )

    def _resembling(self, offer: Offer) -> list[Kept]:
        """Experiences that share the rarer words of an offer, those with the same letters first."""
        if self._new:  # what came in the same transaction is not indexed yet
            self.finish()
        same = self._db.execute(
            "SELECT n FROM experiences WHERE owner = ? AND fingerprint = ? AND superseded_by IS NULL",
            [self._owner, fingerprint(offer.text)],
        ).fetchall()
        chosen = fulltext.terms(self._db, self._owner, offer.text, budget=CANDIDATE_BUDGET)
        found, _ = fulltext.search(self._db, self._owner, "turn", chosen.used[:5], limit=RESEMBLING)
        letters = {n for (n,) in same}
        ns = list(dict.fromkeys([*letters, *(int(n) for n in found)]))
        marks = ",".join("?" * len(ns))
        rows = self._db.execute(
            f"SELECT n, id, text, speaker FROM experiences WHERE n IN ({marks}) AND superseded_by IS NULL", ns
        )
        by_row = {n: Kept(id, text, speaker, n in letters) for n, id, text, speaker in rows}
        return [by_row[n] for n in ns if n in by_row]

    def _over_quota(self, offer: Offer) -> bool:
        where = offer.provenance
        if where.channel == "import":
            return False
        key = (where.author, where.speaker)
        if key not in self._today:
            since = (self._at - timedelta(days=1)).isoformat()
            self._today[key] = int(
                self._db.execute(
                    "SELECT count(*) FROM (SELECT 1 FROM experiences WHERE owner = ? AND author = ? AND speaker = ?"
                    " AND recorded_at > ? AND channel <> 'import' LIMIT ?)",
                    [self._owner, where.author, where.speaker, since, self._quotas.per_source_and_day],
                ).fetchone()[0]
            )
        over = self._today[key] >= self._quotas.per_source_and_day
        self._today[key] += 1
        return over
