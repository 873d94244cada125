"""Messages of the lessons (bench/told.py), and what beginnings learn from them to be near."""

from __future__ import annotations

import json
from pathlib import Path

from bench.beginning import _near, lessons
from bench.told import held_back, messages, read
from consolidation.notes import tellings


def line(say: str, *things: str) -> str:
    notes = [
        {"tell": f"It is {v}.", "value": v, "ask": [f"{v} {n}?" for n in range(4)], "never": [f"not {v}?"]}
        for v in things
    ]
    return json.dumps({"say": say, "notes": notes})


def test_each_thing_has_the_message_and_one_that_tells_nothing_is_there_too(tmp_path: Path) -> None:
    file = tmp_path / "several.jsonl"
    file.write_text("\n".join([line("both", "a", "b"), line("hello")]), encoding="utf-8")
    both, nothing = read(file)
    assert [(one.say, one.value) for one in both] == [("both", "a"), ("both", "b")]
    assert [(one.say, one.tell) for one in nothing] == [("hello", None)]
    assert _near(both[0], both) == ("not a?", "b 0?", "b 1?"), "what else it tells is near, and the first two wordings"


def test_messages_are_numbered_over_all_files_and_all_of_one_are_on_one_side(tmp_path: Path) -> None:
    file = tmp_path / "several.jsonl"
    file.write_text("\n".join(line(f"m{n}", f"a{n}", f"b{n}") for n in range(40)), encoding="utf-8")
    every = messages([file])
    assert len(every) == len(tellings()) + 40 and every[-1][0].say == "m39"
    sides = [
        {one.asks[0][1:-3] for one in lessons([file], apart=apart) if one.asks[0][0] in "ab"} for apart in (True, False)
    ]
    numbers = [{text for text in side if text.isdigit()} for side in sides]
    assert not numbers[0] & numbers[1] and len(numbers[0] | numbers[1]) == 40
    assert sum(held_back(n) for n in range(120)) == 10
