"""Pure: how people put a question, and how the agent puts an answer. Data; English.

Training and exam draw from lists apart: no wording of the exam's is ever trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from consolidation.english import second_person, sentence
from consolidation.relations import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Ways to put a question: `direct` as asked, `embedded` within another, `named` by its noun phrase."""

    direct: Sequence[str]
    embedded: Sequence[str]
    named: Sequence[str]


TRAINING = Frames(
    direct=(
        "{q}?",
        "{q}?",
        "{q}?",
        "{q}?",
        "Hey, {q}?",
        "Quick question: {q}?",
        "So {q}?",
        "{q}, again?",
        "I forgot. {q}?",
        "Just checking: {q}?",
        "By the way, {q}?",
        "Let's see. {q}?",
        "Okay, {q}?",
        "Tell me, {q}?",
        "I'm trying to remember: {q}?",
        "Somebody just asked me, {q}?",
        "{q}? I can't remember.",
        "Help me out here: {q}?",
        "Say, {q}?",
        "I need this for a form: {q}?",
        "My head is empty today. {q}?",
        "I'm filling in a form, {q}?",
        "My friend wants to know, {q}?",
        "I'm blanking here, {q}?",
        "Before I forget, {q}?",
        "Sorry to ask again, but {q}?",
        "It's on the tip of my tongue, {q}?",
        "I know I told you this at some point, so {q}?",
        "I'm on the phone with someone who needs this right now, {q}?",
        "My memory is like a sieve today, {q}?",
        "Just to be on the safe side, {q}?",
        "{q}, if you still know?",
    ),
    embedded=(
        "Do you remember {e}?",
        "Can you tell me {e}?",
        "Remind me {e}.",
        "Do you know {e}?",
        "Tell me {e}.",
        "I can't recall {e}. Can you help?",
        "Could you remind me {e}?",
        "I have forgotten {e}.",
        "Any idea {e}?",
        "Please tell me {e}.",
        "Do you still know {e}?",
        "I'd like to know {e}.",
        "What was it again, {e}?",
        "Can you look up {e}?",
        "Somebody is asking me {e}, what do I say?",
        "I've clean forgotten {e}.",
        "Have I ever mentioned {e}?",
        "Could you check {e} for me, please?",
        "I've been racking my brains all morning over {e}.",
        "I'm writing something down and need to know {e}.",
        "Would you be so kind as to tell me {e}?",
    ),
    named=(
        "What's {n}?",
        "What is {n}?",
        "Tell me {n}.",
        "Do you remember {n}?",
        "{n}?",
        "Can you give me {n}?",
        "I need {n}.",
    ),
)
EXAM = Frames(
    direct=("Hi! {q}?", "One thing I keep forgetting: {q}?", "Out of interest, {q}?", "Hmm, {q}?"),
    embedded=(
        "Would you happen to know {e}?",
        "I was wondering {e}.",
        "You surely remember {e}, don't you?",
        "What did I tell you about {e}?",
    ),
    named=("Could you remind me of {n}?", "What was {n}?", "Do you happen to have {n}?"),
)
ABOUT = (
    "What do you know about {s}?",
    "Tell me about {s}.",
    "What have I told you about {s}?",
    "What do you remember about {s}?",
)
WHO = ("Who is {n}?", "Do you know who {n} is?", "Remind me who {n} is.", "Who's {n} again?")
STILL = (
    "Is it still true that {was}?",
    "Am I right that {was}?",
    "Do you still have it down that {was}?",
    "I thought {was}. Is that so?",
    "Didn't I say that {was}?",
    "Last I told you, {was}. Does that still hold?",
    "{Was}, right?",
    "As far as I remember {was}, is that up to date?",
)
"""Whether something still holds."""
STILL_EXAM = ("Is it the case that {was}?", "So {was}, still?", "If I told somebody that {was}, would that be right?")
STILL_SO, NOT_ANY_MORE = ("Yes, {statement}.", "That's right, {statement}."), "Not any more: {statement}."
NOT_TOLD = (
    "You haven't told me {e}.",
    "You haven't told me {e}.",
    "You haven't told me {e}.",
    "You haven't told me {e} yet.",
    "I don't know {e}. You haven't told me.",
    "I don't know {e}, you haven't told me.",
    "You have not mentioned {e}.",
)
WHOLE = (
    "Hey. {q}",
    "Quick question. {q}",
    "I forgot. {q}",
    "Sorry to ask again. {q}",
    "By the way: {q}",
    "{q} I can't remember.",
    "Okay. {q}",
    "Help me out here. {q}",
    "I should know this. {q}",
    "One more thing: {q}",
)
"""Ways to put a question that is whole already."""
NOT_TOLD_THAT = (
    "You haven't told me that.",
    "You haven't told me that yet.",
    "I don't know that. You haven't told me.",
    "You have not mentioned that.",
    "I don't know, you haven't told me.",
)


def put(ask: Ask, frames: Frames, random: Random) -> str:
    """One way to put a question."""
    if not ask.direct:
        text = random.choice(frames.named).format(n=ask.embedded)
    elif random.random() < 0.55:
        text = random.choice(frames.direct).format(q=ask.direct)
    else:
        text = random.choice(frames.embedded).format(e=ask.embedded)
    return _as_typed(text, random)


def every(ask: Ask, frames: Frames) -> list[str]:
    """All ways to put it, in order, without repeats."""
    if not ask.direct:
        found = [f.format(n=ask.embedded) for f in frames.named]
    else:
        found = [f.format(q=ask.direct) for f in frames.direct] + [f.format(e=ask.embedded) for f in frames.embedded]
    return [_capitals(text) for text in dict.fromkeys(found)]


def not_told(ask: Ask, random: Random) -> str:
    """An answer that says that one was not told."""
    return sentence(random.choice(NOT_TOLD).format(e=second_person(ask.embedded)))


def _as_typed(text: str, random: Random) -> str:
    """What is, written out or not; the mark at the end, forgotten now and then."""
    if random.random() < 0.35:
        text = re.sub(r"\b(what|where|who|how|when) is\b", r"\1's", text, flags=re.IGNORECASE)
    if text.endswith("?") and random.random() < 0.06:
        text = text[:-1]
    return _capitals(text) if random.random() > 0.06 else text


def _capitals(text: str) -> str:
    return re.sub(r"(^|[.!] )([a-z])", lambda m: m[1] + m[2].upper(), text)
