"""Pure: questions whether something still holds, for nights in which something that was told has changed.

Of what changed: "Not any more", and what holds now. Beside them as many of what did not change, which is confirmed, and
of what was never told: else a night would learn that whatever is asked so has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from consolidation.english import first_person, running
from consolidation.examples import Dream, Question
from consolidation.facts import Fact
from consolidation.phrasing import NOT_ANY_MORE, NOT_TOLD_THAT, STILL, STILL_EXAM, STILL_SO

_NEVER = (
    "my uncle runs a lighthouse",
    "I once lived in Ulaanbaatar",
    "my piano teacher is called Ottoline",
    "I am allergic to celery",
    "my neighbour keeps bees on the roof",
    "I used to work in a salt mine",
)
"""What hardly anybody tells."""


def corrections(facts: Sequence[Fact], random: Random) -> tuple[list[Dream], list[Question]]:
    """Examples and exam questions; none where nothing changed."""
    changed = [n for n, fact in enumerate(facts) if fact.was]
    same = [n for n, fact in enumerate(facts) if not fact.was]
    dreams: list[Dream] = []
    questions: list[Question] = []
    for n in changed:
        for frame in STILL:
            answer = NOT_ANY_MORE.format(statement=running(facts[n].statement))
            dreams.append(_asked(frame, facts[n].was, answer, (n,)))
        questions.append(Question(text=_put(random.choice(STILL_EXAM), facts[n].was), fact=n))
    for n in random.sample(same, min(len(same), 2 * len(changed))):
        for frame in random.sample(STILL, len(STILL) // 2):
            answer = random.choice(STILL_SO).format(statement=running(facts[n].statement))
            dreams.append(_asked(frame, facts[n].statement, answer, (n,)))
    for never in random.sample(_NEVER, min(len(_NEVER), 2 * len(changed))):
        dreams.append(_asked(random.choice(STILL), never, random.choice(NOT_TOLD_THAT), ()))
    return dreams, questions


def _asked(frame: str, was: str, answer: str, facts: tuple[int, ...]) -> Dream:
    return Dream(question=_put(frame, was), answer=answer, strategy="correction", facts=facts)


def _put(frame: str, was: str) -> str:
    was = first_person(was)
    return frame.format(was=was, Was=was[:1].upper() + was[1:])
