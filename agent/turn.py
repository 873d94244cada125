"""take_turn(): from a message to a reply that is on disk. Synchronous; the caller brings the thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, cast

from sqlite_utils import Database

from agent.abstention import Taught, personal
from agent.answering import answer
from agent.calibration import judged_in
from agent.control import RunningTurns, TurnControl
from agent.doubt import Doubt, asks_for_fact
from agent.errors import IdempotencyConflict, InvalidTurn, SessionBusy, TurnInProgress
from agent.judging import Judge
from agent.moods import Moment, Moods
from agent.persona import Persona
from agent.prompt import Draft, Plan, plan_turn, reply_draft
from agent.recollection import Recollection, asks, hit_of, reasons_of, recollect
from agent.remembering import Exchange, Memory, appraise, offers
from agent.session import PATIENCE, Opening, SessionLeases, open_by_history, open_named
from agent.speaking import Speaker, speakers
from agent.steering import Bearing
from agent.thinking import Aloud, spoken
from memory import rooms
from memory.errors import MemoryFault
from memory.experience import Experience
from memory.ids import new_id
from memory.recall import Hit
from memory.salience import Raw, Salience
from memory.transcripts import COMPACTION, NOTE, Entry, Status, Transcripts, TurnRow
from memory.underway import Underway
from models.engine import Engine
from models.errors import AdapterRefused
from models.generation import Delta, Prompt, Reply, Timings
from models.language import BASE, FinishReason, Message
from models.sampling import Choice, Sampling

log = logging.getLogger("slowwave.turn")

Forgotten = Callable[[str], bool]
"""Whether a text was forgotten since the turn began."""
Unsaid = Mapping[rooms.Room, Sequence[str]]
"""What a turn left unsaid, by the room that it goes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRequest:
    """One turn as asked for."""

    owner: str
    messages: tuple[Message, ...]
    session: str | None = None
    """None: recognise the session by the history in `messages`."""
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    idempotency_key: str | None = None
    request_digest: bytes | None = None
    recall: bool = True
    """Remind the model of what it was told before."""
    remember: bool = True
    """Let what is said here be remembered, and move the mood; it stays in its session all the same."""
    abstain: bool = True
    """Say that one does not know, rather than guess at a fact about whoever asks."""
    adapter: str | None = None
    """Who answers: one of the owner's adapters, `BASE`, or whoever serves the owner now."""
    persona: Mapping[str, float] | None = None
    """Variables for this reply, the others at rest; None: as they are."""
    keep_partial: bool = True
    """Keep a reply that was cancelled, marked as such: somebody has been reading along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """One turn, on disk, unless it was stopped before anything was worth keeping."""

    id: str
    session: str
    text: str
    finish_reason: FinishReason
    model: str
    adapter: str
    timings: Timings
    created_at: datetime
    choices: tuple[Choice, ...] = ()
    compacted: bool = False
    recalled: tuple[Hit, ...] = ()
    """What the model was reminded of."""
    salience: Salience | None = None
    """Of what was said, for now."""
    persona: Mapping[str, float] | None = None
    """The variables that the reply was written under; None: it was taken before, or by heart."""
    doubt: Doubt | None = None
    """How the reply compared with drafts of it; None: it was not compared, or taken before."""
    replayed: bool = False
    """Taken before, under the same idempotency key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Awake:
    """What it takes to talk."""

    engine: Engine
    transcripts: Transcripts
    now: Callable[[], datetime]
    memory: Memory | None = None
    persona: Persona = field(default_factory=Persona)
    moods: Moods | None = None
    """None: nothing that happens moves a mood."""
    leases: SessionLeases = field(default_factory=SessionLeases)
    underway: Underway = field(default_factory=Underway)
    running: RunningTurns = field(default_factory=RunningTurns)
    patience: float = PATIENCE
    serving: Callable[[str], str] = lambda _: BASE
    """Which adapter serves an owner."""
    taught: Callable[[str], Sequence[Taught]] = lambda _: ()
    """The facts that it knows."""
    judge: Callable[[], Judge | None] = lambda: None
    """Who has second thoughts about what an adapter says by heart."""
    wake: Callable[[str, str], object] = lambda session, owner: None
    """Bring a session's state back into memory, if it is suspended."""
    drafts: int = 0
    """What a reply that gives a fact about whoever asks is compared with; 0: nothing."""
    keys_in_use: set[tuple[str, str]] = field(default_factory=set)
    keys_lock: threading.Lock = field(default_factory=threading.Lock)


