"""Files between here and a service, in pieces that a broken connection does not cost twice, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from commands.terminal import Failure, call, check, err, unreachable

PIECE = 8 << 20
"""Bytes sent at once."""
_TRIES, _WAIT = 6, 0.5
"""How often in a row a connection may break, and the seconds before the second try, doubled with each."""
_OCTETS = {"Content-Type": "application/octet-stream"}
Moved = Callable[[int], None]
"""Hears how many bytes are there."""


@contextmanager
def bar(what: str, total: int | None, *, shown: bool) -> Iterator[Moved]:
    """A progress bar on standard error, or none."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not (shown and err.is_terminal)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def fetch(client: httpx.Client, path: str, to: Path, *, params: dict[str, str], shown: bool) -> None:
    """Fetch a file, which is there whole or not at all; what came before a connection broke is not fetched again.

    Raises:
        Failure: the service refuses, or is not there any more.
    """
    part = to.with_name(f".{to.name}.part")
    part.unlink(missing_ok=True)
    seal, tries = "", 0
    with bar("exporting", None, shown=shown) as moved:
        while True:
            have = part.stat().st_size if part.exists() else 0
            headers = {"Range": f"bytes={have}-", "If-Range": seal} if have else {}
            try:
                with client.stream("GET", path, params=params, headers=headers) as answer:
                    if not answer.is_success:
                        answer.read()
                    check(answer)
                    if answer.status_code != httpx.codes.PARTIAL_CONTENT:  # another file since: begin anew
                        have = 0
                    seal = answer.headers["ETag"]
                    with part.open("ab" if have else "wb") as file:
                        for piece in answer.iter_raw():
                            file.write(piece)
                            have += len(piece)
                            tries = 0
                            moved(have)
                break
            except httpx.TransportError as error:
                tries = _again(client, error, tries)
    part.replace(to)


def send(client: httpx.Client, file: Path, *, shown: bool) -> Any:
    """Send a file in pieces, and have it taken in; returns what became of it.

    Raises:
        Failure: the service refuses it, or is not there any more.
    """
    size = file.stat().st_size
    upload = call(client, "POST", "/v1/checkpoints/uploads", json={"bytes": size})["upload"]
    path = f"/v1/checkpoints/uploads/{upload}"
    at, tries = 0, 0
    try:
        with file.open("rb") as source, bar("importing", size, shown=shown) as moved:
            while at < size:
                source.seek(at)
                try:
                    headers = {**_OCTETS, "Upload-Offset": str(at)}
                    answer = client.patch(path, content=source.read(PIECE), headers=headers)
                    check(answer)
                    at, tries = int(answer.json()["offset"]), 0
                except httpx.TransportError as error:
                    tries = _again(client, error, tries)
                    at = int(call(client, "GET", path)["offset"])
                moved(at)
        return call(client, "POST", f"{path}/import")
    except KeyboardInterrupt:
        client.delete(path)
        raise


def _again(client: httpx.Client, error: httpx.TransportError, tries: int) -> int:
    """Wait before the next try. Raises: Failure: it was the last."""
    if tries + 1 >= _TRIES or (tries == 0 and isinstance(error, httpx.ConnectError)):
        raise unreachable(client, error) from error
    time.sleep(_WAIT * 2**tries)
    return tries + 1


def not_there(path: Path, *, force: bool) -> None:
    """Raise `Failure` where a file would be overwritten."""
    if path.exists() and not force:
        raise Failure(f"{path} exists already; --force overwrites it")
