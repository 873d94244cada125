"""Every way in which the memory can refuse, one tree.

MemoryFault
├── CoreRefused        a core self that cannot be put back as it is, or not here
├── DataDirInUse       another process owns the data directory
├── DataDirUnusable    it cannot be created, read or written
├── DatabaseTooNew     a later version of slowwave has written it
├── EmbedderAway       nothing can give vectors now; words still find
├── ImportRefused      a line of an import cannot be taken; nothing of it was
├── MemoryNotFound     no such memory, or another owner's
├── SessionNotFound    no such session, or another owner's
├── TurnNotFound       no such turn, or another owner's
└── StorageFailed      SQLite could not do it; nothing of it was kept
    ├── StorageFull    the disk has no room
    └── StorageUnsure  the disk failed while it was written: whether it was kept shows at the next start
"""

from __future__ import annotations


class MemoryFault(Exception):
    """Base of this package's errors."""


class CoreRefused(MemoryFault):
    """A core self that cannot be put back as it is, or not here."""


class DataDirInUse(MemoryFault):
    """Another process owns the data directory."""


class DataDirUnusable(MemoryFault):
    """The data directory cannot be created, read or written."""


class DatabaseTooNew(MemoryFault):
    """A later version of slowwave has written the database."""


class EmbedderAway(MemoryFault):
    """Nothing can give vectors now: the model is gone, or the process is ending. Words still find."""


class SessionNotFound(MemoryFault):
    """No such session, or another owner's."""

    def __init__(self, session: str) -> None:
        super().__init__(f"there is no session {session!r}")
        self.session = session


class StorageFailed(MemoryFault):
    """SQLite could not do it. Nothing of it was kept."""


class StorageFull(StorageFailed):
    """The disk has no room. Nothing of it was kept."""


class StorageUnsure(StorageFailed):
    """The disk failed while it was written. It counts as not kept, unless the process dies next and finds it in the
    log: SQLite cannot know what an fsync that failed has left."""


class MemoryNotFound(MemoryFault):
    """No such memory, or another owner's."""

    def __init__(self, id: str) -> None:
        super().__init__(f"there is no memory {id!r}")
        self.id = id


class ImportRefused(MemoryFault):
    """A line of an import cannot be taken. Nothing of the import was kept."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line


class TurnNotFound(MemoryFault):
    """No such turn, or another owner's."""

    def __init__(self, turn: str) -> None:
        super().__init__(f"there is no turn {turn!r}")
        self.turn = turn