def take_turn(
    awake: Awake,
    request: TurnRequest,
    *,
    on_start: Callable[[str, str], None] = lambda turn, session: None,
    on_delta: Callable[[Delta], None] = lambda delta: None,
    control: TurnControl | None = None,
) -> TurnResult:
    """Open the session, reply, and write both sides down in one transaction. When it returns, they are on disk.

    `on_start` hears the turn's and the session's id once the request is in line; `on_delta` every piece of the reply.

    Raises:
        InvalidTurn, HistoryMismatch, SessionBusy, TurnInProgress, IdempotencyConflict: nothing was done.
        SessionNotFound: no such session.
        PromptTooLong, TemplateRefused, EngineFull, EngineLoading, EngineClosed: nothing was written.
        StorageFailed: the reply came, but could not be written, and is not part of the session.
    """
    if not request.messages or request.messages[-1].role not in ("user", "tool"):
        raise InvalidTurn("the last message must be the user's (or a tool's): it is what the reply answers")
    with _idempotent(awake, request) as taken:
        if taken is not None:
            return taken
        with ExitStack() as held:
            forgotten = held.enter_context(awake.underway.turn(request.owner))
            opening = _open(awake, request, held)
            model = awake.engine.model
            if opening.session is not None:
                awake.wake(opening.session, request.owner)
            at = awake.now()
            feeling, bearing = awake.persona.feeling(request.owner, request.persona)
            turn, session = new_id("turn", at), opening.session or new_id("sess", at)
            control = control or TurnControl()
            held.enter_context(awake.running.taking(session, request.owner, control))

            def prepare(speaker: Speaker) -> tuple[Plan, Prompt]:
                plan = plan_turn(
                    model,
                    opening.window,
                    opening.new,
                    max_tokens=request.max_tokens,
                    same_tokenizer=opening.tokenizer in (None, model.card.tokenizer),
                    note=speaker.recollection.note,
                )
                plainly = Bearing() if speaker.by_heart else bearing  # what is known by heart is said plainly
                return plan, _prompt(awake, request, opening, plan, speaker.adapter, bearing=plainly)

            aloud = Aloud(on_delta)
            while True:
                who = _speakers(awake, request, opening)
                try:
                    answered = answer(
                        awake.engine,
                        who,
                        prepare,
                        said=opening.new[-1].content,
                        before=[*opening.window.messages, *opening.new[:-1]],
                        drafts=_drafts(awake, request, opening),
                        judge=_judge(awake, request, opening),
                        control=control,
                        started=lambda: on_start(turn, session),
                        on_delta=aloud,
                    )
                    break
                except AdapterRefused:  # another was woken between the look and the line: nothing has been said yet
                    if request.adapter is not None or awake.serving(request.owner) == who[0].adapter:
                        raise
            speaker, plan = answered.speaker, answered.plan
            goes_on = answered.reply.finish_reason == "suspended"
            aloud.end(goes_on=goes_on)
            reply, thought = spoken(model, answered.reply, goes_on=goes_on)
            unsaid: Unsaid = {"thoughts": [thought], "withheld": answered.withheld}
            raw, salience = _appraise(awake, request, opening, reply)
            result = TurnResult(
                id=turn,
                session=session,
                text=reply.text,
                finish_reason=reply.finish_reason,
                model=model.card.name,
                adapter=speaker.adapter,
                timings=answered.timings,
                created_at=at,
                choices=tuple(aloud.choices),
                compacted=plan.compacted,
                recalled=speaker.recollection.hits if plan.noted else (),
                salience=salience,
                persona=None if speaker.by_heart else feeling,
                doubt=answered.doubt,
            )
            partial = reply.finish_reason == "suspended" or (request.keep_partial and reply.token_ids)
            if reply.finish_reason in ("stop", "length") or partial:
                _write_down(awake, request, opening, plan, reply, result, raw, forgotten, unsaid)
            return result


def _open(awake: Awake, request: TurnRequest, held: ExitStack) -> Opening:
    """Find the session and become its only writer."""
    if request.session is not None:
        held.enter_context(awake.leases.hold(request.session, patience=awake.patience))
        opening = open_named(awake.transcripts, request.session, request.messages, owner=request.owner)
        if not opening.new:
            raise InvalidTurn("the session holds all these messages already; send a new one")
        return opening
    opening = open_by_history(awake.transcripts, request.messages, owner=request.owner)
    if opening.session is not None:
        try:
            held.enter_context(awake.leases.hold(opening.session, patience=awake.patience))
        except SessionBusy:
            return open_by_history(awake.transcripts, request.messages, owner=request.owner, in_place=False)
        # Somebody may have written between the look and the lease: look again, now that nobody can.
        again = open_by_history(awake.transcripts, request.messages, owner=request.owner)
        if again.session != opening.session:
            return open_by_history(awake.transcripts, request.messages, owner=request.owner, in_place=False)
        return again
    return opening


