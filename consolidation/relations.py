"""What people commonly tell of themselves and theirs, and in how many ways one asks for it. Data; English.

A question comes in two forms: as asked (`where does my sister live`) and as it stands inside another one (`where my
sister lives`). What has a name of its own has a third: `my sister's address`.

In the patterns, {s} is the subject, {o} the same as an object, {sp} its possessive, {v} the value that a question takes
for granted; {do}, {be}, {was}, {have} agree with the subject, and so does {live_} for any verb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import cast

from consolidation.english import inflect, is_plural, possessive
from consolidation.lexicon import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question in its two forms, or a noun phrase for what is asked (`direct` empty)."""

    direct: str = ""
    embedded: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A kind of fact, whom it is told of, and how it is asked for."""

    name: str
    kinds: frozenset[Kind]
    asks: tuple[Ask, ...]

    def of(self, subject: str, value: str = "") -> tuple[Ask, ...]:
        """The questions about a subject, in the speaker's person."""
        words = _Agreement(subject, value)
        return tuple(Ask(direct=a.direct.format_map(words), embedded=a.embedded.format_map(words)) for a in self.asks)


def agreement(subject: str, value: str = "") -> Mapping[str, str]:
    """The words of a pattern for a subject."""
    return _Agreement(subject, value)


class _Agreement(dict[str, str]):
    def __init__(self, subject: str, value: str) -> None:
        first = subject.lower() == "i"
        many = subject.lower() == "we" or (not first and is_plural(subject))
        self._third = not first and not many
        super().__init__(
            s=subject,
            sp=possessive(subject),
            o="me" if first else "us" if subject.lower() == "we" else subject,
            v=value,
            their="my" if first else "our" if subject.lower() == "we" else "their",
            do="does" if self._third else "do",
            be="am" if first else "are" if many else "is",
            was="were" if many else "was",
            have="has" if self._third else "have",
        )

    def __missing__(self, key: str) -> str:
        lemma = key.removesuffix("_")
        return inflect(lemma, "VBZ") if self._third else lemma


def _relations(text: str) -> Mapping[str, Relation]:
    """Blocks: a line `name: kinds`, then a question a line, `direct | embedded`, or `= noun phrase`."""
    found: dict[str, Relation] = {}
    written = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for block in written.strip().split("\n\n"):
        head, *lines = [line.strip() for line in block.strip().splitlines()]
        name, kinds = head.split(":")
        asks = []
        for line in lines:
            if line.startswith("="):
                asks.append(Ask(embedded=line[1:].strip()))
            else:
                direct, embedded = line.split("|")
                asks.append(Ask(direct=direct.strip(), embedded=embedded.strip()))
        found[name.strip()] = Relation(
            name=name.strip(), kinds=frozenset(cast(list[Kind], kinds.split())), asks=tuple(asks)
        )
    return found


RELATIONS = _relations(resources.files("consolidation").joinpath("texts", "relations.txt").read_text(encoding="utf-8"))
"""By name."""
