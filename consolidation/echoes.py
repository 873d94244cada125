"""Pure: a claim that no rule takes apart, kept as it was said, and the questions that its own words suggest.

When my godmother passed away she left me a brass sextant: what did my godmother leave, what did I say about my
godmother. Less sure than a fact that was read: the questions are rough, so that what one asks later shares its words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from consolidation.asking import said_back
from consolidation.english import (
    BE,
    DETERMINERS,
    DO,
    HAVE,
    MODALS,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVE_TIME,
    WORD,
    has_form,
    inflect,
    is_adverb,
    is_noun,
    is_plural,
    is_time,
    is_word,
    joined,
    verb_lemma,
)
from consolidation.facts import Fact, marks
from consolidation.relations import Ask
from consolidation.sentences import parts_of

RELATION = "said"
_OURS = re.compile(r"\b(?:I|my|mine|me|we|our|us)\b")
_FLEETING = re.compile(
    r"\b(?:today|tonight|yesterday|just now|right now|this morning|this evening|in a minute|lol|haha|thanks?|glad|"
    r"excited|sure|have heard|have never|looking for|look forward|need to|do not (?:think|know)|wonder(?:ed|ing)?|"
    r"(?:'d|would) (?:be|love))\b",
    re.IGNORECASE,
)
"""The moment's: nobody asks for it tomorrow."""
_LIGHT = (
    DETERMINERS
    | PREPOSITIONS
    | PRONOUNS
    | BE
    | HAVE
    | DO
    | MODALS
    | RELATIVE_TIME
    | frozenset(
        """
        i we he she they who what which when where why how and or but so if not never always really very also too just
        there here then than as well quite all both more most much many one ones thing things way time lot bit
        kind sort get got go going let make made put take come
        """.split()
    )
)
_SHORTEST, _LONGEST = 5, 22


def echo_of(text: str) -> Fact | None:
    """What a message claims, as one fact that is asked for by its own words; None where it claims nothing lasting."""
    claims = [(part, WORD.findall(part)) for part in parts_of(text)]
    fit = [(part, words) for part, words in claims if _fits(part, words)]
    if not fit:
        return None
    part, words = max(fit, key=lambda of: len(_specific(of[1])))
    value = _value(words)
    if not value:
        return None
    asks = _asks(words, set(WORD.findall(value)))
    return (
        Fact(
            subject=f"({' '.join(sorted(marks(value)))})",
            relation=RELATION,
            value=value,
            statement=said_back(part),
            asks=asks,
        )
        if len(asks) > 2
        else None
    )


def _fits(part: str, words: Sequence[str]) -> bool:
    ours = _OURS.search(part) or any(w[:1].isdigit() for w in words)
    nouns = [w for w in words if w.lower() not in _LIGHT and (is_noun(w) or not is_word(w))]
    verb = any(_is_verb(words, i) or w.lower() in BE for i, w in enumerate(words))
    return bool(
        _SHORTEST <= len(words) <= _LONGEST
        and ours
        and verb
        and len(nouns) > 1
        and not _FLEETING.search(part)
        and not any(w in '"“”<>{}|' for w in words)
    )


def _specific(words: Sequence[str]) -> list[int]:
    """Places of names, numbers and words that no dictionary has."""
    return [
        i
        for i, w in enumerate(words)
        if w[:1].isdigit()
        or (w[:1].isupper() and w != "I" and (i or not is_word(w)))
        or (len(w) > 4 and not is_word(w))
    ]


def _value(words: Sequence[str]) -> str:
    """The first run of specific words, or the last noun phrase."""
    places = _specific(words)
    if places:
        end = places[0] + 1
        while end in places:
            end += 1
        return joined(words[places[0] : end])
    content = [i for i, w in enumerate(words) if w.lower() not in _LIGHT and w.isalpha() and not is_adverb(w)]
    if not content:
        return ""
    start = content[-1]
    while start - 1 in content:
        start -= 1
    return joined(words[start : content[-1] + 1])


def _is_verb(words: Sequence[str], i: int) -> bool:
    word = words[i].lower()
    if word in _LIGHT or verb_lemma(word) is None:
        return False
    before = words[i - 1].lower() if i else ""
    inflected = any(has_form(word, tag) for tag in ("VBD", "VBZ")) and not (is_noun(word) and not has_form(word, "VBD"))
    return before in {"i", "we", "they", "to", "you", "not", "never", *MODALS} or (
        inflected and before not in DETERMINERS | PREPOSITIONS
    )


def _topics(words: Sequence[str], but: set[str]) -> list[str]:
    """My godmother, the burglar alarm: what was spoken of, beside the value."""
    found = []
    for i, word in enumerate(words):
        if word.lower() not in ("my", "our", "the", "a", "an"):
            continue
        end = i + 1
        while end < min(len(words), i + 4) and words[end].lower() not in _LIGHT and words[end].isalpha():
            if _is_verb(words, end) and end > i + 1:
                break
            end += 1
        inside = words[i + 1 : end]
        if inside and not but & set(inside):
            found.append(joined(["my" if word.lower() in ("a", "an") else word.lower(), *inside]))
    found += [w for i, w in enumerate(words) if w[:1].isupper() and w != "I" and w not in but and (i or not is_word(w))]
    return list(dict.fromkeys(found))[:3]


def _asks(words: Sequence[str], value: set[str]) -> tuple[Ask, ...]:
    topics = _topics(words, value)
    past = any(has_form(w.lower(), "VBD") and _is_verb(words, i) for i, w in enumerate(words))
    verbs = [str(verb_lemma(w.lower())) for i, w in enumerate(words) if _is_verb(words, i) and w not in value]
    verbs = list(dict.fromkeys(verbs))[:3]
    speaker = next((w for w in words if w in ("I", "we")), None)
    subjects = [speaker] if speaker else [t for t in topics if t.split()[0] in ("my", "our")][:1]
    made: list[Ask] = []
    whs = _whs(" ".join(sorted(value)), value)
    for subject in subjects:
        for verb in verbs:
            for wh in whs:
                made += _asked(wh, subject, verb, "", past=past)
                made += [a for t in topics if t != subject for a in _asked(wh, subject, verb, t, past=past)][:1]
    for topic in topics:
        made.append(Ask(direct=f"what did I say about {topic}", embedded=f"what I said about {topic}"))
        made.append(Ask(direct=f"what was it with {topic}", embedded=f"what it was with {topic}"))
        for wh in whs[:2]:
            be = "are" if is_plural(topic) else "is"
            made.append(Ask(direct=f"{wh} {be} {topic}", embedded=f"{wh} {topic} {be}"))
    return tuple(dict.fromkeys(made))


def _asked(wh: str, subject: str, verb: str, rest: str, *, past: bool) -> list[Ask]:
    many = subject in ("I", "we") or is_plural(subject)
    front = "did" if past else "do" if many else "does"
    finite = inflect(verb, "VBD") if past else verb if many else inflect(verb, "VBZ")
    return [
        Ask(
            direct=" ".join(f"{wh} {front} {subject} {verb} {rest}".split()),
            embedded=" ".join(f"{wh} {subject} {finite} {rest}".split()),
        )
    ]


def _whs(phrase: str, value: set[str]) -> list[str]:
    if is_time(phrase):
        return ["when", "on which day"]
    if any(w[:1].isdigit() for w in value):
        return ["what number", "how much", "what"]
    if any(w[:1].isupper() for w in value):
        return ["what", "which", "who", "where"]
    return ["what", "which", "where", "how"]
