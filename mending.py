"""What is broken in a data directory, and making it serve again: `slowwave doctor`, and with --repair.

Nothing is ever deleted: what cannot be used goes to `broken/DATE/` in the same directory, where a better tool or a
backup may still find something in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pysqlite3

from agent.core_self import prove
from consolidation.registry import Registry, digest_of_files
from memory import data_dir, integrity
from memory.errors import CoreRefused, MemoryFault
from memory.store import Store
from models.state_file import BrokenStateFile, opened

NOTHING_READ = "nothing of it could be read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """One file or folder that is not as it was written."""

    path: Path
    what: str
    lasting: bool = False
    """Whether it cannot be mended: it is shown, and not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """One thing that was done about it."""

    what: str
    done: str


def broken(folder: Path) -> Iterator[Broken]:
    """Look at every file that carries a digest, and at the database."""
    database = data_dir.database_path(folder)
    if database.exists():
        for damage in integrity.damages(database):
            yield Broken(path=database, what=damage.what, lasting=damage.lasting)
        for id, digest in _serving(database):
            if digest_of_files(folder / "adapters" / id) != digest:
                yield Broken(path=folder / "adapters" / id, what="its files are not those that were promoted")
    for state in sorted(folder.glob("checkpoints/*/*.state")):
        try:
            opened(state)
        except (BrokenStateFile, OSError) as error:
            yield Broken(path=state, what=str(error))
    for backup in sorted(folder.glob("backups/*.slowwave")):
        try:
            prove(backup)
        except (CoreRefused, MemoryFault, OSError) as error:
            yield Broken(path=backup, what=str(error))


def mend(folder: Path, *, at: datetime) -> Iterator[Mended]:
    """Mend what can be, and say so. The service must not be running.

    Raises:
        DataDirInUse: it is running.
        OSError, StorageFailed: there is no room or no right; what was done so far stays done.
    """
    with data_dir.owned(folder, owner="slowwave doctor --repair"):
        yield from _permissions(folder)
        yield from _database(folder, at)
        yield from _adapters(folder, at)
        for one in list(broken(folder)):
            if one.path.suffix in (".state", ".slowwave"):
                yield Mended(what=f"{one.path}: {one.what}", done=f"put aside: {_aside(folder, one.path, at)}")
        for stray in sorted(p for p in folder.rglob("*.part") if integrity.ASIDE not in p.parts):
            yield Mended(what=f"{stray}: half written", done=f"put aside: {_aside(folder, stray, at)}")


def _permissions(folder: Path) -> Iterator[Mended]:
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            path.chmod(mode & 0o700)
            yield Mended(what=f"{path}: others could read it", done=f"mode {mode & 0o700:o}")


def _database(folder: Path, at: datetime) -> Iterator[Mended]:
    database = data_dir.database_path(folder)
    damages = integrity.damages(database) if database.exists() else []
    if all(d.lasting and d.kind != "memory" for d in damages):  # a memory that was changed must not be recalled
        return
    kept = integrity.aside(folder, at)
    for file in data_dir.database_files(folder):
        if file.exists():
            shutil.copy2(file, kept / file.name)
            _flush(kept / file.name)
    what = f"{database}: {damages[0].what}" + (f", and {len(damages) - 1} more" if len(damages) > 1 else "")
    if any(d.kind == "pages" for d in damages):
        part = database.with_name("saved.part")
        part.unlink(missing_ok=True)
        saved = integrity.save(kept / database.name, part)
        _flush(part)
        for log in data_dir.database_files(folder)[1:]:
            log.unlink(missing_ok=True)
        part.replace(database)
        _flush(folder)
        lost = ", ".join(f"{n} of {table}" for table, n in saved.lost.items()) or "none"
        done = f"{sum(saved.rows.values())} rows read into a new one; not readable: {lost}; the broken one is in {kept}"
        backup = folder / "backups" / "core-self.slowwave"
        if not any(saved.rows.values()) and backup.exists():  # its first page, which says where the others are
            done += f"; {NOTHING_READ}: 'slowwave backup restore {backup} --data-dir ANOTHER' brings back the core self"
        yield Mended(what=what, done=done)
    else:
        integrity.mend(database)
        yield Mended(what=what, done=f"indexes and full text made anew; what it was is in {kept}")
    for left in integrity.damages(database):
        yield Mended(
            what=f"{database}: {left.what}", done="shown, and not used: restore it from a backup if you need it"
        )


def _adapters(folder: Path, at: datetime) -> Iterator[Mended]:
    database = data_dir.database_path(folder)
    if not database.exists():
        return
    store = Store(database)
    try:
        registry = Registry(store, folder / "adapters")
        with store.reading() as db:
            owners = [str(o) for (o,) in db.execute("SELECT owner FROM adapters WHERE status = 'active'").fetchall()]
        for owner in owners:
            active = registry.active(owner)
            if active is None or digest_of_files(registry.folder_of(active.id)) == active.digest:
                continue
            now = registry.roll_back(owner=owner, at=at)
            where = (
                _aside(folder, registry.folder_of(active.id), at) if registry.folder_of(active.id).exists() else None
            )
            done = f"{now.id if now else 'the base'} serves" + (f"; its files are in {where}" if where else "")
            yield Mended(what=f"{active.id}: its files are not those that were promoted", done=done)
    finally:
        store.close()


def _serving(database: Path) -> list[tuple[str, str]]:
    try:
        with closing(pysqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT id, digest FROM adapters WHERE status = 'active'").fetchall()
    except integrity.UNREADABLE:
        return []
    return [(str(id), str(digest)) for id, digest in rows]


def _aside(folder: Path, path: Path, at: datetime) -> Path:
    to = integrity.aside(folder, at)
    for part in path.relative_to(folder).parts:
        to.mkdir(mode=0o700, exist_ok=True)
        to /= part
    path.rename(to)
    return to


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
