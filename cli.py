"""The terminal's door: serve, chat, sessions, doctor. Every command takes --json.

Exit codes: 0 done, 1 it failed, 2 wrong usage or settings, 3 no service answers, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from settings import Settings, SettingsError, load

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="slowwave",
    help="An agent runtime that sleeps on what it learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sessions_app = typer.Typer(help="List, read and delete sessions.", no_args_is_help=True)
app.add_typer(sessions_app, name="sessions")
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Url = Annotated[str | None, typer.Option("--url", help="The service, else SLOWWAVE_URL, else http://127.0.0.1:8000.")]
Config = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings, else SLOWWAVE_CONFIG.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="All state of one agent.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, as NAME=VALUE. May be repeated.")]


class Failure(Exception):
    """A command's end other than success."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        from importlib import metadata

        out.print(metadata.version("slowwave"))
        raise typer.Exit


@app.command()
def serve(
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option("--host")] = None,
    port: Annotated[int | None, typer.Option("--port")] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="A name, folder, .gguf or hub name; or 'scripted'.")
    ] = None,
    config: Config = None,
    sets: Set = None,
    json_output: Json = False,
) -> None:
    """Serve the agent over HTTP until Ctrl-C or SIGTERM. With --json, the log is JSON lines."""
    options = {"data_dir": data_dir, "host": host, "port": port, "model": model}
    settings = _settings(config, options, sets)
    from memory.errors import MemoryFault
    from service import serve as run

    try:
        run(settings, json_log=json_output)
    except (MemoryFault, OSError) as error:
        raise Failure(str(error)) from error


@app.command()
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
    with _client(url) as client:
        if last and session is None:
            found = _call(client, "GET", "/v1/sessions", params={"limit": 1})["data"]
            session = found[0]["id"] if found else None
        if session is None:
            session = _call(client, "POST", "/v1/sessions", json={"system": system} if system else {})["id"]
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


@sessions_app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20, url: Url = None, json_output: Json = False
) -> None:
    """Sessions, last changed first."""
    with _client(url) as client:
        found = _call(client, "GET", "/v1/sessions", params={"limit": limit})
    if json_output:
        _print_json(found)
        return
    table = Table("session", "changed", "messages", "begins with")
    for row in found["data"]:
        table.add_row(
            row["id"], row["updated_at"][:19].replace("T", " "), str(row["messages"]), escape(row["preview"][:60])
        )
    out.print(table if found["data"] else "There are no sessions yet.")


@sessions_app.command("show")
def show_session(session: str, url: Url = None, json_output: Json = False) -> None:
    """A session's transcript."""
    with _client(url) as client:
        found = _call(client, "GET", f"/v1/sessions/{session}")
    if json_output:
        _print_json(found)
        return
    for entry in found["transcript"]:
        mark = "" if entry["status"] == "complete" else f" ({entry['status']})"
        out.print(f"[bold]{entry['role']}{mark}[/bold]\n{escape(entry['content'])}\n", soft_wrap=True)


