"""The OpenAI surface: models and chat completions, streaming to the letter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from agent.turn import TurnRequest, TurnResult, take_turn
from models.generation import Timings
from web import replies
from web.context import OwnerDep, Service, ServiceDep
from web.errors import ApiError, api_error
from web.schemas import ChatCompletion, ChatCompletionRequest, ModelEntry, ModelList, SlowwaveOptions
from web.turns import PING, STREAMED, EventStream, RunningTurn, event

router = APIRouter(prefix="/v1", tags=["OpenAI"])

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]


@router.get("/models")
async def list_models(service: ServiceDep) -> ModelList:
    """The models that can be asked for: one."""
    return ModelList(data=[_entry(service)])


@router.get("/models/{model:path}")
async def retrieve_model(model: str, service: ServiceDep) -> ModelEntry:
    """One model."""
    _check_model(model, service)
    return _entry(service)


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses=STREAMED,
)
async def create_chat_completion(
    body: ChatCompletionRequest,
    request: Request,
    service: ServiceDep,
    owner: OwnerDep,
    idempotency_key: IdempotencyKey = None,
) -> Response | ChatCompletion:
    """Reply to a chat. The history is recognised: what the service has read before, it does not read again."""
    _check_model(body.model, service)
    options = body.slowwave or SlowwaveOptions()
    asked = TurnRequest(
        owner=owner,
        messages=tuple(m.message() for m in body.messages),
        session=options.session,
        max_tokens=body.max_completion_tokens or body.max_tokens or service.defaults.max_tokens,
        sampling=body.sampling(service.defaults, logprobs=body.logprobs_wanted()),
        stop=body.stops(),
        ignore_eos=bool(body.ignore_eos),
        idempotency_key=idempotency_key,
        request_digest=body.digest("chat"),
        recall=options.recall is not False,
        remember=options.remember is not False,
        abstain=options.abstain is not False,
        adapter=service.sleep.adapter_asked_for(options.adapter, owner),
        persona=options.variables(),
        keep_partial=bool(body.stream),
    )
    running = await start_turn(service, asked)
    if body.stream:
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        return EventStream(_chunks(service, running, with_usage=with_usage), running.cancel)
    result = finished(service, await running.wait(request))
    return replies.chat_completion(result, service.awake.engine.model)


async def start_turn(service: Service, request: TurnRequest) -> RunningTurn:
    """A turn in line.

    Raises:
        ApiError: it was turned away.
    """
    return await start(service, partial(take_turn, service.awake, request))


async def start(service: Service, take: Callable[..., TurnResult]) -> RunningTurn:
    """The same, of whatever takes a turn.

    Raises:
        ApiError: it was turned away.
    """
    if service.draining():
        raise ApiError(
            503, "The service is shutting down.", type="overloaded_error", code="draining", headers={"Retry-After": "5"}
        )
    try:
        return await RunningTurn.start(take, service.pool)
    except Exception as error:
        refusal = api_error(error)
        if refusal.status in (409, 429, 503):
            service.metrics.rejected(refusal.code or str(refusal.status))
        raise refusal from error


def finished(service: Service, result: TurnResult) -> TurnResult:
    """Count a turn that has ended.

    Raises:
        ApiError: it ended because the service is going down; what was asked for did not happen.
    """
    if not result.replayed:
        service.metrics.finished(result.timings, result.finish_reason)
        _tell(service, result.timings)
        if service.traces is not None:
            service.traces.replied(result)
    if result.finish_reason == "interrupted":
        raise ApiError(
            503,
            "The service was shut down before the reply was finished.",
            type="overloaded_error",
            code="interrupted",
            headers={"Retry-After": "5"},
        )
    return result


def _tell(service: Service, timings: Timings) -> None:
    """Have who listens know how fast somebody was answered."""
    if service.pulse is not None:
        service.pulse.signals.answered(
            first_token=timings.time_to_first_token,
            seconds=timings.queue + timings.prefill + timings.decode,
            prompt=timings.prefill_tokens + timings.cached_tokens,
            cached=timings.cached_tokens,
            tokens=timings.completion_tokens,
        )


async def _chunks(service: Service, running: RunningTurn, *, with_usage: bool) -> AsyncIterator[bytes]:
    head: dict[str, Any] = {
        "id": replies.completion_id(running.turn),
        "object": "chat.completion.chunk",
        "created": int(service.awake.now().timestamp()),
        "model": service.model_name,
    }
    usage: dict[str, Any] = {"usage": None} if with_usage else {}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": extra.pop("logprobs", None), "finish_reason": finish_reason}
        return event({**head, "choices": [choice], **usage, **extra})

    yield chunk({"role": "assistant", "content": ""})
    model = service.awake.engine.model
    try:
        if running.result is not None:  # taken earlier, under the same idempotency key
            yield chunk({"content": running.result.text})
        async for delta in running.deltas():
            if delta is None:
                yield PING
            elif delta.text or delta.choice.logprob is not None:
                yield chunk({"content": delta.text}, logprobs=replies.logprobs([delta.choice], model))
        assert running.result is not None
        result = finished(service, running.result)
    except Exception as error:
        yield event(api_error(error).body())
        return
    yield chunk({}, result.finish_reason, slowwave=replies.slowwave_reply(result).model_dump())
    if with_usage:
        yield event({**head, "choices": [], "usage": replies.usage(result.timings).model_dump()})
    yield event("[DONE]")


def _entry(service: Service) -> ModelEntry:
    return ModelEntry(id=service.model_name, created=int(service.started_at.timestamp()))


def _check_model(model: str, service: Service) -> None:
    if model != service.model_name:
        raise ApiError(
            404,
            f"There is no model {model!r} here; this service has {service.model_name!r}.",
            param="model",
            code="model_not_found",
        )
