"""What happens to experiences after they are on disk: they get a vector, and once newer ones bind them, a salience.

An experience is scored when three newer ones of its conversation are there (of a buffer of ten, the oldest never wait
for more), or when the conversation pauses or ends. Feedback and contradiction that come until then count. Scored once:
the same event again changes nothing, and a process that is killed goes on where it stopped.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlite_utils import Database

from memory.errors import EmbedderAway
from memory.experience import Experience
from memory.experiences import experience_of, owner_number
from memory.feedback import expected
from memory.forgetting import evict
from memory.ids import new_id
from memory.recall import Embedder, Recall
from memory.salience import (
    FEW_TOKENS,
    RING,
    Calibration,
    Dimension,
    Observation,
    Raw,
    Ring,
    Salience,
    Statistics,
    observe,
    score,
)
from memory.sameness import contradiction, relate
from memory.store import Store
from memory.trust import trust_in

BUFFER, BOUND_BY = 10, 3
"""Experiences of a conversation that may wait, and the newer ones that bind one."""
PAUSE = timedelta(seconds=30)
"""A conversation that has been silent for so long is at its end, as far as binding goes."""
_BATCH = 16
"""Texts embedded at once: a tenth of a second."""


class Binder:
    """Gives vectors and saliences, one batch at a time, whenever it is called. Nobody waits for it."""

    def __init__(
        self,
        store: Store,
        recall: Recall,
        embedder: Embedder | None,
        *,
        now: Callable[[], datetime],
        most: int = 1_000_000,
    ) -> None:
        """`most`: experiences of one owner."""
        self._store = store
        self._recall = recall
        self._embedder = embedder
        self._now = now
        self._most = most
        self._embedded_up_to = 0
        self._calibration: Calibration | None = None
        self._lock = threading.Lock()

    def calibrate(self, calibration: Calibration) -> None:
        """From now on the serving model's scale is known, and scoring can begin."""
        self._calibration = calibration

    @property
    def calibrated(self) -> bool:
        """Whether anything can be scored."""
        return self._calibration is not None

    @property
    def strangest(self) -> float | None:
        """Nats per token of the strangest text that is still plausible; None: not known yet."""
        return None if self._calibration is None else self._calibration.strangest

    def preview(self, text: str, raw: Raw, *, owner: str) -> Salience | None:
        """How salient an experience is as things stand. Changes nothing."""
        if self._calibration is None:
            return None
        vector = self._recall.embed(text)
        similarity = None if vector is None else self._recall.nearest(vector, owner=owner) or 0.0
        with self._store.reading() as db:
            number = owner_number(db, owner)
            known = Statistics.calibrated(self._calibration)
            if number is not None:
                known = load_statistics(db, number, self._calibration)
        novelty = None if similarity is None else 1 - max(0.0, min(1.0, similarity))
        return score(replace(raw, novelty=novelty), known)

    def embed_pending(self) -> int:
        """Give vectors to the next experiences that have none; returns how many. None while the embedder is away."""
        if self._embedder is None:
            return 0
        with self._store.reading() as db:
            rows = db.execute(_UNEMBEDDED, [self._embedder.name, self._embedded_up_to, _BATCH]).fetchall()
        if not rows:
            return 0
        try:
            vectors = self._recall.embed_all([text for _, _, _, text in rows]).astype("<f2")
        except EmbedderAway:
            return 0
        self._store.write(lambda db: self._put_vectors(db, [n for n, *_ in rows], vectors), power_safe=False)
        self._embedded_up_to = rows[-1][0]  # row numbers only ever rise
        for owner in {owner for _, owner, _, _ in rows}:
            self._recall.refresh(owner, [id for _, of, id, _ in rows if of == owner])
        return len(rows)

    def evict(self) -> list[str]:
        """Let go of what is beyond the bound on an owner's experiences."""
        with self._store.reading() as db:
            counts = db.execute(
                "SELECT o.name, count(*) FROM experiences e JOIN owners o ON o.n = e.owner GROUP BY o.n"
                " HAVING count(*) > ?",
                [self._most],
            ).fetchall()
        gone = []
        for owner, _ in counts:
            gone += evict(self._store, owner=owner, most=self._most, now=self._now())
            self._recall.drop(owner)
        return gone

    def bind(self, *, owner: str | None = None, everything: bool = False) -> int:
        """Score what is bound; returns how many. `everything`: a conversation has ended, or all have."""
        if self._calibration is None:
            return 0
        with self._lock:
            with self._store.reading() as db:
                owners = [name for (name,) in db.execute("SELECT name FROM owners ORDER BY n")]
            return sum(self._bind_owner(name, everything) for name in owners if owner in (None, name))

    def _bind_owner(self, owner: str, everything: bool) -> int:
        with self._store.reading() as db:
            number = owner_number(db, owner)
            rows = list(db.query(_UNSCORED, [number]))
        if number is None:
            return 0
        # Novelty is measured on vectors: what has none yet waits, where there will be one.
        ready = [r for r in rows if r["vector"] is not None or self._embedder is None]
        due = [r for r in ready if everything or self._is_bound(r)]
        if due:
            similarities = [self._similarity(owner, row) for row in due]
            self._store.write(lambda db: self._score(db, number, due, similarities), power_safe=False)
            self._recall.refresh(owner, [row["id"] for row in due])
        return len(due)

    def _is_bound(self, row: Mapping[str, Any]) -> bool:
        if row["session"] is None or row["channel"] == "import" or row["newer"] >= BOUND_BY:
            return True
        return self._now() - datetime.fromisoformat(row["recorded_at"]) >= PAUSE

    def _similarity(self, owner: str, row: Mapping[str, Any]) -> float | None:
        """Cosine to the nearest experience before this one, 0 if it is the first; None: it has no vector."""
        if row["vector"] is None:
            return None
        vector = np.frombuffer(row["vector"], "<f2").astype(np.float32)
        return self._recall.nearest(vector, owner=owner, before=row["n"]) or 0.0

    def _score(
        self, db: Database, number: int, rows: Sequence[Mapping[str, Any]], similarities: Sequence[float | None]
    ) -> None:
        """Score experiences one after the other: each against all before it, then into the statistics."""
        assert self._calibration is not None
        at = self._now()
        before = known = load_statistics(db, number, self._calibration)
        for row, similarity in zip(rows, similarities, strict=True):
            one = experience_of(row)
            raw = _raw(db, number, one, row, similarity, known.strangest, at)
            salience = score(raw, known)
            _put_salience(db, one, raw, salience, at=at, by=self._calibration.model)
            known = known.knowing(raw, salience)
            if salience.conceptual and one.provenance.author != "model" and one.quarantined is None:
                _support(db, number, one, at=at)
        _push(db, number, before, known)

    def _put_vectors(self, db: Database, ns: Sequence[int], vectors: np.ndarray[Any, Any]) -> None:
        assert self._embedder is not None
        db.conn.executemany(
            "INSERT OR IGNORE INTO vectors (experience, model, vector) SELECT n, ?2, ?3 FROM experiences WHERE n = ?1",
            [(n, self._embedder.name, v.tobytes()) for n, v in zip(ns, vectors, strict=True)],
        )


