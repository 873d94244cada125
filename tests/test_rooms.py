"""What is thought and not said goes to a room: nobody hears it, nothing learns it, and every look is recorded."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pysqlite3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import TurnControl
from agent.going_on import go_on
from agent.remembering import Memory
from agent.thinking import Aloud, parted
from agent.turn import Awake, TurnRequest, TurnResult, take_turn
from bench.server import Server
from memory import rooms
from memory.binding import Binder
from memory.experiences import Experiences
from memory.forgetting import forget
from memory.recall import Recall
from memory.store import Store
from models.causal_lm import CausalLM
from models.generation import Delta, Generation, Prompt
from models.language import Message
from models.sampling import Choice, Sampling
from models.scripted import ScriptedLM
from tests.conftest import EngineFactory
from tests.test_experiences import AT, EMBEDDER

THOUGHT = "They ask for the capital. It is Paris, unless they tease me."
THINKS = f"<think>\n{THOUGHT}\n</think>\n\nIt is Paris."
SCRIPT = {"capital": THINKS, "never": "<think>I think for ever " + "and ever " * 100}


def heard(reply: str, cuts: list[int], *, shown: int = 0, goes_on: bool = False) -> str:
    """What is shown of a reply that comes in pieces."""
    pieces: list[str] = []
    aloud = Aloud(lambda delta: pieces.append(delta.text), shown=shown)
    ends = sorted({*cuts, len(reply)} - {0})
    for start, end in zip([0, *ends], ends, strict=False):
        aloud(Delta(text=reply[start:end], choice=Choice(token_id=0, logprob=None)))
    aloud.end(goes_on=goes_on)
    return "".join(pieces)


REPLIES = st.one_of(
    st.text("<>/thinkab \n", max_size=30),
    st.builds("{}<think>{}</think>{}{}".format, *(st.text(a, max_size=6) for a in (" \n", "ab<\n", " \n", "ab<"))),
)


@given(REPLIES, st.lists(st.integers(1, 40)))
def test_pieces_show_what_the_whole_says(reply: str, cuts: list[int]) -> None:
    assert heard(reply, [c for c in cuts if c < len(reply)]) == parted(reply)[1]


@given(REPLIES, st.integers(0, 40), st.lists(st.integers(1, 40)))
def test_a_reply_that_begins_anew_shows_the_rest(reply: str, at: int, cuts: list[int]) -> None:
    first = heard(reply[:at], [], goes_on=True)
    assert first + heard(reply, [c for c in cuts if c < len(reply)], shown=len(first)) == parted(reply)[1]


def test_only_a_beginning_is_thinking() -> None:
    assert parted("Write <think>so</think>.") == ("", "Write <think>so</think>.")
    assert parted(" \n<think> a </think>\n\nb") == ("a", "b") and parted("<think>a") == ("a", "")
    assert parted("<thin") == ("", "<thin")


@pytest.fixture
def thinking(awake: Awake, store: Store, make_engine: EngineFactory) -> Awake:
    return _with_memory(awake, store, make_engine, ScriptedLM(SCRIPT))


def _with_memory(awake: Awake, store: Store, make_engine: EngineFactory, model: ScriptedLM | CausalLM) -> Awake:
    recall = Recall(store, EMBEDDER, now=awake.now)
    memory = Memory(
        experiences=Experiences(store, now=awake.now),
        recall=recall,
        binder=Binder(store, recall, EMBEDDER, now=awake.now),
    )
    return replace(awake, engine=make_engine(model), memory=memory)


def say(awake: Awake, text: str, **more: Any) -> tuple[TurnResult, str]:
    shown: list[str] = []
    given: dict[str, Any] = {"owner": "alice", "max_tokens": 400, "sampling": Sampling(temperature=0.0, logprobs=0)}
    given |= more
    control = given.pop("control", None)
    asked = TurnRequest(messages=(Message(role="user", content=text),), **given)
    result = take_turn(awake, asked, on_delta=lambda delta: shown.append(delta.text), control=control)
    return result, "".join(shown)


def thoughts(store: Store, room: rooms.Room = "thoughts") -> list[str]:
    with store.reading() as db:  # past the record: a test is no operator
        return [t for (t,) in db.execute("SELECT text FROM thoughts WHERE room = ? ORDER BY n", [room]).fetchall()]


def test_a_thought_is_neither_shown_nor_kept_with_what_was_said(thinking: Awake, store: Store) -> None:
    result, shown = say(thinking, "What is the capital of France?")
    assert result.text == shown == "It is Paris." and thoughts(store) == [THOUGHT]
    assert "tease" not in "".join(thinking.engine.model.decode([c.token_id]) for c in result.choices)
    entries = thinking.transcripts.entries(result.session)
    assert entries[-1].content == "It is Paris."
    read = thinking.engine.model.decode([i for e in entries for i in e.token_ids])
    assert "It is Paris." in read and "tease" not in read and "think" not in read
    again, _ = say(thinking, "And what of it?", session=result.session)
    assert again.timings.cached_tokens > 0
    assert thinking.memory is not None
    remembered = [e.text for e in thinking.memory.experiences.newest(owner="alice", limit=50)]
    assert remembered and not any("tease" in text for text in remembered), "what no memory has, no night can learn"


def test_a_reply_that_never_gets_beyond_thinking_says_nothing(thinking: Awake, store: Store) -> None:
    result, shown = say(thinking, "never", max_tokens=40)
    assert result.text == shown == "" and result.finish_reason == "length" and len(thoughts(store)) == 1


def test_off_the_record_no_thought_is_kept(thinking: Awake, store: Store) -> None:
    result, _ = say(thinking, "What is the capital of France?", remember=False)
    assert result.text == "It is Paris." and thoughts(store) == []


@pytest.mark.parametrize("after", [3, 40, 82, 90])
def test_a_thought_that_was_suspended_is_thought_to_its_end(
    awake: Awake, store: Store, make_engine: EngineFactory, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    slow = _with_memory(awake, store, make_engine, ScriptedLM(SCRIPT, step_seconds=0.005))
    control = TurnControl()
    submit = slow.engine.submit

    def watched(prompt: Prompt) -> Generation:
        """Suspends the reply once so many pieces of it are there, shown or not."""
        generation = submit(prompt)
        seen = iter(range(1, 1000))

        def told(event: Any) -> None:
            Generation.tell(generation, event)
            if next(seen) == after:
                threading.Thread(target=control.suspend).start()

        monkeypatch.setattr(generation, "tell", told)
        return generation

    monkeypatch.setattr(slow.engine, "submit", watched)
    begun, shown = say(slow, "What is the capital of France?", control=control)
    assert begun.finish_reason == "suspended" and shown == begun.text and THOUGHT[:9] not in begun.text
    held = slow.transcripts.entries(begun.session)
    assert "tease" not in slow.engine.model.decode([i for e in held for i in e.token_ids]), "nor in what is exported"
    assert thinking_entry(slow, begun.session) == begun.text
    monkeypatch.setattr(slow.engine, "submit", submit)
    more: list[str] = []
    whole = go_on(slow, begun.session, owner="alice", on_delta=lambda delta: more.append(delta.text))
    assert whole.text == shown + "".join(more) == "It is Paris."
    assert thoughts(store) == [THOUGHT] and thinking_entry(slow, begun.session) == "It is Paris."
    entries = slow.transcripts.entries(begun.session)
    assert "tease" not in slow.engine.model.decode([i for e in entries for i in e.token_ids])


def test_a_thought_that_was_never_ended_is_in_nobodys_way(
    awake: Awake, store: Store, make_engine: EngineFactory
) -> None:
    """Suspended while it thinks, and something else is said: the context holds no half of a thought."""
    slow = _with_memory(awake, store, make_engine, ScriptedLM(SCRIPT, step_seconds=0.005))
    control = TurnControl()
    threading.Timer(0.2, control.suspend).start()
    begun, _ = say(slow, "What is the capital of France?", control=control)
    assert begun.finish_reason == "suspended" and begun.text == "" and thoughts(store) == []
    went_on, _ = say(slow, "Hello!", session=begun.session)
    ids = [i for e in slow.transcripts.entries(begun.session) for i in e.token_ids]
    assert went_on.text == "You said: Hello!" and "think" not in slow.engine.model.decode(ids)


def thinking_entry(awake: Awake, session: str) -> str:
    return awake.transcripts.entries(session)[-1].content


def test_a_reply_that_was_withheld_is_kept_in_its_room(
    awake: Awake, store: Store, make_engine: EngineFactory, tiny: CausalLM
) -> None:
    guessing = replace(_with_memory(awake, store, make_engine, tiny), drafts=3)
    result, shown = say(guessing, "What is my dog called?", max_tokens=160)
    assert result.doubt is not None and result.doubt.decision == "withheld"
    (kept,) = thoughts(store, "withheld")
    assert kept and kept not in shown and thoughts(store) == []


def test_forgetting_anything_empties_the_owners_rooms_and_nobody_elses(thinking: Awake, store: Store) -> None:
    say(thinking, "My dog is called Rex.")
    for owner in ("alice", "bob"):
        say(thinking, "What is the capital of France?", owner=owner)
    assert thinking.memory is not None
    dog = next(e for e in thinking.memory.experiences.newest(owner="alice", limit=50) if "Rex" in e.text)
    receipt = forget(store, dog.id, owner="alice", at=thinking.now())
    assert receipt.thoughts == 1 and [s.owner for s in rooms.sizes(store)] == ["bob"]


def test_a_turn_that_was_under_way_at_a_forgetting_leaves_no_thought(thinking: Awake, store: Store) -> None:
    result, _ = say(thinking, "My dog is called Rex.")
    assert thinking.memory is not None
    dog = next(e for e in thinking.memory.experiences.newest(owner="alice", limit=50) if "Rex" in e.text)
    began = thinking.now()
    forget(store, dog.id, owner="alice", at=thinking.now())

    def late(since: Any) -> None:
        given = {"owner": "alice", "session": result.session, "turn": "t", "unsaid": {"thoughts": ["Rex?"]}}
        store.write(lambda db: rooms.keep_within(db, **given, since=since))  # type: ignore[arg-type]

    late(began)
    late(thinking.now())
    assert thoughts(store) == []
    late(thinking.now() + timedelta(minutes=2))
    assert thoughts(store) == ["Rex?"]


def test_a_room_keeps_the_newest_and_ends_with_its_session(
    thinking: Awake, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "KEPT", 3)
    sessions = [say(thinking, f"What is the capital of country {n}?")[0].session for n in range(5)]
    assert [t.session for t in _looked(store)] == sessions[:1:-1]
    thinking.transcripts.delete(sessions[-1], owner="alice")
    assert [t.session for t in _looked(store)] == sessions[3:1:-1]


def _looked(store: Store) -> list[rooms.Thought]:
    return rooms.look(store, "thoughts", by="op", owner=None, limit=10, at=AT + timedelta(seconds=1))


def test_a_look_is_never_deleted_nor_changed(store: Store) -> None:
    _looked(store)
    for statement in ("DELETE FROM looks", "UPDATE looks SET shown = 0"):
        with pytest.raises(pysqlite3.IntegrityError, match="looks are never"):
            store.write(lambda db, statement=statement: db.execute(statement))  # type: ignore[misc]
    assert len(rooms.looks(store, limit=5)) == 1


def test_only_an_operator_looks_and_the_look_is_recorded(thoughtful_server: Server) -> None:
    with httpx.Client(base_url=thoughtful_server.url, timeout=30) as client:

        def get(path: str, key: str = "operators-key", **query: Any) -> httpx.Response:
            return client.get(path, params=query, headers={"Authorization": f"Bearer {key}"})

        for path in ("/v1/rooms", "/v1/rooms/thoughts"):
            refused = get(path, "first-key-1")
            assert refused.status_code == 403 and "tease" not in refused.text
        before = get("/v1/rooms")
        assert "tease" not in before.text and before.json()["looks"] == []
        assert [(s["room"], s["owner"], s["thoughts"]) for s in before.json()["sizes"]] == [("thoughts", "somebody", 1)]
        assert [t["text"] for t in get("/v1/rooms/thoughts").json()["data"]] == ["It is Paris, unless they tease me."]
        assert get("/v1/rooms/thoughts", whose="nobody").json()["data"] == []
        assert get("/v1/rooms/cellar").status_code == 400
        looks = get("/v1/rooms").json()["looks"]
        assert [(one["room"], one["owner"], one["shown"]) for one in looks] == [
            ("thoughts", "nobody", 0),
            ("thoughts", None, 1),
        ]
        for path in ("/v1/memories", "/v1/sessions"):
            assert "tease" not in get(path).text
