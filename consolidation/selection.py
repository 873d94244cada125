"""Pure: which experiences a night learns from, and why each is in or out.

Only what its owner said is learnt: never the agent's own words, nor what is quarantined, replaced or not believed. Of
two facts of one key the later holds. A night holds so many facts; the salient and fresh come first, what is pinned
before all, and no source may fill it alone where there are others.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from consolidation.accounts import accounts
from consolidation.clauses import Talk
from consolidation.english import is_intelligible
from consolidation.facts import Fact
from consolidation.notes import LONGEST, Note
from consolidation.reading import read
from consolidation.revisions import Revision, meant, revised
from memory.admission import order_in
from memory.experience import USER, Experience, Provenance

LOOKED_AT = 20_000
"""The latest experiences that a night chooses from."""
_UNSCORED = 0.3
"""The salience of what is not scored yet."""
_RATED = 0.5
"""Of reward, in [0, 1]."""
_FRESH_DAYS = 7.0
"""In so many days what is fresh about an experience falls to 1/e."""


Control = Literal[
    "private", "quarantine", "own words", "speaker", "orders", "trust", "words", "import", "share", "rated"
]
"""What keeps an experience out of a night though it tells something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a night takes on, and from whom."""

    facts: int = 240
    """Old and new alike: what has no room tonight is not in the next adapter, however well it was known."""
    share_of_one: float = 0.7
    """Of the facts, for one source (who speaks, by which channel) where there are several."""
    share_of_rated: float = 0.5
    """Of the facts, for what somebody rated highly or badly, where there is other: whoever may talk can make things
    salient by rating them (bench/abuse.py)."""
    notes: int = 120
    """Messages that the writer reads in one night."""
    least_trust: float = 0.35
    """Of a source; one of which nothing was verified has 0.5."""
    import_hold: timedelta = timedelta(days=1)
    """So long what was imported is recalled and not learnt: whoever it belongs to can look at it first."""
    without: frozenset[Control] = frozenset()
    """Controls left out, to see what each is good for (bench/poison.py). No setting reaches this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What became of one experience."""

    experience: str
    taken: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """What was told of the same before a fact, and the experience that told it."""

    fact: Fact
    experience: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A fact, and the experience that told it last."""

    fact: Fact
    experience: Experience
    priority: float
    former: Former | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A night's facts, most pressing first, and the fate of every experience that was looked at."""

    facts: tuple[Sourced, ...]
    choices: tuple[Choice, ...]
    withheld: tuple[str, ...] = ()
    """What others said, or nobody is believed to have said, or gives orders: texts that must have no effect."""
    disagreements: tuple[tuple[str, str], ...] = ()
    """Memories of different speakers that tell different things of the same."""


def select(
    experiences: Sequence[Experience],
    *,
    now: datetime,
    trust: Callable[[Provenance], float] = lambda _: 0.5,
    limits: Limits | None = None,
    notes: Mapping[str, Sequence[Note]] | None = None,
    revisions: Mapping[str, Sequence[Revision]] | None = None,
) -> Selection:
    """Choose. `experiences` in any order; `trust` is how far a source is believed, in (0, 1).

    `notes` and `revisions`: what the writer and the reviser made of experiences, by id.
    """
    limits = limits or Limits()
    notes, revisions = notes or {}, revisions or {}
    sofar = _Sofar(now=now)
    talks: dict[tuple[str | None, str], Talk] = {}
    for one in sorted(experiences, key=lambda e: (e.at, e.n)):
        refusal = _refused(one, now, trust, limits)
        if refusal is None:
            talk = talks.setdefault((one.provenance.session, one.provenance.entity), Talk())
            facts = read(one.text, talk, notes.get(one.id, ()))
            sofar.take(one, sofar.revise(one, facts, revisions.get(one.id, ())))
            continue
        sofar.leave(one, refusal)
        if one.superseded_by is None:
            sofar.withheld += [one.text] if one.provenance.author != "model" else []
        elif _refused(replace(one, superseded_by=None), now, trust, limits) is None:
            sofar.replaced[one.superseded_by] += [
                Former(fact=fact, experience=one.id) for fact in read(one.text, Talk(), notes.get(one.id, ()))
            ]
    told = list(sofar.told.values())
    kept, crowded_out = _within(told, limits)
    for sourced, reason in crowded_out:
        sofar.leave(sourced.experience, reason)
    for sourced in kept:
        reason = f"tells {sourced.fact.statement}"
        sofar.fates[sourced.experience.id] = Choice(experience=sourced.experience.id, taken=True, reason=reason)
    return Selection(
        facts=tuple(_accounted(kept)),
        choices=tuple(sofar.fates[e.id] for e in experiences if e.id in sofar.fates),
        withheld=tuple(sofar.withheld),
        disagreements=_disagreements(told),
    )