_UNEMBEDDED = """
    SELECT e.n, o.name, e.id, e.text FROM experiences e JOIN owners o ON o.n = e.owner
    LEFT JOIN vectors v ON v.experience = e.n AND v.model = ?
    WHERE v.experience IS NULL AND e.n > ? ORDER BY e.n LIMIT ?
"""
_UNSCORED = """
    SELECT e.*, v.vector, (SELECT count(*) FROM (SELECT 1 FROM experiences l WHERE l.owner = e.owner
        AND l.session = e.session AND l.n > e.n LIMIT 3)) AS newer
    FROM experiences e LEFT JOIN vectors v ON v.experience = e.n
    WHERE e.owner = ? AND e.scored_at IS NULL ORDER BY e.n LIMIT 64
"""


def load_calibration(db: Database, model: str) -> Calibration | None:
    """What is known about a model's scale, or None."""
    row = db.execute("SELECT strangest, scales FROM calibrations WHERE model = ?", [model]).fetchone()
    if row is None:
        return None
    try:
        scales = json.loads(row[1])
        return Calibration(
            model=model,
            strangest=row[0],
            surprise=tuple(scales["surprise"]),
            novelty=tuple(scales["novelty"]),
            arousal=tuple(scales["arousal"]),
        )
    except (ValueError, KeyError, TypeError):  # a disk has changed it: measured anew
        return None


def save_calibration(db: Database, calibration: Calibration) -> None:
    """Remember a model's scale: the next start need not measure it."""
    scales = {
        "surprise": calibration.surprise,
        "novelty": calibration.novelty,
        "arousal": calibration.arousal,
    }
    db.execute(
        "INSERT OR REPLACE INTO calibrations (model, strangest, scales) VALUES (?, ?, ?)",
        [calibration.model, calibration.strangest, json.dumps(scales)],
    )


