"""The terminal's door: serve, chat, sessions, memory, doctor. Every command takes --json.

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
from rich.progress import Progress
from rich.table import Table

from settings import Settings, SettingsError, load

_LINES_AT_ONCE = 500
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
memory_app = typer.Typer(help="Teach, search, explain, move and forget memories.", no_args_is_help=True)
app.add_typer(memory_app, name="memory")
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


@memory_app.command("list")
def list_memories(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Only those that are.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """The newest memories."""
    query: dict[str, Any] = {"k": limit} | ({"quarantined": True} if quarantined else {})
    with _client(url) as client:
        found = _call(client, "GET", "/v1/memories", params=query)
    _show_memories(found["data"], json_output=json_output)


@memory_app.command("search")
def search_memories(
    query: str,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many.")] = 5,
    at: Annotated[str | None, typer.Option(help="Memory as it was then, as in 2026-11-22T10:00:00Z.")] = None,
    why: Annotated[bool, typer.Option("--why", help="Show every term of the scores.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Search, best first."""
    asked = {"query": query, "k": k} | ({"at": at} if at else {})
    with _client(url) as client:
        found = _call(client, "GET", "/v1/memories", params=asked)["data"]
    _show_memories(found, json_output=json_output)
    if why and not json_output:
        for memory in found:
            terms = memory["reasons"]["terms"].items()
            shown = " + ".join(f"{name} {t['contribution']:.2f}" for name, t in terms if t["contribution"])
            reasons = memory["reasons"]
            out.print(
                f"[dim]{memory['rank']}. {reasons['factor']:.2f} x ({shown} + neighbours {reasons['neighbours']:.2f})"
                f" = {memory['score']:.3f}; words: {escape(', '.join(reasons['matched']) or 'none')}[/dim]",
                soft_wrap=True,
            )