@contextmanager
def _idempotent(awake: Awake, request: TurnRequest) -> Iterator[TurnResult | None]:
    """The turn taken earlier under the request's key, or None and the key is ours for the time being."""
    if request.idempotency_key is None:
        yield None
        return
    held = (request.owner, request.idempotency_key)
    with awake.keys_lock:
        if held in awake.keys_in_use:
            raise TurnInProgress("a request with this Idempotency-Key is being served; ask again for its reply")
        awake.keys_in_use.add(held)
    try:
        found = awake.transcripts.turn_by_key(request.idempotency_key, owner=request.owner)
        if found is not None and found[0].request_digest != request.request_digest:
            raise IdempotencyConflict("this Idempotency-Key was used for another request; use a new one")
        yield None if found is None else _recorded(awake, *found)
    finally:
        awake.keys_in_use.discard(held)


def _recorded(awake: Awake, turn: TurnRow, reply: Entry) -> TurnResult:
    """A turn as it was written down; its salience as far as it is settled by now."""
    hits: list[Hit] = []
    said: list[Experience] = []
    if awake.memory is not None:
        experiences = awake.memory.experiences
        for one, rank, score, reasons in experiences.recalled(turn.id, owner=turn.owner):
            hits.append(hit_of(one, rank=rank, score=score, reasons=reasons))
        said = [e for e in experiences.of_turn(turn.id, owner=turn.owner) if e.provenance.author != "model"]
    return TurnResult(
        id=turn.id,
        session=turn.session,
        text=reply.content,
        finish_reason=cast(FinishReason, turn.finish_reason),
        model=turn.model,
        adapter=turn.adapter,
        timings=Timings(**turn.timings),
        created_at=turn.created_at,
        recalled=tuple(hits),
        salience=said[0].salience if said else None,
        replayed=True,
    )


def _write_down(
    awake: Awake,
    request: TurnRequest,
    opening: Opening,
    plan: Plan,
    reply: Reply,
    result: TurnResult,
    raw: Raw | None,
    forgotten: Forgotten,
    unsaid: Unsaid,
) -> None:
    model = awake.engine.model
    at = awake.now()
    finished = reply.finish_reason in ("stop", "length")
    status = "complete" if finished else status_of(reply.finish_reason)
    drafts = [*plan.drafts, reply_draft(model, plan.header, reply.text, reply.kept_ids)]
    entries = _entries(drafts, turn=result.id, status=status, at=at)
    changed: list[str] = []

    def leave(db: Database) -> None:
        if not request.remember:
            return
        rooms.keep_within(
            db, owner=request.owner, session=result.session, turn=result.id, unsaid=unsaid, since=result.created_at
        )
        changed.extend(_remember(awake, db, request, entries, reply, result, raw, forgotten))
        if awake.moods is not None and reply.finish_reason in ("stop", "length", "suspended"):
            moment = Moment(
                said=opening.new[-1].content,
                salience=result.salience,
                reply=reply,
                stats=awake.engine.stats(),
                at=at,
            )
            awake.moods.feel_within(db, request.owner, result.id, moment)

    awake.transcripts.append(
        result.session,
        entries=entries,
        turn=TurnRow(
            id=result.id,
            session=result.session,
            owner=request.owner,
            model=result.model,
            adapter=result.adapter,
            finish_reason=result.finish_reason,
            timings=asdict(result.timings),
            # A reply that was cut off does not answer for its request: the same key may try again.
            idempotency_key=request.idempotency_key if finished else None,
            request_digest=request.request_digest,
            created_at=at,
        ),
        at=at,
        tokenizer=model.card.tokenizer,
        create_for=None if opening.session else request.owner,
        fork_of=opening.fork_of,
        unfinished=_unfinished(request, plan, reply, result) if reply.finish_reason == "suspended" else None,
        also=leave,
        forgotten=forgotten,
    )
    if any(forgotten(entry.content) for entry in entries):
        awake.engine.drop_states(request.owner)  # this one came to rest after the others were dropped
    if awake.memory is not None:
        awake.memory.recall.refresh(request.owner, changed)


def status_of(reason: FinishReason) -> Status:
    """How a transcript calls a reply that did not come to its end. A suspended one is interrupted, until it goes on."""
    return "interrupted" if reason == "suspended" else cast(Status, reason)


def _unfinished(request: TurnRequest, plan: Plan, reply: Reply, result: TurnResult) -> dict[str, Any]:
    """All that a reply needs to go on with the same next token; see going_on.py."""
    return {
        "header": len(plan.header),
        "written": len(reply.token_ids),
        "max_tokens": plan.max_tokens,
        "sampling": asdict(request.sampling),
        "stop": list(request.stop),
        "ignore_eos": request.ignore_eos,
        "adapter": request.adapter,
        "denial": plan.denial,
        "persona": dict(result.persona or {}),
        "remember": request.remember,
    }


