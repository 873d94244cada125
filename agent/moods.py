"""Every owner's mood: read before a reply, moved by the turn in the turn's own transaction, taught by feedback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, tzinfo

from sqlite_utils import Database

from agent.errors import ReservoirRefused
from agent.manner import MANNERS
from agent.mood import Feeling, Mood, named, noticed
from agent.mood_file import packed, packed_array, unpacked, unpacked_array
from agent.senses import Senses, pressure, tension, time_of_day
from memory import moods
from memory.salience import Salience
from memory.store import Store
from models.engine import EngineStats
from models.generation import Reply

log = logging.getLogger("slowwave.mood")

_SENTIMENT_OF = 15.0
"""Pleasant less unpleasant words in a hundred at which sentiment is felt in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a turn gives to feel."""

    said: str
    salience: Salience | None
    reply: Reply
    stats: EngineStats
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Moods:
    """Kept in the store."""

    store: Store
    zone: tzinfo
    make: Callable[[], Feeling] = Feeling
    _made: list[Feeling] = field(default_factory=list)
    _making: threading.Lock = field(default_factory=threading.Lock)

    @property
    def feeling(self) -> Feeling:
        """Made when first needed, which takes a second or two: not within a transaction."""
        with self._making:
            if not self._made:
                self._made.append(self.make())
            return self._made[0]

    def of(self, owner: str, at: datetime) -> Mood:
        """A mood as it is at a time."""
        feeling = self.feeling
        return feeling.now(self._unpacked(moods.kept(self.store, owner)), at)

    def carried(self, owner: str) -> tuple[bytes, bytes | None] | None:
        """A mood as it travels, and what is certain of what feedback taught; None: nothing has moved it yet."""
        with self.store.reading() as db:
            body = moods.kept_within(db, owner)
            return None if body is None else (body, moods.spread_within(db, owner))

    def settle(self, owner: str, body: bytes, spread: bytes | None) -> Callable[[Database], bool]:
        """Have an owner take on a mood that comes from elsewhere, if they have none; to be part of a transaction.

        Raises:
            ReservoirRefused: it is no mood, or another reservoir's.
        """
        unpacked(body, self.feeling.begin(), self.feeling.digest, spread)
        return lambda db: moods.begin_within(db, owner, body, spread)

    def trace(self, owner: str, *, most: int) -> list[moods.Event]:
        """What moved it lately; the newest first."""
        return moods.trace(self.store, owner, most=most)

    def feel_within(self, db: Database, owner: str, turn: str, moment: Moment) -> None:
        """Have a turn move its owner's mood; part of a transaction."""
        feeling = self.feeling
        before = self._unpacked(moods.kept_within(db, owner))
        felt = feeling.feel(before, sensed(moment, before, self.zone), moment.at)
        after = noticed(felt.mood, moment.reply.timings.time_to_first_token)
        event = _event("turn", after, turn, felt.senses, moment.at)
        moods.keep_within(db, owner, packed(after, feeling.digest), event, packed_array(felt.moment))

    def rating(self, owner: str, turn: str, reward: float, at: datetime) -> Callable[[Database], None]:
        """What has feedback on a turn teach the readout, once a turn; to be part of a transaction."""
        _ = self.feeling  # made before the transaction, which it would hold up
        return lambda db: self._rate(db, owner, turn, reward, at)

    def _rate(self, db: Database, owner: str, turn: str, reward: float, at: datetime) -> None:
        features = moods.unrated_within(db, owner, turn)
        if features is None:
            return
        feeling = self.feeling
        before = self._unpacked(moods.kept_within(db, owner), moods.spread_within(db, owner))
        try:
            after = feeling.rated(before, unpacked_array(features), reward)
        except ReservoirRefused as refused:
            log.warning("feedback_unheard: of %s: %s", turn, refused)
            return
        spread = None if after.spread is None else packed_array(after.spread)
        event = _event("feedback", feeling.now(after, at), turn, Senses(reward=reward), at)
        moods.keep_within(db, owner, packed(after, feeling.digest), event, features, spread=spread)

    def _unpacked(self, body: bytes | None, spread: bytes | None = None) -> Mood:
        feeling = self.feeling
        fresh = feeling.begin()
        if body is None:
            return fresh
        try:
            return unpacked(body, fresh, feeling.digest, spread)
        except ReservoirRefused as refused:
            log.warning("mood_begins_anew: %s", refused)
            return fresh


def sensed(moment: Moment, before: Mood, zone: tzinfo) -> Senses:
    """What a turn feels like."""
    salience, reply, stats = moment.salience, moment.reply, moment.stats
    daylight, evening = time_of_day(moment.at.astimezone(zone))
    others = max(0, stats.running + stats.waiting - 1)
    return Senses(
        surprise=(salience and salience.surprise) or 0.0,
        novelty=(salience and salience.novelty) or 0.0,
        arousal=salience.arousal if salience else 0.0,
        reward=salience.reward * salience.sign if salience else 0.0,
        conflict=salience.conflict if salience else 0.0,
        sentiment=MANNERS["pleasure"](moment.said) / _SENTIMENT_OF,
        tension=tension(reply.timings.time_to_first_token, before.usual),
        pressure=pressure(
            failed=float(reply.finish_reason not in ("stop", "length", "suspended", "cancelled")),
            memory=stats.state_bytes / max(1, stats.state_bytes_limit),
        ),
        load=others / (others + 1),
        daylight=daylight,
        evening=evening,
    )


def _event(kind: moods.Kind, mood: Mood, turn: str, senses: Senses, at: datetime) -> moods.Event:
    return moods.Event(
        at=at,
        kind=kind,
        turn=turn,
        values=named(mood.values),
        senses=asdict(senses),
        zone=mood.zone,
        updates=mood.updates,
    )
