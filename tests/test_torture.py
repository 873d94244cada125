"""A little of each torture in every run of the tests; `make torture` does it at length."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from bench.server import ROOT

COMPILER = shutil.which("cc") or shutil.which("gcc")


def tortured(module: str, *options: str) -> Any:
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "SLOWWAVE_BENCH_MOUNTED")}
    command = [sys.executable, "-m", f"bench.{module}", "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280, env=environment)
    if "this needs" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.skipif(COMPILER is None, reason="no C compiler to make steps fail with")
def test_whatever_step_is_the_last_nothing_acknowledged_is_lost() -> None:
    found = tortured("steps", "--kills", "4", "--failures", "2")
    assert found["kills"]["killed"] >= 1 and found["kills"]["acts answered"] > 6
    assert found["failures"]["acts answered"] > 6


def test_a_full_disk_is_said_and_loses_nothing() -> None:
    found = tortured("full_disk", "--events", "12")
    assert found["events"] == 12 and found["answered 507"] >= 6
