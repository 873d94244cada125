"""Pure: from a message to the plain parts that may each be a claim: greetings, fillers, questions, guesses left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

from consolidation.english import BE, DO, HAVE, NUMBERS, has_form, is_everyday
from memory.kin import PEOPLE, PETS

_KIN = "|".join(sorted(PEOPLE | PETS, key=len, reverse=True))
_RELATION = (
    "mam|mum|mom|dad|daddy|gran|grandma|grandpa|grandad|nan|hubby|wife|husband|sister|brother|boss|eldest|oldest|youngest|"
    "middle one"
)
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
        (rf"^({_RELATION})['’]s (?=\w+(?:ed|ing)\b|been |in |at |on |an? |the |from |not )", r"my \1 is "),
        (r"\bme (?=(?:mum|mam|dad|nan|gran|grandad|wife|husband|sister|brother|mates?|kids?|son|daughter)\b)", "my "),
        (r"\bup and (?=\w+ed\b)", ""),
        (r"\bturn(?:ed|s) out to be\b", "is"),
        (r"\bhave got\b", "have"),
        (r"\bhas got\b", "has"),
        (r"\bgonna\b", "going to"),
        (r"\bwanna\b", "want to"),
        (r"\bfave?\b(?! of)", "favourite"),
        (r"\bi['’]?m\b", "I am"),
        (r"\bive\b", "I have"),
        (r"\b(do|does|did|is|are|was|were|have|has|had|would|could|should)nt\b", r"\1 not"),
        (r"\bcant\b", "can not"),
        (r"\bwont\b", "will not"),
        (r"\b(we|they)(?:ve)\b", r"\1 have"),
        (r"\btheyre\b", "they are"),
        (r"\b(he|she|that|there)s\b", r"\1 is"),
        (r"(^|[.!?,;]\s+|\band )its (?=(?:a|an|the|my|called|about|in|at|on|from|named|not)\b)", r"\1it is "),
        (
            rf"\bmy ({_KIN})s (?=(?:birthday|name|job|dog|cat|car|house|favou?rite|boss|school|phone|new|number)\b)",
            r"my \1's ",
        ),
    )
]
_IS_AFTER = re.compile(
    r"['’]s (?=(?:a|an|the|in|at|on|from|called|named|not|allergic|my|our|\d+|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|"
    r"(?!wedding|building|painting|meeting|training|evening|morning|ring|thing|spring|clothing|pudding|housewarming)\w+ing)\b)"
)
_NAME_IS = re.compile(r"\b(name|birthday|job|number|password|favou?rite(?: \w+)?)['’]s\b", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(maybe|perhaps|might|if|probably|wish|would|could|should|hope|hoping|suppose|imagine|pretend|once upon)\b", re.I
)
_CLAIMANT = r"(?:I|my|we|our|he|she|they|it|his|her|their|its|the)\b"
_CUT = re.compile(
    rf"[,;]?\s+\b(?:because(?! {_CLAIMANT})|since I|since we|although|though|even though|so that|unless|whereas|"
    r"which is why|but then|if you (?:need|want|ever|are|wonder|must|ask)|if I (?:ever|remember|recall)|"
    r"in case (?:you|I)|"
    r"(?:more|better) than any(?:thing| other)?)\b.*$"
    r"|,\s+(?:which|who|as|though|or|if|hang on to|keep (?:it|that|this)|please|remember|remind me|"
    r"not (?:so|very|too|that)|would you believe|thank god|is not|are not|was not|is it not|do not you|don't you|"
    r"isn't|do you|does that|can you|could you|should I|what do|how do|what should|"
    rf"any (?:ideas?|tips|advice|suggestions?))\b.*$|,\s+(?:so|but)\b(?! {_CLAIMANT}).*$",
    re.IGNORECASE,
)
_DOUBT_AFTER = re.compile(r",[^,]*\b(?:maybe|perhaps|probably|might|could|would|should)\b.*$", re.IGNORECASE)
"""What was said before a guess holds without it."""
_CONDITION = re.compile(
    rf"^(?:(?:if|when|whenever|in case|before)\b[^,]{{3,60}},\s+(?={_CLAIMANT})|when I [a-z]+(?: [a-z]+)? (?=I\b)|"
    r"when(?:ever)? (?:I|we)\b[^,]{3,40}? "
    r"(?=(?:I|we) (?:always|usually|often|mostly|order|get|have|eat|drink|listen|read)\b))",
    re.IGNORECASE,
)
"""If you need it, the code is 7391: what follows holds anyway."""
_FRONTED = re.compile(
    r"^((?:(?:mon|tues|wednes|thurs|fri|satur|sun)days?(?: mornings?| afternoons?| evenings?| nights?)?"
    r"(?=,? (?:I|we) )|"
    r"as an? (?:kid|child|boy|girl|teenager|student|young man|young woman)|"
    r"(?:on|in|at|for|from|besides|every|each|next|last|this|since|after|before|during|until|once a|twice a)"
    r"\s[^,;:]{2,40}?)),?\s+(?=(?:I|we|my|our)\s(.+))",
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
_BARE_KIN = re.compile(
    rf"^({_RELATION}|favou?rite|"
    r"(?:first|last|best|worst) [a-z]+(?= (?:I|we) ))\s",
    re.IGNORECASE,
)
_BARE_CODE = re.compile(
    r"^((?:[a-z'-]+ ){0,3}(?:code|password|passcode|pin|combination|combo|number|wifi|passphrase)"
    r"(?: (?:for|to|of|at|on) [\w' -]{2,40}?)?) (is|are) ",
    re.IGNORECASE,
)
_DETERMINED = (
    r"(?:i|we|he|she|they|it|you|there|this|that|these|those|here|what|who|my|our|the|a|an|no|every|each|some)\b"
)
_HELD = (
    r"lessons?|practice|training|class|classes|club|rent|appointment|surgery|meeting|exams?|bins?|check-?up|rehearsals?|"
    r"mot|service|delivery"
)
_UNDETERMINED = re.compile(
    rf"^(?!{_DETERMINED})((?:[a-z'-]+ ){{0,2}}(?:{_HELD})) (is|are|have|has|starts?|was|were) (?=[a-z])"
    rf"|^(?!{_DETERMINED})"
    r"((?:[a-z'-]+ ){0,2}[a-z'-]+) (is|are) (?=(?:number\s|at\s|in\s|on\s|under|behind|next to|due|[A-Z0-9-]*\d))",
    re.IGNORECASE,
)
"""Storage unit is number 118; rent is 1185 a month."""
_ASKING = (
    r"(?:do you|does|did|can (?:you|I|we)|could|should|would|is (?:there|it|that|this|not)|isn't|aren't|are there|any |"
    r"what|which|how|where|when|who|why|right|you know|help|thoughts|ideas|suggestions|ok|yeah|eh|huh|innit)\b"
)
_TOLD_IN_QUESTION = re.compile(
    r"^\W*(?:(?:can you believe|would you believe|did you know|did I (?:ever )?(?:tell you|mention|say)|"
    rf"have I (?:ever )?(?:told you|mentioned)|you know)(?: that)?,? ({_CLAIMANT}.{{8,}})\?"
    rf"|((?:[\w' ]{{1,20}}[,.] )?(?:{_CLAIMANT}|(?:flying|going|heading|driving|travelling|moving) to) [^?]{{8,}}?)"
    rf",? (?:so |and |but )?{_ASKING}[^,]*\?)",
    re.IGNORECASE,
)
"""We are going to Riga in May, do you think we should fly?"""
_APART = re.compile(r"\s*(?:;|\s[-\u2013\u2014]+\s|\u2014|:\s)\s*")
_PARTS = re.compile(
    r"\s*;\s*"
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


def told_in(message: str) -> str:
    """A message without what it only asks: somebody who asks what their horse is called has not told that they ride.

    Of a question stays what was told before it, up to its last comma, if that names something.
    """
    told = (
        _told_before_asking(sentence, loosely=True) if _asks(sentence) else sentence for sentence in _sentences(message)
    )
    return " ".join(part for part in told if part)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?\u2026])[\"')\]]*\s+|\n+", text)


def _asks(sentence: str) -> bool:
    return sentence.rstrip(" \"')]").endswith("?")


def _told_before_asking(question: str, *, loosely: bool = False) -> str | None:
    """What is told on the way to a question, if it has a number, a name or a word that is in no dictionary.

    Else it is the errand on which one asks: "I need a part for my sewing machine, who built it?"
    """
    found = _TOLD_IN_QUESTION.match(question)
    if found is not None and found[1]:
        return found[1]
    if loosely:
        told = question.rpartition(", ")[0]
    elif found is not None and _THEN_ASKS.match(question, found.end(2)):
        told = found[2]
    else:
        return None
    words = _SAID.findall(told)
    named = any(w[0].isupper() and w.split("'")[0].split("\u2019")[0] not in ("I", "") for w in words[1:])
    counted = any(w.lower() in NUMBERS and w.lower() != "one" for w in words)
    return told if named or counted or not all(map(is_everyday, words)) else None


_SAID = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
_THEN_ASKS = re.compile(r"\s*(?:,|(?:so|and|but)\b)", re.IGNORECASE)


def parts_of(text: str) -> Iterator[str]:
    """What a message says, cut where another claim begins, contractions written out."""
    for sentence in _sentences(text):
        if _asks(sentence):
            sentence = _told_before_asking(sentence) or ""  # noqa: PLW2901 - what it tells before it asks
            if not sentence:
                continue
        said = _bare(sentence.strip(" \"'()[]*_>").rstrip(".!\u2026 "))
        chunks = _APART.split(re.sub(r"\([^)]*\)", " ", said))
        said = "; ".join(_DOUBT_AFTER.sub("", _CUT.sub("", chunk)) for chunk in chunks)
        for part in _PARTS.split(written_out(said)):
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
    dropped = _without_subject(said)
    if dropped:
        return f"I {dropped}"
    said = _BARE_KIN.sub(lambda m: f"my {m[1].lower()} ", said)
    if not re.match(r"(?:my|our|the|his|her|their|its|your|a|an|this|that)\b", said, re.IGNORECASE):
        said = _BARE_CODE.sub(lambda m: f"the {m[1][0].lower()}{m[1][1:]} {m[2]} ", said)
    return _UNDETERMINED.sub(_as_mine, said)


def _as_mine(found: re.Match[str]) -> str:
    what, verb = (found[1], found[2]) if found[1] else (found[3], found[4])
    return f"my {what[0].lower()}{what[1:]} {verb} "


_BY_OTHERS = frozenset("called named born known based located made given built used meant supposed".split())


def _without_subject(said: str) -> str | None:
    """Just turned 19; rewatched it last night: what I did."""
    rest = _AT_FIRST.sub("", said)
    verb, _, after = rest.partition(" ")
    word = verb.lower()
    if not after or word in BE | HAVE | DO | _BY_OTHERS or after.startswith(("by ", "of ")):
        return None
    past = has_form(word, "VBD") and not has_form(word, "VB")
    return f"{word} {after}" if past and (rest != said or verb[1:].islower()) else None


_AT_FIRST = re.compile(r"^(?:(?:just|finally|recently|also|already|only|even) )+", re.IGNORECASE)


def _bare(said: str) -> str:
    """Without what stands around it: oh, by the way, I think that ... these days, haha."""
    while True:
        shorter = _TRAILER.sub("", _OPENER.sub("", said, count=1))
        if shorter == said:
            return said
        said = shorter


def written_out(said: str) -> str:
    """Contractions as the words that they stand for."""
    said = said.replace("\u2019", "'")
    for pattern, plain in _CONTRACTIONS:
        said = pattern.sub(plain, said)
    return _IS_AFTER.sub(" is ", _NAME_IS.sub(r"\1 is", said))
