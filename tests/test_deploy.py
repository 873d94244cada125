"""What is in deploy/: dashboards and alerts ask for metrics that there are; the unit is one that systemd takes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from bench.server import ROOT, Server

DEPLOY = ROOT / "deploy"
_NAME = re.compile(r"\b((?:slowwave|process)_[a-z_]+)")
_AFTER_A_NIGHT = {"slowwave_sleep_promoted_timestamp_seconds"}
"""There once a night was promoted."""


def asked() -> set[str]:
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    exprs = [target["expr"] for panel in panels for target in panel["targets"]]
    exprs += re.findall(r"^ +expr: (.+)$", (DEPLOY / "alerts.yml").read_text(), re.MULTILINE)
    assert len(exprs) > 15
    return {name for expr in exprs for name in _NAME.findall(expr)}


def test_dashboard_and_alerts_ask_for_metrics_that_there_are(scripted_server: Server) -> None:
    session = httpx.post(f"{scripted_server.url}/v1/sessions", json={}).json()["id"]
    httpx.post(f"{scripted_server.url}/v1/sessions/{session}/turns", json={"content": "Hello there."})
    told = httpx.get(f"{scripted_server.url}/metrics").text
    there = set(re.findall(r"^(?:# TYPE )?([a-z_]+)", told, re.MULTILINE)) | set(re.findall(r"# TYPE (\w+)", told))
    for name in asked() - _AFTER_A_NIGHT:
        family = re.sub(r"_(bucket|total)$", "", name)
        assert name in there or family in there or f"{family}_total" in there, name
    assert "slowwave_wal_bytes " in told and "slowwave_memory_rows " in told


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "slowwave.service").read_text()
    unit = re.sub(r"^(ExecStart=).*$", r"\1/bin/true", unit, flags=re.MULTILINE)
    unit = re.sub(r"^(User|Group|WorkingDirectory)=.*$", "", unit, flags=re.MULTILINE)
    (tmp_path / "slowwave.service").write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "slowwave.service")], capture_output=True, text=True
    )
    assert "slowwave.service" not in done.stderr, done.stderr
