"""slowwave chat: one message or a talk."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape

from commands.terminal import UNREACHABLE, USAGE, Failure, Json, Url, call, connect, err, events, out, print_json


def chat(
    message: Annotated[str | None, typer.Argument(help="One message; without it, talk.")] = None,
    session: Annotated[str | None, typer.Option("--session", "-s", help="Go on in this session.")] = None,
    last: Annotated[bool, typer.Option("--continue", "-c", help="Go on in the session changed last.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="Begin with this system message.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Talk with the agent. The message may also come from a pipe. Ctrl-C ends a reply, Ctrl-D the talk."""
    options = {
        k: v for k, v in {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}.items() if v is not None
    }
    with connect(url) as client:
        if last and session is None:
            found = call(client, "GET", "/v1/sessions", params={"limit": 1})["data"]
            session = found[0]["id"] if found else None
        if session is None:
            session = call(client, "POST", "/v1/sessions", json={"system": system} if system else {})["id"]
        if message is None and not sys.stdin.isatty():
            message = sys.stdin.read().strip()
            if not message:
                raise Failure("there is no message: give one as an argument or on standard input", USAGE)
        if message is not None:
            _say(client, session, message, options, json_output=json_output)
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and history for input()
        err.print(f"[dim]session {session}. Ctrl-C ends a reply, Ctrl-D the talk.[/dim]")
        while True:
            try:
                line = out.input("[bold cyan]you ›[/bold cyan] ").strip()
            except EOFError:
                out.print()
                return
            if line:
                _say(client, session, line, options, json_output=json_output, forgiving=True)


def _say(
    client: httpx.Client,
    session: str,
    text: str,
    options: dict[str, Any],
    *,
    json_output: bool,
    forgiving: bool = False,
) -> None:
    """One turn. `forgiving`: a failed turn is told and the talk goes on."""
    body = {"content": text, **options}
    if json_output:
        print_json(call(client, "POST", f"/v1/sessions/{session}/turns", json=body))
        return
    try:
        for name, data in events(client, f"/v1/sessions/{session}/turns", {**body, "stream": True}):
            if name == "delta":
                out.out(data["text"], end="", highlight=False)
            elif name == "done":
                speed = data["timings"]["tokens_per_second"]
                wait = data["timings"]["time_to_first_token_ms"]
                out.print()
                if data["recalled"]:
                    texts = " · ".join(r["text"] for r in data["recalled"])
                    err.print(f"[dim]reminded of: {escape(texts)}[/dim]", soft_wrap=True)
                err.print(f"[dim]{'' if speed is None else f'{speed:.0f} tokens/s, '}first after {wait:.0f} ms[/dim]")
            elif name == "error":
                raise Failure(data["error"]["message"])
    except KeyboardInterrupt:
        if not forgiving:
            raise
        err.print("\n[dim](stopped)[/dim]")
    except Failure as failure:
        if not forgiving or failure.code == UNREACHABLE:
            raise
        err.print(f"[red]{escape(str(failure))}[/red]")
