"""Pure: how text is taken apart for comparing and finding. English in its lists, any language in its letters."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

LEAST_WORDS = 3
"""A text of fewer words is only looked for as a whole: "yes" is in many sentences that nobody asked to forget."""
STOP_WORDS = frozenset(
    """
    a about after all also am an and any are aren't as at be because been before being but by can can't could
    couldn't did didn't do does doesn't doing don't down during each few for from further had has have having he
    he's her here hers herself him himself his how i i'd i'll i'm i've if in into is isn't it it's its itself just
    let's me more most my myself no nor not now of off on once only or other our ours ourselves out over own same
    she she's should so some such than that that's the their theirs them themselves then there there's these they
    they're this those through to too under until up us very was wasn't we we're we've were what what's when where
    which while who whom whose why will with won't would you you'd you'll you're you've your yours yourself
    yourselves
    """.split()
)
"""Words that say little about what a text is about."""


def words(text: str) -> list[str]:
    """The words of a text, in order, lower-cased; apostrophes within words are kept, typographic ones made plain."""
    return [w.lower().replace("’", "'") for w in _WORD.findall(text)]


def content_words(text: str) -> list[str]:
    """`words` less the stop words."""
    return [w for w in words(text) if w not in STOP_WORDS]


def normalised(text: str) -> str:
    """Text less case, spacing and punctuation: what two copies of the same text share."""
    return " ".join(words(unicodedata.normalize("NFKC", text)))


def fingerprint(text: str) -> bytes:
    """16 bytes, equal for texts that are `normalised` alike. Text without any word is compared as it stands."""
    return hashlib.blake2b((normalised(text) or text.strip()).encode(), digest_size=16).digest()


def letters(text: str) -> bytes:
    """16 bytes, equal for equal texts alone."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def holder(text: str) -> Callable[[str], bool]:
    """Whether another text holds this one, case, spacing and punctuation aside."""
    wanted = normalised(text)
    whole = len(words(text)) < LEAST_WORDS

    def holds(other: str) -> bool:
        if text in other and (not whole or text.strip() == other.strip()):
            return True
        said = normalised(other)
        return bool(wanted) and (said == wanted if whole else f" {wanted} " in f" {said} ")

    return holds


def shingles(text: str, n: int) -> set[tuple[str, ...]]:
    """Every run of `n` words; shorter texts are one run."""
    said = words(text)
    return {tuple(said[i : i + n]) for i in range(max(1, len(said) - n + 1))} if said else set()


def jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    """Shared over all, in [0, 1]; 0 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 0.0


def named(text: str) -> Iterator[str]:
    """Words that are written like names: capitalised, and not only because a sentence begins with them."""
    for match in re.finditer(r"[^\W\d_][^\W_]*(?:['’][^\W_]+)?", text):
        word = match.group()
        before = text[: match.start()].rstrip(" \t\n\"'“”‘’(*_-")
        begins = not before or before[-1] in ".!?:;"
        if word[0].isupper() and not begins and word not in ("I", "I'm", "I've", "I'll", "I'd", "I’m", "I’ve"):
            yield word.lower().replace("’", "'").removesuffix("'s")
