"""What is most itself, in one small signed file that survives a disaster: persona, reservoir, best memories, adapter.

The file is that of models/state_file.py: tensors of bytes with a digest each, a manifest, a signature; nothing that
executes. Transcripts, states and older adapters stay behind: this is no backup of everything, it is what is needed to
be the same again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.conduct import CONSTRAINTS
from memory import core, data_dir
from memory.errors import CoreRefused
from memory.store import Store
from models.signature import Signer
from models.state_file import Block, BrokenStateFile, Contents, opened, write

KIND = "core self"
VERSION = 1
MOST_BYTES = 64 << 20
"""A core self is small, or it is not one."""
_FOR_ADAPTERS = 0.75
"""Share of it that adapters may take."""
_LEAST_MEMORIES = 10
_ADAPTER = re.compile(r"adapter_[0-9a-z]{26}")
_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "gate.safetensors",
    "upper_gate.safetensors",
    "codebook.safetensors",
)
"""Of an adapter."""
_ROWS = "rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One core self, as a file says."""

    at: datetime
    note: str
    """What it had to say to itself when it was written."""
    base: str
    """Digest of the base's weights that the adapter belongs to."""
    model: str
    settings: Mapping[str, Any]
    """Those that make a person: the temperament."""
    counts: Mapping[str, int]
    """Rows by table."""
    adapters: tuple[str, ...]
    nbytes: int
    seal: str
    signer: str | None
    signed: bool
    """Whether the signature is that signer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backups:
    """Where one service keeps its core self: the latest, and the one before."""

    folder: Path
    write: Callable[[Path], Core]
    """Writes one; see `create`."""
    now: Callable[[], datetime]
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    @property
    def latest(self) -> Path:
        """The latest that was proven, if it is there."""
        return self.folder / "core-self.slowwave"

    def age(self) -> float | None:
        """Seconds since the latest was proven; None: there is none."""
        kept = self.kept()
        return None if kept is None else kept[0]

    def kept(self) -> tuple[float, int] | None:
        """Seconds since the latest was proven, and its bytes; None: there is none, or forgetting has removed it."""
        try:
            found = self.latest.stat()
        except OSError:
            return None
        age = self.now().timestamp() - found.st_mtime
        return (age, found.st_size) if age >= 0 else None  # the clock was set back: nobody knows how old it is

    def make(self) -> Core:
        """Write one, prove it, and only then put it in place of the one before.

        Raises:
            CoreRefused: it would be too large, or did not come back as it went in; the one before stays.
            OSError: it cannot be written.
        """
        with self._one_at_a_time:
            part = self.folder / "making.part"
            try:
                self.write(part)
                found = prove(part)
                os.utime(part, (self.now().timestamp(),) * 2)
                if self.latest.exists():
                    self.latest.replace(self.folder / "core-self-before.slowwave")
                part.replace(self.latest)
            finally:
                part.unlink(missing_ok=True)
        return found

    def drop(self) -> int:
        """Remove them all: something was forgotten, and they may hold it. Returns how many there were."""
        with self._one_at_a_time:
            kept = len(list(self.folder.glob("*.slowwave")))
            shutil.rmtree(self.folder, ignore_errors=True)
        return kept

    def tidy(self) -> None:
        """At a start: remove what a kill left half made."""
        for stray in [*self.folder.glob("proof.*"), *self.folder.glob("*.part"), *self.folder.glob(".*")]:
            shutil.rmtree(stray, ignore_errors=True) if stray.is_dir() else stray.unlink(missing_ok=True)


def create(
    path: Path,
    store: Store,
    *,
    adapters: Sequence[tuple[str, Path]],
    base: str,
    model: str,
    settings: Mapping[str, Any],
    note: str,
    signer: Signer,
    at: datetime,
) -> Core:
    """Write a core self in place of the one that was there, whole or not at all.

    `adapters`: those that serve, by id, the first to be kept first. Those that do not fit, or whose files are not all
    there, stay behind with what they learnt; then the least of the memories do.

    Raises:
        CoreRefused: even so it would be larger than a core self may be.
        OSError: it cannot be written.
    """
    serving = set(core.serving(store))
    blocks = _fitting([one for one in adapters if one[0] in serving])
    rows, most = core.taken(store, adapters={name.partition(".")[0] for name in blocks}), core.MOST_MEMORIES
    room = MOST_BYTES - sum(block.nbytes for block in blocks.values())
    while len(data := json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode()) > room:
        if most < _LEAST_MEMORIES:
            raise CoreRefused(
                f"what is no memory has {len(data) >> 20} MiB by itself; a core self has {MOST_BYTES >> 20}"
            )
        most //= 2
        rows = core.taken(store, most=most, adapters={name.partition(".")[0] for name in blocks})
    blocks[_ROWS] = _bytes(data)
    manifest = {
        "kind": KIND,
        "version": VERSION,
        "at": at.isoformat(),
        "base": base,
        "model": model,
        "settings": dict(settings),
        "note": note,
        "counts": {table: len(found) for table, found in rows.items()},
        "constraints": [f"{c.number} {c.name}: {'; '.join(map(str, c.bounds))}" for c in CONSTRAINTS],
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write(path, blocks, manifest, signer)
    return verify(path)


def verify(path: Path) -> Core:
    """Check every digest and the signature, and say what the file holds.

    Raises:
        CoreRefused: it is no core self, or not what was written.
        OSError: it cannot be read.
    """
    return _opened(path)[0]


def restore(path: Path, folder: Path, *, owner: str, trusted: frozenset[str] | None = None) -> Core:
    """Make an empty data directory the agent that a core self is of. `trusted`: whose signature is taken; None: any's.

    Raises:
        CoreRefused: it is no core self, not what was written, of a signer that is not trusted, or the directory has an
            agent already.
        DataDirInUse, DataDirUnusable, StorageFailed: see there.
        OSError: it cannot be read.
    """
    found, rows, files = _opened(path)
    if not found.signed or (trusted is not None and found.signer not in trusted):
        raise CoreRefused(f"its signature is not of a key that is trusted here; its signer says to be {found.signer}")
    with data_dir.owned(folder, owner=owner):
        if any(file.exists() for file in data_dir.database_files(folder)):
            raise CoreRefused(f"{folder} has an agent already: restore into an empty data directory")
        for id, of_adapter in files.items():
            _write_adapter(folder / "adapters" / id, of_adapter)
        # The database comes last, and by its final name only once it is whole: a directory without one is still empty.
        made = data_dir.database_path(folder).with_name("restored.part")
        for stray in made.parent.glob("restored.part*"):
            stray.unlink()
        store = Store(made)
        try:
            core.put(store, rows)
            whole = store.fold_log()
        finally:
            store.close()
        if not whole or made.with_name(made.name + "-wal").exists():
            raise CoreRefused("its database could not be made whole here; is the disk full?")
        made.replace(data_dir.database_path(folder))
        _flush(folder)
        for stray in made.parent.glob("restored.part*"):
            stray.unlink()
    return found


def prove(path: Path) -> Core:
    """Restore a core self somewhere else, take it again from there, and compare.

    Raises:
        CoreRefused: what comes back is not what went in.
    """
    found, rows, _ = _opened(path)
    # Beside the file: what a kill leaves of a proof is found and removed with it, and the disk is the same.
    with tempfile.TemporaryDirectory(prefix="proof.", dir=path.absolute().parent) as passing:
        folder = Path(passing) / "data"
        restore(path, folder, owner="a proof")
        store = Store(data_dir.database_path(folder))
        try:
            again = core.taken(store, most=1 << 31)
        finally:
            store.close()
    for table, before in rows.items():
        if _in_order(again.get(table, [])) != _in_order(before):
            raise CoreRefused(f"{table} came back otherwise than it went in")
    return found


def _opened(path: Path) -> tuple[Core, dict[str, list[dict[str, Any]]], dict[str, dict[str, bytes]]]:
    if path.stat().st_size > MOST_BYTES + (1 << 20):
        raise CoreRefused(f"it is larger than any core self: {path.stat().st_size >> 20} MiB")
    try:
        contents, blocks = opened(path)
    except BrokenStateFile as broken:
        raise CoreRefused(f"it is broken, or no core self: {broken}") from broken
    said = contents.manifest
    if said.get("kind") != KIND or said.get("version") != VERSION:
        raise CoreRefused(f"it is no core self of version {VERSION}: {said.get('kind')!r} {said.get('version')!r}")
    try:
        rows = json.loads(bytes(blocks[_ROWS].data))
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.get("adapters", [])):
            raise CoreRefused("its rows are no tables of rows")
        files: dict[str, dict[str, bytes]] = {}
        for name, block in blocks.items():
            if name == _ROWS:
                continue
            id, _, file = name.partition(".")
            if not _ADAPTER.fullmatch(id) or file not in _FILES:
                raise CoreRefused(f"it holds {name!r}, which no core self has")
            files.setdefault(id, {})[file] = bytes(block.data)
        found = _core(contents, said, tuple(files), sum(block.nbytes for block in blocks.values()))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CoreRefused(f"its manifest or its rows are not what a core self has: {error}") from error
    if {str(row.get("id")) for row in rows.get("adapters", [])} != set(files):
        raise CoreRefused("it names an adapter whose files it does not hold, or the other way round")
    return found, rows, files


def _core(contents: Contents, said: Mapping[str, Any], adapters: tuple[str, ...], nbytes: int) -> Core:
    return Core(
        at=datetime.fromisoformat(said["at"]),
        note=str(said["note"]),
        base=str(said["base"]),
        model=str(said["model"]),
        settings=dict(said["settings"]),
        counts={str(table): int(n) for table, n in said["counts"].items()},
        adapters=adapters,
        nbytes=nbytes,
        seal=contents.seal,
        signer=contents.signer,
        signed=contents.signer is not None,  # a signature that is not its signer's is refused when it is read
    )


def _flush(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_adapter(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _fitting(adapters: Sequence[tuple[str, Path]]) -> dict[str, Block]:
    """The files of those adapters that fit, and are whole."""
    blocks: dict[str, Block] = {}
    room = MOST_BYTES * _FOR_ADAPTERS
    for id, folder in adapters:
        files = {f"{id}.{name}": folder / name for name in _FILES if (folder / name).is_file()}
        size = sum(file.stat().st_size for file in files.values())
        if f"{id}.adapter_model.safetensors" in files and f"{id}.adapter_config.json" in files and size <= room:
            blocks |= {name: _bytes(file.read_bytes()) for name, file in files.items()}
            room -= size
    return blocks


def _bytes(data: bytes) -> Block:
    return Block.of("U8", (len(data),), memoryview(data))


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
