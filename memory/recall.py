"""Finding experiences again, and saying why each was found or was not.

Searching and explaining change no count. Only what enters a prompt counts as accessed (`Experiences.accessed`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sqlite_utils import Database

from memory import fulltext
from memory.errors import EmbedderAway, MemoryNotFound
from memory.experience import Experience
from memory.experiences import experience_of, owner_number
from memory.index import OwnerIndex, Row
from memory.ranking import Hits, Question, Ranking, Weights, rank
from memory.store import Store
from memory.traits import Wanted
from memory.words import words

Floats = NDArray[np.float32]

CANDIDATES = 200
"""How many lexical and dense hits are scored where an owner has too many experiences to score all."""
ALIKE = 0.8
"""Cosine above which two memories are near enough for one to make the other superfluous in a prompt."""
RELEVANCE = 0.7
"""Maximal marginal relevance (Carbonell and Goldstein 1998): share of the score against likeness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedder:
    """Sentence vectors of length 1, as [texts, dimensions] float32. `embed` may raise EmbedderAway."""

    name: str
    dimensions: int
    embed: Callable[[Sequence[str]], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of a score."""

    name: str
    raw: float
    rescaled: float
    weight: float

    @property
    def contribution(self) -> float:
        """What it adds before the factor."""
        return self.weight * self.rescaled


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One experience that was found: score = factor x (sum of contributions + spread)."""

    experience: Experience
    rank: int
    score: float
    terms: tuple[Term, ...]
    spread: float
    factor: float
    cosine: float | None
    """With the question; None: it has no vector yet."""
    matched: tuple[str, ...]
    """The question's words that its text holds."""


Lost = Literal["found", "quarantined", "replaced", "later", "no_match", "below_cut", "similar", "budget", "not_needed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNot:
    """The first reason for which an experience did not come."""

    id: str
    reason: Lost
    detail: str
    rank: int | None
    score: float | None
    cut: float | None
    """The score of the last that came."""
    missing: tuple[str, ...]
    """The question's words that it does not hold."""
    dropped: tuple[str, ...]
    """The question's words that were too frequent to be searched by."""


class Recall:
    """Search over one store. Thread-safe."""

    def __init__(
        self,
        store: Store,
        embedder: Embedder | None,
        *,
        now: Callable[[], datetime],
        weights: Weights | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._now = now
        self._weights = weights or Weights()
        self._lock = threading.RLock()
        self._indices: dict[str, OwnerIndex] = {}
        self._changed: dict[str, set[str]] = {}
        self._embedded: dict[str, Floats] = {}

    def search(
        self, query: str, *, owner: str, k: int = 10, as_of: datetime | None = None, vector: Floats | None = None
    ) -> list[Hit]:
        """The `k` experiences of `owner` that answer `query` best. `vector`: the query's, if it is known already."""
        with self._store.reading() as db:
            number = owner_number(db, owner)
            if number is None or not query.strip():
                return []
            ranking, used, _ = self._rank(db, owner, number, query, as_of, vector)
            return self._hits(db, owner, ranking, ranking.best(k), used.used)

    def why_not(self, id: str, query: str, *, owner: str, k: int = 10, as_of: datetime | None = None) -> WhyNot:
        """Why the experience `id` is not among the `k` best for `query`.

        Raises:
            MemoryNotFound: there is none of that name, or it is another owner's.
        """
        with self._store.reading() as db:
            number = owner_number(db, owner)
            row = next(iter(db.query(_BY_ID, [number, id])), None) if number is not None else None
            if number is None or row is None:
                raise MemoryNotFound(id)
            one = experience_of(row)
            ranking, used, index = self._rank(db, owner, number, query, as_of, None)
            place = index.place(one.n)
            at = np.flatnonzero(ranking.places == place) if place is not None else np.zeros(0, np.int64)
            best = ranking.best(k)
            cut = float(ranking.score[best[-1]]) if len(best) else None
            score = float(ranking.score[at[0]]) if len(at) else None
            order = None
            if len(at) and ranking.candidates[at[0]]:
                order = int(np.count_nonzero(ranking.candidates & (ranking.score > ranking.score[at[0]]))) + 1
            held = set(words(one.text))
            missing = tuple(w for w in (*used.used, *used.dropped, *used.absent) if w not in held)
            reason, detail = _lost(one, order, k, score, cut, (as_of or self._now()))
            return WhyNot(
                id=one.id,
                reason=reason,
                detail=detail,
                rank=order,
                score=score,
                cut=cut,
                missing=missing,
                dropped=used.dropped,
            )

    def choose(self, hits: Sequence[Hit], *, owner: str, most: int, fits: Callable[[Sequence[Hit]], bool]) -> list[Hit]:
        """The hits worth a place in a prompt, best first: not too alike, `most` at most, as long as they `fits`."""
        chosen: list[Hit] = []
        left = list(hits)
        vectors = self._vectors_of(owner, left)
        top = left[0].score if left else 1.0
        while left and len(chosen) < most:
            scored = []
            for hit in left:
                likeness = max((self._likeness(vectors, hit, other) for other in chosen), default=0.0)
                near = likeness if likeness > ALIKE else 0.0
                scored.append(RELEVANCE * hit.score / top - (1 - RELEVANCE) * near)
            best = left.pop(int(np.argmax(scored)))
            if fits([*chosen, best]):
                chosen.append(best)
        return chosen

    def weighing(self, weights: Weights) -> Recall:
        """The same memory, searched with other weights."""
        return Recall(self._store, self._embedder, now=self._now, weights=weights)

    def embed(self, text: str) -> Floats | None:
        """The vector of one text; None: there is no embedder, or it is away."""
        try:
            return None if self._embedder is None else self.embed_all([text])[0]
        except EmbedderAway:
            return None

    def embed_all(self, texts: Sequence[str]) -> Floats:
        """[texts, dimensions]. The latest are kept: a turn asks for its own, and so does who stores them.

        Raises:
            EmbedderAway: it could not be done now.
        """
        assert self._embedder is not None
        with self._lock:
            known = {text: self._embedded[text] for text in texts if text in self._embedded}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known |= zip(new, self._embedder.embed(new), strict=True)
        with self._lock:
            self._embedded |= {text: known[text] for text in new}
            while len(self._embedded) > _KEPT_VECTORS:
                del self._embedded[next(iter(self._embedded))]
        return np.stack([known[text] for text in texts])

    def vectors(self, experiences: Sequence[Experience]) -> Floats:
        """[experiences, dimensions], each of length 1; zeros for what has none yet, or of another embedder."""
        found = np.zeros((len(experiences), 0 if self._embedder is None else self._embedder.dimensions), np.float32)
        places = {one.n: place for place, one in enumerate(experiences)}
        ns = list(places)
        with self._store.reading() as db:
            for start in range(0, len(ns), _AT_ONCE):
                some = ns[start : start + _AT_ONCE]
                marks = ",".join("?" for _ in some)
                rows = db.execute(
                    f"SELECT experience, vector FROM vectors WHERE model = ? AND experience IN ({marks})",
                    [self._model, *some],
                )
                for n, vector in rows:
                    found[places[n]] = np.frombuffer(vector, "<f2").astype(np.float32)
        return found

    def nearest(self, vector: Floats, *, owner: str, before: int | None = None) -> float | None:
        """Cosine of the most similar experience, of those that came before row `before`; None: there is none."""
        with self._lock, self._store.reading() as db:
            number = owner_number(db, owner)
            if number is None:
                return None
            index = self._index(db, owner, number)
            end = index.size if before is None else int(np.searchsorted(index.column("n"), before))
            vectors = index.vectors[max(0, end - 1000) : end] if not index.small else index.vectors[:end]
            return float(_products(vectors, vector).max()) if len(vectors) else None

    def refresh(self, owner: str, changed: Iterable[str]) -> None:
        """These experiences were changed, and that is on disk: read them again before the next search.

        Added ones are noticed by themselves.
        """
        with self._lock:
            self._changed.setdefault(owner, set()).update(changed)

    def warm(self) -> None:
        """Load what searching needs: nobody's first search has to wait for it."""
        self.embed("warm")
        with self._store.reading() as db:
            owners = db.execute("SELECT name, n FROM owners ORDER BY n").fetchall()
            for owner, number in owners:
                with self._lock:
                    self._index(db, owner, number)

    def drop(self, owner: str) -> None:
        """Experiences are gone: read all of the owner's again, and keep no text of theirs."""
        with self._lock:
            self._embedded.clear()
            self._indices.pop(owner, None)

    def _rank(
        self,
        db: Database,
        owner: str,
        number: int,
        query: str,
        as_of: datetime | None,
        vector: Floats | None,
    ) -> tuple[Ranking, fulltext.Terms, OwnerIndex]:
        used = fulltext.terms(db, number, query)
        if vector is None:
            vector = self.embed(query)
        turn = fulltext.search(db, number, "turn", used.used)
        window = fulltext.search(db, number, "window", used.used)
        with self._lock:
            index = self._index(db, owner, number)
            asked = set(words(query)) | {w.removesuffix("'s") for w in words(query)}
            question = Question(
                turn=_hits_at(index, *turn),
                window=_hits_at(index, *window),
                vector=vector,
                speakers=frozenset(
                    code for name, code in index.speakers.items() if set(words(name)) & asked and name != "user"
                ),
                wanted=Wanted.by(query),
                now=(as_of or self._now()).timestamp(),
                as_of=as_of is not None,
            )
            if index.small:
                places = np.arange(index.size)
                cosines = _products(index.vectors, vector) if vector is not None else None
            else:
                places = _candidates(index, question)
                cosines = None if vector is None else _cosines(db, index, places, vector)
            return rank(index, question, places, cosines, weights=self._weights), used, index

    def _index(self, db: Database, owner: str, number: int) -> OwnerIndex:
        """The owner's index, brought up to the state that `db` shows."""
        index = self._indices.get(owner)
        if index is None:
            index = self._indices[owner] = OwnerIndex(self._embedder.dimensions if self._embedder else 1)
            self._changed.pop(owner, None)
        last = int(index.column("n")[-1]) if index.size else 0
        index.extend(_row(r) for r in db.execute(_LATER, [self._model, number, last]))
        changed = sorted(self._changed.pop(owner, ()))
        for start in range(0, len(changed), _AT_ONCE):
            ids = changed[start : start + _AT_ONCE]
            marks = ",".join("?" * len(ids))
            for r in db.execute(_ROWS.format(f"e.owner = ? AND e.id IN ({marks})"), [self._model, number, *ids]):
                _update(index, _row(r))
        return index

    @property
    def _model(self) -> str:
        return self._embedder.name if self._embedder else ""

    def _hits(
        self, db: Database, owner: str, ranking: Ranking, best: NDArray[np.int64], used: Sequence[str]
    ) -> list[Hit]:
        index = self._indices[owner]
        ns = [int(n) for n in index.column("n")[ranking.places[best]]]
        marks = ",".join("?" * len(ns))
        rows = {r["n"]: r for r in db.query(f"SELECT * FROM experiences WHERE n IN ({marks})", ns)}
        hits = []
        for order, (at, n) in enumerate(zip(best, ns, strict=True)):
            if n not in rows:
                continue
            one = experience_of(rows[n])
            held = set(words(one.text))
            hits.append(
                Hit(
                    experience=one,
                    rank=order + 1,
                    score=float(ranking.score[at]),
                    terms=tuple(
                        Term(
                            name=name,
                            raw=float(ranking.raw[name][at]),
                            rescaled=float(ranking.rescaled[name][at]),
                            weight=weight,
                        )
                        for name, weight in self._weights.terms.items()
                    ),
                    spread=float(ranking.spread[at]),
                    factor=float(ranking.factor[at]),
                    cosine=None if np.isnan(ranking.cosines[at]) else float(ranking.cosines[at]),
                    matched=tuple(w for w in used if w in held),
                )
            )
        return hits

    def _vectors_of(self, owner: str, hits: Sequence[Hit]) -> dict[int, Floats]:
        with self._lock:
            index = self._indices.get(owner)
            if index is None or not index.small:
                return {}
            found = {}
            for hit in hits:
                place = index.place(hit.experience.n)
                if place is not None and index.has_vector[place]:
                    found[hit.experience.n] = index.vectors[place]
            return found

    @staticmethod
    def _likeness(vectors: dict[int, Floats], one: Hit, other: Hit) -> float:
        a, b = vectors.get(one.experience.n), vectors.get(other.experience.n)
        return float(a @ b) if a is not None and b is not None else 0.0


_BY_ID = """
    SELECT e.* FROM experiences e WHERE e.owner = ?1 AND e.id = coalesce(
        (SELECT k.id FROM wordings w JOIN experiences k ON k.n = w.experience WHERE w.owner = ?1 AND w.id = ?2), ?2)
"""
_ROWS = """
    SELECT e.n, e.session, e.speaker, e.traits, unixepoch(e.at, 'subsec'), e.percentile, e.accesses,
        unixepoch(e.accessed_at, 'subsec'), e.quarantined IS NULL, e.author = 'model',
        (SELECT unixepoch(s.at, 'subsec') FROM experiences s WHERE s.owner = e.owner AND s.id = e.superseded_by),
        v.vector
    FROM experiences e LEFT JOIN vectors v ON v.experience = e.n AND v.model = ?
    WHERE {}
"""
_LATER = _ROWS.format("+e.owner = ? AND e.n > ? ORDER BY e.n")  # +: by row number, not by the index over owners
_AT_ONCE = 500
_KEPT_VECTORS = 64


def _products(vectors: Floats, vector: Floats) -> Floats:
    """[n, d] and [d] -> [n]. Not `@`: BLAS would wake threads of its own, and wait for them beside the engine's.

    `bench.memory`, while decoding: 68 ms a search with them, 32 without.
    """
    products: Floats = np.vecdot(vectors, vector)
    return products


def _update(index: OwnerIndex, row: Row) -> None:
    """Take over what may change of an experience."""
    place = index.place(row.n)
    if place is None:
        return
    for name in ("percentile", "accesses", "accessed", "recallable", "ends"):
        value = getattr(row, name)
        if value is not None:
            index.set(name, place, value)
    if row.vector is not None:
        index.put_vector(place, row.vector)


def _row(r: Sequence[object]) -> Row:
    n, session, speaker, traits, at, percentile, accesses, accessed, recallable, model_made, ends, vector = r
    return Row(
        n=n,  # type: ignore[arg-type]
        session=session,  # type: ignore[arg-type]
        speaker=speaker,  # type: ignore[arg-type]
        traits=traits,  # type: ignore[arg-type]
        at=at,  # type: ignore[arg-type]
        percentile=percentile,  # type: ignore[arg-type]
        accesses=accesses,  # type: ignore[arg-type]
        accessed=accessed,  # type: ignore[arg-type]
        recallable=bool(recallable),
        model_made=bool(model_made),
        ends=math.inf if ends is None else ends,  # type: ignore[arg-type]
        vector=vector,  # type: ignore[arg-type]
    )


def _hits_at(index: OwnerIndex, ns: NDArray[np.int64], scores: Floats) -> Hits:
    places, here = index.places(ns)
    order = np.argsort(places)
    return Hits(places[order], scores[here][order])


def _candidates(index: OwnerIndex, question: Question) -> NDArray[np.int64]:
    """The best lexical hits, and what stands beside them."""
    best = [hits.places[np.argsort(-hits.scores)[:CANDIDATES]] for hits in (question.turn, question.window)]
    places = np.unique(np.concatenate(best))
    beside = np.concatenate([index.column("previous")[places], index.column("next")[places]])
    return np.unique(np.concatenate([places, beside[beside >= 0].astype(np.int64)]))


def _cosines(db: Database, index: OwnerIndex, places: NDArray[np.int64], vector: Floats) -> Floats:
    """Cosines of a few experiences, their vectors read from the database."""
    ns = [int(n) for n in index.column("n")[places]]
    found = dict(
        db.execute(f"SELECT experience, vector FROM vectors WHERE experience IN ({','.join('?' * len(ns))})", ns)
    )
    blank = np.zeros(len(vector), "<f2").tobytes()
    stacked = np.frombuffer(b"".join(found.get(n, blank) for n in ns), "<f2").reshape(len(ns), -1)
    return _products(stacked.astype(np.float32), vector)


def _lost(
    one: Experience, order: int | None, k: int, score: float | None, cut: float | None, asked: datetime
) -> tuple[Lost, str]:
    if one.quarantined is not None:
        return "quarantined", f"it is quarantined: {one.quarantined}"
    if one.superseded_by is not None and order is None:
        return "replaced", f"{one.superseded_by} took its place"
    if one.at.astimezone(UTC) > asked.astimezone(UTC) and order is None:
        return "later", "it is from later than asked"
    if order is None or score is None or score <= 0:
        return "no_match", "it shares no searched word with the question, and its vector is no nearer than most"
    if order <= k:
        return "found", f"it is found, at rank {order}"
    return "below_cut", f"it ranks {order}; the last of the {k} that came scores {cut:.3f}, it {score:.3f}"
