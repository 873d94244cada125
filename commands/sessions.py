"""slowwave sessions ..."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from commands.terminal import Failure, Json, Url, call, connect, out, print_json

app = typer.Typer(help="List, read and delete sessions.", no_args_is_help=True)


@app.command("list")
def list_sessions(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20, url: Url = None, json_output: Json = False
) -> None:
    """Sessions, last changed first."""
    with connect(url) as client:
        found = call(client, "GET", "/v1/sessions", params={"limit": limit})
    if json_output:
        print_json(found)
        return
    table = Table("session", "changed", "messages", "begins with")
    for row in found["data"]:
        table.add_row(
            row["id"], row["updated_at"][:19].replace("T", " "), str(row["messages"]), escape(row["preview"][:60])
        )
    out.print(table if found["data"] else "There are no sessions yet.")


@app.command("show")
def show_session(session: str, url: Url = None, json_output: Json = False) -> None:
    """A session's transcript."""
    with connect(url) as client:
        found = call(client, "GET", f"/v1/sessions/{session}")
    if json_output:
        print_json(found)
        return
    for entry in found["transcript"]:
        mark = "" if entry["status"] == "complete" else f" ({entry['status']})"
        out.print(f"[bold]{entry['role']}{mark}[/bold]\n{escape(entry['content'])}\n", soft_wrap=True)


@app.command("delete")
def delete_session(
    session: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Remove a session and its transcript."""
    if not yes and not typer.confirm(f"Delete {session} and all that was said in it?", err=True):
        raise Failure("nothing was deleted")
    with connect(url) as client:
        found = call(client, "DELETE", f"/v1/sessions/{session}")
    if json_output:
        print_json(found)
    else:
        out.print(f"Deleted {session}.")
