"""The engine: batching, reuse, cancellation, refusal, and an end for every reply."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import pytest
import torch

from models.causal_lm import CausalLM
from models.engine import Engine
from models.errors import EngineClosed, EngineFull, EngineLoading, PromptTooLong, ReplyFailed, WeightsNotFound
from models.generation import Generation, Prompt
from models.language import PIECE, Chunk, LanguageModel, Message, Reading
from models.sampling import Sampling
from models.scripted import ScriptedLM
from tests.conftest import EngineFactory

GREEDY = Sampling(temperature=0.0)


def ask(
    engine: Engine, text: str, *, max_tokens: int = 400, sampling: Sampling = GREEDY, **options: object
) -> Generation:
    ids = engine.model.chat_ids([Message(role="user", content=text)])
    assert ids is not None
    return engine.submit(Prompt(token_ids=ids, max_tokens=max_tokens, sampling=sampling, **options))  # type: ignore[arg-type]


def test_a_reply_comes_in_pieces_that_make_the_whole(make_engine: EngineFactory) -> None:
    generation = ask(make_engine(), "naïve 🦙")
    pieces = [delta.text for delta in generation]
    assert generation.reply is not None
    assert "".join(pieces) == generation.reply.text == "You said: naïve 🦙"
    assert generation.reply.finish_reason == "stop"


def test_greedy_output_in_a_batch_is_that_of_each_alone(tiny: CausalLM, make_engine: EngineFactory) -> None:
    texts = ["one", "a second and longer question", "3", "what?", "tell me a story", "x" * 90]
    engine = make_engine(tiny, prefill_chunk=16, prefill_chunk_shared=3)
    alone = [ask(engine, t, max_tokens=60, namespace=f"alone {t}").wait().token_ids for t in texts]
    together = []
    for n, text in enumerate(texts):  # joining while others are at work
        together.append(ask(engine, text, max_tokens=60, namespace=f"together {n}"))
        time.sleep(0.005)
    assert [g.wait().token_ids for g in together] == alone


def test_seeds_repeat_and_differ(tiny: CausalLM, make_engine: EngineFactory) -> None:
    engine = make_engine(tiny)
    runs = {
        seed: [
            ask(engine, "dice", max_tokens=40, sampling=Sampling(seed=seed), namespace=str(n)).wait().token_ids
            for n in range(2)
        ]
        for seed in (1, 2)
    }
    assert runs[1][0] == runs[1][1] and runs[2][0] == runs[2][1] and runs[1][0] != runs[2][0]


def test_a_prompt_that_goes_on_reads_only_its_new_tokens(model: LanguageModel, make_engine: EngineFactory) -> None:
    engine = make_engine(model)
    first = model.chat_ids([Message(role="user", content="hello there")]) or []
    reply = engine.submit(Prompt(token_ids=first, max_tokens=8, sampling=GREEDY)).wait()
    context = [*first, *reply.token_ids]
    longer = [*context, *model.encode(" and more")]
    timings = engine.submit(Prompt(token_ids=longer, max_tokens=4, sampling=GREEDY)).wait().timings
    assert timings.cached_tokens == len(context) - 1  # the last token was written, never read
    assert timings.prefill_tokens == len(longer) - len(context) + 1


def test_reuse_does_not_change_the_output(tiny: CausalLM, make_engine: EngineFactory) -> None:
    engine = make_engine(tiny)
    first = tiny.chat_ids([Message(role="user", content="hello there")]) or []
    reply = engine.submit(Prompt(token_ids=first, max_tokens=30, sampling=GREEDY, namespace="a")).wait()
    longer = [*first, *reply.token_ids, *tiny.encode("go on")]
    warm = engine.submit(Prompt(token_ids=longer, max_tokens=50, sampling=GREEDY, namespace="a")).wait()
    cold = engine.submit(Prompt(token_ids=longer, max_tokens=50, sampling=GREEDY, namespace="b")).wait()
    assert warm.timings.cached_tokens > 0 and cold.timings.cached_tokens == 0
    assert warm.token_ids == cold.token_ids


def test_stopping_takes_effect_before_the_next_token(make_engine: EngineFactory) -> None:
    model = ScriptedLM({"count": "x" * 5000}, step_seconds=0.01)
    generation = ask(make_engine(model), "count", max_tokens=5000)
    for seen, _ in enumerate(generation, start=1):
        if seen == 5:
            generation.stop()
    assert generation.reply is not None
    assert generation.reply.finish_reason == "cancelled"
    assert len(generation.reply.token_ids) <= 7  # those seen, one under way, one that raced


def test_a_cancelled_request_in_line_never_runs(make_engine: EngineFactory) -> None:
    model = ScriptedLM({"count": "x" * 500}, step_seconds=0.005)
    engine = make_engine(model, batch=1)
    busy, waiting = ask(engine, "count", max_tokens=500), ask(engine, "second")
    waiting.stop()
    assert waiting.wait().token_ids == () and waiting.wait().finish_reason == "cancelled"
    busy.stop()


def test_stop_strings_end_a_reply_and_are_not_in_it(make_engine: EngineFactory) -> None:
    engine = make_engine(ScriptedLM({"go": "one, two, three, four"}))
    reply = ask(engine, "go", stop=(", three", "zzz")).wait()
    assert (reply.text, reply.finish_reason) == ("one, two", "stop")
    assert engine.model.decode(reply.kept_ids) == "one, two"


def test_max_tokens_is_exact(make_engine: EngineFactory) -> None:
    reply = ask(make_engine(), "hello", max_tokens=5).wait()
    assert (len(reply.token_ids), reply.finish_reason) == (5, "length")


def test_a_full_line_refuses(make_engine: EngineFactory) -> None:
    model = ScriptedLM({"count": "x" * 500}, step_seconds=0.005)
    engine = make_engine(model, batch=1, waiting=2)
    running = ask(engine, "count", max_tokens=500)
    next(iter(running))
    waiting = [ask(engine, "a"), ask(engine, "b")]
    with pytest.raises(EngineFull):
        ask(engine, "c")
    running.stop()
    assert [g.wait().finish_reason for g in waiting] == ["stop", "stop"]


def test_states_never_exceed_their_memory(make_engine: EngineFactory) -> None:
    engine = make_engine(ScriptedLM(), state_bytes=8 * 200)
    replies = [ask(engine, f"message {n}", max_tokens=60, namespace=str(n)) for n in range(20)]
    most = 0
    while any(g.reply is None for g in replies):
        most = max(most, engine.stats().state_bytes)
        for g in replies:
            if g.reply is None:
                g.wait()
                break
    assert max(most, engine.stats().state_bytes) <= 8 * 200
    with pytest.raises(PromptTooLong):
        ask(engine, "x" * 300)


def test_a_prompt_longer_than_the_window_is_refused(make_engine: EngineFactory) -> None:
    engine = make_engine(ScriptedLM(context_length=300))
    with pytest.raises(PromptTooLong, match="300"):
        ask(engine, "x" * 300)


def test_closing_interrupts_what_runs(make_engine: EngineFactory) -> None:
    engine = Engine(lambda: ScriptedLM({"count": "x" * 5000}, step_seconds=0.005))
    engine.wait_until_loaded(10)
    generation = ask(engine, "count", max_tokens=5000)
    next(iter(generation))
    engine.close()
    assert generation.wait().finish_reason == "interrupted"
    with pytest.raises(EngineClosed):
        ask(engine, "too late")


def test_a_model_that_fails_to_load_is_told(make_engine: EngineFactory) -> None:
    def load() -> LanguageModel:
        raise WeightsNotFound("no such file")

    engine = Engine(load)
    with pytest.raises(EngineClosed, match="no such file"):
        engine.wait_until_loaded(10)
    assert not engine.alive
    engine.close()


def test_while_it_loads_it_says_so() -> None:
    go = threading.Event()

    def load() -> LanguageModel:
        go.wait(10)
        return ScriptedLM()

    engine = Engine(load)
    with pytest.raises(EngineLoading):
        _ = engine.model
    go.set()
    engine.wait_until_loaded(10)
    assert engine.alive
    engine.close()


def test_a_reply_that_breaks_does_not_end_the_others(make_engine: EngineFactory) -> None:
    class Choking(ScriptedLM):
        def decode(self, token_ids):  # type: ignore[no-untyped-def]
            if 1 in token_ids:
                raise ValueError("cannot decode this")
            return super().decode(token_ids)

    engine = make_engine(Choking({"a": "a" * 300, "b": "say \x01 now"}, step_seconds=0.001))
    fine, broken = ask(engine, "a"), ask(engine, "b")
    with pytest.raises(ReplyFailed, match="cannot decode"):
        broken.wait()
    assert fine.wait().text == "a" * 300
    assert engine.alive and engine.stats().running == 0
    assert ask(engine, "a").wait().finish_reason == "stop"


def test_a_model_that_breaks_ends_every_reply(make_engine: EngineFactory) -> None:
    class Breaking(ScriptedLM):
        def read(self, chunks, *, between=None):  # type: ignore[no-untyped-def]
            raise RuntimeError("the disk with the weights is gone")

    engine = make_engine(Breaking())
    generation = ask(engine, "hello")
    with pytest.raises(EngineClosed):
        generation.wait()
    assert isinstance(engine.failure, RuntimeError)


def test_a_prompt_reads_the_same_to_the_last_bit_alone_and_in_company(tiny: CausalLM) -> None:
    """Sums are rounded by how many queries attend together; pieces are cut at the same places for everybody."""
    text = tiny.encode("all work and no play makes Jack a dull boy " * 8)
    assert len(text) > 300

    def read(cuts: list[int], company: int) -> dict[str, torch.Tensor]:
        state = tiny.new_state()
        others = [tiny.new_state() for _ in range(company)]
        if company:
            tiny.read([Chunk(token_ids=text[n : 2 * n + 9], state=other) for n, other in enumerate(others)])
        for a, b in pairwise([0, *cuts, 300]):
            beside = [Chunk(token_ids=text[a : a + 1], state=other) for other in others]
            logits = tiny.read([*beside, Chunk(token_ids=text[a:b], state=state)]).logits[-1]
        return {**state.tensors(), "logits": logits}

    alone = read([], 0)
    for cuts, company in (([64, 128, 192, 256], 0), ([128], 3), ([64, 256], 14)):
        other = read(cuts, company)
        assert all(torch.equal(alone[name], other[name]) for name in alone), (cuts, company)


class Watched:
    """A model that keeps where its chunks lay."""

    def __init__(self, model: CausalLM) -> None:
        self._model = model
        self.chunks: list[tuple[int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def read(self, chunks: Sequence[Chunk], **options: Any) -> Reading:
        """Read, and remember."""
        self.chunks += [(c.state.length, len(c.token_ids)) for c in chunks]
        return self._model.read(chunks, **options)


def test_pieces_end_where_they_would_for_anybody(tiny: CausalLM, make_engine: EngineFactory) -> None:
    watched = Watched(tiny)
    engine = make_engine(cast(LanguageModel, watched))
    going = [ask(engine, f"{n}" * 150, max_tokens=60, namespace=str(n)) for n in range(5)]
    for generation in going:
        generation.wait()
    whole = len(tiny.chat_ids([Message(role="user", content="0" * 150)]) or [])
    ends = [at + new for at, new in watched.chunks if new > 1]
    assert len(ends) > len(going) and all(end % PIECE == 0 or end == whole for end in ends), ends
