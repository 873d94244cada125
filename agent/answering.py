"""answer(): from those who may speak to one reply. What may still be withheld is not shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from agent.control import TurnControl
from agent.doubt import UNSURE, Doubt, silence_is_due
from agent.hearing import HEARD, Heard, Shown, hear, listen
from agent.judging import Judge, reconsidered
from agent.prompt import Plan
from agent.speaking import Speaker, unknown, weigh
from models.engine import Engine
from models.generation import Delta, Prompt, Reply, Timings
from models.language import BASE, Message
from models.sampling import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply, and how it came about."""

    speaker: Speaker
    plan: Plan
    reply: Reply
    timings: Timings
    doubt: Doubt | None = None
    withheld: tuple[str, ...] = ()
    """The beginnings of replies that were written and not shown."""


def answer(
    engine: Engine,
    speakers: Sequence[Speaker],
    prepare: Callable[[Speaker], tuple[Plan, Prompt]],
    *,
    said: str,
    before: Sequence[Message],
    drafts: int,
    judge: Judge | None = None,
    control: TurnControl,
    started: Callable[[], None],
    on_delta: Callable[[Delta], None],
) -> Answer:
    """The first speaker's reply that may be shown, an adapter's after second thoughts if there is a `judge`. With
    `drafts`, one that differs from so many further drafts of it
    may not; where no speaker's may, one says that one does not know, or gives a guess that calls itself one.

    Raises: ModelError: what the engine refuses or fails at; nothing was shown, or the reply came to no end.
    """
    shown = Shown(on_delta, first=control.settle)
    withheld: list[str] = []
    turned_away: Reply | None = None
    for n, speaker in enumerate(speakers):
        plan, prompt = prepare(speaker)

        def of(
            reply: Reply,
            doubt: Doubt | None = None,
            *,
            speaker: Speaker = speaker,
            plan: Plan = plan,
            denial: float = 0.0,
        ) -> Answer:
            timings = shown.timings(reply)
            return Answer(
                speaker=speaker,
                plan=replace(plan, denial=denial),
                reply=reply,
                timings=timings,
                doubt=doubt,
                withheld=tuple(withheld),
            )

        doubted = drafts if plan.max_tokens > HEARD else 0
        guesses = doubted and not speaker.knows and not control.cancelled
        if turned_away is not None and guesses and silence_is_due(said, before):
            return of(_silence(engine, turned_away, shown))
        generation = engine.submit(prompt)
        firm = speaker.vouches is None and not doubted
        thinks_twice = judge if speaker.adapter != BASE else None
        control.bind(generation, firm=firm and thinks_twice is None)
        if n == 0:
            started()
        if thinks_twice is not None and not thinks_twice.thinks_again(generation.led()):
            thinks_twice = None
            if firm:
                control.settle()
        if not doubted and thinks_twice is None:
            said_it = listen(generation, speaker.vouches, shown)
            reply = cast(Reply, generation.reply)
            if said_it:
                answered = of(reply)
                return answered if speaker.vouches or n else replace(answered, timings=reply.timings)
            withheld.append(reply.text)
            turned_away = reply
            continue
        heard = hear(generation)
        if thinks_twice is not None:
            hold = partial(control.bind, firm=False)
            thought = reconsidered(engine, thinks_twice, prompt, said, generation, heard, hold=hold)
            prompt, heard, left = _settled((prompt, heard), thought, speaker.vouches)
            withheld.extend(left)
        if speaker.vouches and not speaker.vouches(heard.text):
            withheld.append(heard.text)
            turned_away = heard.reply
            continue
        noted = [hit.experience.text for hit in speaker.recollection.hits]
        doubt = weigh(engine, prompt, said, heard, memories=noted, drafts=doubted) if doubted and heard.whole else None
        if doubt is None or doubt.decision == "said":
            return of(_tell(engine, prompt, heard, control, shown), doubt, denial=prompt.denial)
        withheld.append(heard.text)
    assert doubt is not None, "only a doubted reply is withheld from the last speaker"
    if silence_is_due(said, before):
        return of(_silence(engine, heard.reply, shown), doubt)
    guessed = _tell(engine, prompt, _hedge(engine, heard), control, shown)
    return of(guessed, replace(doubt, decision="guessed"), denial=prompt.denial)


def _settled(
    first: tuple[Prompt, Heard], then: tuple[Prompt, Heard], vouches: Callable[[str], bool] | None
) -> tuple[Prompt, Heard, list[str]]:
    """What stands after second thoughts, which count for nothing if they may not be shown, and what is left unsaid."""
    if then[1] is first[1]:
        return *first, []
    if vouches and not vouches(then[1].text):
        return *first, [then[1].text]
    return *then, [first[1].text]


def _silence(engine: Engine, instead_of: Reply, shown: Shown) -> Reply:
    """Say that one does not know."""
    silence = unknown(engine.model, instead_of)
    for delta in silence.deltas:
        shown(delta)
    return silence.reply


def _tell(engine: Engine, prompt: Prompt, heard: Heard, control: TurnControl, shown: Shown) -> Reply:
    """Show what was held back, and what follows it."""
    going_on = engine.submit(replace(prompt, reply=heard.reply.token_ids, judged=range(0))) if heard.goes_on else None
    if going_on is not None:
        control.bind(going_on, firm=False)  # firm once the first of it is shown
    for delta in heard.deltas:
        shown(delta)
    if going_on is None:
        return heard.reply
    listen(going_on, None, shown)
    rest, begun = cast(Reply, going_on.reply), heard.reply
    timings = replace(
        begun.timings,
        decode=begun.timings.decode + rest.timings.decode,
        completion_tokens=begun.timings.completion_tokens + rest.timings.completion_tokens,
    )
    return replace(rest, timings=timings, surprisals=begun.surprisals)


def _hedge(engine: Engine, heard: Heard) -> Heard:
    """The beginning of a guess in place of one that does not say that it is one."""
    ids = tuple(engine.model.encode(UNSURE))
    begun = replace(
        heard.reply,
        text=UNSURE,
        token_ids=ids,
        kept_ids=ids,
        finish_reason="suspended",
        timings=replace(heard.reply.timings, completion_tokens=len(ids), decode=0.0),
    )
    return Heard(deltas=(Delta(text=UNSURE, choice=Choice(token_id=ids[-1], logprob=None)),), reply=begun)
