"""A reply that was suspended before its end goes on: with the token that would have come next.

What it needs stands in the transcript: the context and the reply so far as token ids, how it was sampled, where it must
stop. Draws are functions of the seed and the position (models/sampling.py), and what the text is held back by follows
from its ids (models/text_stream.py), so there is no other state. Its keys and values may be in memory, in a file, or
nowhere: then they are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlite_utils import Database

from agent.control import TurnControl
from agent.errors import NothingUnfinished
from agent.prompt import reply_draft, window_of
from agent.remembering import Exchange, offers
from agent.thinking import Aloud, spoken
from agent.turn import Awake, Forgotten, TurnResult, Unsaid, status_of
from memory import rooms
from memory.transcripts import Entry, TurnRow
from models.generation import Delta, Prompt, Reply
from models.language import BASE
from models.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A suspended reply: what it continues, and how."""

    turn: TurnRow
    entry: Entry
    said: Entry | None
    """What it replies to."""
    body: Mapping[str, Any]
    prompt: tuple[int, ...]
    max_tokens: int
    """Of the whole reply."""
    header: tuple[int, ...]
    written: tuple[int, ...]


def unfinished_in(awake: Awake, session: str, *, owner: str) -> Unfinished:
    """The session's unfinished reply.

    Raises:
        SessionNotFound: no such session, or another owner's.
        NothingUnfinished: it has none, or none that can go on.
    """
    row = awake.transcripts.session(session, owner=owner)
    found = awake.transcripts.unfinished(session)
    if found is None:
        raise NothingUnfinished(f"no reply in session {session!r} is unfinished")
    turn = awake.transcripts.turn(found[0], owner=owner)
    body = found[1]
    entries = awake.transcripts.entries(session)
    ids, last = window_of(entries).token_ids, entries[-1]
    begins, ends = body["header"], body["header"] + body["written"]
    if turn is None or len(last.token_ids) < ends or row.tokenizer != awake.engine.model.card.tokenizer:
        raise NothingUnfinished("what the reply had read was forgotten, or read by another model: it cannot go on")
    prompt = (*ids[: len(ids) - len(last.token_ids)], *last.token_ids[:begins])
    room = awake.engine.model.card.context_length - len(prompt)
    if min(body["max_tokens"], room) <= body["written"]:
        raise NothingUnfinished("there is no room left for more of the reply")
    return Unfinished(
        turn=turn[0],
        entry=last,
        said=next((e for e in reversed(entries[:-1]) if e.role == "user"), None),
        body=body,
        prompt=prompt,
        max_tokens=min(body["max_tokens"], room),
        header=last.token_ids[:begins],
        written=last.token_ids[begins:ends],
    )


