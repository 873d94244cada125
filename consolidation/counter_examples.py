"""Pure: questions about what was never told, answered by saying so: by rule, by the writer, and of other lives.

They are what keeps an agent from answering with what it learnt where it does not belong. None may deny what was told:
those are left out that ask the same as a question that was answered, or whose every word is in one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from random import Random

from consolidation import never_told
from consolidation.english import second_person
from consolidation.examples import Dream, Question
from consolidation.facts import Fact
from consolidation.notes import tellings
from consolidation.phrasing import ABOUT, EXAM, NOT_TOLD, NOT_TOLD_THAT, TRAINING, WHO, WHOLE, every, not_told, put
from consolidation.relations import Ask
from consolidation.variation import gist, in_other_words, reworded

_CLOSENESS: dict[never_told.Near, float] = {"same relation": 0.45, "same subject": 0.15, "far": 0.4}
"""Shares of the counter-examples. More about whom something was told, and the agent says that it was told nothing."""


_WHOLE_COUNTERS = 0.5
"""Of the counter-examples, so many are whole questions: near to what was told, by the writer, and other people's."""
_NEAR_COUNTERS = 0.35
"""Of the counter-examples, at most so many are the writer's."""


_PUT_VARIOUSLY = 0.3
"""Of others' whole questions, as of one's own, so that how a question is put is no sign of either."""
_SAME_QUESTION = 0.5
"""Two questions that share so much of their words may ask the same."""


def for_the_exam(telling: int) -> bool:
    """Whether a lesson's questions, by its number, are asked by exams alone: nothing is trained on them."""
    return telling % 4 == 0


@cache
def _others_questions() -> tuple[tuple[int, str, frozenset[str]], ...]:
    """The lessons' questions, with the number of the telling and what they are about."""
    asked = [(n, q, gist(q)) for n, telling in enumerate(tellings()) for q in telling.ask if telling.tell is not None]
    return tuple((n, q, about) for n, q, about in asked if about)


def _whole_never_told(facts: Sequence[Fact], wanted: int, random: Random) -> tuple[list[Dream], list[str]]:
    """Questions that the writer learnt from, about what others told; those near to what was told first.

    They are to the writer's questions what `never_told` is to the rules': the same style, and no answer. A quarter, by
    telling, is kept for the exam.
    """
    if not any(f.written for f in facts):
        return [], []
    told = _asked_for(facts)
    pool: list[tuple[float, int, str]] = []
    for n, q, about in _others_questions():
        if not _asks_the_same(about, told):
            pool.append((sum(word in told for word in about) / len(about) + random.random(), n, q))
    pool.sort(reverse=True)
    unseen = [q for _, n, q in pool if for_the_exam(n)]
    made = [
        _unanswered(random.choice(WHOLE).format(q=q) if random.random() < _PUT_VARIOUSLY else q, random)
        for _, n, q in [p for p in pool if not for_the_exam(p[1])][: max(0, wanted)]
    ]
    random.shuffle(unseen)
    return made, unseen


def _nearest(facts: Sequence[Fact], wanted: int, random: Random) -> tuple[list[Dream], list[str]]:
    """The writer's questions near to what was told, which nothing answers: one in four of a fact's for the exam."""
    told = _asked_for(facts)
    made: list[str] = []
    unseen: list[str] = []
    for fact in facts:
        own = [q for q in fact.never if not _asks_the_same(gist(q), told)]
        random.shuffle(own)
        held = len(own) // 4
        unseen += own[:held]
        made += own[held:]
    apart = set(unseen)
    made = [q for q in dict.fromkeys(made) if q not in apart]
    random.shuffle(made)
    random.shuffle(unseen)
    again = [random.choice(WHOLE).format(q=q) for q in made]
    return [_unanswered(q, random) for q in [*made, *again][: max(0, wanted)]], unseen


def _asked_for(facts: Sequence[Fact]) -> dict[str, list[frozenset[str]]]:
    """What the facts' questions are about, by each of its words."""
    return _by_word(gist(q) for f in facts for q in (*f.written, *(a.embedded for a in f.asks[:12])))


def _by_word(gists: Iterable[frozenset[str]]) -> dict[str, list[frozenset[str]]]:
    by_word: dict[str, list[frozenset[str]]] = defaultdict(list)
    for one in dict.fromkeys(gists):
        for word in one:
            by_word[word].append(one)
    return by_word


def _asks_the_same(about: frozenset[str], told: Mapping[str, Sequence[frozenset[str]]]) -> bool:
    shared = Counter(one for word in about for one in told.get(word, ()))
    alike = any(k / (len(about) + len(one) - k) >= _SAME_QUESTION for one, k in shared.items())
    return alike or _part_of_one(about, told)


