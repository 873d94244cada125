"""Who answers a personal question while an adapter serves, and when what they say may be shown.

By heart first, where the question may ask for something that the adapter was taught; what it says is held back until
it is seen to give what was asked for (by its words: abstention.py). Where it does
not, the base answers, from memories that fit. Where a fact is asked for that nobody was told, the adapter answers if it
denies, which it learnt to; and where it gives something, one does not know.

Where a fact about whoever asks is asked for, whoever answers is doubted: their reply is heard out as far as `HEARD`
tokens and compared with further drafts of it (doubt.py) before any of it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from agent import doubt
from agent.abstention import Taught, borne_out, could_answer, known_by_heart
from agent.doubt import Doubt
from agent.hearing import HEARD, Heard
from agent.recollection import Recollection, note_of
from agent.thinking import thinks
from memory.not_told import abstains
from models.engine import Engine
from models.errors import EngineFull
from models.generation import Delta, Generation, Prompt, Reply
from models.language import BASE, LanguageModel
from models.sampling import Choice, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who may answer, and from which memories."""

    adapter: str
    recollection: Recollection
    by_heart: bool = False
    """An adapter that says what it was taught, from no memory."""
    vouches: Callable[[str], bool] | None = None
    """Whether the beginning of a reply may be shown; where not, the next speaker answers. None: it is not asked."""
    knows: bool = True
    """False: there is nothing that it could know it by. Where somebody was turned away before it says so, and does not
    guess."""


def speakers(
    said: str,
    adapter: str,
    recollection: Recollection,
    taught: Sequence[Taught],
    *,
    told_before: bool = False,
) -> list[Speaker]:
    """Who answers something personal, and who does where the first gives what was not asked for.

    `told_before`: something was told earlier in the same conversation, which whoever answers has before their eyes.
    """
    known = {one.memory for one in taught}
    hits = [
        hit for hit in recollection.hits if hit.experience.id not in known and could_answer(said, hit.experience.text)
    ]
    from_memory = Recollection(hits=tuple(hits), note=note_of(hits, said)) if hits else Recollection()
    fact = doubt.asks_for_fact(said)
    nobody = fact and not hits and not told_before
    base = Speaker(adapter=BASE, recollection=from_memory, knows=not nobody)
    by_heart = Speaker(
        adapter=adapter,
        recollection=Recollection(),
        by_heart=True,
        vouches=lambda reply: borne_out(said, reply, taught),
    )
    if known_by_heart(said, taught):
        return [by_heart, base]
    if not nobody:
        return [base]
    # The adapter was taught to say so, which the base was not. Nothing else of it is shown: it may know by heart what
    # was forgotten since, or what it knows too badly to be asked.
    return [replace(by_heart, vouches=abstains), base]


def weigh(
    engine: Engine, prompt: Prompt, said: str, heard: Heard, *, memories: Sequence[str], drafts: int
) -> Doubt | None:
    """Compare a reply with further drafts of it. None: it claims nothing, or the engine has no room for drafts.

    `memories`: those that stood in the note before what was said.
    """
    if thinks(heard.text) or not doubt.needs_drafts(heard.text):  # of thoughts, drafts say nothing
        return None
    samples = [
        replace(
            prompt,
            max_tokens=HEARD,
            judged=range(0),
            fleeting=True,
            sampling=Sampling(temperature=doubt.TEMPERATURE, seed=seed, end_bias=prompt.sampling.end_bias, logprobs=0),
        )
        for seed in range(1, drafts + 1)
    ]
    generations: list[Generation] = []
    try:
        for sample in samples:
            generations.append(engine.submit(sample))
    except EngineFull:  # others wait already: a reply that is not compared is better than one more in line
        for generation in generations:
            generation.stop()
    surprises: list[float] = []
    for generation in generations:
        drawn = [delta.choice.logprob.logprob for delta in generation if delta.choice.logprob is not None]
        surprises.append(-sum(drawn) / max(len(drawn), 1))
    if len(generations) < drafts:
        return None
    agreed = doubt.agreement(said, [heard.text, *(cast(Reply, g.reply).text for g in generations)])
    entropy = sum(surprises) / len(surprises)
    sure = doubt.confidence(agreed, entropy) >= doubt.threshold(said, heard.text, memories)
    return Doubt(agreement=agreed, entropy=entropy, drafts=drafts, decision="said" if sure else "withheld")


def unknown(model: LanguageModel, guess: Reply) -> Heard:
    """What is said in place of a guess: not the model's words, so no token of it has a log-probability."""
    ids = tuple(model.encode(doubt.UNKNOWN))
    reply = replace(
        guess,
        text=doubt.UNKNOWN,
        token_ids=ids,
        kept_ids=ids,
        finish_reason="stop",
        timings=replace(guess.timings, completion_tokens=len(ids), decode=0.0),
    )
    silent = Choice(token_id=ids[-1], logprob=None)
    return Heard(deltas=(Delta(text=doubt.UNKNOWN, choice=silent),), reply=reply)
