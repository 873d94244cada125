"""slowwave sleep ..."""

from __future__ import annotations

import time
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from commands.terminal import Failure, Json, Url, call, connect, err, out, print_json

_LOOK = 0.5
"""Seconds between two looks at a night."""

app = typer.Typer(help="Nights: begin one, watch it, read what it learned, go back.", no_args_is_help=True)


@app.command("dry-run")
def dry_run(url: Url = None, json_output: Json = False) -> None:
    """What a night would learn now, from which memories, and why not from the others. Trains nothing."""
    with connect(url) as client:
        plan = call(client, "POST", "/v1/sleep/dry-run")
    if json_output:
        print_json(plan)
        return
    table = Table("a night would learn", "from", "priority")
    for fact in plan["facts"]:
        table.add_row(escape(fact["statement"]), fact["memory"], f"{fact['priority']:.2f}")
    out.print(table if plan["facts"] else "A night would learn nothing.")
    for choice in plan["choices"]:
        if not choice["taken"]:
            out.print(f"[dim]not {choice['memory']}: {escape(choice['reason'])}[/dim]", soft_wrap=True)
    if plan["examples"]:
        counts = ", ".join(f"{n} {strategy}" for strategy, n in sorted(plan["examples"].items()))
        out.print(f"{sum(plan['examples'].values())} examples: {counts}. Some of them:")
        for example in plan["samples"][:5]:
            out.print(f"  {escape(example['question'])} [dim]->[/dim] {escape(example['answer'])}", soft_wrap=True)


@app.command("now")
def now(
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Watch it to its end.")] = True,
    placebo: Annotated[
        bool, typer.Option("--placebo", help="An experiment: train on shuffled answers. The exam must reject it.")
    ] = False,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Begin a night. Ctrl-C stops watching, not the night."""
    with connect(url) as client:
        night = call(client, "POST", "/v1/sleep", json={"placebo": placebo})
        if wait:
            night = _watch(client, night["id"], quiet=json_output)
    _show(night, json_output=json_output)
    if night["outcome"] == "failed":
        raise Failure(f"the night failed: {'; '.join(night['reasons'])}")


@app.command("status")
def status(url: Url = None, json_output: Json = False) -> None:
    """The last night, as it stands, and who serves."""
    with connect(url) as client:
        nights = call(client, "GET", "/v1/sleep/cycles", params={"limit": 1})["data"]
        adapters = call(client, "GET", "/v1/adapters")
    if json_output:
        print_json({"night": nights[0] if nights else None, "active": adapters["active"]})
        return
    out.print(f"serving: {adapters['active']}")
    if nights:
        _show(nights[0], json_output=False)
    else:
        out.print("There was no night yet.")


@app.command("history")
def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 20, url: Url = None, json_output: Json = False
) -> None:
    """Nights, last begun first."""
    with connect(url) as client:
        found = call(client, "GET", "/v1/sleep/cycles", params={"limit": limit})
    if json_output:
        print_json(found)
        return
    table = Table("night", "date", "outcome", "why")
    for night in found["data"]:
        table.add_row(
            night["id"], night["date"], night["outcome"] or night["phase"], escape("; ".join(night["reasons"]))
        )
    out.print(table if found["data"] else "There was no night yet.")


@app.command("show")
def show(night: str, url: Url = None, json_output: Json = False) -> None:
    """One night: what it learned, what it scored, what it cost."""
    with connect(url) as client:
        found = call(client, "GET", f"/v1/sleep/cycles/{night}")
    _show(found, json_output=json_output)


@app.command("cancel")
def cancel(night: str, url: Url = None, json_output: Json = False) -> None:
    """Wake up: a night under way ends as interrupted."""
    with connect(url) as client:
        found = call(client, "POST", f"/v1/sleep/cycles/{night}/cancel")
    _show(found, json_output=json_output)


@app.command("rollback")
def rollback(url: Url = None, json_output: Json = False) -> None:
    """Let serve what served before."""
    with connect(url) as client:
        found = call(client, "POST", "/v1/adapters/rollback")
    if json_output:
        print_json(found)
    else:
        out.print(f"serving: {found['active']}")


def _watch(client: httpx.Client, id: str, *, quiet: bool) -> dict[str, Any]:
    with Progress(console=err, transient=True, disable=quiet) as progress:
        task = progress.add_task("due", total=None)
        while True:
            night: dict[str, Any] = call(client, "GET", f"/v1/sleep/cycles/{id}")
            steps, step = night["progress"].get("steps"), night["progress"].get("step")
            progress.update(task, description=night["phase"], total=steps, completed=step or 0)
            if night["phase"] == "ended":
                return night
            time.sleep(_LOOK)


def _show(night: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(night)
        return
    out.print(f"[bold]{night['id']}[/bold] {night['outcome'] or night['phase']}")
    for reason in night["reasons"]:
        out.print(f"  {escape(reason)}", soft_wrap=True)
    marks = night["figures"].get("marks", {})
    if marks:
        table = Table("", *marks)
        for name in next(iter(marks.values())):
            table.add_row(
                name.replace("_", " "), *("-" if m[name] is None else f"{m[name]:.3f}" for m in marks.values())
            )
        out.print(table)
    report = night.get("report")
    if report is None:
        return
    out.print(escape(report["summary"]), soft_wrap=True)
    for title, facts in (("known by heart", report["learnt"]), ("not yet", report["not_yet"])):
        for fact in facts:
            known = "" if fact["recalled"] is None else f" [dim]({fact['recalled']:.0%} of its questions)[/dim]"
            out.print(f"  [dim]{title}:[/dim] {escape(fact['statement'])}{known}", soft_wrap=True)
    for pattern in report["patterns"]:
        words = escape(", ".join(pattern["words"]))
        out.print(f"  [dim]came up on {pattern['days']} days:[/dim] {words}", soft_wrap=True)
    for one, other in report["contradictions"]:
        out.print(f"  [yellow]told differently:[/yellow] {one} and {other}", soft_wrap=True)
    for reason in report["why"]:
        mark = "in " if reason["taken"] else "out"
        out.print(f"  [dim]{mark} {reason['experiences']:>4}  {escape(reason['reason'])}[/dim]", soft_wrap=True)
    for answer in report["answers"][:10]:
        mark = "[green]right[/green]" if answer["good"] else "[red]wrong[/red]"
        out.print(f"  {mark} {escape(answer['question'])} [dim]->[/dim] {escape(answer['after'])}", soft_wrap=True)
