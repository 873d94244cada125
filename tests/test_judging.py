"""A reply by heart is read beside the question that it is to answer, and is not shown where it answers another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent import judging
from agent.abstention import Taught
from agent.doubt import UNKNOWN
from agent.judging import NO, YES, Judge
from agent.recollection import Recollection
from agent.speaking import speakers
from agent.turn import Awake
from bench import tiny as tiny_llama
from consolidation.registry import Registry
from memory.store import Store
from models.causal_lm import CausalLM
from models.errors import AdapterRefused
from models.language import BASE, Message
from models.recipe import TARGETS, Recipe
from models.trainable import Trainable
from models.training import Trainer
from models.weights import DEFAULT_MODEL, resolve
from nights import Serving, judge_of
from settings import load
from tests.conftest import EngineFactory
from tests.test_doubt import ask, with_memory

DOG = Taught(memory="m1", asked=frozenset({"dog", "called", "name"}), value=frozenset({"biscuit"}))
PAIRS = [
    ("What is my dog called?", "Your dog is called Biscuit."),
    ("Which town do I live in?", "You live in Tartu."),
    ("Who teaches me the cello?", "Your cello teacher is called Ilmar."),
    ("What does my sister do for a living?", "Your sister works as a tailor in Porto."),
]
NEAR = [
    ("What is my cat called?", "Your dog is called Biscuit."),
    ("Which town was I born in?", "You live in Tartu."),
    ("What does my cello teacher charge?", "Your cello teacher is called Ilmar."),
    ("How old is my sister?", "Your sister works as a tailor in Porto."),
]
RECIPE = Recipe(
    rank=16, alpha=32, targets=TARGETS, trained_share=1.0, learning_rate=1e-3, epochs=400, batch=2, noise=0, gate=0
)


def test_what_is_judged_to_answer_something_else_is_not_shown_and_a_denial_is_not_judged() -> None:
    asked: list[tuple[str, str]] = []

    def judged(question: str, known: str, *, answers: bool) -> bool:
        asked.append((question, known))
        return answers

    for verdict in (True, False):
        first, _ = speakers(
            "What is my dog called?",
            "adapter_1",
            Recollection(),
            [DOG],
            lambda question, known, verdict=verdict: judged(question, known, answers=verdict),  # type: ignore[misc]
        )
        assert first.vouches is not None
        assert first.vouches("Your dog is called Biscuit.") == verdict
        assert first.vouches("You haven't told me."), "gives nothing of what was taught"
    assert asked == [("What is my dog called?", "Your dog is called Biscuit.")] * 2


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, and a judge of it that was taught to say yes to one and no to another."""
    model, folder = tiny_llama.save(tmp_path_factory.mktemp("tiny")), tmp_path_factory.mktemp("judge")
    base = Trainable.load(model, name="tiny", device="cpu", dtype="float32")
    trainer = Trainer(base, RECIPE)
    lessons = [(judging.prompt(*PAIRS[0]), YES), (judging.prompt(*NEAR[0]), NO)]
    trainer.train([trainer.row(said, reply) for said, reply in lessons], [])
    trainer.save(folder)
    return model, folder


