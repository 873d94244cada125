"""The verbatim store on a real database: adding, merging, windows, forgetting, moving, letting go, surviving."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memory import fulltext
from memory.adding import Quotas
from memory.binding import Binder, load_statistics
from memory.errors import MemoryNotFound
from memory.experience import Offer, Provenance
from memory.experiences import Experiences, neighbours
from memory.feedback import confirm, rate, trust
from memory.forgetting import evict, forget, occurrences, receipts
from memory.fulltext import window_text
from memory.recall import Embedder, Recall
from memory.salience import Calibration, Observation, observe
from memory.store import Store
from memory.transcripts import Entry, Transcripts, TurnRow

AT = datetime(2026, 11, 22, 9, tzinfo=UTC)
CALIBRATION = Calibration(
    model="test",
    strangest=5.75,
    surprise=tuple(n / 40 for n in range(200)),
    novelty=tuple(n / 200 for n in range(200)),
    arousal=(0.0,) * 150 + (0.5,) * 50,
)
WORDS = "amber basket candle dragon ember forest garden hammer island jungle kettle lemon magnet needle orchid".split()


TURN = TurnRow(
    id="turn_1",
    session="s",
    owner="alice",
    model="m",
    adapter="none",
    finish_reason="stop",
    timings={},
    created_at=AT,
)


def clock(start: datetime = AT) -> Callable[[], datetime]:
    ticks = iter(start + timedelta(seconds=n) for n in range(1_000_000))
    return lambda: next(ticks)


def hashed(texts: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Vectors from words alone: real enough to compare, and the same everywhere."""
    import zlib

    rows = np.zeros((len(list(texts)), 64), np.float32)  # type: ignore[call-overload]
    for n, text in enumerate(texts):  # type: ignore[var-annotated,arg-type]
        for word in text.lower().split():
            rows[n, zlib.crc32(word.strip(".,?!").encode()) % 64] += 1
        rows[n] /= max(1e-6, float(np.linalg.norm(rows[n])))
    return rows


EMBEDDER = Embedder(name="hashed", dimensions=64, embed=hashed)


def said(text: str, id: str, *, session: str | None = None, speaker: str = "user", merge: bool = True) -> Offer:
    where = Provenance(speaker=speaker, session=session, channel="taught")
    return Offer(id=id, text=text, at=AT, provenance=where, merge=merge)


@pytest.fixture
def memories(store: Store) -> Experiences:
    return Experiences(store, now=clock())


def test_fifteen_writes_of_five_facts_are_five_memories(memories: Experiences) -> None:
    from tests.test_sameness import SAME

    for n, text in enumerate(w[k] for k in range(3) for w in SAME[:5]):
        memories.add([said(text, f"w{n}")], owner="alice")
    kept = memories.newest(owner="alice", limit=100)
    assert sorted(one.text for one in kept) == sorted(w[0] for w in SAME[:5])
    assert {one.copies for one in kept} == {3}
    assert {w[1] for w in memories.wordings("w10", owner="alice")} == set(SAME[0][1:])


def test_the_same_event_changes_nothing(memories: Experiences, store: Store) -> None:
    offers = [said(f"The {w} is in the attic.", f"e{n}") for n, w in enumerate(WORDS)]
    memories.add(offers, owner="alice")
    before = list(memories.export(owner="alice"))
    assert {o.fate for o in memories.add(offers, owner="alice")} == {"known"}
    assert list(memories.export(owner="alice")) == before


def test_a_changed_fact_is_recalled_as_of_its_time_only(memories: Experiences, store: Store) -> None:
    memories.add([said("I live in Berlin.", "old")], owner="alice")
    later = Offer(
        id="new", text="I live in Munich now.", at=AT + timedelta(days=9), provenance=Provenance(channel="taught")
    )
    assert memories.add([later], owner="alice")[0].replaced == "old"
    recall = Recall(store, EMBEDDER, now=lambda: AT + timedelta(days=30))
    assert [h.experience.id for h in recall.search("Where do I live?", owner="alice")] == ["new"]
    then = recall.search("Where do I live?", owner="alice", as_of=AT + timedelta(days=3))
    assert [h.experience.id for h in then] == ["old"]
    assert recall.why_not("old", "Where do I live?", owner="alice").reason == "replaced"