def load_statistics(db: Database, number: int, calibration: Calibration) -> Statistics:
    """An owner's rings as they are stored, or fresh ones."""
    fresh = Statistics.calibrated(calibration)
    pushed: dict[str, int] = dict(
        db.execute("SELECT dimension, pushed FROM salience_scales WHERE owner = ?", [number]).fetchall()
    )
    rings: dict[Dimension, Ring] = {}
    for dimension, ring in fresh.rings.items():
        if dimension not in pushed:
            rings[dimension] = ring
            continue
        rows = db.execute(
            "SELECT value FROM salience_rings WHERE owner = ? AND dimension = ? ORDER BY slot", [number, dimension]
        )
        rings[dimension] = Ring(np.array([v for (v,) in rows], np.float64), pushed[dimension])
    return Statistics(strangest=fresh.strangest, rings=rings)


def _push(db: Database, number: int, known: Statistics, after: Statistics) -> None:
    """Store what changed of the rings: the slots that were written, or all of a ring that was not stored yet."""
    for dimension, ring in after.rings.items():
        before = known.rings[dimension]
        stored = db.execute(
            "SELECT 1 FROM salience_scales WHERE owner = ? AND dimension = ?", [number, dimension]
        ).fetchone()
        slots = {n % RING for n in range(before.pushed, ring.pushed)} if stored else range(len(ring.values))
        db.conn.executemany(
            "INSERT OR REPLACE INTO salience_rings (owner, dimension, slot, value) VALUES (?, ?, ?, ?)",
            [(number, dimension, slot, float(ring.values[slot])) for slot in slots],
        )
        db.execute(
            "INSERT OR REPLACE INTO salience_scales (owner, dimension, pushed) VALUES (?, ?, ?)",
            [number, dimension, ring.pushed],
        )


def _raw(
    db: Database,
    number: int,
    one: Experience,
    row: Mapping[str, Any],
    similarity: float | None,
    strangest: float,
    now: datetime,
) -> Raw:
    """The raw values of a stored experience: those measured in the turn, and those that came since."""
    reward = None
    if one.provenance.turn is not None:
        found = db.execute("SELECT reward FROM feedback WHERE turn = ?", [one.provenance.turn]).fetchone()
        reward = None if found is None else float(found[0])
    raw = observe(
        Observation(
            text=one.text,
            surprisals=None,
            similarity=similarity,
            reward=reward,
            expected=0.5 if reward is None else expected(db, number, one.n),
            contradiction=_contradiction(db, number, one, now),
        ),
        strangest=strangest,
    )
    if row["gate"] is None:
        return raw
    return Raw(
        surprise=row["raw_surprise"],
        novelty=raw.novelty,
        arousal=max(raw.arousal, row["raw_arousal"]),
        reward=raw.reward,
        conflict=raw.conflict,
        gate=min(raw.gate, row["gate"]),
        short=0 < row["tokens"] < FEW_TOKENS,
    )


def _contradiction(db: Database, number: int, one: Experience, now: datetime) -> float:
    """Of the stored facts that this one took the place of, the most trusted counts."""
    worst = 0.0
    for other in db.query("SELECT * FROM experiences WHERE owner = ? AND superseded_by = ?", [number, one.id]):
        old = experience_of(other)
        trust = trust_in(db, number, old.provenance, at=now)
        worst = max(worst, contradiction(relate(one.text, old.text)) * trust)
    return worst


def _put_salience(db: Database, one: Experience, raw: Raw, salience: Salience, *, at: datetime, by: str) -> None:
    db.execute(
        """
        UPDATE experiences SET raw_surprise = ?, raw_novelty = ?, raw_arousal = ?, raw_reward = ?, raw_conflict = ?,
            gate = ?, surprise = ?, novelty = ?, arousal = ?, reward = ?, conflict = ?, total = ?, percentile = ?,
            scored_at = ?, scored_by = ? WHERE n = ? AND scored_at IS NULL
        """,
        [
            raw.surprise,
            raw.novelty,
            raw.arousal,
            raw.reward,
            raw.conflict,
            raw.gate,
            salience.surprise,
            salience.novelty,
            salience.arousal,
            salience.reward,
            salience.conflict,
            salience.total,
            salience.percentile,
            at.isoformat(),
            by,
            one.n,
        ],
    )


def _support(db: Database, number: int, one: Experience, *, at: datetime) -> None:
    """A salient experience becomes a pattern, with itself and its other wordings as evidence."""
    pattern = new_id("pat", at)
    db.execute(
        "INSERT OR IGNORE INTO patterns (id, owner, experience, created_at) VALUES (?, ?, ?, ?)",
        [pattern, number, one.n, at.isoformat()],
    )
    db.execute(
        """
        INSERT OR IGNORE INTO evidence (pattern, event, at)
        SELECT p.id, e.id, e.at FROM patterns p JOIN experiences e ON e.n = p.experience WHERE e.n = ?1
        UNION ALL SELECT p.id, w.id, w.at FROM patterns p JOIN wordings w ON w.experience = p.experience
        WHERE p.experience = ?1
        """,
        [one.n],
    )
