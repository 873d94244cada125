"""How commands speak with a running service, and with whoever typed them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
"""Exit codes other than 0."""

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Url = Annotated[str | None, typer.Option("--url", help="The service, else SLOWWAVE_URL, else http://127.0.0.1:8000.")]


class Failure(Exception):
    """A command's end other than success."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def connect(url: str | None) -> httpx.Client:
    """A client of the service at `url`, or where the environment says."""
    base = url or os.environ.get("SLOWWAVE_URL") or "http://127.0.0.1:8000"
    key = os.environ.get("SLOWWAVE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(600, connect=5))


def call(client: httpx.Client, method: str, path: str, **options: Any) -> Any:
    """One request; returns what the JSON of the answer says.

    Raises:
        Failure: nobody answers, or the service refuses; with its message.
    """
    try:
        answer = client.request(method, path, **options)
    except httpx.TransportError as error:
        raise unreachable(client, error) from error
    check(answer)
    return answer.json()


def check(answer: httpx.Response) -> None:
    """Raise `Failure` with the service's message if it refused."""
    if answer.is_success:
        return
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the service answered {answer.status_code}"
    raise Failure(message)


def unreachable(client: httpx.Client, error: Exception) -> Failure:
    """What to say when nobody answers."""
    return Failure(f"no service answers at {client.base_url} ({error}). Start one with 'slowwave serve'.", UNREACHABLE)


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Server-sent events, as (name, data)."""
    try:
        with client.stream("POST", path, json=body) as answer:
            if not answer.is_success:
                answer.read()
            check(answer)
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))
    except httpx.TransportError as error:
        raise unreachable(client, error) from error


def print_json(value: Any) -> None:
    """One line on standard output."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
