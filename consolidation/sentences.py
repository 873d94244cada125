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
_CLAIMANT = r"(?:I|my|we|our|he|she|they|it|his|her|their|its|the)\b"
_CUT = re.compile(
    rf"[,;]?\s+\b(?:because(?! {_CLAIMANT})|since I|since we|although|though|even though|so that|unless|whereas|"
    r"which is why|but then|(?:more|better) than any(?:thing| other)?)\b.*$"
    rf"|,\s+(?:which|who|as|though|or)\b.*$|,\s+(?:so|but)\b(?! {_CLAIMANT}).*$",
    re.IGNORECASE,
)
_CONDITION = re.compile(rf"^(?:if|when|whenever|in case|before)\b[^,]{{3,60}},\s+(?={_CLAIMANT})", re.IGNORECASE)
"""If you need it, the code is 7391: what follows holds anyway."""
_FRONTED = re.compile(
    r"^((?:on|in|at|for|every|each|next|last|this|since|after|before|during|until|once a|twice a)\s[^,;:]{2,40}?)"
    r",?\s+(?=(?:I|we|my|our)\s(.+))",
    re.IGNORECASE,
)
"""On Saturday I bought a loom."""
_ELIDED = re.compile(
    r"^(?:(?P<going>(?!(?:morning|evening|during|nothing|something|anything|everything|thing|king|ring|spring|string)\b)"
    r"[a-z]+ing) (?=to|in|on|at|for|my|a|an|the|our|with)\b"
    r"|(?P<been>been) |(?P<did>got|bought|spent|went|had|saw|met|took|made|ate|lost|found|moved|started|booked|signed|"
    r"joined|adopted|sold|broke|won|ordered|finished|visited|grew up|used to) (?!by|of|and)\w)",
    re.IGNORECASE,
)
"""Going to Riga this spring; got a new bike; been to the dentist."""
_ADVERB_FIRST = re.compile(r"^[a-z]+ly,?\s+(?=(?:I|my|we|our)\b)", re.IGNORECASE)
_UNDETERMINED = re.compile(
    r"^(?!(?:i|we|he|she|they|it|you|there|this|that|these|those|here|what|who|my|our|the|a|an)\b)"
    r"((?:[a-z'-]+ ){0,2}[a-z'-]+) (is|are) (?=(?:number\s|at\s|in\s|on\s|under|behind|next to|due|[A-Z0-9-]*\d))",
    re.IGNORECASE,
)
"""Storage unit is number 118; rent is 1185 a month."""
_PARTS = re.compile(
    r"\s*(?:;|\s[-\u2013\u2014]+\s|\u2014|:\s)\s*"
    rf"|,?\s+(?:and|but|so|while|because|and so|and then)\s+(?={_CLAIMANT})"
    r"|,\s+(?=(?:I|my|we|our|he|she|they|his|her|their|it is)\b)"
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
            claim = _whole(_bare((part or "").strip(" ,")))
            if claim and not _UNSURE.search(claim):
                yield claim


def _whole(said: str) -> str:
    """A claim with its subject first: what stood before it comes last, what was left out is put in."""
    said = _ADVERB_FIRST.sub("", _CONDITION.sub("", said))
    fronted = _FRONTED.match(said)
    if fronted:
        first = fronted[1][0].lower() + fronted[1][1:]
        return f"{said[fronted.end() :]} {first}"
    elided = _ELIDED.match(said)
    if elided:
        auxiliary = "I am" if elided["going"] else "I have" if elided["been"] else "I"
        return f"{auxiliary} {said[0].lower()}{said[1:]}"
    return _UNDETERMINED.sub(lambda m: f"my {m[1][0].lower()}{m[1][1:]} {m[2]} ", said)


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
