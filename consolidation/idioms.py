"""Pure: what is said in a turn of phrase, put in the plain clause that it means. Data: texts/idioms.txt; English.

The surgery has put me on candesartan: I take candesartan. Questions are left alone but for what they say in passing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from memory.kin import PEOPLE, PETS

_BREAK = re.compile(r"[,.;:!?()]|\s[-–—]\s|\s(?:and|but|so|because)\s")
_DOUBTED = re.compile(r"\b(?:if|whether|unless|suppose|imagine|pretend|maybe|perhaps|not|never|wish)\b", re.IGNORECASE)
_DEFINED = re.compile(r"^\{(\w+)\} = (.*)$")


@cache
def _idioms() -> tuple[tuple[re.Pattern[str], str], ...]:
    text = resources.files("consolidation").joinpath("texts", "idioms.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    places = {m[1]: m[2] for line in lines if (m := _DEFINED.match(line))}
    places["people"] = "|".join(sorted(PEOPLE | PETS))
    return tuple(_read(line, places) for line in lines if not _DEFINED.match(line))


def _read(line: str, places: Mapping[str, str]) -> tuple[re.Pattern[str], str]:
    pattern, plain = line.split(" => ")
    pattern = pattern.replace("{v}", "{first}", 1) if pattern.startswith("{v}") else rf"\b{pattern}"
    pattern += r"(?!\w)" if pattern.endswith(("{name}", "{code}", "{med}")) else "{end}"
    for _ in range(2):  # a place may hold another
        pattern = re.sub(r"\{(\w*[a-z]\w*)\}", lambda m: places[m[1]], pattern)
    return re.compile(pattern, re.IGNORECASE), plain


def in_plain_words(text: str) -> str:
    """The text with each turn of phrase, and the clause around it, replaced by a plain sentence."""
    found: list[tuple[int, int, str]] = []
    for pattern, plain in _idioms():
        for match in pattern.finditer(text):
            start, end = _clause_around(text, match)
            if _DOUBTED.search(text, start, match.start()) or any(s < end and start < e for s, e, _ in found):
                continue
            made = match.expand(plain) if "\\" in plain else plain
            for place, value in match.groupdict().items():
                made = made.replace(f"{{{place}}}", value)
            found.append((start, end, made))
    for start, end, made in sorted(found, reverse=True):
        before = re.sub(r"\s*\b(?:and|but|so|because)$", "", text[:start].rstrip())
        text = f"{before} . {made}. {text[end:].lstrip()}"
    return text


def _clause_around(text: str, match: re.Match[str]) -> tuple[int, int]:
    """From the stop or conjunction before a match to the one after it."""
    start = max((b.end() for b in _BREAK.finditer(text, 0, match.start())), default=0)
    after = _BREAK.search(text, match.end())
    return min(start, match.start()), after.start() if after else len(text)
