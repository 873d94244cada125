"""The OpenAPI document: true, and nothing that it allows breaks the service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.server import ROOT, Server


@pytest.mark.timeout(3600)  # with many examples; as it stands it takes a minute
def test_schemathesis_finds_no_fault(scripted_server: Server, tmp_path: Path) -> None:
    tool = shutil.which("schemathesis") or str(Path(sys.executable).parent / "schemathesis")
    command = [
        tool, "run", f"{scripted_server.url}/openapi.json",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--max-examples", os.environ.get("FUZZ_EXAMPLES", "3"),
        "--seed", "1", "--generation-database", "none", "--workers", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=3600)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_the_document_names_every_route_and_its_errors(scripted_server: Server) -> None:
    document = httpx.get(f"{scripted_server.url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/models",
        "/v1/models/{model}",
        "/v1/chat/completions",
        "/v1/memories",
        "/v1/memories/import",
        "/v1/memories/export",
        "/v1/memories/{id}",
        "/v1/memories/{id}/why-not",
        "/v1/memories/{id}/verify",
        "/v1/receipts",
        "/v1/feedback",
        "/v1/sessions/{session}/checkpoint",
        "/v1/sessions/{session}/checkpoints",
        "/v1/checkpoints",
        "/v1/checkpoints/look",
        "/v1/checkpoints/uploads",
        "/v1/checkpoints/uploads/{upload}",
        "/v1/checkpoints/uploads/{upload}/import",
        "/v1/sessions/{session}/suspend",
        "/v1/sessions/{session}/resume",
        "/v1/sessions",
        "/v1/sessions/{session}",
        "/v1/sessions/{session}/fork",
        "/v1/sessions/{session}/turns",
        "/v1/persona",
        "/v1/heartbeat",
        "/v1/heartbeat/events",
        "/v1/rooms",
        "/v1/rooms/{room}",
        "/v1/backups",
        "/v1/audit",
        "/v1/sleep",
        "/v1/sleep/dry-run",
        "/v1/sleep/cycles",
        "/v1/sleep/cycles/{id}",
        "/v1/sleep/cycles/{id}/cancel",
        "/v1/adapters",
        "/v1/adapters/rollback",
        "/v1/adapters/{id}/activate",
        "/health",
        "/health/live",
        "/metrics",
    }
    for path in document["paths"].values():
        for operation in path.values():
            assert operation["summary"] and "422" not in operation["responses"]
            assert {"400", "401", "413", "421", "429", "500"} <= set(operation["responses"])


def test_the_architecture_page_names_every_route() -> None:
    import re

    from web import memories, openai, sessions, sleep, status

    text = (ROOT / "docs" / "http.md").read_text()
    for router in (openai.router, sessions.router, memories.router, sleep.router, status.router):
        for route in router.routes:
            path = re.sub(r":path", "", getattr(route, "path", ""))
            assert f"`{path}`" in text or path == "/", path