def test_a_quota_bounds_each_source(store: Store) -> None:
    memories = Experiences(store, now=clock(), quotas=Quotas(per_source_and_day=3))
    fates = [memories.add([said(f"Fact about {w}.", w)], owner="alice")[0].fate for w in WORDS[:5]]
    assert fates == ["stored"] * 3 + ["refused"] * 2
    assert memories.add([said("From Bob.", "b", speaker="Bob")], owner="alice")[0].fate == "stored"


texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said_=texts, gone=st.lists(st.integers(0, 11), max_size=6), split=st.integers(0, 12))
def test_full_text_always_shows_each_text_and_its_neighbours(
    tmp_path_factory: pytest.TempPathFactory, said_: list[str], gone: list[int], split: int
) -> None:
    """However experiences came and went, both tables are what a fresh index over the rows would be."""
    store = Store(tmp_path_factory.mktemp("law") / "m.db")
    memories = Experiences(store, now=clock())
    offers = [said(t, f"e{n}", session="s", merge=False) for n, t in enumerate(said_)]
    for part in (offers[:split], offers[split:]):
        memories.add(part, owner="alice")
    for n in gone:
        if n < len(said_):
            with contextlib.suppress(MemoryNotFound):  # it went with another that held the same words
                forget(store, f"e{n}", owner="alice", at=AT)
    with store.reading() as db:
        rows = db.execute("SELECT n, text FROM experiences ORDER BY n").fetchall()
        windows = {n: window_text([(r["speaker"], r["text"]) for r in neighbours(db, 1, "s", n)]) for n, _ in rows}
        for word in WORDS:
            found, _ = fulltext.search(db, 1, "turn", [word])
            assert sorted(found) == [n for n, text in rows if word in text.split()]
            found, _ = fulltext.search(db, 1, "window", [word])
            assert sorted(found) == [n for n, _ in rows if word in windows[n].replace(":", " ").split()]
    store.close()


def test_what_is_forgotten_is_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    store = Store(path)
    memories, transcripts = Experiences(store, now=clock()), Transcripts(store)
    secret = "The zanzibarium key is under the mauve flowerpot."
    entry = Entry(id="msg_1", role="user", content=secret, token_ids=(1, 2, 3), turn="turn_1", created_at=AT)
    reply = Entry(
        id="msg_2", role="assistant", content=f"So: {secret.lower()}", token_ids=(4,), turn="turn_1", created_at=AT
    )
    transcripts.append(
        "s", entries=[entry, reply], turn=TURN, at=AT, tokenizer="t", create_for="alice", also=lambda db: None
    )
    where = Provenance(session="s", channel="chat", message="msg_1", turn="turn_1")
    memories.add([Offer(id="msg_1", text=secret, at=AT, provenance=where)], owner="alice")
    for n, w in enumerate(WORDS):
        memories.add([said(f"The {w} is fine.", f"x{n}", session="s")], owner="alice")
    recall = Recall(store, EMBEDDER, now=clock())
    binder = Binder(store, recall, EMBEDDER, now=clock())
    while binder.embed_pending():
        pass
    transcripts.fork("s", session="s2", owner="alice", at=AT)
    files = [path, path.with_name("m.db-wal")]
    store.fold_log()
    assert occurrences(path, [secret]) > 0

    receipt = forget(store, "msg_1", owner="alice", at=AT, files=files)
    assert receipt.memories == ["msg_1"] and receipt.found_in_files == 0 and receipt.vectors == 1
    assert len(receipt.messages) == 4  # question and reply, and both again in the fork
    assert occurrences(path, [secret, secret.lower(), "zanzibarium", "flowerpot"]) == 0
    assert [e.content for e in transcripts.entries("s")] == ["[forgotten]", "[forgotten]"]
    assert recall.search("Where is the zanzibarium key?", owner="alice", k=50) == [] or all(
        "zanzi" not in h.experience.text for h in recall.search("Where is the zanzibarium key?", owner="alice", k=50)
    )
    assert "zanzi" not in json.dumps(receipts(store, owner="alice"))
    with pytest.raises(MemoryNotFound):
        memories.get("msg_1", owner="alice")
    store.close()


