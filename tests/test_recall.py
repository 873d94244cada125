"""Recall: scores that can be added up again, reasons that are true, and no trace of having looked."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from memory.binding import Binder
from memory.experiences import Experiences
from memory.index import OwnerIndex, Row
from memory.ranking import Weights, softness
from memory.recall import Recall
from memory.store import Store
from tests.test_experiences import AT, EMBEDDER, WORDS, clock, said


@pytest.fixture
def recall(store: Store) -> Recall:
    memories = Experiences(store, now=clock())
    memories.add([said(f"On Monday the {w} was in the {v}.", f"{w}-{v}", session=w, merge=False)
                  for w in WORDS for v in WORDS[:6]], owner="alice")  # fmt: skip
    memories.add([said("My sister Clara plays the bassoon.", "clara")], owner="alice")
    made = Recall(store, EMBEDDER, now=lambda: AT + timedelta(days=2))
    binder = Binder(store, made, EMBEDDER, now=clock())
    while binder.embed_pending():
        pass
    return made


@pytest.mark.parametrize("query", ["Where was the dragon on Monday?", "Which instrument does Clara play?", "zzz"])
def test_the_reasons_add_up_to_the_score(recall: Recall, query: str) -> None:
    for hit in recall.search(query, owner="alice", k=60):
        rebuilt = hit.factor * (sum(t.contribution for t in hit.terms) + hit.spread)
        assert rebuilt == pytest.approx(hit.score, abs=1e-5)


def test_the_best_answer_comes_first_and_says_why(recall: Recall) -> None:
    hit = recall.search("Which instrument does my sister Clara play?", owner="alice", k=1)[0]
    assert hit.experience.id == "clara" and "clara" in hit.matched and hit.rank == 1
    assert {t.name: t.raw for t in hit.terms}["turn"] > 0


def test_talk_around_an_answer_is_lifted_by_it(store: Store) -> None:
    """Neighbours more than those beyond them, and with the shares at 0 nobody at all."""
    memories = Experiences(store, now=clock())
    lines = ["Fine weather.", "Quite so.", "And then?", "Clara plays the bassoon.", "Lovely!", "More tea?", "Yes, do."]
    memories.add([said(w, f"{n}", session="s", merge=False) for n, w in enumerate(lines)], owner="alice")
    recall = Recall(store, None, now=lambda: AT + timedelta(days=2))

    def spread(weights: Weights) -> list[float]:
        found = recall.weighing(weights).search("Who plays the bassoon?", owner="alice", k=9)
        by_id = {hit.experience.id: hit.spread for hit in found}
        return [by_id.get(str(n), 0.0) for n in range(len(lines))]

    with_all, without_beyond = spread(Weights()), spread(Weights(beyond=0.0))
    assert min(with_all[2], with_all[4]) > max(with_all[1], with_all[5])
    for two_away in (1, 5):
        assert with_all[two_away] > without_beyond[two_away] + 0.1
    assert set(spread(Weights(neighbours=0.0, beyond=0.0))) == {0.0}


def test_why_not_names_rank_and_missing_words(recall: Recall) -> None:
    reason = recall.why_not("amber-candle", "Where was the dragon in the basket?", owner="alice", k=3)
    assert reason.reason == "below_cut" and reason.rank is not None and reason.rank > 3
    assert "dragon" in reason.missing and reason.score is not None and reason.cut is not None
    assert recall.why_not("clara", "Clara bassoon", owner="alice").reason == "found"


def test_looking_leaves_no_trace(recall: Recall, store: Store) -> None:
    def state() -> list[object]:
        with store.reading() as db:
            return [db.execute(f"SELECT * FROM {t}").fetchall() for t in ("experiences", "recalls", "wordings")]

    before = state()
    recall.search("Clara", owner="alice", k=20)
    recall.why_not("clara", "dragon", owner="alice")
    assert state() == before


def test_frequent_words_are_dropped_before_rare_ones(recall: Recall, store: Store) -> None:
    from memory import fulltext

    with store.reading() as db:
        used = fulltext.terms(db, 1, "Monday dragon bassoon unicorn", budget=100)
    assert used.used == ("bassoon", "dragon") and used.dropped == ("monday",) and used.absent == ("unicorn",)


def test_without_an_embedder_words_do(store: Store) -> None:
    Experiences(store, now=clock()).add([said("The kettle is red.", "k")], owner="alice")
    found = Recall(store, None, now=clock()).search("What colour is the kettle?", owner="alice")
    assert [h.experience.id for h in found] == ["k"] and found[0].cosine is None


def test_alike_memories_do_not_crowd_a_prompt(store: Store) -> None:
    memories = Experiences(store, now=clock())
    memories.add(
        [said(f"The red kettle is on shelf {n}.", f"s{n}", session="s", merge=False) for n in "abcd"], owner="a"
    )
    memories.add([said("A kettle boils water.", "other", session="t", merge=False)], owner="a")
    made = Recall(store, EMBEDDER, now=clock())
    binder = Binder(store, made, EMBEDDER, now=clock())
    binder.embed_pending()
    hits = made.search("Where is the red kettle?", owner="a", k=5)
    chosen = made.choose(hits, owner="a", most=2, fits=lambda hits: True)
    assert chosen[0].experience.id.startswith("s") and len(chosen) == 2
    assert made.choose(hits, owner="a", most=4, fits=lambda hits: len(hits) <= 1) == [hits[0]]


def test_softness_is_bounded_and_fades() -> None:
    ages = np.array([0.0, 86400.0, 30 * 86400.0, 3e9])
    factors = softness(np.full(4, 0.5, np.float32), np.zeros(4, np.int32), ages, span=0.6)
    assert list(factors) == sorted(factors, reverse=True)
    assert factors.min() >= 0.7 and factors.max() <= 1.3
    often = softness(np.full(1, 0.5, np.float32), np.full(1, 50, np.int32), ages[2:3], span=0.6)
    assert often[0] > factors[2]


def test_many_memories_are_ranked_as_few_are(recall: Recall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound on vectors in memory only candidates are scored: the best stay the best."""
    queries = ["Which instrument does my sister Clara play?", "Where was the dragon with the candle?"]
    small = [[h.experience.id for h in recall.search(q, owner="alice", k=3)] for q in queries]
    monkeypatch.setattr(OwnerIndex, "small", property(lambda self: False))
    large = [[h.experience.id for h in recall.search(q, owner="alice", k=3)] for q in queries]
    assert [ids[0] for ids in small] == [ids[0] for ids in large]


def test_the_index_knows_neighbours_across_interleaved_sessions() -> None:
    index = OwnerIndex(2)
    for n, session in enumerate(["a", "b", "a", None, "b", "a"]):
        index.extend([Row(n + 1, session, "user", 0, 0.0, None, 0, None, True, False, float("inf"), None)])
    assert index.column("previous").tolist() == [-1, -1, 0, -1, 1, 2]
    assert index.column("next").tolist() == [2, 4, 5, -1, -1, -1]
    assert index.session_count == 3
