"""Second thoughts: what an adapter says by heart is read beside the question, and what answers another is not said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import judging
from agent.abstention import Taught
from agent.doubt import UNKNOWN
from agent.hearing import HEARD, hear
from agent.judging import Judge, reconsidered
from agent.turn import Awake
from consolidation import second_thoughts
from consolidation.registry import Registry
from memory.store import Store
from models import judge as judges
from models.causal_lm import CausalLM
from models.codebook_training import CodebookTrainer
from models.engine import Engine
from models.generation import Generation, Prompt
from models.judge import ABOUT, DENIED, NO, OUTRIGHT, YES, Rule, prompt, rule
from models.language import Message
from models.recipe import TARGETS, Recipe
from models.trainable import Trainable
from models.training import Trainer
from models.weights import DEFAULT_MODEL, resolve
from nights import judge_of
from serving import Serving
from settings import load
from tests.by_heart import FACTS, OPEN, OTHERS
from tests.conftest import EngineFactory
from tests.test_doubt import GREEDY, ask, with_memory

DOG = Taught(memory="m1", asked=frozenset({"dog", "called", "name"}), value=frozenset({"rex"}))
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
SIDES = {YES: [FACTS[0], FACTS[2]], NO: [(FACTS[0][0], FACTS[2][1]), (FACTS[2][0], FACTS[0][1])]}
"""What the tiny judge was taught: that the first answer what is asked, and the others do not."""
TRUSTING = Rule(weight=1.0, least=0.0, reach=1e3)
"""Goes by what the judge says."""


@pytest.fixture(scope="module")
def judge_folder(deeper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge of the tiny model that was taught to say yes to some and no to others."""
    trainer = Trainer(Trainable.load(deeper_folder, name="tiny", device="cpu", dtype="float32"), RECIPE)
    trainer.train([trainer.row(prompt(*pair), said) for said, pairs in SIDES.items() for pair in pairs], [])
    folder = tmp_path_factory.mktemp("judge")
    trainer.save(folder)
    (folder / ABOUT).write_text('{"weight": 1.0, "least": 0.0, "reach": 1e3}')
    return folder


@pytest.fixture
def engine(
    deeper: CausalLM, taught: tuple[CodebookTrainer, Path], judge_folder: Path, make_engine: EngineFactory
) -> Engine:
    made = make_engine(deeper)
    made.adopt(taught[1], "night-1")
    made.adopt(judge_folder, "judge")
    return made


def asked(engine: Engine, question: str, **others: float) -> Prompt:
    ids = engine.model.chat_ids([Message(role="user", content=question)])
    assert ids is not None
    return Prompt(token_ids=ids, max_tokens=40, sampling=GREEDY, adapter="night-1", **others)  # type: ignore[arg-type]


def after_second_thoughts(engine: Engine, question: str, rule: Rule) -> tuple[str, float]:
    """What is said then, and what denial was made to count for."""
    of = asked(engine, question)
    first = engine.submit(of)
    led = first.led()
    heard = hear(first)
    assert first.lead == led
    of, heard = reconsidered(engine, Judge(adapter="judge", rule=rule), of, question, first, heard)
    return heard.text, of.denial


@given(
    lead=st.floats(-30, 30),
    leaning=st.floats(-30, 30),
    weight=st.floats(0.1, 3),
    least=st.floats(-5, 5),
    reach=st.floats(0.5, 8),
)
def test_what_is_settled_no_judge_could_change(
    lead: float, leaning: float, weight: float, least: float, reach: float
) -> None:
    rule = Rule(weight=weight, least=least, reach=reach)
    settled = rule.settled(lead)
    assert settled is None or rule.says(lead, leaning) == settled
    assert not rule.says(lead, leaning) or rule.says(lead + 1, leaning + 1), "more of either never speaks against it"