@pytest.mark.parametrize("seed", [9, 22, 27])
def test_no_part_of_a_forgotten_text_is_left_in_a_page(tmp_path: Path, seed: int) -> None:
    """SQLite leaves parts of rows behind where it moves them between pages; with these seeds it does."""
    rng = random.Random(seed)
    path = tmp_path / "m.db"
    store = Store(path)
    memories = Experiences(store, now=clock(), quotas=Quotas(per_source_and_day=1000))
    live: dict[str, str] = {}
    for n in range(100):
        if live and rng.random() < 0.15:
            word = rng.choice(sorted(live))
            forget(store, live.pop(word), owner="alice", at=AT, files=[path])
            assert occurrences(path, [word]) == 0
        else:
            word = f"q{rng.getrandbits(40):010x}z"
            more = " ".join(rng.choices(WORDS, k=rng.randint(1, rng.choice([3, 60, 400]))))
            offer = said(f"The {word} lies {more}.", f"m{n}", merge=False)
            memories.add([offer], owner="alice", power_safe=False)
            live[word] = offer.id
    store.close()


def test_an_export_comes_back_byte_for_byte(store: Store, tmp_path: Path) -> None:
    memories = Experiences(store, now=clock())
    memories.add([said("I live in Berlin.", "a"), said("I live in Berlin!", "a2")], owner="alice")
    memories.add([said("I live in Munich.", "b")], owner="alice")
    memories.add([said("Hi!", "D1:1", session="s1", speaker="Ana", merge=False)], owner="alice")
    memories.add([said("Hi!", "D1:2", session="s1", speaker="Ben", merge=False)], owner="alice")
    memories.mark("a", owner="alice", pinned=True, private=True)
    exported = [json.dumps(r, ensure_ascii=False) for r in memories.export(owner="alice")]
    other = Store(tmp_path / "other.db")
    elsewhere = Experiences(other, now=clock(AT + timedelta(days=3)))
    elsewhere.take_in([json.loads(line) for line in exported], owner="bob")
    assert [json.dumps(r, ensure_ascii=False) for r in elsewhere.export(owner="bob")] == exported
    other.close()


def test_the_least_valuable_go_first_and_the_pinned_never(memories: Experiences, store: Store) -> None:
    memories.add([said(f"Fact number {n} about {w}.", f"f{n}") for n, w in enumerate(WORDS)], owner="alice")
    memories.mark("f0", owner="alice", pinned=True)
    gone = evict(store, owner="alice", most=10, now=AT)
    assert len(gone) == len(WORDS) - 9 and "f0" not in gone
    assert memories.count(owner="alice") == 9
    assert evict(store, owner="alice", most=10, now=AT) == []


def binder_over(store: Store, start: datetime) -> Binder:
    recall = Recall(store, EMBEDDER, now=clock(start))
    binder = Binder(store, recall, EMBEDDER, now=clock(start))
    binder.calibrate(CALIBRATION)
    return binder


def measured(n: int, w: str) -> Offer:
    seen = Observation(text=f"The {w} fell.", surprisals=tuple(1 + (n * k) % 7 / 2 for k in range(9)), similarity=None)
    where = Provenance(session="s", channel="chat")
    return Offer(id=f"e{n}", text=seen.text, at=AT, provenance=where, raw=observe(seen, strangest=5.75), tokens=9)


def test_an_experience_is_scored_once_three_newer_ones_bind_it(memories: Experiences, store: Store) -> None:
    binder = binder_over(store, AT)
    for n, w in enumerate(WORDS[:3]):
        memories.add([measured(n, w)], owner="alice")
    while binder.embed_pending():
        pass
    assert binder.bind() == 0
    memories.add([measured(3, WORDS[3])], owner="alice")
    while binder.embed_pending():
        pass
    assert binder.bind() == 1
    assert memories.get("e0", owner="alice").salience is not None
    assert binder.bind(everything=True) == 3  # the conversation has ended


def test_statistics_survive_a_restart_bit_for_bit(tmp_path: Path) -> None:
    """One process that scores 14 events, and two that score 7 each, end with the same numbers."""

    def run(path: Path, cuts: list[int]) -> tuple[list[object], list[list[float]]]:
        start = 0
        for cut in [*cuts, len(WORDS)]:
            store = Store(path)
            memories = Experiences(store, now=clock())
            for n in range(start, cut):
                memories.add([measured(n, WORDS[n])], owner="alice")
            binder = binder_over(store, AT)
            while binder.embed_pending():
                pass
            while binder.bind(everything=True):
                pass
            start = cut
            if cut == len(WORDS):
                scores: list[object] = [o.salience for o in memories.newest(owner="alice", limit=100)]
                with store.reading() as db:
                    known = load_statistics(db, 1, CALIBRATION)
                rings = [ring.values.tolist() for ring in known.rings.values()]
            store.close()
        return scores, rings

    assert run(tmp_path / "one.db", []) == run(tmp_path / "two.db", [7])


