"""slowwave rooms ...: what was thought and not said. For the operator; every look is recorded."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from commands.terminal import Json, Url, call, connect, out, print_json

app = typer.Typer(help="What it thought and did not say: how much, what, and who looked.", no_args_is_help=True)
Newest = Annotated[int, typer.Option("--newest", "-n", min=1, max=1000, help="So many, the newest first.")]


@app.command("list")
def list_(newest: Newest = 20, url: Url = None, json_output: Json = False) -> None:
    """How much each room holds, and the latest looks into them. Shows no thought, and counts as no look."""
    with connect(url) as client:
        found = call(client, "GET", "/v1/rooms", params={"limit": newest})
    if json_output:
        print_json(found)
        return
    sizes = Table("room", "whose", "thoughts", "characters", "latest")
    for size in found["sizes"]:
        counts = (str(size["thoughts"]), str(size["characters"]), size["latest"])
        sizes.add_row(size["room"], escape(size["owner"]), *counts)
    out.print(sizes if found["sizes"] else "all rooms are empty")
    for look in found["looks"]:
        whose = look["owner"] or "everybody"
        out.print(f"{look['at']}: {escape(look['by'])} looked at {look['shown']} in {look['room']}, of {escape(whose)}")


@app.command("look")
def look(
    room: Annotated[str, typer.Argument(help="thoughts, or withheld.")],
    whose: Annotated[str | None, typer.Option("--whose", help="Of this owner alone.")] = None,
    newest: Newest = 20,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Read in a room. That you did is recorded for good."""
    asked = {"limit": newest} | ({"whose": whose} if whose else {})
    with connect(url) as client:
        found = call(client, "GET", f"/v1/rooms/{room}", params=asked)
    if json_output:
        print_json(found)
        return
    for one in found["data"]:
        out.print(f"[bold]{one['at']}[/bold] {escape(one['owner'])}, {one['turn']}", soft_wrap=True)
        out.print(escape(one["text"]), soft_wrap=True)
    if not found["data"]:
        out.print("nothing is there")