@memory_app.command("why-not")
def why_not(
    id: str,
    query: str,
    k: Annotated[int, typer.Option("-k", min=1, max=1000)] = 10,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Why a memory is not among the k best for a question."""
    with _client(url) as client:
        reason = _call(client, "GET", f"/v1/memories/{id}/why-not", params={"query": query, "k": k})
    if json_output:
        _print_json(reason)
        return
    out.print(escape(f"{reason['reason']}: {reason['detail']}"), soft_wrap=True)
    for name in ("missing", "dropped"):
        if reason[name]:
            out.print(f"[dim]{name} words: {escape(', '.join(reason[name]))}[/dim]", soft_wrap=True)


@memory_app.command("teach")
def teach(
    text: str,
    speaker: Annotated[str | None, typer.Option(help="Who said it; by default you.")] = None,
    at: Annotated[str | None, typer.Option(help="When, as in 2026-11-22T10:00:00Z; by default now.")] = None,
    supersedes: Annotated[str | None, typer.Option(help="The memory whose place it takes.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Teach one thing."""
    given = {"text": text, "speaker": speaker, "at": at, "supersedes": supersedes}
    with _client(url) as client:
        taught = _call(client, "POST", "/v1/memories", json={n: v for n, v in given.items() if v is not None})
    if json_output:
        _print_json(taught)
    else:
        reason = f" ({taught['reason']})" if taught["reason"] else ""
        out.print(escape(f"{taught['fate']}: {taught['id'] or 'nothing'}{reason}"), soft_wrap=True)


@memory_app.command("import")
def import_memories(file: Path, url: Url = None, json_output: Json = False) -> None:
    """Take in JSON lines. May be run again: what is there already is left alone."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {file}: {error}", USAGE) from error
    fates: dict[str, int] = {}
    with _client(url) as client, Progress(console=err, transient=True, disable=json_output) as progress:
        task = progress.add_task("importing", total=len(lines))
        for start in range(0, len(lines), _LINES_AT_ONCE):
            part = lines[start : start + _LINES_AT_ONCE]
            try:
                done = _call(client, "POST", "/v1/memories/import", content="\n".join(part).encode())
            except Failure as failure:
                if failure.code == UNREACHABLE:
                    raise
                raise Failure(f"{failure} (counted from line {start + 1}; the {start} before it are in)") from failure
            for fate, count in done["fates"].items():
                fates[fate] = fates.get(fate, 0) + count
            progress.advance(task, len(part))
    if json_output:
        _print_json({"lines": len(lines), "fates": fates})
    else:
        out.print(f"{len(lines)} lines: " + (", ".join(f"{n} {fate}" for fate, n in fates.items()) or "nothing"))


@memory_app.command("export")
def export_memories(
    file: Annotated[Path | None, typer.Argument(help="By default standard output.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Write all memories as JSON lines, oldest first."""
    with _client(url) as client:
        try:
            answer = client.get("/v1/memories/export")
        except httpx.TransportError as error:
            raise _unreachable(client, error) from error
        _check(answer)
    if file is None:
        sys.stdout.write(answer.text)
        return
    part = file.with_name(file.name + ".part")
    try:
        part.write_bytes(answer.content)
        part.replace(file)
    except OSError as error:
        raise Failure(f"cannot write {file}: {error}") from error
    lines = answer.text.count("\n")
    if json_output:
        _print_json({"file": str(file), "lines": lines})
    else:
        err.print(f"{lines} memories in {file}")


@memory_app.command("forget")
def forget(
    ids: list[str],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Forget memories for good, and print the receipts."""
    with _client(url) as client:
        for id in ids:
            if not yes and not json_output:
                memory = _call(client, "GET", f"/v1/memories/{id}")
                typer.confirm(f"Forget \u201c{memory['text']}\u201d for good?", abort=True, err=True)
            receipt = _call(client, "DELETE", f"/v1/memories/{id}")
            if json_output:
                _print_json(receipt)
                continue
            out.print(f"Forgotten. Receipt {receipt['id']}:")
            for name, value in receipt.items():
                if name not in ("id", "at"):
                    shown = ", ".join(value) or "none" if isinstance(value, list) else value
                    out.print(f"  {name.replace('_', ' '):20} {escape(str(shown))}", soft_wrap=True)


@memory_app.command("mark")
def mark(
    id: str,
    pin: Annotated[bool | None, typer.Option("--pin/--unpin", help="Never let it go by itself.")] = None,
    release: Annotated[bool, typer.Option("--release", help="From quarantine.")] = False,
    true: Annotated[
        bool | None, typer.Option("--true/--false", help="It proved so: moves trust in its source.")
    ] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Pin, release from quarantine, or say that a memory proved true or false."""
    changes = ({"pinned": pin} if pin is not None else {}) | ({"quarantined": False} if release else {})
    if not changes and true is None:
        raise Failure("nothing to do: give --pin, --unpin, --release, --true or --false", USAGE)
    with _client(url) as client:
        if true is not None:
            _call(client, "POST", f"/v1/memories/{id}/verify", json={"true": true})
        if changes:
            _call(client, "PATCH", f"/v1/memories/{id}", json=changes)
        memory = _call(client, "GET", f"/v1/memories/{id}")
    _show_memories([memory], json_output=json_output)


def _show_memories(memories: list[dict[str, Any]], *, json_output: bool) -> None:
    if json_output:
        _print_json(memories)
        return
    table = Table("id", "memory", "from", "when", "salience")
    for m in memories:
        marks = [name for name, on in (("pinned", m["pinned"]), ("quarantined", m["quarantined"])) if on]
        salience = "-" if m["salience"] is None else f"{m['salience']['total']:.2f}"
        text = escape(m["text"]) + (f" [yellow]({', '.join(marks)})[/yellow]" if marks else "")
        table.add_row(escape(m["id"]), text, escape(m["speaker"]), m["at"][:16], salience)
    out.print(table)


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
