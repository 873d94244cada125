"""A slowwave service in a process of its own, for benchmarks and tests that need a real one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
_ASIDE = {"SLOWWAVE_SLEEP_AT": "none", "SLOWWAVE_MOOD": "false"}
"""No night but those asked for; replies that can be compared: no mood that what was said before has moved."""


class Server:
    """`slowwave serve` on a free port. `url` is where it answers."""

    def __init__(
        self,
        data_dir: Path,
        *,
        model: str = "SmolLM2-135M-Instruct",
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.log = log or data_dir.with_suffix(".log")
        self._model = model
        self._options = list(options)
        kept = ("SLOWWAVE_CACHE_DIR", "SLOWWAVE_THREADS")  # where the machine is concerned, not what is said
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("SLOWWAVE_") or k in kept}
        self._environment |= {**_ASIDE, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, *, wait: bool = True, timeout: float = 180.0) -> float:
        """Start the process; returns after how many seconds it was ready (or listening, without `wait`).

        Raises:
            RuntimeError: it ended instead, or took too long.
        """
        began = time.monotonic()
        at = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "cli", "serve", "--data-dir", str(self.data_dir), "--port", "0"]
            self.process = subprocess.Popen(
                [*command, "--model", self._model, *self._options],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        self.url = ""
        while time.monotonic() - began < timeout:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}: {self.log.read_text()[-2000:]}")
            if not self.url:
                with self.log.open("rb") as log:
                    log.seek(at)
                    said = log.read().decode(errors="replace")
                if "listening on " in said:
                    self.url = said.split("listening on ")[1].split()[0]
                    if not wait:
                        return time.monotonic() - began
            elif httpx.get(f"{self.url}/health").status_code == 200:
                return time.monotonic() - began
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"the service was not ready within {timeout} s: {self.log.read_text()[-2000:]}")

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM, and wait. Returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def resident_bytes(self) -> int:
        """What the process holds in memory now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def __enter__(self) -> Server:
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


class Here:
    """The same service in this very process, on a port of its own: ready a tenth as late. It cannot be killed."""

    def __init__(
        self,
        data_dir: Path,
        *,
        model: str = "SmolLM2-135M-Instruct",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self._environment = {**_ASIDE, "SLOWWAVE_DATA_DIR": str(data_dir), "SLOWWAVE_MODEL": model}
        self._environment |= dict(environment or {})
        self._open = ExitStack()
        self.url = ""

    def __enter__(self) -> Here:
        import uvicorn

        from service import create_app, open_runtime
        from settings import load

        runtime = self._open.enter_context(open_runtime(load(environment=self._environment).settings))
        listening = self._open.enter_context(socket.create_server(("127.0.0.1", 0)))
        config = uvicorn.Config(create_app(runtime), log_config=None, lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        self._open.callback(thread.join, 30)
        self._open.callback(setattr, server, "should_exit", True)
        thread.start()
        runtime.engine.wait_until_loaded(120)
        while not server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()