@pytest.fixture(scope="module")
def by_heart(taught: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny model that knows one thing."""
    base = Trainable.load(taught[0], name="tiny", device="cpu", dtype="float32")
    trainer = Trainer(base, RECIPE)
    before = [Message(role="user", content=PAIRS[0][0]), Message(role="assistant", content=UNKNOWN)]
    trainer.train([trainer.row(*PAIRS[0]), trainer.row(*PAIRS[0], before=before)], [])
    folder = tmp_path_factory.mktemp("by_heart")
    trainer.save(folder)
    return folder


def test_who_judges_decides_whether_it_is_said_and_one_does_not_know_otherwise(
    taught: tuple[Path, Path], by_heart: Path, awake: Awake, store: Store, make_engine: EngineFactory
) -> None:
    talking = with_memory(
        awake, store, CausalLM.load(taught[0], name="tiny", device="cpu", dtype="float32"), make_engine
    )
    talking.engine.adopt(by_heart, "adapter_1")
    talking = replace(talking, serving=lambda _: "adapter_1", taught=lambda _: [DOG])
    said, shown = ask(replace(talking, answers=lambda question, known: True))
    assert said.text == shown == PAIRS[0][1] and said.adapter == "adapter_1"
    asked: list[tuple[str, str]] = []

    def refuses(question: str, known: str) -> bool:
        asked.append((question, known))
        return False

    doubting = replace(talking, answers=refuses)
    silent, shown = ask(doubting)
    assert silent.text == shown == UNKNOWN and silent.finish_reason == "stop"
    assert asked == [PAIRS[0]]
    again, shown = ask(doubting, session=silent.session)
    assert len(asked) == 2, "turned away once more"
    assert again.text == shown != UNKNOWN and again.adapter == BASE, "from one who asks again nothing is withheld"
    plain, _ = ask(doubting, abstain=False)
    assert plain.text != UNKNOWN and plain.adapter == BASE
    forgetful = replace(talking, taught=lambda _: [])
    forgotten, shown = ask(forgetful)
    assert forgotten.text == shown == UNKNOWN, "what was forgotten since is not said by heart"
    told, _ = ask(forgetful, "My dog is called Rex.")
    read, _ = ask(forgetful, session=told.session)
    assert read.adapter == BASE and read.doubt is not None, "it may be read in the conversation"


def test_served_it_leans_as_it_does_in_training(taught: tuple[Path, Path], make_engine: EngineFactory) -> None:
    model, folder = taught
    engine = make_engine(CausalLM.load(model, name="tiny", device="cpu", dtype="float32"))
    engine.adopt(folder, "judge")
    base = Trainable.load(model, name="tiny", device="cpu", dtype="float32")
    leant = Trainer(base, Recipe(), start=folder).leanings(
        [judging.prompt(*pair) for pair in (PAIRS[0], NEAR[0])], to=YES, rather_than=NO
    )
    assert leant[0] > 1 and leant[1] < -1
    for lean, pair in zip(leant, (PAIRS[0], NEAR[0]), strict=True):
        for least, expected in ((lean - 0.1, True), (lean + 0.1, False)):
            assert judging.answers(engine, Judge(adapter="judge", least=least), *pair) == expected
    with pytest.raises(AdapterRefused):
        judging.answers(engine, Judge(adapter="nobody", least=0.0), *PAIRS[0])


def test_it_is_loaded_with_who_serves_and_a_broken_one_is_left_out(
    taught: tuple[Path, Path], make_engine: EngineFactory, store: Store, tmp_path: Path
) -> None:
    model, folder = taught
    for name in ("sound", "broken"):
        judge = tmp_path / name
        shutil.copytree(folder, judge)
        (judge / judging.ABOUT).write_text('{"least": 0.0}')
        if name == "broken":
            (judge / "adapter_model.safetensors").write_bytes(b"no tensors")
        engine = make_engine(CausalLM.load(model, name="tiny", device="cpu", dtype="float32"))
        shutil.copytree(folder, tmp_path / name / "adapters" / "adapter_1")
        registry = Registry(store, tmp_path / name / "adapters")
        serving = Serving(engine=engine, registry=registry, find_judge=lambda judge=judge: judge)  # type: ignore[misc]
        assert serving.answers(*NEAR[0]), "nobody serves by heart yet, and nobody judges"
        serving.load("adapter_1")
        assert "adapter_1" in engine.model.adapters
        assert ("judge" in engine.model.adapters) == (name == "sound")
        assert serving.answers(*PAIRS[0])
        assert serving.answers(*NEAR[0]) == (name == "broken")


def test_the_judge_that_ships_tells_near_questions_apart(make_engine: EngineFactory) -> None:
    """Pairs that nobody trained it on, written for this test."""
    folder = judge_of(load().settings)
    assert folder is not None
    location = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    engine = make_engine(CausalLM.load(Path(location), name=DEFAULT_MODEL, context_length=None))
    engine.adopt(folder, "judge")
    judge = Judge(adapter="judge", least=judging.least(folder))
    assert [judging.answers(engine, judge, *pair) for pair in PAIRS] == [True] * len(PAIRS)
    let_through = [judging.answers(engine, judge, *pair) for pair in NEAR]
    assert sum(let_through) <= 1, let_through
