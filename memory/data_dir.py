"""The folder that holds all state of one agent, and the rule that one process owns it at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memory.errors import DataDirInUse, DataDirUnusable

DATABASE = "slowwave.db"
_LOCK = "lock"


def database_path(data_dir: Path) -> Path:
    """Where an agent's SQLite database lies."""
    return data_dir / DATABASE


def database_files(data_dir: Path) -> tuple[Path, ...]:
    """The database with its write-ahead log and the log's index: all that holds what was said."""
    return tuple(data_dir / f"{DATABASE}{suffix}" for suffix in ("", "-wal", "-shm"))


@contextmanager
def owned(data_dir: Path, *, owner: str) -> Iterator[Path]:
    """Own `data_dir` for the time of the context, creating it (mode 0700) where it is missing.

    The kernel drops the lock with the process, however it ends, so a stale lock cannot remain. `owner` is what
    others are told: who holds it.

    Raises:
        DataDirInUse: somebody else owns it.
        DataDirUnusable: it cannot be created or written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataDirUnusable(f"the data directory {data_dir} cannot be used: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
            raise DataDirInUse(in_use(data_dir, found)) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{owner}\n".encode(), 0)
        yield data_dir
    finally:
        os.close(lock)


def in_use(data_dir: Path, by: str) -> str:
    """What to tell whoever comes second."""
    return (
        f"the data directory {data_dir} is in use by {by}. "
        "Stop it, or start with another --data-dir: one process owns a data directory."
    )


def holder(data_dir: Path) -> str | None:
    """Who owns `data_dir` now, or None."""
    try:
        lock = os.open(data_dir / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
    finally:
        os.close(lock)
