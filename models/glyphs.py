"""A language of 64 glyphs, and the scenarios that a small network learns in it: answer, remember, keep silent.

Every scenario begins with five glyphs that say how the body feels, and ends with an answer. `echo`: say again what
was said, the fewer glyphs the more strained the body is, and nothing when it is worn out. `keep`: what was said to
belong to a key, long before; silence, if it never was. `next`: how a series goes on. A scenario is held out by what
stands in it, so that no answer that is examined was trained on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from models.body import Signals, charge
from models.errors import CorpusRefused

_FIRST = 0x2800
LEVELS = 8
"""Glyphs 0 to 7: a gauge from its least to its most."""
ECHO, NEXT, KEEP, RECALL, ANSWER, SILENCE, END = range(8, 15)
CONTENT = range(16, 64)
Kind = Literal["echo", "keep", "next"]
KINDS: tuple[Kind, ...] = ("echo", "keep", "next")
_WORN = 0.9
"""From this charge on there is nothing to be said."""
_LONGEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One example."""

    kind: Kind
    signals: Signals
    prompt: tuple[int, ...]
    """All until the answer, the glyph that asks for it included."""
    answer: tuple[int, ...]
    """With its end."""
    told: int | None = None
    """Of `keep`: where in the prompt the value stands; None: it was never told."""

    @property
    def held(self) -> bool:
        """Whether it is for examining alone."""
        return sum(g for g in self.prompt if g in CONTENT) % 7 == 0

    @property
    def silent(self) -> bool:
        """Whether the right answer is none."""
        return self.answer[0] == SILENCE


def encode(text: str) -> list[int]:
    """Glyphs by number. Raises: CorpusRefused: it holds something that is no glyph."""
    found = [ord(c) - _FIRST for c in text]
    if strange := sorted({c for c, n in zip(text, found, strict=True) if not 0 <= n < 64}):
        raise CorpusRefused(f"{''.join(strange[:10])!r} is no glyph")
    return found


def decode(glyphs: list[int] | tuple[int, ...]) -> str:
    """As text. Raises: CorpusRefused: a number that no glyph has."""
    if not all(0 <= n < 64 for n in glyphs):
        raise CorpusRefused("a glyph has a number from 0 to 63")
    return "".join(chr(_FIRST + n) for n in glyphs)


def length_for(strain: float) -> int:
    """How many glyphs an answer has at a charge: from four down to none."""
    return 0 if strain >= _WORN else max(1, round(_LONGEST * (1 - strain)))


def drawn(chance: random.Random, kind: Kind | None = None, *, known: bool | None = None) -> Scenario:
    """A scenario. `known`: of `keep`, whether what is asked for was told; None: mostly."""
    which: Kind = chance.choice(KINDS) if kind is None else kind
    levels = [chance.randrange(LEVELS) for _ in range(5)]
    if which != "echo" or chance.random() < 0.5:  # otherwise most bodies would be worn out
        levels = [chance.choice((0, 0, 1, 2)), chance.choice((3, 4)), *(chance.choice((0, 0, 1, 2)) for _ in range(2)),
                  chance.choice((7, 7, 6, 5))]  # fmt: skip
    signals = Signals(*(level / (LEVELS - 1) for level in levels))
    said = [chance.choice(CONTENT) for _ in range(_LONGEST)]
    told = None
    if which == "echo":
        prompt = [*levels, ECHO, *said, ANSWER]
        many = length_for(charge(signals))
        answer = [*said[:many], END] if many else [SILENCE, END]
    elif which == "next":
        first, by = chance.randrange(len(CONTENT)), chance.randrange(1, 6)
        series = [CONTENT[(first + by * n) % len(CONTENT)] for n in range(_LONGEST + 2)]
        prompt, answer = [*levels, NEXT, *series[:_LONGEST], ANSWER], [*series[_LONGEST:], END]
    else:
        keys = chance.sample(CONTENT, 4)
        values = [chance.choice(CONTENT) for _ in range(3)]
        pairs = [glyph for key, value in zip(keys, values, strict=False) for glyph in (KEEP, key, value)]
        filler = [chance.choice([g for g in CONTENT if g not in keys]) for _ in range(chance.randint(16, 56))]
        asked = chance.randrange(3) if (chance.random() < 0.75 if known is None else known) else 3
        prompt = [*levels, *pairs, *filler, RECALL, keys[asked], ANSWER]
        answer = [values[asked], END] if asked < 3 else [SILENCE, END]
        told = len(levels) + 3 * asked + 2 if asked < 3 else None
    return Scenario(kind=which, signals=signals, prompt=tuple(prompt), answer=tuple(answer), told=told)


def text(count: int, *, seed: int, held: bool) -> str:
    """So many scenarios one after another, all of one side of the split."""
    chance, parts = random.Random(seed), list[str]()  # noqa: S311
    while len(parts) < count:
        one = drawn(chance)
        if one.held == held:
            parts.append(decode((*one.prompt, *one.answer)))
    return "".join(parts)