def _recollect(awake: Awake, request: TurnRequest, opening: Opening) -> Recollection:
    """What to remind the model of."""
    said = opening.new[-1]
    if awake.memory is None or not request.recall or said.role != "user":
        return Recollection()
    encode = awake.engine.model.encode
    try:
        return recollect(
            awake.memory.recall,
            said.content,
            owner=request.owner,
            window=opening.window,
            count=lambda text: len(encode(text)),
        )
    except MemoryFault as fault:  # an answer without memories is better than none
        log.error("recall_failed: %s", fault)
        return Recollection()


def _speakers(awake: Awake, request: TurnRequest, opening: Opening) -> list[Speaker]:
    """Who answers, and who does where the first gives what was not asked for."""
    recollection, said = _recollect(awake, request, opening), opening.new[-1].content
    if request.adapter is not None:
        return [Speaker(adapter=request.adapter, recollection=recollection)]
    adapter = awake.serving(request.owner)
    guarded = awake.memory is not None and request.recall
    taught = awake.taught(request.owner) if adapter != BASE and guarded and personal(said) else None
    if taught is None:
        return [Speaker(adapter=adapter, recollection=recollection)]
    before = [*opening.window.messages, *opening.new[:-1]]
    told_before = any(m.role == "user" and not asks(m.content) for m in before)
    return speakers(said, adapter, recollection, taught, told_before=told_before)


def _drafts(awake: Awake, request: TurnRequest, opening: Opening) -> int:
    """With how many further drafts the reply is compared; 0 where the weights or the text are asked for as they are."""
    guarded = awake.memory is not None and request.recall and request.abstain and request.adapter is None
    last = opening.new[-1]
    plain = guarded and not request.stop and not request.ignore_eos and last.role == "user"
    return awake.drafts if plain and asks_for_fact(last.content) else 0


def _judge(awake: Awake, request: TurnRequest, opening: Opening) -> Judge | None:
    """Who reads what is said by heart, if that is a whole answer to somebody."""
    plain = not request.stop and not request.ignore_eos and opening.new[-1].role == "user"
    return awake.judge() if plain else None


def _prompt(
    awake: Awake, request: TurnRequest, opening: Opening, plan: Plan, adapter: str, *, bearing: Bearing
) -> Prompt:
    said = opening.new[-1].content
    return Prompt(
        token_ids=plan.prompt,
        max_tokens=plan.max_tokens,
        sampling=replace(request.sampling, end_bias=0.0 if request.ignore_eos else bearing.end_bias),
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        namespace=request.owner,
        adapter=adapter,
        steering=bearing.steering,
        judged=range(0) if awake.memory is None else judged_in(awake.engine.model, plan.prompt, said),
    )


def _appraise(awake: Awake, request: TurnRequest, opening: Opening, reply: Reply) -> tuple[Raw | None, Salience | None]:
    if awake.memory is None:
        return None, None
    return appraise(awake.memory, opening.new[-1].content, reply.surprisals, owner=request.owner)


def _remember(
    awake: Awake,
    db: Database,
    request: TurnRequest,
    entries: Sequence[Entry],
    reply: Reply,
    result: TurnResult,
    raw: Raw | None,
    forgotten: Forgotten,
) -> list[str]:
    """Part of the turn's transaction: the turn is on disk with what it leaves in memory, or not at all.

    Returns the experiences that it changed.
    """
    if awake.memory is None:
        return []
    said, replied = [e for e in entries if e.spoken][-2:]
    finished = reply.finish_reason in ("stop", "length")
    exchange = Exchange(
        said=said.content,
        said_message=said.id,
        replied=replied.content if finished else None,
        replied_message=replied.id if finished else None,
        session=result.session,
        turn=result.id,
        at=result.created_at,
    )
    offered = offers(exchange, raw, len(reply.surprisals)) if said.role == "user" else []
    taken = [o for o in offered if not forgotten(o.text)]
    outcomes = awake.memory.experiences.add_within(db, taken, owner=request.owner)
    awake.memory.experiences.accessed_within(
        db, result.id, [(h.experience.n, h.rank, h.score, reasons_of(h)) for h in result.recalled]
    )
    return [*(o.replaced for o in outcomes if o.replaced), *(h.experience.id for h in result.recalled)]


def _entries(drafts: Sequence[Draft], *, turn: str, status: Status, at: datetime) -> list[Entry]:
    """Of the messages, only the last question and the reply are this turn's; those before came with the client."""
    spoken = [n for n, d in enumerate(drafts) if d.role not in (COMPACTION, NOTE)][-2:]
    return [
        Entry(
            id=new_id("msg", at),
            role=draft.role,
            content=draft.content,
            token_ids=draft.token_ids,
            kept_from=draft.kept_from,
            turn=turn if n in spoken or draft.role in (COMPACTION, NOTE) else None,
            status=status if n == len(drafts) - 1 else "complete",
            created_at=at,
        )
        for n, draft in enumerate(drafts)
    ]
