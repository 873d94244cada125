"""Transcripts: order, recognition by history, forks, owners."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.session import chains_of
from memory.errors import SessionNotFound
from memory.ids import new_id
from memory.store import Store
from memory.transcripts import Entry, Transcripts
from models.language import Message

AT = datetime(2026, 11, 21, tzinfo=UTC)
CHAT = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


def entries(chat: list[tuple[str, str]]) -> list[Entry]:
    return [
        Entry(id=new_id("msg", AT), role=r, content=c, token_ids=(n, 70_000), created_at=AT)
        for n, (r, c) in enumerate(chat)
    ]


def messages(chat: list[tuple[str, str]]) -> list[Message]:
    return [Message(role=r, content=c) for r, c in chat]  # type: ignore[arg-type]


@pytest.fixture
def transcripts(store: Store) -> Transcripts:
    made = Transcripts(store)
    made.create("sess_1", owner="alice", tokenizer="t", entries=entries(CHAT), at=AT)
    return made


def test_a_transcript_comes_back_as_it_was_written(transcripts: Transcripts) -> None:
    kept = transcripts.entries("sess_1")
    assert [(e.role, e.content, e.token_ids) for e in kept] == [(r, c, (n, 70_000)) for n, (r, c) in enumerate(CHAT)]


def test_a_history_is_recognised_by_its_longest_prefix(transcripts: Transcripts) -> None:
    whole = transcripts.match(chains_of(messages(CHAT)), owner="alice")
    assert whole is not None and whole.at_head and whole.messages == 4
    middle = transcripts.match(chains_of(messages([*CHAT[:2], ("user", "other")])), owner="alice")
    assert middle is not None and not middle.at_head and (middle.messages, middle.position) == (2, 1)
    assert transcripts.match(chains_of(messages([("user", "other"), *CHAT])), owner="alice") is None


def test_blank_space_at_the_ends_does_not_matter_inside_does(transcripts: Transcripts) -> None:
    trimmed = [("user", " a\n"), ("assistant", "b ")]
    found = transcripts.match(chains_of(messages(trimmed)), owner="alice")
    assert found is not None and found.messages == 2
    assert transcripts.match(chains_of(messages([("user", "a a")])), owner="alice") is None


def test_another_owner_sees_nothing(transcripts: Transcripts) -> None:
    assert transcripts.match(chains_of(messages(CHAT)), owner="bob") is None
    assert transcripts.sessions(owner="bob", limit=10) == []
    for forbidden in (
        lambda: transcripts.session("sess_1", owner="bob"),
        lambda: transcripts.delete("sess_1", owner="bob"),
        lambda: transcripts.fork("sess_1", session="sess_2", owner="bob", at=AT),
    ):
        with pytest.raises(SessionNotFound):
            forbidden()
    assert len(transcripts.entries("sess_1")) == 4


def test_a_fork_goes_its_own_way(transcripts: Transcripts) -> None:
    transcripts.fork("sess_1", session="sess_2", owner="alice", at=AT)
    transcripts.append("sess_2", entries=entries([("user", "e")]), turn=None, at=AT, tokenizer="t")
    assert [e.content for e in transcripts.entries("sess_2")] == ["a", "b", "c", "d", "e"]
    assert [e.content for e in transcripts.entries("sess_1")] == ["a", "b", "c", "d"]
    transcripts.delete("sess_1", owner="alice")
    assert len(transcripts.entries("sess_2")) == 5


def test_a_fork_of_what_was_deleted_meanwhile_is_refused(transcripts: Transcripts) -> None:
    transcripts.delete("sess_1", owner="alice")
    with pytest.raises(SessionNotFound, match="sess_1"):
        transcripts.append(
            "sess_2",
            entries=entries(CHAT),
            turn=None,
            at=AT,
            tokenizer="t",
            create_for="alice",
            fork_of=("sess_1", 1),
        )
    assert transcripts.sessions(owner="alice", limit=10) == []


def test_deleting_leaves_no_row(transcripts: Transcripts, store: Store) -> None:
    transcripts.delete("sess_1", owner="alice")
    with store.reading() as db:
        assert [db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("sessions", "messages", "turns")] == [
            0,
            0,
            0,
        ]
    with pytest.raises(SessionNotFound):
        transcripts.append("sess_1", entries=entries(CHAT), turn=None, at=AT, tokenizer="t")


def test_pages_of_sessions_meet(transcripts: Transcripts) -> None:
    for n in range(2, 8):
        transcripts.create(f"sess_{n}", owner="alice", tokenizer="t", entries=[], at=AT.replace(minute=n))
    first = transcripts.sessions(owner="alice", limit=3)
    rest = transcripts.sessions(owner="alice", limit=10, before=first[-1].id)
    assert [s.id for s in [*first, *rest]] == [f"sess_{n}" for n in (7, 6, 5, 4, 3, 2, 1)]


role = st.sampled_from(["user", "assistant"])
chat = st.lists(st.tuples(role, st.text(max_size=5)), min_size=1, max_size=6)


@given(one=chat, other=chat)
def test_two_histories_share_a_digest_only_where_they_are_the_same(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    a, b = chains_of(messages(one)), chains_of(messages(other))
    for n, (x, y) in enumerate(zip(a, b, strict=False)):
        same = [(r, c.strip()) for r, c in one[: n + 1]] == [(r, c.strip()) for r, c in other[: n + 1]]
        assert (x == y) == same