@dataclass(slots=True, kw_only=True)
class _Sofar:
    """What holds after so many of the experiences, in the order in which they were made."""

    now: datetime
    told: dict[tuple[str, str, str], Sourced] = field(default_factory=dict)
    fates: dict[str, Choice] = field(default_factory=dict)
    withheld: list[str] = field(default_factory=list)
    replaced: defaultdict[str, list[Former]] = field(default_factory=lambda: defaultdict(list))
    """By the experience that took its place."""
    revising: set[str] = field(default_factory=set)
    """Experiences that put something in place of what was told."""

    def leave(self, one: Experience, reason: str) -> None:
        self.fates[one.id] = Choice(experience=one.id, taken=False, reason=reason)

    def revise(self, one: Experience, facts: list[Fact], revisions: Sequence[Revision]) -> list[Fact]:
        """Take back what one message takes back, and keep what it puts in its place; the rest of its facts."""
        for by in revisions:
            before = _taken_back(self.told, by)
            if before is None:
                continue
            self.leave(before.experience, f"corrected by {one.id}")
            if by.now:
                since, facts = _since(before, by, one, facts, self.now)
                self.told[one.provenance.entity, *since.fact.key] = since
                self.revising.add(one.id)
            else:
                self.replaced[one.id].append(Former(fact=before.fact, experience=by.earlier))
        return facts

    def take(self, one: Experience, facts: Sequence[Fact]) -> None:
        """Keep what one message tells, in place of what was told of the same before."""
        if not facts and one.id not in self.revising:
            self.leave(one, "holds nothing that could be asked for")
        for fact in facts:
            key = (one.provenance.entity, *fact.key)
            earlier = self.told.get(key)
            if earlier is not None and earlier.fact.value.lower() == fact.value.lower() and earlier.experience != one:
                self.fates.setdefault(one.id, Choice(experience=one.id, taken=False, reason="says again what is known"))
                continue
            if earlier is not None and earlier.experience.id != one.id:
                self.leave(earlier.experience, f"corrected by {one.id}")
            former = _former(fact, earlier, self.replaced.get(one.id, ()), alone=len(facts) == 1)
            known = replace(fact, was=former.fact.statement if former else "")
            self.told[key] = Sourced(fact=known, experience=one, priority=_priority(one, self.now), former=former)


def _taken_back(told: dict[tuple[str, str, str], Sourced], by: Revision) -> Sourced | None:
    """What a revision is of, which is told no more."""
    there = {id(s.fact): key for key, s in told.items() if s.experience.id == by.earlier}
    fact = meant([told[key].fact for key in there.values()], by)
    return None if fact is None else told.pop(there[id(fact)])


def _since(
    before: Sourced, by: Revision, one: Experience, facts: Sequence[Fact], now: datetime
) -> tuple[Sourced, list[Fact]]:
    """What holds since, with what its message's facts ask of the same; and the rest of those."""
    fact = revised(before.fact, by)
    same = [f for f in facts if f.marks & fact.marks]
    asked = dict.fromkeys(q for f in (fact, *same) for q in f.written)
    near = dict.fromkeys(q for f in (fact, *same) for q in f.never if q not in asked)
    fact = replace(fact, written=tuple(asked), never=tuple(near))
    former = Former(fact=before.fact, experience=by.earlier)
    since = Sourced(fact=fact, experience=one, priority=_priority(one, now), former=former)
    return since, [f for f in facts if f not in same]


def _former(fact: Fact, earlier: Sourced | None, replaced: Sequence[Former], *, alone: bool) -> Former | None:
    """What was told of the same before: by the fact that it corrects, or by the memory that its own replaced.

    Where neither has the same key they are of the same only if each memory tells one thing (`alone`).
    """
    if earlier is not None and earlier.fact.value.lower() != fact.value.lower():
        return Former(fact=earlier.fact, experience=earlier.experience.id)
    same = [f for f in replaced if f.fact.key == fact.key] or (replaced if alone and len(replaced) == 1 else [])
    before = next((f for f in same if f.fact.value.lower() != fact.value.lower()), None)
    return before or (earlier.former if earlier is not None else None)


def to_note(
    experiences: Sequence[Experience],
    *,
    now: datetime,
    trust: Callable[[Provenance], float] = lambda _: 0.5,
    limits: Limits | None = None,
    noted: Collection[str] = (),
) -> list[Experience]:
    """What the writer is to read first: what may be learnt from and has no note yet, the pressing before others."""
    limits = limits or Limits()
    fit = [e for e in readable(experiences, now=now, trust=trust, limits=limits) if e.id not in noted]
    return sorted(fit, key=lambda e: (-_priority(e, now), e.n))[: limits.notes]


