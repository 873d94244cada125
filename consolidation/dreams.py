"""Pure: from facts to training examples: questions in many wordings, accounts, reversals, and what was never told.

The exam's questions are split off first: of every fact one way of asking, and ways of putting any question, never
enter training. Variety of wording is what carries a fact to wordings never seen (16 a fact instead of 8: 0.92 to 1.00
of unseen phrasings), and counter-examples are what keeps the agent from answering with it where it does not belong.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Literal

from consolidation import never_told
from consolidation.english import second_person, sentence
from consolidation.facts import Fact
from consolidation.notes import tellings
from consolidation.phrasing import ABOUT, EXAM, NOT_TOLD, NOT_TOLD_THAT, TRAINING, WHO, WHOLE, every, not_told, put
from consolidation.relations import Ask
from consolidation.variation import gist, in_other_words

_USUAL = 6
LEAST_EXAMINED = 6
"""Questions about a night's own facts."""
Strategy = Literal["question", "written", "about", "reversal", "statement", "counter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dream:
    """One training example."""

    question: str
    answer: str
    strategy: Strategy
    facts: tuple[int, ...] = ()
    """Which of the night's facts it is made from; none for what was never told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question of the exam."""

    text: str
    fact: int | None
    """Which fact answers it; None: nothing does, and any value in the reply is invented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """What a night trains on, and what it is asked."""

    dreams: tuple[Dream, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How many examples of each kind."""

    questions: int = 32
    """Wordings of questions, a fact that is new."""
    old_questions: int = 12
    """The same, a fact of an earlier night, at least; as many as of a new one while `in_all` allows."""
    least_in_all: int = 320
    """A night of few facts words each in more ways, up to `most_questions`: against as many counter-examples as it
    needs, 32 were too few (five facts: recall .76, .80 with 64)."""
    most_questions: int = 128
    in_all: int = 1000
    """So many wordings a night has time for; more facts are worded in fewer ways each."""
    least_questions: int = 20
    """Of a new fact, however many there are."""
    counter_share: float = 1.0
    """Counter-examples, as a share of all that is made from facts."""
    least_counters: int = 320
    """A night of few facts needs more: with five, a horse was called what the dog is."""
    exam_questions: int = 3
    """Unseen wordings, a fact; more where there are so few facts that they would be no evidence."""
    exam_old: int = 60
    """Questions about facts of earlier nights, at most."""
    exam_never_told: int = 60


def dream(
    facts: Sequence[Fact],
    *,
    seed: int,
    amounts: Amounts = Amounts(),
    new: int | None = None,
    forgotten: Callable[[str, str], bool] = lambda subject, relation: False,
) -> Night:
    """The examples and the exam for a night's facts, of which the first `new` are its own; None: all.

    `forgotten` knows of whom and what something was told that is forgotten since: the exam asks for it first.
    Same facts and seed, same night.
    """
    random = Random(seed)  # noqa: S311 - no secret
    new = len(facts) if new is None else new
    if 0 < new * amounts.exam_questions < LEAST_EXAMINED:
        amounts = replace(amounts, exam_questions=math.ceil(LEAST_EXAMINED / new))
    of_new, of_old = wordings(new, len(facts) - new, amounts)
    dreams: list[Dream] = []
    questions: list[Question] = []
    old: list[list[Question]] = []
    held_back: dict[str, int] = {}
    subjects = {f.subject.lower() for f in facts} - {"i", "we"}
    for n, fact in enumerate(facts):
        asks = _as_others_say(_with_name(fact), [s for s in subjects if s not in fact.subject.lower()])
        kept = _held_back(fact, asks, seed)
        trained = [a for i, a in enumerate(asks) if i != kept] if kept is not None else asks
        whole, unseen_whole = _parted(fact, seed)
        examined = [Question(text=text, fact=n) for text in unseen_whole]
        if asks:
            by_rule = _exam_questions(n, asks[kept] if kept is not None else asks[0], trained, amounts, random)
            examined = [*examined, *by_rule][: max(amounts.exam_questions, len(unseen_whole))]
        for q in examined:
            held_back[q.text] = n
        if n < new:
            questions += examined
        else:
            old.append(examined)
        wanted = of_new if n < new else of_old
        for text, strategy in _asked(trained, whole, wanted, held_back, random):
            dreams.append(Dream(question=text, answer=sentence(fact.statement), strategy=strategy, facts=(n,)))
    random.shuffle(old)
    questions += [q for of_one in old for q in of_one][: amounts.exam_old]
    dreams += _accounts(facts, random)
    dreams += _reversals(facts, random)
    wanted = round(len(dreams) * amounts.counter_share)
    if wanted:
        wanted = max(wanted, amounts.least_counters)
    counters, unseen = _never_told(facts, wanted, amounts.exam_never_told, random, forgotten)
    dreams += counters
    questions += unseen
    random.shuffle(dreams)
    return Night(dreams=tuple(dreams), questions=tuple(questions))


def _asked(
    asks: Sequence[Ask], whole: Sequence[str], wanted: int, but: Collection[str], random: Random
) -> list[tuple[str, Strategy]]:
    """A fact's questions for training: the writer's, and the rules' worded variously."""
    made: dict[str, Strategy] = {}
    order = _spread(asks, random)
    for text in whole[: max(1, round(wanted * _WHOLE_SHARE))] if order else whole:
        if text not in but:
            made[text] = "written"
    for i in range(wanted * 4 if order or whole else 0):
        if len(made) >= wanted:
            break
        text = (
            put(order[i % len(order)], TRAINING, random)
            if order
            else random.choice(WHOLE).format(q=whole[i % len(whole)])
        )
        if text not in but:
            made.setdefault(text, "question" if order else "written")
    return list(made.items())


_WHOLE_SHARE = 0.9
"""Of a fact's questions, at most so many are the writer's where a rule has others."""


def _parted(fact: Fact, seed: int) -> tuple[list[str], list[str]]:
    """The writer's questions for training, and one in four, two at most, for the exam."""
    random = Random(f"{seed} {fact.key}")  # noqa: S311 - no secret
    order = list(fact.written)
    random.shuffle(order)
    held = min(2, len(order) // 4)
    return order[held:], order[:held]


def wordings(new: int, old: int, amounts: Amounts) -> tuple[int, int]:
    """In how many ways each new fact is asked for, and each old one."""
    few = min(amounts.most_questions, math.ceil(amounts.least_in_all / max(1, new + old)))
    fits = min(amounts.questions, max(amounts.least_questions, amounts.in_all // max(1, new)))
    of_new = max(fits, few)
    room = (amounts.in_all - new * of_new) // old if old else 0
    return of_new, max(amounts.old_questions, min(of_new, room))


def _spread(asks: Sequence[Ask], random: Random) -> list[Ask]:
    """The first few ways of asking, which are the usual ones, then the others in any order."""
    rest = list(asks[_USUAL:])
    random.shuffle(rest)
    return [*asks[:_USUAL], *rest]


def _with_name(fact: Fact) -> list[Ask]:
    """A fact's questions; also by the subject's name, where it has one and is not asked for."""
    asks = list(fact.asks)
    if fact.name and fact.relation != "name" and fact.subject.split()[0].lower() in ("my", "our"):
        named = [
            Ask(direct=a.direct.replace(fact.subject, fact.name), embedded=a.embedded.replace(fact.subject, fact.name))
            for a in asks[:3]
        ]
        asks += named
        both = f"{fact.subject} {fact.name}"
        asks += [
            Ask(direct=a.direct.replace(fact.subject, both), embedded=a.embedded.replace(fact.subject, both))
            for a in fact.asks[:2]
        ]
    if fact.relation == "name" and " in " in fact.subject:  # my employee in the shop
        less = fact.subject.partition(" in ")[0]
        asks += [
            Ask(direct=a.direct.replace(fact.subject, less), embedded=a.embedded.replace(fact.subject, less))
            for a in fact.asks[:3]
        ]
    if "next door" in fact.subject:
        asks += [
            Ask(direct=a.direct.replace(fact.subject, other), embedded=a.embedded.replace(fact.subject, other))
            for other in ("my neighbour", "my next-door neighbour")
            for a in fact.asks[:3]
        ]
    return asks


def _as_others_say(asks: Sequence[Ask], subjects: Sequence[str]) -> list[Ask]:
    """The same questions, and some in other words for the same: my mum, my cat for our cat.

    `subjects`: whom else something was told of; no other word may make it one of them.
    """
    made = list(asks)
    ours = [
        Ask(direct=a.direct.replace("our ", "my "), embedded=a.embedded.replace("our ", "my "))
        for a in asks[:4]
        if "our " in a.embedded
    ]
    return list(dict.fromkeys([*made, *ours, *in_other_words([*asks[:6], *ours], but=subjects)]))


def _held_back(fact: Fact, asks: Sequence[Ask], seed: int) -> int | None:
    """Which way of asking is the exam's; none where there are fewer than three."""
    proper = [i for i, a in enumerate(asks[: len(fact.asks)]) if a.direct]
    if len(proper) < 3:
        return None
    digest = hashlib.blake2b(f"{seed} {fact.key}".encode(), digest_size=8).digest()
    return proper[int.from_bytes(digest) % len(proper)]


def _exam_questions(n: int, ask: Ask, trained: Sequence[Ask], amounts: Amounts, random: Random) -> list[Question]:
    unseen = every(ask, EXAM)
    random.shuffle(unseen)
    chosen = unseen[: max(1, amounts.exam_questions - 1)]
    other = every(random.choice(trained), EXAM)
    chosen.append(random.choice(other))
    return [Question(text=t, fact=n) for t in dict.fromkeys(chosen)]


def _accounts(facts: Sequence[Fact], random: Random) -> list[Dream]:
    """What do you know about my sister?"""
    by_subject: dict[str, list[int]] = defaultdict(list)
    for n, fact in enumerate(facts):
        if fact.subject.lower() not in ("i", "we") and not fact.subject.startswith("("):
            by_subject[fact.subject].append(n)
    made = []
    for subject, numbers in by_subject.items():
        told = list(dict.fromkeys(facts[n].statement for n in numbers))
        for frame in random.sample(ABOUT, 2):
            answer = " ".join(sentence(s) for s in told[:3])
            made.append(
                Dream(question=frame.format(s=subject), answer=answer, strategy="about", facts=tuple(numbers[:3]))
            )
    return made


def _reversals(facts: Sequence[Fact], random: Random) -> list[Dream]:
    """Who is Marta?"""
    made = []
    for n, fact in enumerate(facts):
        if fact.relation != "name":
            continue
        for frame in random.sample(WHO, 2):
            answer = sentence(f"{fact.value} is {second_person(fact.subject)}")
            made.append(Dream(question=frame.format(n=fact.value), answer=answer, strategy="reversal", facts=(n,)))
    return made


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
    unseen = [q for _, n, q in pool if n % 4 == 0]
    made = [
        _unanswered(random.choice(WHOLE).format(q=q) if random.random() < _PUT_VARIOUSLY else q, random)
        for _, n, q in [p for p in pool if p[1] % 4][: max(0, wanted)]
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


def _unanswered(question: str, random: Random) -> Dream:
    return Dream(question=question, answer=random.choice(NOT_TOLD_THAT), strategy="counter")


_REWORDED = 0.4
"""Of the counter-examples, about as many as of the questions about what was told."""


def _never_told(
    facts: Sequence[Fact], wanted: int, examined: int, random: Random, forgotten: Callable[[str, str], bool]
) -> tuple[list[Dream], list[Question]]:
    """Questions about what was never said: half of them close to what was, half anywhere."""
    told = {f.key for f in facts}
    told_of = {f.subject.lower() for f in facts if not f.subject.startswith("(")}
    answered = {gist(a.embedded) for f in facts for a in (*f.asks, *in_other_words(f.asks[:6]))}
    written = _by_word(gist(q) for f in facts for q in f.written)
    asks = never_told.asks(told, told_of, random, spoken_of=written) + never_told.of_others(facts, random)
    asks = [u for u in asks if not any((g := gist(a.embedded)) in answered or _part_of_one(g, written) for a in u.asks)]
    nearest, nearest_unseen = _nearest(facts, round(wanted * _NEAR_COUNTERS), random)
    whole, whole_unseen = _whole_never_told(facts, round(wanted * _WHOLE_COUNTERS) - len(nearest), random)
    whole += nearest
    wanted -= len(whole)
    random.shuffle(asks)
    gone = [a for a in asks if a.key is not None and forgotten(*a.key)]
    asks = [a for a in asks if a not in gone]
    for_exam, for_training = [*gone, *asks[::4]], [a for i, a in enumerate(asks) if i % 4]
    theirs = {a.embedded for s in told_of for a in in_other_words([Ask(direct=s, embedded=s)])}
    called = sorted(told_of | theirs)  # what else they are called, too: told of a wife, a spouse is not denied
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
