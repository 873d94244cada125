"""slowwave persona ..."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from commands.terminal import USAGE, Failure, Json, Url, call, connect, out, print_json

app = typer.Typer(help="See the persona's variables, and pin them.", no_args_is_help=True)


@app.command("show")
def show(url: Url = None, json_output: Json = False) -> None:
    """Every variable that acts on replies, and whether it is pinned."""
    with connect(url) as client:
        found = call(client, "GET", "/v1/persona")
    _print(found, json_output=json_output)


@app.command("pin")
def pin(
    values: Annotated[list[str], typer.Argument(help="NAME=VALUE, a value from -1 to 1; may be repeated.")],
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Hold variables at a value, from the next reply on."""
    with connect(url) as client:
        found = call(client, "PUT", "/v1/persona", json={"variables": dict(_value(text) for text in values)})
    _print(found, json_output=json_output)


@app.command("release")
def release(
    names: Annotated[list[str] | None, typer.Argument(help="Variables; none: all that are pinned.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Let go of variables that are pinned."""
    with connect(url) as client:
        held = names or list(call(client, "GET", "/v1/persona")["pinned"])
        found = call(client, "PUT", "/v1/persona", json={"variables": dict.fromkeys(held)})
    _print(found, json_output=json_output)


def _value(text: str) -> tuple[str, float]:
    name, given, value = text.partition("=")
    try:
        if not given:
            raise ValueError
        return name.strip(), float(value)
    except ValueError:
        raise Failure(f"{text!r} is not NAME=VALUE, as pleasure=0.5", USAGE) from None


def _print(found: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(found)
        return
    mood = found.get("mood") or {"values": {}, "rest": {}}
    table = Table("variable", "mood", "at rest", "acts on replies")
    for name in dict.fromkeys([*mood["values"], *found["variables"]]):
        acts = found["variables"].get(name)
        how = "" if acts is None else f"{acts:+.2f}" + (" (pinned)" if name in found["pinned"] else "")
        table.add_row(escape(name), _signed(mood["values"].get(name)), _signed(mood["rest"].get(name)), how)
    out.print(table if found["variables"] else "This model cannot be steered: there are no variables.")


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