def test_an_answer_and_a_denial_can_be_had_for_the_asking_and_leave_nothing_behind(
    engine: Engine, taught: tuple[CodebookTrainer, Path]
) -> None:
    """The intervention: what denial counts for decides which is said, in serving as in training."""
    questions = [q for q, _ in [*FACTS, *OPEN, *OTHERS]]
    plain = [engine.submit(asked(engine, question)) for question in questions]
    said = [generation.wait().text for generation in plain]
    for denial in (OUTRIGHT, 0.0, DENIED):
        expected = taught[0].heard(questions, most=40, denial=denial)
        for question, before, (text, lead), generation in zip(questions, said, expected, plain, strict=True):
            assert engine.submit(asked(engine, question, denial=denial)).wait().text == text
            assert engine.submit(asked(engine, question)).wait().text == before, "as if nothing had been"
            assert generation.lead == (None if lead is None else pytest.approx(lead, abs=1e-2))
    outright, denied = (taught[0].heard(questions, most=40, denial=of) for of in (OUTRIGHT, DENIED))
    answers = {a for _, a in FACTS}
    assert all(text in answers for text, _ in outright[: len(FACTS) + len(OPEN)])
    assert not any(text in answers for text, _ in denied)
    assert [text for text, _ in outright[-len(OTHERS) :]] == said[-len(OTHERS) :], "none of its business, either way"


def test_the_judge_has_an_answer_said_or_denied(engine: Engine) -> None:
    """The intervention: the same entries, and what is said goes by the judge."""
    for question, answer in (FACTS[0], FACTS[2]):
        lean = judging.leaning(engine, "judge", question, answer)
        assert lean is not None and lean > 1
        assert after_second_thoughts(engine, question, TRUSTING) == (answer, 0.0)
        other = next(a for _, a in FACTS if a != answer)
        assert (judging.leaning(engine, "judge", question, other) or 0) < -1
        severe = replace(TRUSTING, least=1e3)
        denied, denial = after_second_thoughts(engine, question, severe)
        assert denial == DENIED and denied not in (answer, other)
        assert after_second_thoughts(engine, question, replace(severe, weight=0.0, least=-1e3)) == (answer, 0.0)
    for question, denied in OPEN:
        answer, denial = after_second_thoughts(engine, question, replace(TRUSTING, weight=0.0, least=-1e3))
        assert denial == OUTRIGHT and answer in {a for _, a in FACTS}
        assert after_second_thoughts(engine, question, replace(TRUSTING, least=1e3)) == (denied, 0.0)
    for question, _ in OTHERS:
        first = engine.submit(asked(engine, question))
        assert first.led() is None, "none of its business"
        of, heard = asked(engine, question), hear(first)
        assert reconsidered(engine, Judge(adapter="judge", rule=TRUSTING), of, question, first, heard) == (of, heard)


@pytest.mark.parametrize("least", [-1e3, 0.0, 1e3])
def test_the_exam_hears_what_is_said_awake(
    engine: Engine,
    taught: tuple[CodebookTrainer, Path],
    deeper_folder: Path,
    judge_folder: Path,
    least: float,
) -> None:
    questions = [q for q, _ in [FACTS[0], FACTS[2], *(OPEN if least else ()), *OTHERS, FACTS[0]]]
    judge = second_thoughts.judge_from(
        judge_folder, Trainable.load(deeper_folder, name="tiny", device="cpu", dtype="float32")
    )
    judge = replace(judge, rule=replace(judge.rule, least=least, reach=5.0))
    said = second_thoughts.answers(taught[0], questions, most=HEARD + 8, who="candidate", judge=judge)
    awake = [after_second_thoughts(engine, question, judge.rule)[0] for question in questions]
    assert [one[: len(heard)] for one, heard in zip(said, awake, strict=True)] == awake
    assert HEARD == judges.HEARD, "as much of an answer is read"


def test_a_turn_has_second_thoughts_and_keeps_what_it_did_not_say(engine: Engine, awake: Awake, store: Store) -> None:
    talking = with_memory(awake, store, engine.model, lambda _: engine)  # type: ignore[arg-type]
    talking = replace(talking, serving=lambda _: "night-1", taught=lambda _: [DOG], drafts=0)
    question, answer = FACTS[2]
    for recall in (True, False):
        for least, judged in ((0.0, answer), (1e3, None)):
            judge = Judge(adapter="judge", rule=replace(TRUSTING, least=least))
            result, shown = ask(replace(talking, judge=lambda judge=judge: judge), question, recall=recall)  # type: ignore[misc]
            assert result.text == shown and result.adapter == "night-1"
            assert (result.text == answer) == (judged == answer)
    nobody, shown = ask(replace(talking, taught=lambda _: [], drafts=3), question)
    assert nobody.text == shown == UNKNOWN, "what was forgotten since is not said by heart"
    lax = replace(talking, judge=lambda: Judge(adapter="judge", rule=replace(TRUSTING, weight=0.0, least=-1e3)))
    denied, shown = ask(replace(lax, taught=lambda _: []), OPEN[0][0], recall=True)
    assert denied.text == shown == OPEN[0][1], "a denial stands where what would be said instead may not be"
    severe = replace(talking, judge=lambda: Judge(adapter="judge", rule=replace(TRUSTING, least=1e3)))
    for others in ({"max_tokens": 2}, {"stop": ("x",)}, {"ignore_eos": True, "max_tokens": 4}):
        cut, _ = ask(severe, question, recall=False, **others)
        assert answer.startswith(cut.text[:2]), "nobody judges half an answer"


