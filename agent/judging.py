"""Second thoughts about what an adapter says by heart: read beside the question, by an adapter that was trained to.

What its codebook found nearest may be said or denied on the judge's word (models/judge.py) before any of it is shown.
What its codebook was not asked for, and what is far enough from being either, costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.hearing import HEARD, Heard, hear
from models.engine import Engine
from models.errors import AdapterRefused, EngineClosed, EngineFull, ModelError
from models.generation import Generation, Prompt
from models.judge import DENIED, NO, OUTRIGHT, YES, Rule, prompt
from models.language import Message
from models.sampling import Sampling

log = logging.getLogger("slowwave.judging")

_LIKELIEST = 20
"""Tokens whose likelihood is looked at; either answer that is not among them is no likelier than the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who judges, and what comes of it."""

    adapter: str
    rule: Rule

    def thinks_again(self, lead: float | None) -> bool:
        """Whether what leads by so much might be said otherwise in the end."""
        return lead is not None and self.rule.settled(lead) is not (lead > 0)


def reconsidered(
    engine: Engine,
    judge: Judge,
    asked: Prompt,
    said: str,
    first: Generation,
    heard: Heard,
    *,
    hold: Callable[[Generation], object] = lambda _: None,
) -> tuple[Prompt, Heard]:
    """What is to be said instead of what was heard first, and to which prompt; the same where it is as well.

    `hold` is given what else is heard, so that it can be called off.

    Raises: ModelError: what the engine refuses or fails at.
    """
    lead = first.lead
    cut_short = heard.reply.finish_reason == "length" and len(heard.deltas) < HEARD
    if lead is None or not heard.whole or cut_short:  # the judge is not to read half an answer
        return asked, heard
    settled, answers = judge.rule.settled(lead), lead > 0
    if settled is answers:
        return asked, heard

    def otherwise() -> tuple[Prompt, Heard]:
        other = replace(asked, denial=DENIED if answers else OUTRIGHT, judged=range(0))
        try:
            generation = engine.submit(replace(other, fleeting=True))
        except (EngineFull, AdapterRefused):  # what was heard is better than no reply
            return asked, heard
        hold(generation)
        instead = hear(generation)
        return other, replace(instead, reply=replace(instead.reply, surprisals=heard.reply.surprisals))

    if answers:
        may = settled is None and _may_be_said(engine, judge, said, heard, lead)
        return (asked, heard) if may else otherwise()
    other, answer = otherwise()
    if answer is heard:
        return asked, heard
    if answer.whole and settled is None and not _may_be_said(engine, judge, said, answer, lead, else_=False):
        return asked, heard
    return other, answer


def _may_be_said(engine: Engine, judge: Judge, said: str, answer: Heard, lead: float, *, else_: bool = True) -> bool:
    leans = leaning(engine, judge.adapter, said, answer.text)
    return else_ if leans is None else judge.rule.says(lead, leans)


def leaning(engine: Engine, judge: str, question: str, known: str) -> float | None:
    """How much likelier the judge says yes than no to whether what is known answers the question, in nats.

    None: the engine has no room for it, or it cannot be read; nothing is held against it.

    Raises: EngineClosed.
    """
    model = engine.model
    ids = model.chat_ids([Message(role="user", content=prompt(question, known))])
    if ids is None:
        return None
    asked = Prompt(
        token_ids=ids,
        max_tokens=1,
        sampling=Sampling(temperature=0.0, logprobs=_LIKELIEST),
        ignore_eos=True,
        adapter=judge,
        fleeting=True,
    )
    try:
        said = list(engine.submit(asked))
    except EngineClosed:
        raise
    except ModelError as error:  # a guard more, not what replies depend on
        log.warning("judge_not_asked: %s", error)
        return None
    if not said:  # the engine was stopped
        return None
    found = {one.token_id: one.logprob for one in said[0].choice.alternatives}
    yes, no = (found.get(model.encode(word)[0], min(found.values())) for word in (YES, NO))
    return yes - no
