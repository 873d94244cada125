"""Whether what is known answers what was asked, as the model judges it: by an adapter that was trained to.

A codebook finds an entry by the state of a question; question and fact never meet in it, and near questions are taken
for each other. Read together they are told apart far better (a cross-encoder, as Nogueira and Cho 2019 rank passages;
bench/judge.py has the figures), at the price of reading some fifty tokens more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from models.engine import Engine
from models.errors import EngineFull
from models.generation import Prompt
from models.language import Message
from models.sampling import Sampling

YES, NO = "Yes.", "No."
ABOUT = "judge.json"
"""In a judge's folder."""
_PROMPT = "Does this answer my question?\n\nQuestion: {question}\nKnown: {known}"
_LIKELIEST = 20
"""Tokens whose likelihood is looked at; either answer that is not among them is no likelier than the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who judges. `least`: nats by which yes has to be likelier than no."""

    adapter: str
    least: float


def least(folder: Path) -> float:
    """What a judge's folder says of it."""
    return float(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["least"])


def prompt(question: str, known: str) -> str:
    """What it is asked."""
    return _PROMPT.format(question=question.strip(), known=known.strip())


def answers(engine: Engine, judge: Judge, question: str, known: str) -> bool:
    """Whether what is known answers the question. Where the engine has no room for it, nothing is held against it.

    Raises: AdapterRefused: the engine does not know the judge. ModelError: what else it refuses or fails at.
    """
    model = engine.model
    ids = model.chat_ids([Message(role="user", content=prompt(question, known))])
    if ids is None:
        return True
    asked = Prompt(
        token_ids=ids,
        max_tokens=1,
        sampling=Sampling(temperature=0.0, logprobs=_LIKELIEST),
        ignore_eos=True,
        adapter=judge.adapter,
        fleeting=True,
    )
    try:
        said = list(engine.submit(asked))
    except EngineFull:
        return True
    if not said:  # the engine was stopped
        return True
    found = {one.token_id: one.logprob for one in said[0].choice.alternatives}
    yes, no = (found.get(model.encode(word)[0], min(found.values())) for word in (YES, NO))
    return yes - no >= judge.least
