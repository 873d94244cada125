"""Every way in which the memory can refuse, one tree.

MemoryFault
├── DataDirInUse       another process owns the data directory
├── DataDirUnusable    it cannot be created, read or written
├── DatabaseTooNew     a later version of slowwave has written it
├── SessionNotFound    no such session, or another owner's
└── StorageFailed      SQLite could not do it: disk full, I/O error, corruption; nothing of it was kept
"""

from __future__ import annotations


class MemoryFault(Exception):
    """Base of this package's errors."""


class DataDirInUse(MemoryFault):
    """Another process owns the data directory."""


class DataDirUnusable(MemoryFault):
    """The data directory cannot be created, read or written."""


class DatabaseTooNew(MemoryFault):
    """A later version of slowwave has written the database."""


class SessionNotFound(MemoryFault):
    """No such session, or another owner's."""

    def __init__(self, session: str) -> None:
        super().__init__(f"there is no session {session!r}")
        self.session = session


class StorageFailed(MemoryFault):
    """SQLite could not do it. Nothing of it was kept."""
