"""slowwave backup ...: the core self. What needs no service, `verify` and `restore`, is in cli.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from commands.terminal import Failure, Json, Url, call, connect, out, print_json

app = typer.Typer(help="The core self: write, check, and put it back on an empty machine.", no_args_is_help=True)


@app.command("create")
def create(
    file: Annotated[Path | None, typer.Argument(help="Copy it here as well.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Write the core self of a running service, restore it elsewhere, and compare. The heart does so every hour."""
    with connect(url) as client:
        made = call(client, "POST", "/v1/backups")
    if file is not None:
        made["path"] = str(_copy(Path(made["path"]), file))
    if json_output:
        print_json(made)
    else:
        out.print(f"{escape(made['path'])}: {made['bytes'] / 1e6:.1f} MB, restored elsewhere and found the same")


def _copy(made: Path, file: Path) -> Path:
    part = file.with_name(f".{file.name}.part")
    try:
        with made.open("rb") as whole, open(part, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as copied:
            shutil.copyfileobj(whole, copied)
            copied.flush()
            os.fsync(copied.fileno())
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise Failure(
            f"{made} is on the service's machine and cannot be copied to {file} from here: {error}"
        ) from error
    return file
