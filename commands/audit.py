"""slowwave audit: who did what that is more than talk, and whether the record is as it was written."""

from __future__ import annotations

from typing import Annotated

import httpx
import typer
from rich.markup import escape
from rich.table import Table

from commands.terminal import Failure, Json, Url, call, connect, out, print_json


def audit(
    newest: Annotated[int, typer.Option("--newest", "-n", min=1, max=1000, help="So many rows, newest first.")] = 20,
    head: Annotated[str | None, typer.Option("--head", help="A head noted earlier, which must be in it.")] = None,
    url: Url = None,
    json_output: Json = False,
) -> None:
    """Administrative acts, and whether their record is whole. Exit code 1 if not. Needs the scope admin."""
    with connect(url) as client:
        found = call(client, "GET", "/v1/audit", params={"limit": newest})
        known = head is None or _holds(client, head)
    if json_output:
        print_json({**found, "holds_head": known})
    else:
        rows = Table("row", "at", "key", "act", "answer")
        for one in found["data"]:
            answer = "asked" if one["status"] is None else f"{one['status']} (of {one['of']})"
            rows.add_row(str(one["n"]), one["at"][:19], escape(one["key"]), escape(one["act"]), answer)
        out.print(rows)
        out.print(f"{found['entries']} rows; head {found['head']}", soft_wrap=True)
    if not found["whole"]:
        raise Failure(f"row {found['broken_at']} is not as it was written, or is missing: the record was changed")
    if not known:
        raise Failure("that head is not in the record: it was written anew, or cut off before it")


def _holds(client: httpx.Client, head: str) -> bool:
    before: int | None = None
    while True:
        options = {"limit": 1000} | ({"before": before} if before else {})
        rows = call(client, "GET", "/v1/audit", params=options)["data"]
        if any(row["chain"] == head for row in rows):
            return True
        if not rows or rows[-1]["n"] == 1:
            return False
        before = rows[-1]["n"]
