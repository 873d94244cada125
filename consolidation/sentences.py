"""Pure: from a message to the plain parts that may each be a claim: greetings, fillers, questions, guesses left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

_CONTRACTIONS = [
    (re.compile(p, re.IGNORECASE), r)
    for p, r in (
        (r"\b(I)['’]m\b", r"\1 am"),
        (r"\b(I|we|you|they)['’]ve\b", r"\1 have"),
        (r"\b(I|we|you|they|he|she|it)['’]ll\b", r"\1 will"),
        (r"\b(we|you|they)['’]re\b", r"\1 are"),
        (r"\b(he|she|it)['’]s (got|been)\b", r"\1 has \2"),
        (r"\b(he|she|it|that|there|here|who|everyone)['’]s\b", r"\1 is"),
        (r"\bcan['’]t\b", "can not"),
        (r"\bwon['’]t\b", "will not"),
        (r"\b(\w+)n['’]t\b", r"\1 not"),
        (r"\b(can not|cannot) (stand|bear)\b", "hate"),
        (r"\bhave got\b", "have"),
        (r"\bhas got\b", "has"),
        (r"\bgonna\b", "going to"),
    )
]
_IS_AFTER = re.compile(
    r"['’]s (?=(?:a|an|the|in|at|on|from|called|named|not|allergic|my|our|\d+|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+ing)\b)"
)
_NAME_IS = re.compile(r"\b(name|birthday|job|number|password|favou?rite(?: \w+)?)['’]s\b", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(maybe|perhaps|might|if|probably|wish|would|could|should|hope|hoping|suppose|imagine|pretend|once upon)\b", re.I
)
_CUT = re.compile(
    r"[,;]?\s+\b(?:because|since I|since we|although|though|even though|so that|unless|whereas|which is why|but then)"
    r"\b.*$"
    r"|,\s+(?:so|which|who|but|as|though|or)\b.*$",
    re.IGNORECASE,
)
_PARTS = re.compile(
    r"\s*(?:;|\s[-\u2013\u2014]+\s|\u2014|:\s)\s*"
    r"|,?\s+(?:and|but|so|while|and so|and then)\s+(?=(?:I|my|we|our|he|she|they|it|his|her|their|its|the)\b)"
    r"|,\s+(?=(?:I|my|we|our|he|she|they|his|her|their)\b)"
    r"|,?\s+(?:and|but)\s+(?=[A-Z][a-z]+ (?:is|was|has|lives|works|loves|likes|hates)\b)"
)


def _fillers() -> dict[str, str]:
    """The patterns of fillers.txt, by section."""
    text = resources.files("consolidation").joinpath("texts", "fillers.txt").read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    section: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            section = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            section.append(line)
    return {name: "|".join(lines).replace(" ", r"\s+") for name, lines in found.items()}


_FILLERS = _fillers()
_OPENER = re.compile(
    rf"^\s*(?:(?:{_FILLERS['before a comma']})\s*[,:!.\u2014-]+\s*|(?:{_FILLERS['before a clause']})\s+)", re.IGNORECASE
)
_TRAILER = re.compile(rf"[\s,]*\b(?:{_FILLERS['after a clause']})\s*$", re.IGNORECASE)


def parts_of(text: str) -> Iterator[str]:
    """What a message says, cut where another claim begins, contractions written out."""
    for sentence in re.split(r"(?<=[.!?\u2026])[\"')\]]*\s+|\n+", text.replace("\u2019", "'")):
        if sentence.rstrip(" \"')]").endswith("?"):
            continue
        said = _bare(sentence.strip(" \"'()[]*_>").rstrip(".!\u2026 "))
        said = re.sub(r"\([^)]*\)", " ", _CUT.sub("", said))
        for part in _PARTS.split(_written_out(said)):
            claim = _bare((part or "").strip(" ,"))
            if claim and not _UNSURE.search(claim):
                yield claim


def _bare(said: str) -> str:
    """Without what stands around it: oh, by the way, I think that ... these days, haha."""
    while True:
        shorter = _TRAILER.sub("", _OPENER.sub("", said, count=1))
        if shorter == said:
            return said
        said = shorter


def _written_out(said: str) -> str:
    for pattern, plain in _CONTRACTIONS:
        said = pattern.sub(plain, said)
    return _IS_AFTER.sub(" is ", _NAME_IS.sub(r"\1 is", said))
