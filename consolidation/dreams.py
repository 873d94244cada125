"""Pure: from facts to training examples: questions in many wordings, accounts, reversals, and what was never told.

The exam's questions are split off first: of every fact one way of asking, and ways of putting any question, never
enter training. Variety of wording is what carries a fact to wordings never seen (16 a fact instead of 8: 0.92 to 1.00
of unseen phrasings), and counter-examples are what keeps the agent from answering with it where it does not belong.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from random import Random

from consolidation.corrections import corrections
from consolidation.counter_examples import REWORDED_WHOLE, counter_examples
from consolidation.english import second_person, sentence
from consolidation.examples import AMOUNTS, LEAST_EXAMINED, Amounts, Dream, Night, Question, Strategy
from consolidation.facts import Fact
from consolidation.phrasing import ABOUT, EXAM, TRAINING, WHO, WHOLE, every, put
from consolidation.relations import Ask
from consolidation.variation import in_other_words, reworded

_USUAL = 6


def dream(
    facts: Sequence[Fact],
    *,
    seed: int,
    amounts: Amounts = AMOUNTS,
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
        others = [s for s in subjects if s not in fact.subject.lower()]
        asks = _as_others_say(_with_name(fact), others)
        kept = _held_back(fact, asks)
        trained = [a for i, a in enumerate(asks) if i != kept] if kept is not None else asks
        whole, unseen_whole = _parted(fact, random)
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
        for text, strategy in _asked(trained, _in_others_words(whole, others, random), wanted, held_back, random):
            answer = _answer(fact, amounts)
            dreams.append(Dream(question=text, answer=answer, strategy=strategy, facts=(n,)))
    random.shuffle(old)
    questions += [q for of_one in old for q in of_one][: amounts.exam_old]
    dreams += _accounts(facts, random)
    dreams += _reversals(facts, random)
    changed, asked = corrections(facts, random)
    dreams += changed
    questions += asked
    wanted = round(len(dreams) * amounts.counter_share)
    if wanted:
        wanted = max(wanted, amounts.least_counters)
    counters, unseen = counter_examples(facts, wanted, amounts.exam_never_told, random, forgotten)
    dreams += counters
    questions += unseen
    random.shuffle(dreams)
    return Night(dreams=tuple(dreams), questions=tuple(questions))


def _answer(fact: Fact, amounts: Amounts) -> str:
    """What is to be said: the statement; where wanted what else its message told, or first the part that answers."""
    statement = sentence(fact.statement)
    if amounts.accounts and fact.account:
        return fact.account
    value = second_person(fact.value).strip().rstrip(".")
    if not amounts.value_first or not value or value.lower() not in statement.lower():
        return statement
    return f"{sentence(value)} {statement}"


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


def _parted(fact: Fact, random: Random) -> tuple[list[str], list[str]]:
    """The writer's questions for training, in any order, and one in four, two at most, for the exam.

    The same ones every night: else the adapter that serves, which is asked them too, might have been trained on them,
    and would know more than an honest candidate.
    """
    by_digest = sorted(fact.written, key=lambda text: hashlib.blake2b(text.encode(), digest_size=8).digest())
    held = by_digest[: min(2, len(by_digest) // 4)]
    rest = [text for text in fact.written if text not in held]
    random.shuffle(rest)
    return rest, held


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


def _in_others_words(whole: Sequence[str], subjects: Sequence[str], random: Random) -> list[str]:
    """Whole questions, some with a word exchanged: as many as among those that nothing answers."""
    return [reworded(q, random, but=subjects) if random.random() < REWORDED_WHOLE else q for q in whole]


def _held_back(fact: Fact, asks: Sequence[Ask]) -> int | None:
    """Which way of asking is the exam's, the same every night; none where there are fewer than three."""
    proper = [i for i, a in enumerate(asks[: len(fact.asks)]) if a.direct]
    if len(proper) < 3:
        return None
    digest = hashlib.blake2b(f"{fact.key}".encode(), digest_size=8).digest()
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
