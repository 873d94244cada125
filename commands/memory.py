"""slowwave memory ..."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from commands.terminal import (
    UNREACHABLE,
    USAGE,
    Failure,
    Json,
    Url,
    call,
    check,
    connect,
    err,
    out,
    print_json,
    unreachable,
)

_LINES_AT_ONCE = 500

app = typer.Typer(help="Teach, search, explain, move and forget memories.", no_args_is_help=True)


@app.command("list")
def list_memories(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Only those that are.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """The newest memories."""
    query: dict[str, Any] = {"k": limit} | ({"quarantined": True} if quarantined else {})
    with connect(url) as client:
        found = call(client, "GET", "/v1/memories", params=query)
    _show_memories(found["data"], json_output=json_output)


@app.command("search")
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
    with connect(url) as client:
        found = call(client, "GET", "/v1/memories", params=asked)["data"]
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


@app.command("why-not")
def why_not(
    id: str,
    query: str,
    k: Annotated[int, typer.Option("-k", min=1, max=1000)] = 10,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Why a memory is not among the k best for a question."""
    with connect(url) as client:
        reason = call(client, "GET", f"/v1/memories/{id}/why-not", params={"query": query, "k": k})
    if json_output:
        print_json(reason)
        return
    out.print(escape(f"{reason['reason']}: {reason['detail']}"), soft_wrap=True)
    for name in ("missing", "dropped"):
        if reason[name]:
            out.print(f"[dim]{name} words: {escape(', '.join(reason[name]))}[/dim]", soft_wrap=True)


@app.command("teach")
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
    with connect(url) as client:
        taught = call(client, "POST", "/v1/memories", json={n: v for n, v in given.items() if v is not None})
    if json_output:
        print_json(taught)
    else:
        reason = f" ({taught['reason']})" if taught["reason"] else ""
        out.print(escape(f"{taught['fate']}: {taught['id'] or 'nothing'}{reason}"), soft_wrap=True)


@app.command("import")
def import_memories(file: Path, url: Url = None, json_output: Json = False) -> None:
    """Take in JSON lines. May be run again: what is there already is left alone."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {file}: {error}", USAGE) from error
    fates: dict[str, int] = {}
    with connect(url) as client, Progress(console=err, transient=True, disable=json_output) as progress:
        task = progress.add_task("importing", total=len(lines))
        for start in range(0, len(lines), _LINES_AT_ONCE):
            part = lines[start : start + _LINES_AT_ONCE]
            try:
                done = call(client, "POST", "/v1/memories/import", content="\n".join(part).encode())
            except Failure as failure:
                if failure.code == UNREACHABLE:
                    raise
                raise Failure(f"{failure} (counted from line {start + 1}; the {start} before it are in)") from failure
            for fate, count in done["fates"].items():
                fates[fate] = fates.get(fate, 0) + count
            progress.advance(task, len(part))
    if json_output:
        print_json({"lines": len(lines), "fates": fates})
    else:
        out.print(f"{len(lines)} lines: " + (", ".join(f"{n} {fate}" for fate, n in fates.items()) or "nothing"))


@app.command("export")
def export_memories(
    file: Annotated[Path | None, typer.Argument(help="By default standard output.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Write all memories as JSON lines, oldest first."""
    with connect(url) as client:
        try:
            answer = client.get("/v1/memories/export")
        except httpx.TransportError as error:
            raise unreachable(client, error) from error
        check(answer)
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
        print_json({"file": str(file), "lines": lines})
    else:
        err.print(f"{lines} memories in {file}")


@app.command("forget")
def forget(
    ids: list[str],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Forget memories for good, and print the receipts."""
    with connect(url) as client:
        for id in ids:
            if not yes and not json_output:
                memory = call(client, "GET", f"/v1/memories/{id}")
                typer.confirm(f"Forget \u201c{memory['text']}\u201d for good?", abort=True, err=True)
            receipt = call(client, "DELETE", f"/v1/memories/{id}")
            if json_output:
                print_json(receipt)
                continue
            out.print(f"Forgotten. Receipt {receipt['id']}:")
            for name, value in receipt.items():
                if name not in ("id", "at"):
                    shown = ", ".join(value) or "none" if isinstance(value, list) else value
                    out.print(f"  {name.replace('_', ' '):20} {escape(str(shown))}", soft_wrap=True)


@app.command("mark")
def mark(
    id: str,
    pin: Annotated[bool | None, typer.Option("--pin/--unpin", help="Never let it go by itself.")] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--not-private", help="It may be recalled, and no night may learn it.")
    ] = None,
    release: Annotated[bool, typer.Option("--release", help="From quarantine.")] = False,
    true: Annotated[
        bool | None, typer.Option("--true/--false", help="It proved so: moves trust in its source.")
    ] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Pin, keep out of the nights, release from quarantine, or say that a memory proved true or false."""
    asked = {"pinned": pin, "private": private, "quarantined": False if release else None}
    changes = {name: value for name, value in asked.items() if value is not None}
    if not changes and true is None:
        raise Failure("nothing to do: give --pin, --unpin, --private, --release, --true or --false", USAGE)
    with connect(url) as client:
        if true is not None:
            call(client, "POST", f"/v1/memories/{id}/verify", json={"true": true})
        if changes:
            call(client, "PATCH", f"/v1/memories/{id}", json=changes)
        memory = call(client, "GET", f"/v1/memories/{id}")
    _show_memories([memory], json_output=json_output)


def _show_memories(memories: list[dict[str, Any]], *, json_output: bool) -> None:
    if json_output:
        print_json(memories)
        return
    table = Table("id", "memory", "from", "when", "salience")
    for m in memories:
        marks = [name for name in ("pinned", "private", "quarantined") if m[name]]
        salience = "-" if m["salience"] is None else f"{m['salience']['total']:.2f}"
        text = escape(m["text"]) + (f" [yellow]({', '.join(marks)})[/yellow]" if marks else "")
        table.add_row(escape(m["id"]), text, escape(m["speaker"]), m["at"][:16], salience)
    out.print(table)
