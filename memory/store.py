"""The SQLite database of one agent: one writer thread, a few readers, transactions. Knows no table."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pysqlite3
from sqlite_utils import Database

from memory.errors import DatabaseTooNew, StorageFailed, StorageFull, StorageUnsure
from memory.migrations import migrations

T = TypeVar("T")

SAFE_SQLITE = (3, 51, 3)
"""Earlier versions can corrupt a WAL database when a reset races a checkpoint (fixed in 3.51.3)."""
_READERS = 4
_IOERR, _FULL, _CANTOPEN = 10, 13, 14
"""SQLite's result codes, without what extends them."""
_NO_ROOM = 1 << 16
"""Bytes left, under which an I/O error is a full disk: SQLite's shared memory says so by no other code."""


class Store:
    """Durable, serial writes and concurrent reads.

    A write is acknowledged when its transaction is on disk (WAL, synchronous=FULL): killing the process, or the
    machine losing power, takes back nothing that `write` returned.
    """

    def __init__(self, path: Path) -> None:
        """Raises: DatabaseTooNew; StorageFailed: it cannot be opened."""
        self._path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._connection = self._writer.submit(_open_for_writing, path).result()
        self._readers: queue.LifoQueue[Database] = queue.LifoQueue()
        for _ in range(_READERS):
            self._readers.put(_open_for_reading(path))

    def write(self, transaction: Callable[[Database], T], *, power_safe: bool = True) -> T:
        """Run `transaction` alone, in BEGIN IMMEDIATE ... COMMIT, on the writer's thread.

        `power_safe` false: without waiting for the disk. The process may be killed, but if the machine loses power in
        the next moments the transaction may be gone, whole.

        Raises:
            StorageFailed: SQLite could not do it; everything was rolled back.
        """
        return self._writer.submit(_run, self._connection, self._path, transaction, power_safe).result()

    @contextmanager
    def reading(self) -> Iterator[Database]:
        """A connection that cannot write, showing one consistent state of the database throughout."""
        db = self._readers.get()
        try:
            db.execute("BEGIN")
            yield db
        except pysqlite3.Error as error:
            raise _fault(error, self._path) from error
        finally:
            if db.conn.in_transaction:
                db.conn.rollback()
            self._readers.put(db)

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the pages and indexes, five at most; nothing: they are sound.

        It looks through a connection of its own. A full-text table keeps in each connection where its index lies, and
        `PRAGMA quick_check` does not read that anew: a reader that has searched and waited calls a sound index broken.
        """
        try:
            with closing(_open_for_reading(self._path).conn) as connection:
                found = [str(line) for (line,) in connection.execute("PRAGMA quick_check(5)").fetchall()]
        except pysqlite3.Error as error:
            raise _fault(error, self._path) from error
        return [] if found == ["ok"] else found

    def fold_log(self) -> bool:
        """Move the write-ahead log into the database file and empty it; False if readers did not let go in time.

        Until then the log still holds the pages as they were before the last changes.
        """
        return self._writer.submit(_fold_log, self._connection).result()

    def rewrite(self) -> bool:
        """Write the whole file anew, so that no page keeps in its slack what was deleted, and empty the log.

        SQLite overwrites what is deleted, but not the copies, whole or in part, that moving rows between pages leaves
        behind. Returns whether the log could be emptied; see `fold_log`.
        """
        return self._writer.submit(_rewrite, self._connection, self._path).result()

    def close(self) -> None:
        """Wait for the writes in line, then fold the log into the database file."""
        for _ in range(_READERS):
            self._readers.get().conn.close()
        self._writer.submit(self._connection.conn.close).result()
        self._writer.shutdown()


def _run(db: Database, path: Path, transaction: Callable[[Database], T], power_safe: bool) -> T:
    try:
        db.execute(f"PRAGMA synchronous = {'FULL' if power_safe else 'NORMAL'}")
        db.execute("BEGIN IMMEDIATE")
        try:
            result = transaction(db)
            db.execute("COMMIT")
            return result
        except BaseException:
            if db.conn.in_transaction:
                db.conn.rollback()
            raise
    except pysqlite3.IntegrityError:
        raise
    except pysqlite3.Error as error:
        raise _fault(error, path) from error


def _fold_log(db: Database) -> bool:
    for _ in range(100):
        busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return True
        time.sleep(0.05)
    return False


def _rewrite(db: Database, path: Path) -> bool:
    try:
        db.execute("VACUUM")
        return _fold_log(db)
    except pysqlite3.Error as error:
        raise _fault(error, path) from error


def _fault(error: pysqlite3.Error, path: Path, doing: str = "") -> StorageFailed:
    """What is to be told of what SQLite says."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    disk = os.statvfs(path.parent)
    if code == _FULL or (code in (_IOERR, _CANTOPEN) and disk.f_bavail * disk.f_frsize < _NO_ROOM):
        return StorageFull(f"{doing}the disk is full ({error})")
    return (StorageUnsure if code == _IOERR else StorageFailed)(f"{doing}{error}")


def _open_for_writing(path: Path) -> Database:
    try:
        connection = pysqlite3.connect(str(path), isolation_level=None)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "busy_timeout = 5000",
            "trusted_schema = OFF",
            "secure_delete = ON",  # what was deleted is not left in free pages
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")
        db = Database(connection)
        _refuse_later_schema(db, path)
        migrations.apply(db)
        _fold_log(db)  # a process that was killed after forgetting may have left the text in the log
        return db
    except pysqlite3.Error as error:
        raise _fault(error, path, f"cannot open {path}: ") from error


def _open_for_reading(path: Path) -> Database:
    connection = pysqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA query_only = ON")
    return Database(connection)


def _refuse_later_schema(db: Database, path: Path) -> None:
    ours = {m.name for m in migrations.pending(Database(memory=True))}
    later = sorted({m.name for m in migrations.applied(db)} - ours)
    if later:
        raise DatabaseTooNew(
            f"{path} was written by a later version of slowwave (it has applied {', '.join(later)}). "
            "Update slowwave, or use another --data-dir."
        )


def library_problem() -> str | None:
    """What is wrong with the SQLite library in use, or None."""
    version = tuple(int(part) for part in pysqlite3.sqlite_version.split("."))
    if version < SAFE_SQLITE:
        return f"SQLite {pysqlite3.sqlite_version} is older than {'.'.join(map(str, SAFE_SQLITE))}"
    if sys.modules[Database.__module__].sqlite3 is not pysqlite3:
        return "sqlite-utils uses the standard library's SQLite, not pysqlite3"
    return None