@sessions_app.command("delete")
def delete_session(
    session: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Remove a session and its transcript."""
    if not yes and not typer.confirm(f"Delete {session} and all that was said in it?", err=True):
        raise Failure("nothing was deleted")
    with _client(url) as client:
        found = _call(client, "DELETE", f"/v1/sessions/{session}")
    if json_output:
        _print_json(found)
    else:
        out.print(f"Deleted {session}.")


@app.command()
def doctor(
    data_dir: DataDir = None,
    config: Config = None,
    sets: Set = None,
    show_settings: Annotated[
        bool, typer.Option("--settings", help="Show every setting and where it was given.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Check this machine, the installation, the model's files and the data directory. Exit code 1 on a fault."""
    loaded = _loaded(config, {"data_dir": data_dir}, sets)
    if show_settings:
        _show_settings(loaded.settings, dict(loaded.origins), json_output=json_output)
        return
    from doctor import examine

    findings = []
    marks = {"ok": "[green]ok[/green]     ", "warning": "[yellow]warning[/yellow]", "fault": "[red]fault[/red]  "}
    for finding in examine(loaded.settings):
        findings.append(finding)
        if not json_output:
            out.print(f"{marks[finding.level]}  {finding.name:15} {escape(finding.found)}", soft_wrap=True)
            if finding.advice:
                out.print(f"{'':26}→ {escape(finding.advice)}", soft_wrap=True)
    healthy = all(f.level != "fault" for f in findings)
    if json_output:
        rows = [{"name": f.name, "level": f.level, "found": f.found, "advice": f.advice} for f in findings]
        _print_json({"healthy": healthy, "findings": rows})
    if not healthy:
        raise typer.Exit(FAILED)


def main() -> None:
    """Run a command; say what went wrong in one line, with a traceback only if `--debug` asks for it."""
    debug = "--debug" in sys.argv
    try:
        app()
    except Failure as failure:
        if debug:
            raise
        _complain(str(failure), failure.code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _complain(f"{type(error).__name__}: {error} ('slowwave --debug ...' shows where)", FAILED)


def _complain(message: str, code: int) -> None:
    if "--json" in sys.argv:
        err.print_json(json.dumps({"error": message, "exit_code": code}), indent=None)
    else:
        err.print(f"[bold red]slowwave:[/bold red] {escape(message)}", soft_wrap=True)
    sys.exit(code)


def _loaded(config: Path | None, options: dict[str, Any], sets: list[str] | None) -> Any:
    for item in sets or ():
        name, equals, value = item.partition("=")
        if not equals:
            raise Failure(f"--set {item}: write NAME=VALUE", USAGE)
        options[name] = value
    try:
        return load(options, config=config)
    except SettingsError as error:
        raise Failure(str(error), USAGE) from error


def _settings(config: Path | None, options: dict[str, Any], sets: list[str] | None) -> Settings:
    settings: Settings = _loaded(config, options, sets).settings
    from service import check_keys

    try:
        check_keys(settings)
    except SettingsError as error:
        raise Failure(str(error), USAGE) from error
    return settings


def _show_settings(settings: Settings, origins: dict[str, str], *, json_output: bool) -> None:
    values = settings.model_dump(mode="json")
    for secret in ("api_keys", "api_key"):
        values[secret] = "(set)" if values[secret] else None
    if json_output:
        _print_json({n: {"value": v, "origin": origins.get(n, "default")} for n, v in values.items()})
        return
    table = Table("setting", "value", "from")
    for name, value in values.items():
        table.add_row(name, escape(str(value)), origins.get(name, "default"))
    out.print(table)


def _client(url: str | None) -> httpx.Client:
    base = url or os.environ.get("SLOWWAVE_URL") or "http://127.0.0.1:8000"
    key = os.environ.get("SLOWWAVE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=base, headers=headers, timeout=httpx.Timeout(600, connect=5))


def _call(client: httpx.Client, method: str, path: str, **options: Any) -> Any:
    try:
        answer = client.request(method, path, **options)
    except httpx.TransportError as error:
        raise _unreachable(client, error) from error
    _check(answer)
    return answer.json()


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"the service answered {answer.status_code}"
    raise Failure(message)


def _unreachable(client: httpx.Client, error: Exception) -> Failure:
    return Failure(f"no service answers at {client.base_url} ({error}). Start one with 'slowwave serve'.", UNREACHABLE)


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
        _print_json(_call(client, "POST", f"/v1/sessions/{session}/turns", json=body))
        return
    try:
        for name, data in _events(client, f"/v1/sessions/{session}/turns", {**body, "stream": True}):
            if name == "delta":
                out.out(data["text"], end="", highlight=False)
            elif name == "done":
                speed = data["timings"]["tokens_per_second"]
                wait = data["timings"]["time_to_first_token_ms"]
                out.print()
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


def _events(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Server-sent events, as (name, data)."""
    try:
        with client.stream("POST", path, json=body) as answer:
            if not answer.is_success:
                answer.read()
            _check(answer)
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))
    except httpx.TransportError as error:
        raise _unreachable(client, error) from error


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
