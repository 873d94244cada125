"""Kills at random moments. `python -m bench.kill` is the long form, with the real model."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.server import ROOT


def test_killing_the_service_loses_nothing_that_was_acknowledged() -> None:
    command = [sys.executable, "-m", "bench.kill", "--model", "scripted", "--kills", "6", "--tokens", "60", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["violations"] == [] and report["acknowledged_turns"] > 5
