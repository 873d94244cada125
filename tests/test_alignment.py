"""Different wordings of one question come to look alike, and near ones stay apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.alignment import Alignment, Lesson, Scale, _alike, _words, align, found, told_apart
from models.recipe import TARGETS, Recipe
from models.trainable import Trainable
from models.training import Trainer
from models.tuned import middle

HOW = Alignment(steps=160, batch=6, learning_rate=3e-3, warmup_steps=2, share=1.0)
THINGS = ("hound", "boat", "wife", "town", "work", "coach", "school", "code")
LESSONS = [
    Lesson(
        asks=(f"Who is my {thing}?", f"Say my {thing}.", f"{thing}, who is it?"),
        near=(f"Who is his {thing}?", f"How old is my {thing}?"),
    )
    for thing in THINGS
]
PAIRS = [(lesson.asks[0], lesson.asks[2]) for lesson in LESSONS]


@pytest.fixture
def trainer(tiny_folder: Path) -> Callable[[], Trainer]:
    recipe = Recipe(rank=16, alpha=32, targets=TARGETS, trained_share=1.0, pack_tokens=400)
    return lambda: Trainer(Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="float32"), recipe)


def base_scale(one: Trainer) -> Scale:
    with torch.no_grad():
        return Scale.of(
            one.states([lesson.asks[0] for lesson in LESSONS], below=middle(one.first, one.layers, HOW.share))
        )


def test_wordings_find_each_other_only_once_they_are_aligned(trainer: Callable[[], Trainer]) -> None:
    """The intervention: of eight things, the same question in other words is found at most half of the time before."""
    one = trainer()
    before = found(one, PAIRS, base_scale(one), share=HOW.share)
    curve: list[float] = []
    scale = align(one, LESSONS, HOW, each=lambda step, loss: curve.append(loss))
    assert before <= 0.5
    assert found(one, PAIRS, scale, share=HOW.share) == 1.0
    assert curve[-1] < 0.2 * curve[0]


def test_near_questions_are_told_apart(trainer: Callable[[], Trainer]) -> None:
    one = trainer()
    scale = align(one, LESSONS, HOW)
    below = middle(one.first, one.layers, HOW.share)
    with torch.no_grad():
        chosen = ([le.asks[0] for le in LESSONS], [le.asks[2] for le in LESSONS], [le.near[0] for le in LESSONS])
        asked, other, near = (scale(one.states(questions, below=below)) for questions in chosen)
    assert told_apart(one, [replace(le, asks=(*le.asks, le.asks[0])) for le in LESSONS], scale, share=HOW.share) > 0.9
    apart = ((asked * other).sum(-1) > (asked * near).sum(-1)).float().mean()
    assert apart >= 7 / 8, "a tiny random model may take one pair for the same"


def test_the_same_lessons_twice_give_the_same_adapter(trainer: Callable[[], Trainer]) -> None:
    made = []
    for _ in range(2):
        one = trainer()
        align(one, LESSONS, Alignment(steps=3, batch=6))
        made.append([p.detach().clone() for p in one.peft.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_states_are_those_where_a_reply_begins_packed_or_alone(trainer: Callable[[], Trainer]) -> None:
    one = trainer()
    questions = [lesson.asks[1] for lesson in LESSONS]
    together = one.states(questions, below=1)
    alone = torch.cat([trainer().states([q], below=1) for q in questions])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    padded = one._states_padded([one._asked[q] for q in questions], below=1)  # what a GPU does
    torch.testing.assert_close(padded, together, atol=1e-5, rtol=1e-4)


def test_lessons_that_may_ask_the_same_are_no_counterparts() -> None:
    dog, hound, boat = (
        Lesson(asks=asks, near=("?",))
        for asks in (
            ("What's the name of our dog?", "How is the dog called by name?"),
            ("Which name has that dog?", "Name of the dog called what?"),
            ("Where does the boat lie?", "Which harbour is it in?"),
        )
    )
    alike = _alike([_words(lesson) for lesson in (dog, hound, boat)], same=0.5)
    assert alike.tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_a_training_goes_on_from_what_was_kept(
    trainer: Callable[[], Trainer], tiny_folder: Path, tmp_path: Path
) -> None:
    one = trainer()
    align(one, LESSONS, Alignment(steps=3, batch=6, learning_rate=5e-3, warmup_steps=1))
    one.save(tmp_path / "beginning")
    base = Trainable.load(tiny_folder, name="tiny", device="cpu", dtype="float32")
    other = Trainer(base, Recipe(rank=4, alpha=8), start=tmp_path / "beginning")
    questions = [lesson.asks[0] for lesson in LESSONS]
    with torch.no_grad():
        torch.testing.assert_close(other.states(questions, below=1), one.states(questions, below=1))
    assert other.trainable == one.trainable, "the shape is that of the beginning, not of the recipe"
    other.train([other.row("My dog?", "Rex. Your dog is called Rex.")], [])
    with torch.no_grad():
        assert not torch.equal(other.states(questions, below=1), one.states(questions, below=1))
