"""Traces of replies, as a collector receives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from bench.server import Server

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(HTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        received = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        super().__init__(("127.0.0.1", 0), Handler)

    def spans(self) -> list[Span]:
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [span for scope in resource.scope_spans for span in scope.spans]
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_replies_are_traced_within_their_clients_trace_and_without_what_was_said(
    tmp_path: Path, collector: Collector
) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    options = ["--set", "traces=true"]
    said = "My xylograph is called Quixotry."
    body = {"model": "scripted", "messages": [{"role": "user", "content": said}], "max_tokens": 5}
    with Server(tmp_path / "data", model="scripted", options=options, environment=environment) as server:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            http.get("/health")
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            whole = http.post("/v1/chat/completions", json=body, headers=headers).json()
            with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
                text = "".join(stream.iter_text())
        assert "[DONE]" in text
    replies = [span for span in collector.spans() if span.name == "chat scripted"]
    assert len(replies) == 2
    first = next(span for span in replies if span.trace_id.hex() == TRACE)
    assert first.parent_span_id.hex() == PARENT
    told = {one.key: one.value for one in first.attributes}
    assert told["gen_ai.operation.name"].string_value == "chat"
    assert told["gen_ai.usage.output_tokens"].int_value == whole["usage"]["completion_tokens"]
    assert told["gen_ai.usage.input_tokens"].int_value == whole["usage"]["prompt_tokens"]
    parts = sorted(
        (s for s in collector.spans() if s.parent_span_id == first.span_id), key=lambda s: s.start_time_unix_nano
    )
    assert [part.name for part in parts] == ["in line", "prefill", "decode"]
    assert parts[0].start_time_unix_nano == first.start_time_unix_nano
    assert abs(parts[-1].end_time_unix_nano - first.end_time_unix_nano) < 1000
    for word in (b"xylograph", b"Quixotry", whole["choices"][0]["message"]["content"].encode()):
        assert not any(word in body for body in collector.bodies)


def test_a_collector_that_is_away_keeps_nobody_waiting(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    options = ["--set", "traces=true"]
    with Server(tmp_path / "data", model="scripted", options=options, environment=environment) as server:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 3}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=10).status_code == 200
        assert server.stop(15) == 0