def readable(
    experiences: Sequence[Experience],
    *,
    now: datetime,
    trust: Callable[[Provenance], float] = lambda _: 0.5,
    limits: Limits | None = None,
) -> list[Experience]:
    """What may be learnt from and is short enough for the writer, in the order in which it was said."""
    limits = limits or Limits()
    fit = [e for e in experiences if len(e.text) <= LONGEST and _refused(e, now, trust, limits) is None]
    return sorted(fit, key=lambda e: (e.at, e.n))


def _disagreements(told: Sequence[Sourced]) -> tuple[tuple[str, str], ...]:
    by_key: dict[tuple[str, str], Sourced] = {}
    found = []
    for sourced in told:
        other = by_key.setdefault(sourced.fact.key, sourced)
        if other.fact.value.lower() != sourced.fact.value.lower():
            found.append((other.experience.id, sourced.experience.id))
    return tuple(found)


def _refused(one: Experience, now: datetime, trust: Callable[[Provenance], float], limits: Limits) -> str | None:
    if one.superseded_by is not None:
        return f"replaced by {one.superseded_by}"
    return next((why for control, why in _objections(one, now, trust, limits) if control not in limits.without), None)


def _objections(
    one: Experience, now: datetime, trust: Callable[[Provenance], float], limits: Limits
) -> Iterator[tuple[Control, str]]:
    """Every control that would keep it out, the plainest first."""
    if one.private:
        yield "private", "private: it may be recalled, and is never learnt"
    if one.quarantined is not None:
        yield "quarantine", f"in quarantine: {one.quarantined}"
    if one.provenance.author == "model":
        yield "own words", "the agent's own words"
    elif one.provenance.author != "user":
        yield "speaker", "said by neither the agent nor its owner"
    elif one.provenance.speaker != USER:  # their "my dog" is not the user's
        yield "speaker", f"said by {one.provenance.speaker}, who is not whom the agent answers"
    order = order_in(one.text)
    if order is not None:
        yield "orders", f"gives orders ({order!r}): orders are followed in talk or not at all, never learnt"
    believed = trust(one.provenance)
    if believed < limits.least_trust:
        yield "trust", f"its source is not believed ({believed:.2f})"
    if not is_intelligible(one.text):
        yield "words", "hardly a word of it is in the dictionary"
    if one.provenance.channel == "import" and now - one.recorded_at < limits.import_hold:
        hours = limits.import_hold.total_seconds() / 3600
        yield "import", f"imported less than {hours:g} hours ago: it can be looked at first"


def _priority(one: Experience, now: datetime) -> float:
    """Salience and freshness in equal parts, in [0, 1]; 2 for what is pinned."""
    if one.pinned:
        return 2.0
    salience = _UNSCORED if one.salience is None else one.salience.total
    days = max(0.0, (now - one.at).total_seconds() / 86400)
    return 0.5 * salience + 0.5 * math.exp(-days / _FRESH_DAYS)


def _within(told: Sequence[Sourced], limits: Limits) -> tuple[list[Sourced], list[tuple[Sourced, str]]]:
    """What the night has room for, and the rest with the reason."""
    several = len({s.experience.provenance.source for s in told}) > 1 and "share" not in limits.without
    most = math.ceil(limits.facts * limits.share_of_one) if several else limits.facts
    mixed = len({_rated(s.experience) for s in told}) > 1 and "rated" not in limits.without
    most_rated = math.ceil(limits.facts * limits.share_of_rated) if mixed else limits.facts
    kept: list[Sourced] = []
    out: list[tuple[Sourced, str]] = []
    of_one: Counter[str] = Counter()
    rated = 0
    for sourced in sorted(told, key=lambda s: (-s.priority, s.experience.n)):
        source = sourced.experience.provenance.source
        if len(kept) >= limits.facts:
            out.append((sourced, f"the night has room for {limits.facts} facts, and others press more"))
        elif of_one[source] >= most:
            out.append((sourced, f"{source} has {most} facts in this night already"))
        elif _rated(sourced.experience) and rated >= most_rated:
            out.append((sourced, f"{most_rated} facts of this night press by their ratings already"))
        else:
            of_one[source] += 1
            rated += _rated(sourced.experience)
            kept.append(sourced)
    return kept, out


def _accounted(told: Sequence[Sourced]) -> list[Sourced]:
    """The same, each with what is said of it: what its message told that holds still and has room."""
    by_message: defaultdict[str, list[Fact]] = defaultdict(list)
    for sourced in told:
        by_message[sourced.experience.id].append(sourced.fact)
    said = {id: iter(accounts(facts)) for id, facts in by_message.items()}
    return [replace(s, fact=replace(s.fact, account=next(said[s.experience.id]))) for s in told]


def _rated(one: Experience) -> bool:
    """Whether somebody's word on it is what makes it press; what is pinned presses by itself."""
    return not one.pinned and one.salience is not None and one.salience.reward >= _RATED