def _part_of_one(about: frozenset[str], told: Mapping[str, Sequence[frozenset[str]]]) -> bool:
    """Whether all that it asks about, in two words or more, is in one question that was answered: my alarm's time."""
    return len(about) > 1 and any(about <= one for one in told.get(min(about), ()))


def _in_others_words(
    dream: Dream,
    told: Mapping[str, Sequence[frozenset[str]]],
    called: Sequence[str],
    apart: Collection[str],
    random: Random,
) -> Dream:
    """A whole question that nothing answers, some with a word exchanged, as among those that are answered."""
    if random.random() >= REWORDED_WHOLE:
        return dream
    question = reworded(dream.question, random, but=called)
    if question in apart or _asks_the_same(gist(question), told):
        return dream
    return replace(dream, question=question)


def _unanswered(question: str, random: Random) -> Dream:
    return Dream(question=question, answer=random.choice(NOT_TOLD_THAT), strategy="counter")


_REWORDED = 0.4
"""Of the counter-examples, about as many as of the questions about what was told."""
REWORDED_WHOLE = 0.25
"""Of whole questions, told of or not."""


def counter_examples(
    facts: Sequence[Fact], wanted: int, examined: int, random: Random, forgotten: Callable[[str, str], bool]
) -> tuple[list[Dream], list[Question]]:
    """So many for training, and for the exam; half of them close to what was told, half anywhere.

    `forgotten` knows of whom and what something was told that is forgotten since: the exam asks for it first.
    """
    told = {f.key for f in facts}
    told_of = {f.subject.lower() for f in facts if not f.subject.startswith("(")}
    told_of |= {subject for subject, _ in never_told.implied(told)}
    answered = {gist(a.embedded) for f in facts for a in (*f.asks, *in_other_words(f.asks[:6]))}
    written = _by_word(gist(q) for f in facts for q in f.written)
    asks = never_told.asks(told, told_of, random, spoken_of=written) + never_told.of_others(facts, random)
    asks = [u for u in asks if not any((g := gist(a.embedded)) in answered or _part_of_one(g, written) for a in u.asks)]
    theirs = {a.embedded for s in told_of for a in in_other_words([Ask(direct=s, embedded=s)])}
    called = sorted(told_of | theirs)  # what else they are called, too: told of a wife, a spouse is not denied
    nearest, nearest_unseen = _nearest(facts, round(wanted * _NEAR_COUNTERS), random)
    whole, whole_unseen = _whole_never_told(facts, round(wanted * _WHOLE_COUNTERS) - len(nearest), random)
    apart = {*nearest_unseen, *whole_unseen}
    whole = [_in_others_words(dream, written, called, apart, random) for dream in (*whole, *nearest)]
    wanted -= len(whole)
    random.shuffle(asks)
    gone = [a for a in asks if a.key is not None and forgotten(*a.key)]
    asks = [a for a in asks if a not in gone]
    for_exam, for_training = [*gone, *asks[::4]], [a for i, a in enumerate(asks) if i % 4]
    made: list[Dream] = []
    seen: set[str] = set()
    pools = [(near, [a for a in for_training if a.near == near]) for near in _CLOSENESS]
    for near, pool in pools:
        share = round(wanted * _CLOSENESS[near])
        for i in range(share * 3 if pool else 0):
            if share <= 0:
                break
            ask = random.choice(pool[i % len(pool)].asks)
            others = in_other_words([ask], but=called)
            if others and random.random() < _REWORDED and not any(gist(o.embedded) in answered for o in others):
                ask = random.choice(others)
            text = put(ask, TRAINING, random)
            if text not in seen:
                seen.add(text)
                share -= 1
                made.append(Dream(question=text, answer=not_told(ask, random), strategy="counter"))
    for subject in never_told.subjects_apart(told_of, random)[: max(4, wanted // 30)]:
        frame = random.choice(ABOUT)
        made.append(
            Dream(
                question=frame.format(s=subject),
                answer=f"You haven't told me anything about {second_person(subject)}.",
                strategy="counter",
            )
        )
    for name in never_told.names_apart(facts, random)[: max(4, wanted // 30)]:
        made.append(
            Dream(
                question=random.choice(WHO).format(n=name),
                answer=random.choice(NOT_TOLD).format(e=f"who {name} is"),
                strategy="counter",
            )
        )
    made += whole
    unanswered = nearest_unseen[: examined // 3]
    unanswered += whole_unseen[: examined // 2 - len(unanswered)]
    questions = [Question(text=text, fact=None) for text in unanswered]
    for of in for_exam[: examined - len(questions)]:
        ask = random.choice(of.asks)
        questions.append(Question(text=random.choice(every(ask, EXAM)), fact=None))
    return made, questions
