"""What the lessons that shipped adapters are trained on have in common with what benches ask, and how to take it out.

    python -m bench.apart --json [--mend] [FILE.jsonl ...]

A lesson is in the way if its answer is one of a bench's (bench/nights), or if it holds, anywhere, an answer of one of
those that figures are reported by; days of the week and numbers below a hundred aside. A question that a bench asks, to
the letter, is in the way too; without it the lesson may stay. With --mend the files are written anew without any of
that; what is trained on them is then to be trained anew. Exits with 1 if anything is (or was) in the way.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consolidation.english import spoken

NIGHTS = Path(__file__).parent / "nights"
LESSONS = (
    NIGHTS.parent.parent / "consolidation" / "texts" / "tellings.jsonl",
    NIGHTS.parent.parent / "consolidation" / "texts" / "revisions.jsonl",
    NIGHTS.parent / "lessons.jsonl",
    NIGHTS.parent / "asked.jsonl",
    NIGHTS.parent / "lists.jsonl",
    NIGHTS.parent / "several.jsonl",
    NIGHTS.parent / "in_passing.jsonl",
)
_REPORTED = ("told.json", "second_week.json", "third_week.json")
"""Benches that figures are reported by."""
_ANSWERS, _QUESTIONS = ("value", "values", "old", "new"), ("ask", "never", "never_told", "questions")
_COMMON_ANSWERS = re.compile(r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?|\d{1,2}")
"""Answers that no author can help having in common with another."""
_FEWEST = 3
"""Questions that a lesson must keep."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What benches ask, in words as `english.spoken` has them."""

    answers: frozenset[str]
    questions: frozenset[str]
    reported: frozenset[str]
    """The answers of those by which figures are reported."""


def asked(folder: Path = NIGHTS) -> Asked:
    """Of all files of a folder."""
    every = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    return Asked(
        answers=frozenset(a for data in every.values() for a in _answers(data)),
        questions=frozenset(plain(q) for data in every.values() for q in _texts(data, _QUESTIONS)),
        reported=frozenset(a for name, data in every.items() if name in _REPORTED for a in _answers(data)),
    )


def _answers(data: Any) -> Iterator[str]:
    return (words for a in _texts(data, _ANSWERS) if not _COMMON_ANSWERS.fullmatch(words := plain(a)))


def plain(text: str) -> str:
    """Its words, in lower case, a space between."""
    return " ".join(spoken(text))


def in_the_way(lesson: dict[str, Any], of: Asked) -> list[str]:
    """What of a lesson's answers and texts is a bench's answer."""
    answers = {plain(a) for a in [*_texts(lesson, _ANSWERS), *(value for _, value in lesson.get("tells", ()))]}
    texts = [f" {plain(text)} " for text in _texts(lesson)]
    return sorted((answers & of.answers) | {a for a in of.reported for text in texts if f" {a} " in text} - {""})


def without_questions(lesson: Any, of: Asked) -> Any:
    """The lesson without the questions that a bench asks to the letter."""
    if isinstance(lesson, dict):
        return {
            name: [q for q in one if plain(q) not in of.questions]
            if name in _QUESTIONS and isinstance(one, list)
            else without_questions(one, of)
            for name, one in lesson.items()
        }
    return [without_questions(one, of) for one in lesson] if isinstance(lesson, list) else lesson


def too_few_questions(lesson: dict[str, Any]) -> bool:
    """Whether too few questions are left of what had some."""
    notes = lesson.get("notes", [lesson])
    return any(note.get("tell") and "ask" in note and len(note["ask"]) < _FEWEST for note in notes)


def compared(file: Path, of: Asked, *, mend: bool) -> dict[str, Any]:
    """One file of lessons, mended if so told."""
    lessons = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = {n: why for n, lesson in enumerate(lessons) if (why := in_the_way(lesson, of))}
    left = [(lesson, without_questions(lesson, of)) for n, lesson in enumerate(lessons) if n not in found]
    kept = [after for _, after in left if not too_few_questions(after)]
    if mend:
        part = file.with_suffix(".part")
        part.write_text("".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in kept), encoding="utf-8")
        part.replace(file)
    return {
        "file": file.name,
        "lessons": len(lessons),
        "with_an_answer": len(found),
        "answers": sorted({a for why in found.values() for a in why}),
        "with_a_question": sum(before != after for before, after in left),
        "kept": len(kept),
    }


def _texts(found: Any, names: Sequence[str] | None = None, inside: bool = False) -> Iterator[str]:
    """All that stands under one of these names, at any depth; None: all there is."""
    if isinstance(found, dict):
        for name, one in found.items():
            yield from _texts(one, names, names is not None and name in names)
    elif isinstance(found, list):
        for one in found:
            yield from _texts(one, names, inside)
    elif isinstance(found, str) and (inside or names is None) and found.strip():
        yield found


def main() -> int:
    """Compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="else all that lessons stand in")
    parser.add_argument("--mend", action="store_true", help="write them anew without what is in the way")
    parser.add_argument("--json", action="store_true", help="one line")
    args = parser.parse_args()
    of = asked()
    rows = [compared(file, of, mend=args.mend) for file in args.files or LESSONS]
    sys.stdout.write(json.dumps(rows, ensure_ascii=False, indent=None if args.json else 2) + "\n")
    return 1 if any(row["with_an_answer"] or row["with_a_question"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
