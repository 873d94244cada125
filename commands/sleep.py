"""slowwave sleep ..."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from commands.terminal import Json, Url, call, connect, out, print_json

app = typer.Typer(help="What a night would learn.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Typer makes a lone command the group itself; with this it stays a command of the group."""


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
