"""From a turn's result to the shapes that leave the house. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agent.checkpoint import Resumed
from agent.recollection import reasons_of
from agent.turn import TurnResult
from memory.recall import Hit
from memory.transcripts import Entry, SessionRow
from models.generation import Timings
from models.language import LanguageModel
from models.sampling import Choice, TokenLogprob
from web import schemas
from web.checkpoint_schemas import ResumeReply
from web.memory_schemas import SalienceReply


def usage(timings: Timings) -> schemas.Usage:
    """Tokens, in OpenAI's terms."""
    prompt = timings.prefill_tokens + timings.cached_tokens
    return schemas.Usage(
        prompt_tokens=prompt,
        completion_tokens=timings.completion_tokens,
        total_tokens=prompt + timings.completion_tokens,
        prompt_tokens_details=schemas.PromptTokensDetails(cached_tokens=timings.cached_tokens),
    )


def turn_timings(timings: Timings) -> schemas.TurnTimings:
    """Milliseconds, rounded to what can be measured."""
    speed = timings.tokens_per_second
    return schemas.TurnTimings(
        queue_ms=round(timings.queue * 1000, 3),
        prefill_ms=round(timings.prefill * 1000, 3),
        time_to_first_token_ms=round(timings.time_to_first_token * 1000, 3),
        decode_ms=round(timings.decode * 1000, 3),
        prefill_tokens=timings.prefill_tokens,
        cached_tokens=timings.cached_tokens,
        tokens_per_second=None if speed is None else round(speed, 2),
    )


def slowwave_reply(result: TurnResult) -> schemas.SlowwaveReply:
    """What slowwave adds to OpenAI's reply."""
    return schemas.SlowwaveReply(
        session=result.session,
        turn=result.id,
        adapter=result.adapter,
        timings=turn_timings(result.timings),
        compacted=result.compacted,
        salience=_salience(result),
        recalled=[_recalled(hit) for hit in result.recalled],
        persona=_persona(result),
        doubt=_doubt(result),
    )


def _persona(result: TurnResult) -> dict[str, float] | None:
    return None if result.persona is None else dict(result.persona)


def _doubt(result: TurnResult) -> schemas.DoubtReply | None:
    found = result.doubt
    if found is None:
        return None
    return schemas.DoubtReply(
        agreement=round(found.agreement, 3),
        entropy=round(found.entropy, 3),
        confidence=round(found.confidence, 3),
        drafts=found.drafts,
        decision=found.decision,
    )


def turn_reply(result: TurnResult) -> schemas.TurnReply:
    """A turn's reply on our own surface."""
    return schemas.TurnReply(
        id=result.id,
        session=result.session,
        text=result.text,
        finish_reason=result.finish_reason,
        model=result.model,
        adapter=result.adapter,
        usage=usage(result.timings),
        timings=turn_timings(result.timings),
        compacted=result.compacted,
        created_at=result.created_at.isoformat(),
        salience=_salience(result),
        recalled=[_recalled(hit) for hit in result.recalled],
        persona=_persona(result),
        doubt=_doubt(result),
    )


def resume_reply(session: str, done: Resumed, *, unfinished: bool) -> ResumeReply:
    """How a session came back."""
    return ResumeReply(
        session=session,
        how=done.how,
        why=done.why,
        tokens=done.tokens,
        seconds=round(done.seconds, 6),
        otherwise_seconds=None if done.otherwise is None else round(done.otherwise, 6),
        deviation=done.deviation,
        unfinished=unfinished,
    )


def completion_id(turn: str) -> str:
    """OpenAI's id for a turn's reply."""
    return "chatcmpl-" + turn.removeprefix("turn_")


def chat_completion(result: TurnResult, model: LanguageModel) -> schemas.ChatCompletion:
    """A turn's reply on OpenAI's surface."""
    return schemas.ChatCompletion(
        id=completion_id(result.id),
        created=int(result.created_at.timestamp()),
        model=result.model,
        choices=[
            schemas.ChatChoice(
                message=schemas.AssistantMessage(content=result.text),
                logprobs=logprobs(result.choices, model),
                finish_reason=result.finish_reason,
            )
        ],
        usage=usage(result.timings),
        slowwave=slowwave_reply(result),
    )


def logprobs(choices: Iterable[Choice], model: LanguageModel) -> dict[str, Any] | None:
    """OpenAI's `logprobs`, the end token left out; None where none were asked for."""
    content = [
        {**_logprob(c.logprob, model), "top_logprobs": [_logprob(a, model) for a in c.alternatives]}
        for c in choices
        if c.logprob is not None and c.token_id not in model.card.stop_ids
    ]
    return {"content": content, "refusal": None} if content else None


def _logprob(entry: TokenLogprob, model: LanguageModel) -> dict[str, Any]:
    raw = model.token_bytes(entry.token_id)
    return {"token": raw.decode(errors="replace"), "logprob": max(entry.logprob, -9999.0), "bytes": list(raw)}


def _salience(result: TurnResult) -> SalienceReply | None:
    return None if result.salience is None else SalienceReply.model_validate(result.salience, from_attributes=True)


def _recalled(hit: Hit) -> schemas.Recalled:
    one = hit.experience
    return schemas.Recalled(
        id=one.id,
        text=one.text,
        speaker=one.provenance.speaker,
        at=one.at.isoformat(),
        score=hit.score,
        rank=hit.rank,
        reasons=reasons_of(hit),
    )


def session_summary(row: SessionRow, *, suspended: bool = False, unfinished: bool = False) -> schemas.SessionSummary:
    """A session in a list."""
    return schemas.SessionSummary(
        id=row.id,
        parent=row.parent,
        created_at=row.created_at.isoformat(),
        updated_at=row.updated_at.isoformat(),
        messages=row.messages,
        preview=row.preview,
        state="suspended" if suspended else "open",
        unfinished=unfinished,
    )


def session_detail(
    row: SessionRow, entries: list[Entry], context_tokens: int, *, suspended: bool, unfinished: bool
) -> schemas.SessionDetail:
    """A session with its transcript."""
    return schemas.SessionDetail(
        **session_summary(row, suspended=suspended, unfinished=unfinished).model_dump(),
        transcript=[
            schemas.TranscriptEntry(
                id=e.id,
                role=e.role,
                content=e.content,
                status=e.status,
                turn=e.turn,
                tokens=len(e.token_ids),
                created_at=e.created_at.isoformat(),
            )
            for e in entries
        ],
        context_tokens=context_tokens,
    )