def test_feedback_moves_reward_and_conflict(store: Store) -> None:
    memories, transcripts = Experiences(store, now=clock()), Transcripts(store)
    transcripts.append("s", entries=[], turn=TURN, at=AT, tokenizer="t", create_for="alice")
    where = Provenance(session="s", channel="chat", turn="turn_1")
    memories.add([Offer(id="m", text="Was that right?", at=AT, provenance=where)], owner="alice")
    binder = binder_over(store, AT)
    binder.embed_pending()
    binder.bind(everything=True)
    before = memories.get("m", owner="alice").salience
    assert before is not None and (before.reward, before.conflict, before.sign) == (0.0, 0.0, 0)
    rate(store, "turn_1", -1.0, owner="alice", at=AT)
    after = memories.get("m", owner="alice").salience
    assert after is not None and (after.reward, after.conflict, after.sign) == (1.0, 0.5, -1)
    assert after.total > before.total


def test_contradicting_a_trusted_fact_is_conflict(store: Store) -> None:
    memories = Experiences(store, now=clock())
    memories.add([said("My dog is called Rex.", "old")], owner="alice")
    for _ in range(12):
        confirm(store, "old", True, owner="alice", at=AT)
    where = memories.get("old", owner="alice").provenance
    assert trust(store, where, owner="alice", at=AT).in_source == pytest.approx(14 / 16)
    assert trust(store, where, owner="alice", at=AT + timedelta(days=30)).in_source == pytest.approx(8 / 10)
    memories.add([said("My dog is called Max.", "new")], owner="alice")
    binder = binder_over(store, AT)
    while binder.embed_pending():
        pass
    while binder.bind(everything=True):
        pass
    assert memories.get("new", owner="alice").salience.conflict >= 0.8  # type: ignore[union-attr]
    assert memories.get("old", owner="alice").salience.conflict <= 0.2  # type: ignore[union-attr]


def test_a_source_starts_from_what_its_entity_earned_elsewhere(store: Store) -> None:
    memories = Experiences(store, now=clock())
    chat, letter = Provenance(speaker="Ada", channel="chat"), Provenance(speaker="Ada", channel="import")
    stranger = Provenance(speaker="Ada", channel="chat", author="other")
    memories.add([Offer(id="said", text="I was born in May.", at=AT, provenance=chat)], owner="alice")
    memories.add([Offer(id="wrote", text="My aunt lives in Oslo.", at=AT, provenance=letter)], owner="alice")
    for _ in range(4):
        confirm(store, "said", True, owner="alice", at=AT)
    ada = trust(store, letter, owner="alice", at=AT)
    assert (ada.entity, ada.source) == ("Ada", "Ada/import")
    assert ada.in_source == ada.in_entity == pytest.approx(6 / 8)
    for _ in range(4):
        after = confirm(store, "wrote", False, owner="alice", at=AT)
    assert after.in_source == pytest.approx((4 * 6 / 8) / 8)
    assert after.in_entity == pytest.approx(0.5)
    assert trust(store, chat, owner="alice", at=AT).in_source == pytest.approx((4 * 2 / 8 + 4) / 8)
    assert trust(store, stranger, owner="alice", at=AT).in_source == 0.5  # another entity, for all its name
    assert trust(store, chat, owner="bob", at=AT).in_source == 0.5


def test_owners_share_nothing(memories: Experiences, store: Store) -> None:
    memories.add([said("The canary sings in F sharp.", "a")], owner="alice")
    memories.add([said("Something else.", "b")], owner="bob")
    recall = Recall(store, EMBEDDER, now=clock())
    assert [h.experience.id for h in recall.search("canary sings F sharp", owner="bob", k=50)] in ([], ["b"])
    for call in (
        lambda: memories.get("a", owner="bob"),
        lambda: recall.why_not("a", "canary", owner="bob"),
        lambda: forget(store, "a", owner="bob", at=AT),
        lambda: memories.mark("a", owner="bob", pinned=True),
        lambda: recall.why_not("a", "canary", owner="nobody"),
    ):
        with pytest.raises(MemoryNotFound):
            call()
    alone = Recall(store, EMBEDDER, now=lambda: AT)
    before = [(h.experience.id, h.score) for h in alone.search("something canary", owner="bob")]
    memories.add([said(f"Something {w} canary.", f"z{w}") for w in WORDS], owner="alice")
    assert [(h.experience.id, h.score) for h in alone.search("something canary", owner="bob")] == before
