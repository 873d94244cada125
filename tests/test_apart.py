"""That nothing which benches ask or expect is in the lessons that shipped adapters learnt from (bench/apart.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bench.apart import LESSONS, NIGHTS, Asked, asked, compared, in_the_way, too_few_questions, without_questions

WITHOUT = ("advice.json", "poison.json")
"""Requests that ask for nothing which was told, and words that nobody says."""
OF = Asked(
    answers=frozenset({"quillabee", "piano stool"}),
    questions=frozenset({"what is my dog called"}),
    reported=frozenset({"piano stool"}),
)


@pytest.mark.parametrize("file", LESSONS, ids=lambda file: file.name)
def test_no_lesson_has_an_answer_or_a_question_of_the_bench(file: Path) -> None:
    found = compared(file, asked(), mend=False)
    assert found["lessons"] == found["kept"] > 400
    assert (found["with_an_answer"], found["with_a_question"]) == (0, 0), found["answers"]


def test_the_bench_has_answers_and_questions_to_be_kept_apart_from() -> None:
    of = asked()
    assert min(len(of.answers), len(of.questions), len(of.reported)) > 100
    assert of.reported < of.answers


@pytest.mark.parametrize("file", sorted(NIGHTS.glob("*.json")), ids=lambda file: file.name)
def test_every_file_of_the_bench_has_something_to_be_kept_apart_from(file: Path, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path)
    of = asked(tmp_path)
    assert of.answers or of.questions or file.name in WITHOUT


def test_an_answer_of_the_bench_is_in_the_way_and_one_that_is_reported_by_anywhere() -> None:
    assert in_the_way({"say": "It is Quillabee.", "tells": [["Your tortoise is Quillabee.", "Quillabee"]]}, OF)
    assert in_the_way({"say": "Quillabee it is", "notes": [{"tell": "", "value": "quillabee", "ask": []}]}, OF)
    assert not in_the_way({"say": "Quillabee came by on Monday.", "tells": [["He came on Monday.", "Monday"]]}, OF)
    assert in_the_way({"say": "It's under the piano stool, on Monday.", "tells": []}, OF) == ["piano stool"]
    assert not in_the_way({"say": "We have a piano", "notes": [{"ask": ["Stool?"]}]}, OF), "in two texts"


def test_a_question_of_the_bench_goes_and_with_it_what_is_then_hardly_asked_for(tmp_path: Path) -> None:
    asks = ["What is my dog called?", "Which dog?", "And the dog?", "The dog's name?"]
    lesson = {"say": "Rex barks", "tell": "Your dog is Rex.", "value": "Rex", "ask": asks, "never": []}
    after = without_questions(lesson, OF)
    assert after["ask"] == asks[1:] and not too_few_questions(after)
    file = tmp_path / "lessons.jsonl"
    lines = [lesson, lesson | {"ask": asks[:3]}, {"say": "Hello", "notes": []}]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    found = compared(file, OF, mend=True)
    assert (found["lessons"], found["with_a_question"], found["kept"]) == (3, 2, 2)
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == [after, lines[2]]
