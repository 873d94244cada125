"""The context window: append-only, and explicit where it cannot be."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.prompt import Draft, Plan, Window, plan_turn, reply_draft, window_of
from memory.transcripts import Entry
from models.errors import PromptTooLong
from models.language import LanguageModel, Message
from models.scripted import ScriptedLM

AT = datetime(2026, 11, 21, tzinfo=UTC)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def written(drafts: list[Draft]) -> list[Entry]:
    return [
        Entry(id=str(n), role=d.role, content=d.content, token_ids=d.token_ids, kept_from=d.kept_from, created_at=AT)
        for n, d in enumerate(drafts)
    ]


def talk(model: LanguageModel, turns: list[tuple[str, str]], *, max_tokens: int = 32) -> tuple[list[Entry], list[Plan]]:
    drafts: list[Draft] = []
    plans = []
    for question, answer in turns:
        plan = plan_turn(model, window_of(written(drafts)), [user(question)], max_tokens=max_tokens)
        reply = [*model.encode(answer), model.closing_ids[0]]
        drafts += [*plan.drafts, reply_draft(model, plan.header, answer, reply)]
        plans.append(plan)
    return written(drafts), plans


words = st.text(alphabet="abc é🦙<|>", min_size=1, max_size=30)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(turns=st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_every_prompt_begins_with_the_whole_context_before_it(
    model: LanguageModel, turns: list[tuple[str, str]]
) -> None:
    entries, plans = talk(model, turns)
    context: tuple[int, ...] = ()
    for plan, reply in zip(plans, [e for e in entries if e.role == "assistant"], strict=True):
        assert plan.prompt[: len(context)] == context
        context = (*plan.prompt, *reply.token_ids[len(plan.header) :])
    assert window_of(entries).token_ids == context


def test_the_context_is_what_the_template_would_have_made(model: LanguageModel) -> None:
    _, plans = talk(model, [("Hello", "Hi."), ("How are you?", "Fine.")])
    chat = [user("Hello"), Message(role="assistant", content="Hi."), user("How are you?")]
    assert list(plans[-1].prompt) == model.chat_ids(chat)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 120), min_size=3, max_size=25),
    system=st.booleans(),
    max_tokens=st.integers(1, 500),
)
def test_a_full_window_is_compacted_and_always_leaves_room(sizes: list[int], system: bool, max_tokens: int) -> None:
    model = ScriptedLM(context_length=400)
    drafts: list[Draft] = []
    if system:
        ids = model.chat_ids([Message(role="system", content="S")], reply=False) or []
        drafts.append(Draft(role="system", content="S", token_ids=tuple(ids)))
    for n, size in enumerate(sizes):
        window = window_of(written(drafts))
        plan = plan_turn(model, window, [user(f"{n}:" + "q" * size)], max_tokens=max_tokens)
        assert 1 <= plan.max_tokens <= max_tokens
        assert len(plan.prompt) + plan.max_tokens <= 400
        assert len(plan.prompt) + min(max_tokens, 50) <= 400
        drafts += [*plan.drafts, reply_draft(model, plan.header, "ok", [*model.encode("ok"), model.closing_ids[0]])]
        after = window_of(written(drafts))
        assert after.messages[-2].content.startswith(f"{n}:")
        assert (after.messages[0].role == "system") == system
        assert list(after.token_ids) == model.chat_ids(after.messages, reply=False)
        if plan.compacted:
            note = next(d for d in plan.drafts if d.role == "compaction")
            assert "left it" in note.content and len(after.messages) < len(window.messages) + 2


def test_a_message_longer_than_the_window_is_refused() -> None:
    model = ScriptedLM(context_length=400)
    with pytest.raises(PromptTooLong):
        plan_turn(model, Window(), [user("x" * 500)], max_tokens=10)
    entries, _ = talk(model, [("a", "b")])
    with pytest.raises(PromptTooLong):
        plan_turn(model, window_of(entries), [user("x" * 500)], max_tokens=10)


def test_another_tokenizer_encodes_the_conversation_anew(tiny: LanguageModel) -> None:
    entries, _ = talk(ScriptedLM(), [("Hello", "Hi.")])
    plan = plan_turn(tiny, window_of(entries), [user("Again?")], max_tokens=10, same_tokenizer=False)
    chat = [user("Hello"), Message(role="assistant", content="Hi."), user("Again?")]
    assert plan.compacted and list(plan.prompt) == tiny.chat_ids(chat)
    entries += written([*plan.drafts, reply_draft(tiny, plan.header, "Yes.", tiny.encode("Yes."))])
    after = window_of(entries)
    assert [m.content for m in after.messages] == ["Hello", "Hi.", "Again?", "Yes."]
    assert list(after.token_ids) == tiny.chat_ids(after.messages, reply=False)


def test_a_template_that_rewrites_the_past_is_encoded_anew_each_turn() -> None:
    class Rewriting(ScriptedLM):
        def chat_ids(self, messages, *, after=0, reply=True):  # type: ignore[no-untyped-def]
            return None if after else super().chat_ids(messages, reply=reply)

    model = Rewriting()
    entries, plans = talk(model, [("Hello", "Hi."), ("How are you?", "Fine.")])
    assert all(plan.compacted for plan in plans)
    assert [m.content for m in window_of(entries).messages] == ["Hello", "Hi.", "How are you?", "Fine."]


def test_a_history_brought_along_is_read_in_a_time_that_grows_with_its_length() -> None:
    class Counting(ScriptedLM):
        rendered = 0

        def chat_ids(self, messages, *, after=0, reply=True):  # type: ignore[no-untyped-def]
            self.rendered += len(messages)
            return super().chat_ids(messages, after=after, reply=reply)

    def cost(n: int) -> int:
        model = Counting(context_length=1 << 20)
        chat = [Message(role="assistant" if i % 2 else "user", content="a") for i in range(n)]
        plan = plan_turn(model, Window(), chat, max_tokens=10)
        assert list(plan.prompt) == ScriptedLM().chat_ids(chat)
        assert [i for d in plan.drafts for i in d.token_ids] == list(plan.prompt[: -len(plan.header)])
        return model.rendered

    assert cost(2001) < 11 * cost(201)


def test_a_fork_within_such_a_history_is_encoded_anew() -> None:
    model = ScriptedLM()
    chat = [
        user("a"),
        Message(role="assistant", content="b"),
        user("c"),
        Message(role="assistant", content="d"),
        user("e"),
    ]
    entries = written(list(plan_turn(model, Window(), chat, max_tokens=10).drafts))
    plan = plan_turn(model, window_of(entries[:2]), [user("x")], max_tokens=10)
    assert list(plan.prompt) == model.chat_ids([*chat[:2], user("x")])


def test_compacting_a_long_talk_renders_it_a_few_times_only() -> None:
    class Counting(ScriptedLM):
        calls = 0

        def chat_ids(self, messages, *, after=0, reply=True):  # type: ignore[no-untyped-def]
            self.calls += 1
            return super().chat_ids(messages, after=after, reply=reply)

    entries, _ = talk(ScriptedLM(context_length=1 << 20), [("q", "a")] * 300)
    model = Counting(context_length=len(window_of(entries).token_ids))
    plan = plan_turn(model, window_of(entries), [user("one more")], max_tokens=10)
    assert plan.compacted and len(plan.prompt) <= model.card.context_length // 2
    assert len(plan.prompt) > model.card.context_length // 2 - 20
    assert model.calls < 25


def test_a_reply_that_was_cut_off_is_closed(model: LanguageModel) -> None:
    plan = plan_turn(model, Window(), [user("Hello")], max_tokens=10)
    draft = reply_draft(model, plan.header, "Half a", model.encode("Half a"))
    assert draft.token_ids[-len(model.closing_ids) :] == model.closing_ids
