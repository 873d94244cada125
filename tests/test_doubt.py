"""What is guessed about oneself is withheld, what is known is not, and nobody is met with silence for ever."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import permutations
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import doubt
from agent.control import TurnControl
from agent.doubt import (
    MOST_SILENCES,
    THRESHOLD,
    THRESHOLD_SUPPORTED,
    UNKNOWN,
    UNSURE,
    agreement,
    asks_for_fact,
    confidence,
    silence_is_due,
    supported,
    threshold,
)
from agent.going_on import go_on
from agent.remembering import Memory
from agent.turn import Awake, TurnRequest, TurnResult, take_turn
from memory.binding import Binder
from memory.experiences import Experiences
from memory.not_told import abstains
from memory.recall import Recall
from memory.store import Store
from models.causal_lm import CausalLM
from models.generation import Generation, Prompt, Reply
from models.language import BASE, Message
from models.sampling import Sampling
from models.scripted import ScriptedLM
from tests.conftest import EngineFactory
from tests.test_experiences import EMBEDDER

GREEDY = Sampling(temperature=0.0)
ASKED = "What is my dog called?"
LONG = "Your dog is called Biscuit, and it has been called so since you brought it home from the shelter in May."


@pytest.mark.parametrize(
    ("said", "a_fact"),
    [
        ("What is my dog called?", True),
        ("Who’s my dentist?", True),
        ("In which town do we live?", True),
        ("How old is my sister?", True),
        ("Remind me of my locker code.", True),
        ("What's my best friend's name?", True),
        ("What should I cook for my sister?", False),
        ("How do I get my dog to sleep?", False),
        ("Why is my bread so dense?", False),
        ("What is a leap year?", False),
        ("My dog is called Rex.", False),
        ("Write me a poem about my dog.", False),
        ("What do I need for my trip?", False),
    ],
)
def test_what_asks_for_a_fact_about_oneself(said: str, a_fact: bool) -> None:
    assert asks_for_fact(said) is a_fact


@given(st.lists(st.text(alphabet="abc dog cat riga 1", max_size=20), min_size=1, max_size=4))
def test_agreement_is_a_share_that_no_order_changes_and_one_for_one_draft_said_again(drafts: list[str]) -> None:
    found = agreement(ASKED, drafts)
    assert 0 <= found <= 1
    assert all(agreement(ASKED, order) == pytest.approx(found) for order in permutations(drafts))
    assert agreement(ASKED, [drafts[0]] * 3) == 1


def test_what_every_draft_takes_from_the_question_is_no_agreement() -> None:
    apart = ["Your dog is called Rex.", "Your dog is called Luna.", "Your dog is called Max."]
    assert agreement(ASKED, apart) == 0
    assert agreement(ASKED, [*apart, "Rex!"]) == pytest.approx(1 / 6)
    assert agreement(ASKED, ["It is Rex.", "Rex", "Your dog is called Rex."]) == 1


def test_what_a_memory_holds_is_read_and_not_made_up() -> None:
    memories = ["The bossy one of our two goats is Marzipan.", "I live in Riga."]
    asked = "What do we call the bossy goat?"
    assert supported(asked, "The bossy goat is called Marzipan.", memories)
    assert not supported(asked, "The bossy goat is called Bella, after a film star.", memories)
    assert not supported(asked, "We call the bossy goat that.", memories)  # it adds nothing
    assert not supported(asked, "Marzipan", [])
    # From two memories at once: each holds less than half of it.
    assert not supported(asked, "Marzipan lives near Riga castle since Tuesday evening.", memories)
    assert (
        threshold(asked, "Marzipan", memories) == THRESHOLD_SUPPORTED < THRESHOLD == threshold(asked, "Bella", memories)
    )


@given(st.floats(0, 1), st.floats(0, 12))
def test_confidence_is_no_more_than_agreement_and_less_where_drafts_are_unlikely(agreed: float, entropy: float) -> None:
    found = confidence(agreed, entropy)
    assert 0 <= found <= agreed and found >= confidence(agreed, entropy + 1)
    assert confidence(agreed, 0.0) == agreed


def test_a_silence_says_that_it_does_not_know_and_a_guess_that_it_is_one() -> None:
    assert abstains(UNKNOWN) and abstains(UNSURE)


def exchange(said: str, reply: str) -> list[Message]:
    return [Message(role="user", content=said), Message(role="assistant", content=reply)]


def test_who_asks_again_is_given_the_guess_and_silence_is_no_habit() -> None:
    once = exchange(ASKED, UNKNOWN)
    assert silence_is_due(ASKED, []) and silence_is_due("Where do I live?", once)
    assert not silence_is_due("what is my dog called", once)
    assert silence_is_due(ASKED, [*once, *exchange("Hello!", "Hello!")]), "something else was said in between"
    others = [m for n in range(MOST_SILENCES) for m in exchange(f"Where is my thing {n}?", UNKNOWN)]
    assert silence_is_due(ASKED, others[2:]) and not silence_is_due(ASKED, others)


def with_memory(awake: Awake, store: Store, model: ScriptedLM | CausalLM, make_engine: EngineFactory) -> Awake:
    recall = Recall(store, EMBEDDER, now=awake.now)
    memory = Memory(
        experiences=Experiences(store, now=awake.now),
        recall=recall,
        binder=Binder(store, recall, EMBEDDER, now=awake.now),
    )
    return replace(awake, engine=make_engine(model), memory=memory, drafts=3)


@pytest.fixture
def knowing(awake: Awake, store: Store, make_engine: EngineFactory) -> Awake:
    """Says the same in every draft."""
    return with_memory(awake, store, ScriptedLM({"dog": LONG}), make_engine)


@pytest.fixture
def guessing(awake: Awake, store: Store, make_engine: EngineFactory, tiny: CausalLM) -> Awake:
    """Random weights: no draft is like another."""
    return with_memory(awake, store, tiny, make_engine)


def ask(awake: Awake, text: str = ASKED, **options: object) -> tuple[TurnResult, str]:
    """A turn, and what was shown of it as it came."""
    given = {"owner": "alice", "max_tokens": 160, "sampling": GREEDY} | options
    shown: list[str] = []
    request = TurnRequest(messages=(Message(role="user", content=text),), **given)  # type: ignore[arg-type]
    return take_turn(awake, request, on_delta=lambda d: shown.append(d.text)), "".join(shown)


def test_what_is_known_is_said_as_it_would_have_been_without_drafts(knowing: Awake) -> None:
    plain, _ = ask(replace(knowing, drafts=0))
    result, shown = ask(knowing)
    assert result.doubt is not None and (result.doubt.decision, result.doubt.agreement) == ("said", 1)
    assert result.text == shown == plain.text == LONG
    assert [c.token_id for c in result.choices] == [c.token_id for c in plain.choices]
    assert result.timings.completion_tokens == plain.timings.completion_tokens


def test_a_guess_is_withheld_and_nothing_of_it_is_shown(guessing: Awake) -> None:
    result, shown = ask(guessing)
    assert result.doubt is not None and result.doubt.confidence < THRESHOLD and result.doubt.decision == "withheld"
    assert result.text == shown == UNKNOWN and result.finish_reason == "stop"
    assert [e.content for e in guessing.transcripts.entries(result.session)][-1] == UNKNOWN
    went_on, _ = ask(guessing, "Hello there, how are you?", session=result.session)
    assert went_on.timings.cached_tokens > 0 and went_on.doubt is None


def test_drafts_read_nothing_anew_and_leave_nothing_behind(guessing: Awake, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Generation] = []
    submit = guessing.engine.submit

    def noted(prompt: Prompt) -> Generation:
        submitted.append(submit(prompt))
        return submitted[-1]

    monkeypatch.setattr(guessing.engine, "submit", noted)
    result, _ = ask(guessing)
    first, *drafts = [cast(Reply, g.reply).timings for g in submitted]
    assert result.doubt is not None and len(drafts) == guessing.drafts
    assert all(t.cached_tokens >= first.prefill_tokens - 1 and t.prefill_tokens <= 2 for t in drafts)
    assert guessing.engine.stats().states_at_rest == 1


def test_asked_again_it_gives_the_guess_and_says_that_it_is_one(
    guessing: Awake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doubt, "THRESHOLD", 1.1)  # letters drawn by chance agree at times
    first, _ = ask(guessing)
    second, shown = ask(guessing, session=first.session)
    assert second.doubt is not None and second.doubt.decision == "guessed"
    assert second.text == shown and second.text.startswith(UNSURE) and len(second.text) > len(UNSURE)
    read = guessing.transcripts.entries(first.session)[-1]
    assert guessing.engine.model.decode(read.token_ids).count(UNSURE) == 1
    assert len(second.choices) <= 160


@pytest.mark.parametrize(
    "options",
    [
        {"abstain": False},
        {"recall": False},
        {"adapter": BASE},
        {"stop": ("\n",)},
        {"ignore_eos": True},
        {"max_tokens": 32},
    ],
    ids=str,
)
def test_whoever_asks_for_the_text_as_it_is_gets_it(guessing: Awake, options: dict[str, object]) -> None:
    result, shown = ask(guessing, ASKED, **options)
    assert result.doubt is None and result.text == shown != UNKNOWN


def test_what_is_asked_of_others_is_not_doubted(guessing: Awake) -> None:
    assert ask(guessing, "What is a leap year?")[0].doubt is None
    assert ask(replace(guessing, drafts=0))[0].doubt is None


@pytest.mark.parametrize("after", [1, 12])
def test_a_doubted_reply_can_be_suspended_and_goes_on_as_it_would_have(
    awake: Awake, store: Store, make_engine: EngineFactory, after: int
) -> None:
    slow = with_memory(awake, store, ScriptedLM({"dog": LONG}, step_seconds=0.005), make_engine)
    control, shown = TurnControl(), []

    def see(text: str) -> None:
        shown.append(text)
        if len(shown) == after:
            threading.Thread(target=control.suspend).start()

    request = TurnRequest(
        owner="alice",
        messages=(Message(role="user", content=ASKED),),
        max_tokens=160,
        sampling=Sampling(temperature=0.0),
    )
    result = take_turn(slow, request, on_delta=lambda d: see(d.text), control=control)
    assert result.finish_reason == "suspended" and LONG.startswith(result.text) and result.text == "".join(shown)
    assert go_on(slow, result.session, owner="alice").text == LONG


def test_a_doubted_reply_can_be_called_off_before_any_of_it_is_shown(
    awake: Awake, store: Store, make_engine: EngineFactory
) -> None:
    slow = with_memory(awake, store, ScriptedLM({"dog": LONG}, step_seconds=0.01), make_engine)
    control, shown = TurnControl(), []
    request = TurnRequest(
        owner="alice",
        messages=(Message(role="user", content=ASKED),),
        max_tokens=160,
        sampling=Sampling(temperature=0.0),
    )
    begun = threading.Timer(0.1, control.cancel)
    begun.start()
    result = take_turn(slow, request, on_delta=lambda d: shown.append(d.text), control=control)
    assert result.finish_reason == "cancelled" and len("".join(shown)) < len(LONG)
