"""OpenTelemetry traces of replies, named by its conventions for generative AI; what was said is never in them.

One span a reply ("chat MODEL"), with a child for each part of its time: in line, reading, writing. A client's
`traceparent` is taken up, so that a reply stands in the trace of who asked for it. Where they go is OpenTelemetry's own
to say (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin). https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from agent.turn import TurnResult

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_NS = 1_000_000_000
_CARRIED = (b"traceparent", b"tracestate")


class TracesRefused(Exception):
    """What traces need is not installed."""


class Traces:
    """Spans of replies, on their way to a collector."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("slowwave")

    @classmethod
    def to_collector(cls, version: str) -> Traces:
        """To the one that OpenTelemetry's environment variables name; in batches, from a thread.

        Raises:
            TracesRefused: OpenTelemetry is not installed.
        """
        if find_spec("opentelemetry.exporter") is None or find_spec("opentelemetry.sdk") is None:
            raise TracesRefused("traces need OpenTelemetry: pip install 'slowwave[otel]'")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "slowwave", "service.version": version})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def replied(self, result: TurnResult) -> None:
        """A reply that has just ended, within the trace of the request under way."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        took, ended = result.timings, time.time_ns()
        parts = (("in line", took.queue), ("prefill", took.prefill), ("decode", took.decode))
        at = ended - sum(round(seconds * _NS) for _, seconds in parts)
        span = self._tracer.start_span(
            f"chat {result.model}", kind=SpanKind.SERVER, start_time=at, attributes=_attributes(result)
        )
        inside = set_span_in_context(span)
        for name, seconds in parts:
            child = self._tracer.start_span(name, context=inside, start_time=at)
            at += round(seconds * _NS)
            child.end(end_time=at)
        if result.finish_reason == "interrupted":
            span.set_attribute("error.type", "interrupted")
            span.set_status(Status(StatusCode.ERROR, "the service was shut down before the reply was finished"))
        span.end(end_time=ended)

    def close(self) -> None:
        """Send what waits, for a few seconds."""
        self._provider.force_flush(3000)
        self._provider.shutdown()


def _attributes(result: TurnResult) -> dict[str, Any]:
    took = result.timings
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "slowwave",
        "gen_ai.request.model": result.model,
        "gen_ai.response.model": result.model,
        "gen_ai.response.id": result.id,
        "gen_ai.response.finish_reasons": [result.finish_reason],
        "gen_ai.conversation.id": result.session,
        "gen_ai.usage.input_tokens": took.prefill_tokens + took.cached_tokens,
        "gen_ai.usage.cache_read.input_tokens": took.cached_tokens,
        "gen_ai.usage.output_tokens": took.completion_tokens,
        "gen_ai.response.time_to_first_chunk": took.time_to_first_token,
        "slowwave.adapter": result.adapter,
        "slowwave.recalled": len(result.recalled),
    }


class TraceContext:
    """ASGI: what a request does is within the trace that its headers name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from opentelemetry import context, propagate

        carried = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"] if k in _CARRIED}
        token = context.attach(propagate.extract(carried))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)
