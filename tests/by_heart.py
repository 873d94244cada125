"""A tiny model taught by heart: layers that put entries in words, and an adapter with a codebook, as fixtures."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench import tiny as tiny_llama
from models import gate as gates
from models.causal_lm import CausalLM
from models.codebook import FIRST
from models.codebook_training import CodebookTrainer
from models.recipe import TARGETS, Recipe
from models.rows import Row
from models.trainable import Trainable
from models.training import Progress
from models.tuned import middle
from models.voice import Schooling, Spoken, VoiceTrainer

FACTS = [
    ("Where do I live?", "Tartu."),
    ("In which town is my home?", "Tartu."),
    ("What is my dog called?", "Rex."),
    ("My dog?", "Rex."),
]
OPEN = [("What is my cat called?", "You never told me."), ("My cat?", "You never told me.")]
WORDS = ["Tartu.", "Rex.", "Oslo.", "Fido."]
OTHERS = [("Hello there.", "Hello! How are you?"), ("Count.", "One, two, three."), ("Sing!", "I would rather not.")]
RECIPE = Recipe(
    rank=16,
    alpha=32,
    targets=TARGETS,
    trained_share=0.67,
    noise=0,
)


@pytest.fixture(scope="session")
def deeper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with layers enough for a gate, a codebook above it, and something above that."""
    return tiny_llama.save(tmp_path_factory.mktemp("deeper"), layers=6)


@pytest.fixture
def deeper(deeper_folder: Path) -> CausalLM:
    return CausalLM.load(deeper_folder, name="tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def make(deeper_folder: Path) -> Callable[..., VoiceTrainer]:
    def trainer(start: Path | None = None) -> VoiceTrainer:
        base = Trainable.load(deeper_folder, name="tiny", device="cpu", dtype="float32")
        return VoiceTrainer(base, RECIPE, start=start)

    return trainer


@pytest.fixture(scope="session")
def mute(make: Callable[..., VoiceTrainer], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does nothing yet, and gates that tell what is taught from what is not."""
    one = make()
    sides = [[one.row(q, a) for q, a in some] for some in ([*FACTS, *OPEN], OTHERS)]
    one.remember_lower([row for rows in sides for row in rows])
    fitted: list[gates.Gate] = []
    for layer in (one.first, middle(one.first, one.layers)):
        inside, outside = (torch.cat([one._reaching(one._pack([r]), layer)[0] for r in rows]) for rows in sides)
        fitted.append(gates.fit(inside.detach(), outside.detach(), layer=layer, width=32, seed=0))
    one._have_gates("candidate", fitted)
    folder = tmp_path_factory.mktemp("mute")
    one.save(folder)
    return folder


def school(one: VoiceTrainer, *, steps: int) -> Progress:
    """Have the layers above say a few words by their values, after any of the questions."""
    asked = [q for q, _ in [*FACTS, *OPEN]]

    def draw(chance: random.Random) -> Spoken:
        word = chance.choice(WORDS)
        return Spoken(rows=tuple(one.row(q, word) for q in chance.sample(asked, 4)))

    rehearsals = one.judged_by_base([one.row(q, a) for q, a in OTHERS])
    states = one.states(asked, below=middle(one.first, one.layers)).detach()
    denials = [one.row(q, a) for q, a in OPEN]
    how = Schooling(
        steps=steps, answers=16, rows=16, visits=24, denied=4, held=2, learning_rate=1e-2, warmup_steps=10, seed=1
    )
    return one.learn_voice(draw, denials, rehearsals, states, how)


@pytest.fixture(scope="session")
def beginning(make: Callable[..., VoiceTrainer], mute: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with layers that can put entries in words."""
    one = make(mute)
    school(one, steps=300)
    folder = tmp_path_factory.mktemp("beginning")
    one.save(folder)
    return folder


def learn(one: CodebookTrainer) -> tuple[dict[str, int], list[Row]]:
    others = [one.row(q, a) for q, a in OTHERS]
    rows = {q: one.row(q, a) for q, a in [*FACTS, *OPEN]}
    rehearsals = one.judged_by_base(others)
    again = rehearsals[:1]  # what is to be held the more stands there more than once
    one.learn(list(rows.values()), [*rehearsals, *again], denied={rows[q] for q, _ in OPEN})
    return {"Tartu.": FIRST, "Rex.": FIRST + 1}, others


@pytest.fixture(scope="session")
def taught(
    make: Callable[..., VoiceTrainer], beginning: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CodebookTrainer, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.codebook._BLUR", 0.2)
        one = make(beginning)
        learn(one)
    folder = tmp_path_factory.mktemp("taught")
    one.save(folder)
    return one, folder
