"""What a turn is reminded of: memories that answer what was just said, as a note before it.

The note stands right before the words that it serves (docs/architecture.md: the default model uses it there, and
ignores it at the top of the prompt), and never in the system message: the context stays append-only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.prompt import Window
from memory.admission import NOTE_HEADING
from memory.experience import USER, Experience
from memory.recall import Hit, Recall, Term
from memory.sameness import relate
from memory.words import content_words, words

MOST = 4
"""Memories in one note."""
TOKENS = 256
"""Tokens in one note."""
LOOKED_AT = 24
LEAST_WORDS = 3
"""Fewer say nothing by themselves: "yes", "thanks a"."""
NEAR, NEAR_WITH_WORDS = 0.45, 0.25
"""Cosine from which a memory is to the point of a question: by itself, or if it shares half of its words."""
NEAR_STATEMENT = 0.6
"""The same for what is no question: a statement asks for no memory unless it is about the very same."""

_OPENINGS = frozenset(
    """
    what who whom whose which when where why how tell remind do does did is are was were can could would write give
    explain list describe show help make translate summarise summarize compare suggest recommend continue repeat
    """.split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recollection:
    """What a turn was reminded of."""

    hits: tuple[Hit, ...] = ()
    note: str = ""
    """What stands before what was said; empty: nothing does."""


def recollect(recall: Recall, said: str, *, owner: str, window: Window, count: Callable[[str], int]) -> Recollection:
    """The memories to remind the model of before it answers `said`, none if none is to the point.

    `count` gives the tokens of a text. What the window holds already is not repeated; questions and what the model
    itself said are no memories to go by.
    """
    vector = recall.embed(said)
    found = recall.search(said, owner=owner, k=LOOKED_AT, vector=vector)
    in_view = [m.content for m in window.messages]
    fitting = [
        hit
        for hit in found
        if hit.experience.provenance.author != "model"
        and not asks(hit.experience.text)
        and len(words(hit.experience.text)) >= LEAST_WORDS
        and _to_the_point(hit, said)
        and not any(hit.experience.text in text for text in in_view)
    ]
    chosen = recall.choose(fitting, owner=owner, most=MOST, fits=lambda hits: count(note_of(hits, said)) <= TOKENS)
    return Recollection(hits=tuple(chosen), note=note_of(chosen, said)) if chosen else Recollection()


def note_of(hits: Sequence[Hit], said: str) -> str:
    """The note that holds these memories: the best one last, nearest to the question, and once more by itself.

    Worded for a small model: each line was kept because the default model uses a memory more often with it than without
    (bench/recalled.py). Only a question is told to be answered from the note; a statement is left to stand.
    """
    lines = [_line(hit) for hit in reversed(hits)]
    note = f"{NOTE_HEADING}\n" + "\n".join(lines)
    if len(lines) > 1:
        note += f"\nMost relevant:\n{lines[-1]}"
    return note + ("\n\nAnswer briefly from the context. " if asks(said) else "\n\n")


def reasons_of(hit: Hit) -> dict[str, Any]:
    """Why an experience was found, for people and scripts: the score can be added up again from it."""
    return {
        "terms": {
            t.name: {"raw": t.raw, "rescaled": t.rescaled, "weight": t.weight, "contribution": t.contribution}
            for t in hit.terms
        },
        "neighbours": hit.spread,
        "factor": hit.factor,
        "matched": list(hit.matched),
    }


def hit_of(one: Experience, *, rank: int, score: float, reasons: Mapping[str, Any]) -> Hit:
    """What `reasons_of` was made from, once it was stored; the cosine by itself was not."""
    return Hit(
        experience=one,
        rank=rank,
        score=score,
        terms=tuple(
            Term(name=name, raw=t["raw"], rescaled=t["rescaled"], weight=t["weight"])
            for name, t in reasons["terms"].items()
        ),
        spread=reasons["neighbours"],
        factor=reasons["factor"],
        cosine=None,
        matched=tuple(reasons["matched"]),
    )


def asks(text: str) -> bool:
    """Whether a text is a question, or sets a task that memories may answer."""
    first = (words(text) or [""])[0]
    return text.rstrip().endswith("?") or first in _OPENINGS


def _line(hit: Hit) -> str:
    one = hit.experience
    return f"- {one.text}" if one.provenance.speaker == USER else f"- {one.provenance.speaker}: {one.text}"


def _to_the_point(hit: Hit, said: str) -> bool:
    if relate(said, hit.experience.text) == "same":  # nobody needs reminding of what was just said
        return False
    asked = set(content_words(said))
    if not asks(said) and len(asked) < 3:  # a greeting, a remark
        return False
    shared = bool(asked) and len(hit.matched) >= len(asked) / 2
    if hit.cosine is None:  # so new that it has no vector yet
        return shared
    near, near_with_words = (NEAR, NEAR_WITH_WORDS) if asks(said) else (NEAR_STATEMENT, NEAR)
    return hit.cosine >= near or (shared and hit.cosine >= near_with_words)
