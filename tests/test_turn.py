"""A turn from end to end, on a real engine and a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from agent.control import TurnControl
from agent.errors import HistoryMismatch, IdempotencyConflict, InvalidTurn, SessionBusy, TurnInProgress
from agent.turn import Awake, TurnRequest, TurnResult, take_turn
from memory.errors import SessionNotFound, StorageFailed
from memory.transcripts import Transcripts
from models.causal_lm import CausalLM
from models.language import Message
from models.sampling import Sampling
from models.scripted import ScriptedLM
from tests.conftest import EngineFactory

GREEDY = Sampling(temperature=0.0)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def request(*messages: Message, **options: object) -> TurnRequest:
    return TurnRequest(owner="alice", messages=messages, max_tokens=200, sampling=GREEDY, **options)  # type: ignore[arg-type]


def slow(awake: Awake, make_engine: EngineFactory) -> Awake:
    return replace(awake, engine=make_engine(ScriptedLM({"count": "x" * 5000}, step_seconds=0.005)))


def contents(awake: Awake, session: str) -> list[tuple[str, str, str]]:
    return [(e.role, e.content, e.status) for e in awake.transcripts.entries(session)]


def test_a_resent_history_continues_its_session_and_reads_only_what_is_new(awake: Awake) -> None:
    first = take_turn(awake, request(user("one")))
    second = take_turn(awake, request(user("one"), assistant(first.text), user("two")))
    assert second.session == first.session
    new = awake.engine.model.chat_ids([user("one"), assistant(first.text), user("two")], after=2)
    assert new is not None
    assert second.timings.prefill_tokens == len(new) + 1  # and the end token that the first turn wrote
    assert [c for _, c, _ in contents(awake, first.session)] == ["one", first.text, "two", second.text]


def test_a_client_that_trims_replies_is_still_recognised(awake: Awake, make_engine: EngineFactory) -> None:
    spaced = replace(awake, engine=make_engine(ScriptedLM({"one": "  padded reply \n"})))
    first = take_turn(spaced, request(user("one")))
    second = take_turn(spaced, request(user("one"), assistant(first.text.strip()), user("two")))
    assert second.session == first.session and second.timings.cached_tokens > 0


def test_asking_again_for_a_reply_forks(awake: Awake) -> None:
    first = take_turn(awake, request(user("one, at some length")))
    history = (user("one, at some length"), assistant(first.text))
    second = take_turn(awake, request(*history, user("two")))
    again = take_turn(awake, request(*history, user("two, differently")))
    assert again.session != second.session
    assert awake.transcripts.session(again.session, owner="alice").parent == second.session
    assert len(contents(awake, second.session)) == len(contents(awake, again.session)) == 4
    assert again.timings.cached_tokens > 0


def test_a_history_from_elsewhere_is_taken_in(awake: Awake) -> None:
    history = (Message(role="system", content="S"), user("q"), assistant("a"), user("r"))
    result = take_turn(awake, request(*history))
    assert [r for r, _, _ in contents(awake, result.session)] == ["system", "user", "assistant", "user", "assistant"]
    went_on = take_turn(awake, request(*history, assistant(result.text), user("s")))
    assert went_on.session == result.session


def test_a_named_session_takes_new_messages_or_its_whole_history(awake: Awake) -> None:
    first = take_turn(awake, request(user("one")))
    second = take_turn(awake, request(user("two"), session=first.session))
    whole = (user("one"), assistant(first.text), user("two"), assistant(second.text), user("three"))
    third = take_turn(awake, request(*whole, session=first.session))
    assert third.session == first.session and len(contents(awake, first.session)) == 6
    with pytest.raises(HistoryMismatch):
        take_turn(awake, request(user("x"), assistant("never said"), user("y"), session=first.session))
    with pytest.raises(SessionNotFound):
        take_turn(awake, request(user("x"), session="sess_unknown"))
    with pytest.raises(SessionNotFound):
        take_turn(awake, replace(request(user("x"), session=first.session), owner="bob"))


def test_a_session_that_nobody_has_spoken_in_is_not_taken_for_a_history(awake: Awake) -> None:
    opened = take_turn(awake, request(Message(role="system", content="S"), user("one")))
    system = replace(awake.transcripts.entries(opened.session)[0], id="msg_fresh", turn=None)
    digest = awake.engine.model.card.tokenizer
    awake.transcripts.create("sess_fresh", owner="alice", tokenizer=digest, entries=[system], at=awake.now())
    other = take_turn(awake, request(Message(role="system", content="S"), user("two")))
    assert other.session not in ("sess_fresh", opened.session) and len(contents(awake, "sess_fresh")) == 1


def test_a_fork_from_before_a_change_of_tokenizer_is_encoded_anew(
    awake: Awake, tiny: CausalLM, make_engine: EngineFactory
) -> None:
    first = take_turn(awake, request(user("one")))
    switched = replace(awake, engine=make_engine(tiny))
    history = (user("one"), assistant(first.text))
    assert take_turn(switched, request(*history, user("two"), session=first.session)).compacted
    forked = take_turn(switched, request(*history, user("other")))
    assert forked.session != first.session and forked.compacted
    prompt = tiny.chat_ids([*history, user("other")]) or []
    assert forked.timings.prefill_tokens + forked.timings.cached_tokens == len(prompt)


def test_what_cannot_be_answered_is_refused(awake: Awake) -> None:
    with pytest.raises(InvalidTurn):
        take_turn(awake, request(user("one"), assistant("two")))


@contextmanager
def counting(awake: Awake, session: str) -> Iterator[TurnControl]:
    """A slow turn under way in `session`, on a thread of its own; over when the block is left."""
    control, started = TurnControl(), threading.Event()
    thread = threading.Thread(
        target=take_turn,
        args=(awake, request(user("count"), session=session)),
        kwargs={"on_start": lambda turn, session: started.set(), "control": control},
    )
    thread.start()
    assert started.wait(10)
    try:
        yield control
    finally:
        control.cancel()
        thread.join()


def test_one_turn_at_a_time_in_a_session(awake: Awake, make_engine: EngineFactory) -> None:
    awake = replace(slow(awake, make_engine), patience=0.1)
    opened = take_turn(awake, request(user("hi")))
    with counting(awake, opened.session):
        with pytest.raises(SessionBusy):
            take_turn(awake, request(user("me too"), session=opened.session))
        # A client that is recognised by its history does not have to wait: it gets a fork.
        other = take_turn(awake, request(user("hi"), assistant(opened.text), user("me too")))
        assert other.session != opened.session


def test_who_stops_a_reply_can_go_on_at_once(awake: Awake, make_engine: EngineFactory) -> None:
    awake = slow(awake, make_engine)
    opened = take_turn(awake, request(user("hi")))
    with counting(awake, opened.session) as control:
        control.cancel()
        assert take_turn(awake, request(user("next"), session=opened.session)).text == "You said: next"


def test_a_cancelled_reply_is_kept_as_such_or_not_at_all(awake: Awake, make_engine: EngineFactory) -> None:
    awake = slow(awake, make_engine)

    def cancelled(**options: object) -> TurnResult:
        control, seen = TurnControl(), []

        def on_delta(delta: object) -> None:
            seen.append(delta)
            if len(seen) == 5:
                control.cancel()

        return take_turn(awake, request(user("count"), **options), on_delta=on_delta, control=control)

    kept = cancelled()
    assert kept.finish_reason == "cancelled"
    assert contents(awake, kept.session)[-1] == ("assistant", kept.text, "cancelled") and kept.text
    went_on = take_turn(awake, request(user("count"), assistant(kept.text), user("hello")))
    assert went_on.session == kept.session and went_on.text == "You said: hello"
    dropped = cancelled(keep_partial=False)
    with pytest.raises(SessionNotFound):
        awake.transcripts.session(dropped.session, owner="alice")


def test_an_idempotency_key_is_good_for_one_turn(awake: Awake) -> None:
    once = take_turn(awake, request(user("one"), idempotency_key="k", request_digest=b"d"))
    again = take_turn(awake, request(user("one"), idempotency_key="k", request_digest=b"d"))
    assert (again.id, again.text, again.session, again.replayed) == (once.id, once.text, once.session, True)
    assert again.timings == once.timings
    assert len(contents(awake, once.session)) == 2
    with pytest.raises(IdempotencyConflict):
        take_turn(awake, request(user("two"), idempotency_key="k", request_digest=b"e"))
    stranger = take_turn(awake, replace(request(user("one"), idempotency_key="k", request_digest=b"d"), owner="bob"))
    assert stranger.id != once.id


def test_an_idempotency_key_in_use_says_so(awake: Awake) -> None:
    awake.keys_in_use.add(("alice", "k"))
    with pytest.raises(TurnInProgress):
        take_turn(awake, request(user("one"), idempotency_key="k", request_digest=b"d"))


def test_a_cut_off_reply_does_not_use_up_its_key(awake: Awake, make_engine: EngineFactory) -> None:
    awake = slow(awake, make_engine)
    control = TurnControl()
    keyed = request(user("count"), idempotency_key="k", request_digest=b"d")
    first = take_turn(awake, keyed, on_delta=lambda delta: control.cancel(), control=control)
    assert first.finish_reason == "cancelled"
    second = take_turn(awake, replace(keyed, max_tokens=5))
    assert not second.replayed and second.finish_reason == "length"


def test_a_turn_that_cannot_be_written_is_not_acknowledged(awake: Awake) -> None:
    class Full(Transcripts):
        def append(self, *args: object, **options: object) -> None:
            raise StorageFailed("database or disk is full")

    with pytest.raises(StorageFailed):
        take_turn(replace(awake, transcripts=Full(awake.transcripts._store)), request(user("one")))
    assert awake.transcripts.sessions(owner="alice", limit=10) == []
    assert awake.leases._held == set()


def test_a_long_talk_is_compacted_and_goes_on(awake: Awake, make_engine: EngineFactory) -> None:
    awake = replace(awake, engine=make_engine(ScriptedLM(context_length=400)))
    history: list[Message] = []
    results = []
    for n in range(12):
        history.append(user(f"message {n} of a long talk"))
        results.append(take_turn(awake, request(*history)))
        history.append(assistant(results[-1].text))
    assert len({r.session for r in results}) == 1
    assert any(r.compacted for r in results)
    roles = [r for r, _, _ in contents(awake, results[0].session)]
    assert "compaction" in roles and roles.count("user") == 12
    after = results[[r.compacted for r in results].index(True) + 1]
    assert after.timings.cached_tokens > 0 and not after.compacted
