"""slowwave heartbeat ..."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from commands.terminal import Json, Url, call, connect, out, print_json

app = typer.Typer(help="The pace at which it does things by itself: why, what, and the switch.", no_args_is_help=True)
Recent = Annotated[int, typer.Option("--recent", "-n", min=0, max=1000, help="So many of the latest beats.")]


@app.command("show")
def show(recent: Recent = 10, url: Url = None, json_output: Json = False) -> None:
    """How the heart is, its gauges and alarms, and the latest beats with their reasons."""
    with connect(url) as client:
        found = call(client, "GET", "/v1/heartbeat", params={"recent": recent})
    _print(found, json_output=json_output)


@app.command("stop")
def stop(url: Url = None, json_output: Json = False) -> None:
    """Stop it, until it is started again; also across restarts. Replies and nights go on."""
    _switch({"stopped": True}, url, json_output=json_output)


@app.command("start")
def start(url: Url = None, json_output: Json = False) -> None:
    """Let it beat again."""
    _switch({"stopped": False}, url, json_output=json_output)


@app.command("alarm")
def alarm(
    gauge: Annotated[str, typer.Argument(help="A gauge, as `slowwave heartbeat show` names them.")],
    bound: Annotated[float, typer.Argument(help="Sounds above it; 1 is all that is borne.")],
    seconds: Annotated[float, typer.Option("--for", help="Once it has lasted so many seconds.")] = 60.0,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Set an alarm on a gauge. The agent sets its own, and can make neither looser."""
    asked = {"gauge": gauge, "bound": bound, "seconds": seconds}
    _switch({"alarm": asked}, url, json_output=json_output)


def _switch(asked: dict[str, Any], url: str | None, *, json_output: bool) -> None:
    with connect(url) as client:
        found = call(client, "PUT", "/v1/heartbeat", json=asked)
    _print(found, json_output=json_output)


def _print(found: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(found)
        return
    every = found["interval_seconds"]
    pace = "no next beat" if every is None else f"every {every:.0f} s"
    out.print(f"[bold]{found['status']}[/bold]: {pace}, by {found['decided_by']}: {escape(found['reason'])}")
    gauges = ", ".join(f"{name} {value:.0%}" for name, value in sorted(found["gauges"].items(), key=lambda g: -g[1]))
    out.print(f"gauges, of what is borne: {escape(gauges) or 'none'}", soft_wrap=True)
    for one in found["alarms"]:
        sounds = one["sounding_seconds"]
        state = "" if sounds is None else f", [bold]sounding[/bold] for {sounds:.0f} s"
        out.print(f"alarm of {one['owner']}: {escape(one['gauge'])} above {one['bound']:.0%}{state}")
    if found["choice"]:
        out.print(f"its own choice: {found['choice']['choice']}, in all x{found['choice']['factor']:.2f}")
    core = found["core_self"]
    if core:
        out.print(
            f"core self: {core['age_seconds'] / 60:.0f} minutes old, {core['bytes'] / 1e6:.1f} MB, {core['path']}"
        )
    if found["recent"]:
        table = Table("beat", "at", "after", "why", "did")
        for beat in found["recent"]:
            did = "; ".join(
                f"{done['name']}: {done['outcome']}" + (f" ({done['detail']})" if done["detail"] else "")
                for done in beat["did"]
            )
            table.add_row(
                str(beat["n"]),
                beat["at"][11:19],
                f"{beat['interval_seconds']:.0f} s",
                escape(beat["reason"]),
                escape(did),
            )
        out.print(table)