def test_second_thoughts_can_be_called_off(engine: Engine) -> None:
    """Whatever is being heard when somebody goes away, they are not said to have been answered."""
    (denied, _), (known, _) = OPEN[0], FACTS[2]
    severe, lax = replace(TRUSTING, least=1e3), replace(TRUSTING, weight=0.0, least=-1e3)
    for question, by in ((known, severe), (denied, lax)):
        of = asked(engine, question)
        first = engine.submit(of)
        heard = hear(first)
        judge = Judge(adapter="judge", rule=by)
        _, instead = reconsidered(engine, judge, of, question, first, heard, hold=Generation.stop)
        assert not instead.whole and instead.reply.finish_reason == "cancelled"


def test_served_it_leans_as_it_does_in_training(engine: Engine, deeper_folder: Path, judge_folder: Path) -> None:
    base = Trainable.load(deeper_folder, name="tiny", device="cpu", dtype="float32")
    pairs = [pair for of in SIDES.values() for pair in of]
    leant = Trainer(base, Recipe(), start=judge_folder).leanings([prompt(*p) for p in pairs], to=YES, rather_than=NO)
    assert [lean > 1 for lean in leant] == [True, True, False, False] and max(leant[2:]) < -1
    for pair, lean in zip(pairs, leant, strict=True):  # a token that is not among the likeliest is taken for the last
        served = judging.leaning(engine, "judge", *pair)
        assert served is not None and 1 < served / lean * abs(lean) <= abs(lean) + 0.05
    assert judging.leaning(engine, "nobody", *pairs[0]) is None, "nothing is held against what nobody judges"


def test_it_is_loaded_with_who_serves_and_a_broken_one_is_left_out(
    deeper_folder: Path, judge_folder: Path, make_engine: EngineFactory, store: Store, tmp_path: Path
) -> None:
    for name in ("sound", "broken"):
        judge = tmp_path / name
        shutil.copytree(judge_folder, judge)
        if name == "broken":
            (judge / "adapter_model.safetensors").write_bytes(b"no tensors")
        engine = make_engine(CausalLM.load(deeper_folder, name="tiny", device="cpu", dtype="float32"))
        shutil.copytree(judge_folder, tmp_path / name / "adapters" / "adapter_1")
        registry = Registry(store, tmp_path / name / "adapters")
        serving = Serving(engine=engine, registry=registry, find_judge=lambda judge=judge: judge)  # type: ignore[misc]
        assert serving.judged_by() is None, "nobody serves by heart yet, and nobody judges"
        serving.load("adapter_1")
        assert "adapter_1" in engine.model.adapters
        assert ("judge" in engine.model.adapters) == (name == "sound")
        assert serving.judged_by() == (Judge(adapter="judge", rule=TRUSTING) if name == "sound" else None)


def test_the_judge_that_ships_tells_near_questions_apart(make_engine: EngineFactory) -> None:
    """Pairs that nobody trained it on, written for this test."""
    folder = judge_of(load().settings)
    assert folder is not None
    location = resolve(DEFAULT_MODEL, cache_dir=load().settings.cache_dir).location
    engine = make_engine(CausalLM.load(Path(location), name=DEFAULT_MODEL, context_length=None))
    engine.adopt(folder, "judge")
    answers, others = ([judging.leaning(engine, "judge", *pair) or 0.0 for pair in of] for of in (PAIRS, NEAR))
    assert min(answers) > max(others) - 1 and sum(answers) / 4 > sum(others) / 4 + 2, (answers, others)
    shipped = rule(folder)
    assert all(shipped.says(0.0, leaning) for leaning in answers)
