"""slowwave checkpoint ..."""

from __future__ import annotations

import typer
from rich.markup import escape

from commands.terminal import Json, Url, call, connect, out, print_json

app = typer.Typer(help="Put a session's state into a file, and bring it back.", no_args_is_help=True)


@app.command("suspend")
def suspend(session: str, url: Url = None, json_output: Json = False) -> None:
    """Put what has been read of a session into a file, and free its memory. Its next turn brings it back by itself."""
    with connect(url) as client:
        done = call(client, "POST", f"/v1/sessions/{session}/suspend")
    if json_output:
        print_json(done)
    elif done["state"] == "open":
        out.print("Nothing of it was in memory; there is nothing to suspend.")
    else:
        out.print(f"Suspended: {done['tokens']} tokens, {done['bytes'] / 1e6:.1f} MB, {done['seconds'] * 1000:.0f} ms.")


@app.command("resume")
def resume(session: str, url: Url = None, json_output: Json = False) -> None:
    """Bring a suspended session's state back into memory, and say how."""
    with connect(url) as client:
        done = call(client, "POST", f"/v1/sessions/{session}/resume")
    if json_output:
        print_json(done)
    elif done["how"] == "open":
        out.print("It is not suspended.")
    else:
        out.print(
            f"{done['how']}: {escape(done['why'])}; {done['tokens']} tokens need not be read again"
            f" ({done['seconds'] * 1000:.0f} ms).",
            soft_wrap=True,
        )
