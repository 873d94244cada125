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
@pytest.mark.parametrize("name", ["slowwave.service", "slowwave-vault.service"])
def test_systemd_takes_the_unit(name: str, tmp_path: Path) -> None:
    for unit in DEPLOY.glob("*.service"):
        text = re.sub(r"^(Exec\w+=-?).*$", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE)
        text = re.sub(r"^(User|Group|WorkingDirectory)=.*$", "", text, flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    drop_in = tmp_path / "slowwave.service.d" / "slowwave-vault.conf"
    drop_in.parent.mkdir()
    shutil.copy(DEPLOY / drop_in.name, drop_in)
    done = subprocess.run(["systemd-analyze", "verify", str(tmp_path / name)], capture_output=True, text=True)
    assert "slowwave" not in done.stderr, done.stderr
