"""Pure: as much English grammar as questions about oneself need: inflection, agreement, turning I into you.

Inflection is looked up in lemminflect's dictionary, never guessed by its model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import lemminflect

WORD = re.compile(r"[^\W_]+(?:[.:,/'’@&+_-][^\W_]+)*(?:(?<=\d)[*#])?|[^\w\s]")
"""Words, with what stands inside them (9:15, don't, brother-in-law, 3.5), and marks."""

BE = {"am", "is", "are", "was", "were"}
HAVE = {"have", "has", "had"}
DO = {"do", "does", "did"}
MODALS = {"will", "can", "must", "should", "would", "could", "may", "might", "shall"}
PREPOSITIONS = frozenset(
    """
    in at on from to near with for about of as into under behind by over through around beside inside outside
    across above below between after before since until towards against along during without within off onto like
    opposite round
    """.split()
)
DETERMINERS = frozenset("a an the this that these those some any my our your his her their its".split())
PRONOUNS = frozenset("it them that this those these him her us me you everything something anything nothing".split())
MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
NUMBERS = frozenset(
    """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
    nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand dozen
    """.split()
)
RELATIVE_TIME = frozenset("last next yesterday today tomorrow tonight this ago recently just".split())
_TIME = re.compile(
    rf"\b({'|'.join(MONTHS)}|({'|'.join(DAYS)})s?|morning|mornings|afternoon|evening|evenings|night|nights|noon|"
    r"midnight|week|weeks|weekend|weekends|month|months|year|years|spring|summer|autumn|winter|today|tomorrow|tonight|"
    r"yesterday|o'clock|(19|20)\d\d|\d{1,2}[:.]\d\d|\d{1,2}\s?[ap]m|\d{1,2}(st|nd|rd|th)|christmas|easter|birthday|"
    r"(?:half|quarter|five|ten|twenty|twenty-five)(?: minutes)? (?:past|to) [a-z]+)\b",
    re.IGNORECASE,
)
_SECOND = {
    "i": "you",
    "me": "you",
    "my": "your",
    "mine": "yours",
    "myself": "yourself",
    "we": "you",
    "us": "you",
    "our": "your",
    "ours": "yours",
    "ourselves": "yourselves",
}


_SPOKEN = re.compile(r"[^\W_]+(?:[.:'’-][^\W_]+)*")


def spoken(text: str) -> list[str]:
    """The words of a reply or a value, lower-cased, without the 's of an owner: what answers are marked by."""
    return [word.removesuffix("'s") for word in _SPOKEN.findall(text.lower())]


def is_time(phrase: str) -> bool:
    """Whether a phrase names a day, an hour or a year."""
    return bool(_TIME.search(phrase))


def is_number(word: str) -> bool:
    """Digits or a number word."""
    return word[:1].isdigit() or all(part in NUMBERS for part in word.lower().split("-"))


@lru_cache(maxsize=8192)
def verb_lemma(word: str) -> str | None:
    """The dictionary form of an inflected verb, or None if the word cannot be one."""
    found = lemminflect.getAllLemmas(word.lower(), upos="VERB") or lemminflect.getAllLemmas(word.lower(), upos="AUX")
    for lemmas in found.values():
        return str(lemmas[0])
    return None


@lru_cache(maxsize=8192)
def forms(lemma: str) -> dict[str, tuple[str, ...]]:
    """A verb's forms by Penn tag: VBZ, VBD, VBG, VBN, VB."""
    found: dict[str, tuple[str, ...]] = lemminflect.getAllInflections(lemma, upos="VERB")
    if "VBD" in found:  # the dictionary leaves out a participle that is like the past
        found.setdefault("VBN", found["VBD"])
    return found


def inflect(lemma: str, tag: str) -> str:
    """A form of a verb; the lemma itself where the dictionary has none."""
    if lemma == "be":
        return {"VBZ": "is", "VBD": "was", "VBG": "being", "VBN": "been"}.get(tag, "be")
    if lemma == "have" and tag == "VBZ":
        return "has"
    known = forms(lemma).get(tag)
    if known:
        return known[0]
    return lemma + "s" if tag == "VBZ" else lemma


def has_form(word: str, tag: str) -> bool:
    """Whether a word can be this form of some verb."""
    lemma = verb_lemma(word)
    return lemma is not None and word.lower() in forms(lemma).get(tag, ())


def is_word(word: str) -> bool:
    """Whether the dictionary has the word at all, in this spelling or lower-cased."""
    lowered = word.lower().removesuffix("'s")
    closed = PREPOSITIONS | DETERMINERS | MODALS | NUMBERS | RELATIVE_TIME | set(_SECOND) | set(_SECOND.values())
    return lowered in closed or bool(lemminflect.getAllLemmas(lowered))


def is_everyday(word: str) -> bool:
    """Whether it is neither a number in digits nor a word that no dictionary has; contractions are everyday."""
    lowered = word.lower().replace("\u2019", "'")
    if any(c.isdigit() for c in lowered):
        return False
    parts = [part for part in re.split(r"-|'\w*$|n't$", lowered) if part]
    return all(part in PRONOUNS or part in _UNLISTED or is_word(part) for part in parts)


def is_intelligible(text: str) -> bool:
    """Whether at least half of the lower-cased words are the dictionary's; a text of names and numbers is."""
    words = [w for w in _PLAIN.findall(text) if w.islower()]
    return not words or 2 * sum(w in PRONOUNS or w in _UNLISTED or is_word(w) for w in words) >= len(words)


_PLAIN = re.compile(r"[^\W\d_]+(?!\w)")
_UNLISTED = frozenset(
    "the a an and or but if because than so as that this these those what which who is are was".split()
)
"""Words that the dictionary of inflections leaves out."""


def is_noun(word: str) -> bool:
    """Whether the dictionary has the word as a noun."""
    return bool(lemminflect.getAllLemmas(word.lower(), upos="NOUN"))


def is_adjective(word: str) -> bool:
    """Whether the dictionary has the word as an adjective, or as a participle, and not as a noun in its own right."""
    found = lemminflect.getAllLemmas(word.lower())
    return bool({"ADJ", "ADV"} & set(found)) or word.lower().endswith(("ed", "ing"))


def is_adverb(word: str) -> bool:
    """Whether the dictionary has the word as an adverb."""
    return bool(lemminflect.getAllLemmas(word.lower(), upos="ADV"))


def is_plural(phrase: str) -> bool:
    """Whether the last word of a noun phrase is a plural, as far as a dictionary tells."""
    last = phrase.rsplit(maxsplit=1)[-1]
    if last[:1].isupper():
        return " and " in phrase
    if last.lower() in ("children", "people", "men", "women", "parents"):
        return True
    lemmas = lemminflect.getAllLemmas(last.lower(), upos="NOUN").get("NOUN", ())
    return bool(lemmas) and last.lower() not in lemmas and last.lower().endswith("s")


def second_person(text: str) -> str:
    """What the speaker says of themselves, as said to them: my -> your, I am -> you are."""
    text = re.sub(r"\b(I|we) (really |also |still |just )?(am|was)\b", _agreeing, text)
    text = re.sub(r"\b(am|was) I\b", lambda m: f"{'are' if m[1] == 'am' else 'were'} you", text)
    return re.sub(
        r"\b(I|me|my|mine|myself|we|us|our|ours|ourselves)\b",
        lambda m: _SECOND[m[1].lower()],
        text,
        flags=re.IGNORECASE,
    )


def running(statement: str) -> str:
    """As it stands within a sentence: without a stop, and small where its first word is always written so."""
    text = statement.rstrip(".")
    return text[:1].lower() + text[1:] if re.match(r"(You|Your|You're|The|A|An)\b", text) else text


_FIRST = {"your": "my", "yours": "mine", "yourself": "myself", "you're": "I'm", "you've": "I've", "you'd": "I'd"}


def first_person(statement: str) -> str:
    """What was said to the speaker, as they say it themselves: your -> my, you are -> I am. Of one plain statement."""
    text = re.sub(r"\byou (are|were)\b", lambda m: f"I {'am' if m[1] == 'are' else 'was'}", running(statement))
    text = re.sub(r"(^|\b(?:and|but|that|which|who|when|where|because|if) )you\b", r"\1I", text)
    text = re.sub(r"\byou(?:r|rs|rself|'re|'ve|'d)\b", lambda m: _FIRST[m[0].lower()], text, flags=re.IGNORECASE)
    return re.sub(r"\byou\b", "me", text)


def _agreeing(found: re.Match[str]) -> str:
    return f"you {found[2] or ''}{'are' if found[3] == 'am' else 'were'}"


def possessive(phrase: str) -> str:
    """my sister -> my sister's; I -> my; we -> our."""
    lowered = phrase.lower()
    if lowered in ("i", "we", "you"):
        return {"i": "my", "we": "our", "you": "your"}[lowered]
    return phrase + ("'" if phrase.endswith("s") and is_plural(phrase) else "'s")


def sentence(text: str, mark: str = ".") -> str:
    """Begin with a capital, end with a mark."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text[-1:] in ".?!" else text + mark


def joined(tokens: Sequence[str]) -> str:
    """Words and marks as one writes them."""
    return re.sub(r"\s+([,.;:!?)%])", r"\1", " ".join(tokens)).replace("( ", "(").replace(" '", "'")