def go_on(
    awake: Awake,
    session: str,
    *,
    owner: str,
    changes: Mapping[str, Any] | None = None,
    persona: Mapping[str, float] | None = None,
    on_start: Callable[[str, str], None] = lambda turn, session: None,
    on_delta: Callable[[Delta], None] = lambda delta: None,
    control: TurnControl | None = None,
) -> TurnResult:
    """Write the rest of a suspended reply. When it returns, it is on disk; `text` is the whole reply.

    `changes`: fields of Sampling that are to be others from here on, for branches that are to part; `persona`: the
    variables that it goes on under, None: those that it began under.

    Raises:
        SessionNotFound, NothingUnfinished, SessionBusy: nothing was done.
        EngineFull, EngineLoading, EngineClosed: nothing was written.
        StorageFailed: the reply came, but could not be written; it is as unfinished as before.
        ValueError: `changes` that no reply can be sampled with.
        UnknownVariable: of the persona.
    """
    since = awake.now()
    with ExitStack() as held:
        forgotten = held.enter_context(awake.underway.turn(owner))
        held.enter_context(awake.leases.hold(session, patience=awake.patience))
        begun = unfinished_in(awake, session, owner=owner)
        awake.wake(session, owner)
        control = control or TurnControl()
        held.enter_context(awake.running.taking(session, owner, control))
        sampling = Sampling(**{**begun.body["sampling"], **(changes or {})})
        adapter = _who(awake, begun, owner)
        feeling = (
            awake.persona.known(begun.body.get("persona", {}))
            if persona is None
            else awake.persona.values(owner, persona)
        )
        bearing = awake.persona.bearing(feeling)
        generation = awake.engine.submit(
            Prompt(
                token_ids=begun.prompt,
                reply=begun.written,
                max_tokens=begun.max_tokens,
                sampling=replace(sampling, end_bias=0.0 if begun.body["ignore_eos"] else bearing.end_bias),
                stop=tuple(begun.body["stop"]),
                ignore_eos=begun.body["ignore_eos"],
                namespace=owner,
                adapter=adapter,
                steering=bearing.steering,
                denial=begun.body.get("denial", 0.0),
            )
        )
        control.bind(generation)
        on_start(begun.turn.id, session)
        anew = not begun.written  # it had not got beyond thinking, or is to think again what it has said something of
        aloud = Aloud(on_delta, speaks=not anew, shown=len(begun.entry.content) if anew else 0)
        for delta in generation:
            aloud(delta)
        whole = generation.reply
        assert whole is not None
        finished = whole.finish_reason in ("stop", "length")
        aloud.end(goes_on=not finished)
        reply, thought = spoken(awake.engine.model, whole, goes_on=not finished)
        result = TurnResult(
            id=begun.turn.id,
            session=session,
            text=reply.text,
            finish_reason=reply.finish_reason,
            model=awake.engine.model.card.name,
            adapter=adapter,
            timings=reply.timings,
            created_at=begun.turn.created_at,
            choices=tuple(aloud.choices),
            persona=feeling,
        )
        _write_down(awake, begun, reply, result, sampling, forgotten, owner, {"thoughts": [thought]}, since)
        return result


def _who(awake: Awake, begun: Unfinished, owner: str) -> str:
    """Who goes on: whoever began, if they still serve; else whoever serves now, who reads all of it anew."""
    asked = begun.body["adapter"] or begun.turn.adapter
    serving = awake.serving(owner)
    return asked if asked in (BASE, serving) or asked in awake.engine.model.adapters else serving


def _write_down(
    awake: Awake,
    begun: Unfinished,
    reply: Reply,
    result: TurnResult,
    sampling: Sampling,
    forgotten: Forgotten,
    owner: str,
    unsaid: Unsaid,
    since: datetime,
) -> None:
    at = awake.now()
    finished = reply.finish_reason in ("stop", "length")
    draft = reply_draft(awake.engine.model, begun.header, reply.text, reply.kept_ids)
    entry = replace(
        begun.entry,
        content=draft.content,
        token_ids=draft.token_ids,
        status="complete" if finished else status_of(reply.finish_reason),
    )
    # Only an end is an end: a client that went away, or a service that went down, leaves it as unfinished as it was.
    body = None if finished else {**begun.body, "written": len(reply.token_ids), "sampling": asdict(sampling)}
    if body is not None:
        body["persona"] = dict(result.persona or {})
    changed: list[str] = []

    def remember(db: Database) -> None:
        if not finished or not begun.body.get("remember", True):
            return
        rooms.keep_within(db, owner=owner, session=result.session, turn=result.id, unsaid=unsaid, since=since)
        if awake.memory is None or begun.said is None or forgotten(entry.content):
            return
        exchange = Exchange(
            said=begun.said.content,
            said_message=begun.said.id,
            replied=entry.content,
            replied_message=entry.id,
            session=result.session,
            turn=result.id,
            at=at,
        )
        offered = offers(exchange, None, 0)[1:]  # what was said was offered when the turn was suspended
        outcomes = awake.memory.experiences.add_within(db, offered, owner=owner)
        changed.extend(o.replaced for o in outcomes if o.replaced)

    awake.transcripts.go_on(
        result.session,
        turn=replace(
            begun.turn, finish_reason=reply.finish_reason, timings=asdict(result.timings), adapter=result.adapter
        ),
        entry=entry,
        at=at,
        unfinished=body,
        also=remember,
        forgotten=forgotten,
    )
    if forgotten(entry.content):
        awake.engine.drop_states(owner)
    if awake.memory is not None:
        awake.memory.recall.refresh(owner, changed)
