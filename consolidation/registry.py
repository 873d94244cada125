"""Adapters on disk and who serves: one active adapter an owner, or the base.

A candidate's files are put in place and flushed before the one transaction that makes it active, retires what served
before and ends the night: killed at any moment, exactly one good adapter serves. Folders without a row are what a kill
left behind, and are removed at the next start.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlite_utils import Database

from consolidation.facts import Fact
from consolidation.journal import Night, NightFault, end_within
from memory.ids import new_id
from memory.store import Store

Status = Literal["active", "retired", "rejected"]
WEIGHTS, BESIDE = "adapter_model.safetensors", ("gate.safetensors", "upper_gate.safetensors", "codebook.safetensors")
MASTERED = 0.5
"""A fact has advanced when so much of what the exam asks of it is answered."""


class AdapterNotFound(NightFault):
    """No such adapter, or another owner's; or its files are gone."""


class AdapterStale(NightFault):
    """It was taught what is forgotten since, and may not come back."""


class ForgottenMeanwhile(Exception):
    """A night learnt from what is not there any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """One fact that an adapter was taught, and the memory that told it."""

    experience: str
    subject: str
    relation: str
    value: str
    statement: str
    asked: str
    """The words in which one may ask for it."""
    recalled: float | None
    """Share of its questions in the exam that were answered; under `MASTERED` it is taught again."""


def former(experience: str, fact: Fact) -> Learnt:
    """The row of what was told of a fact before it was corrected: in questions of the night, and in no answer."""
    return Learnt(
        experience=experience,
        subject=fact.subject,
        relation=f"{fact.relation} before, in {experience}",
        value=fact.value,
        statement="",
        asked="",
        recalled=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One adapter as it stands."""

    id: str
    owner: str
    night: str
    parent: str | None
    base: str
    status: Status
    digest: str
    stale: bool
    created_at: datetime
    activated_at: datetime | None


class Registry:
    """The adapters of one data directory."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def folder_of(self, id: str) -> Path:
        """Where an adapter's files lie."""
        return self._folder / id

    def promote(
        self,
        made: Path,
        night: Night,
        learnt: Sequence[Learnt],
        *,
        base: str,
        at: datetime,
        ready: Callable[[str], None] = lambda id: None,
    ) -> Registered:
        """Let the adapter whose files are in `made` serve its owner, and end the night.

        `ready` is told its id when its files are in place, before anybody else can know of it, and may raise.

        Raises:
            WrongTurn: the night is not promoting.
            OSError, StorageFailed: its files cannot be put in place; what served serves.
        """
        id = new_id("adapter", at)
        digest = self._put(made, id)
        ready(id)

        def transaction(db: Database) -> Registered:
            before = _active(db, night.owner)
            if before is not None:
                db.execute("UPDATE adapters SET status = 'retired' WHERE id = ?", [before.id])
            db.execute(
                "INSERT INTO adapters (id, owner, night, parent, base, status, digest, created_at, activated_at)"
                " VALUES (?, ?, ?, ?, ?, 'active', ?, ?, ?)",
                [
                    id,
                    night.owner,
                    night.id,
                    before.id if before else None,
                    base,
                    digest,
                    at.isoformat(),
                    at.isoformat(),
                ],
            )
            for one in learnt:
                db.execute(
                    "INSERT INTO learnt (adapter, experience, subject, relation, value, statement, asked, recalled)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [id, *astuple(one)],
                )
            if not _all_may_be_learnt(db, [one.experience for one in learnt]):
                raise ForgottenMeanwhile(
                    "something that this night learnt from has been forgotten or made private meanwhile"
                )
            db.execute("DELETE FROM unlearning WHERE owner = ?", [night.owner])
            end_within(db, night, "promoted", [], at=at, figures={"adapter": id})
            return _find(db, id, night.owner)

        return self._store.write(transaction)

    def active(self, owner: str) -> Registered | None:
        """Who serves an owner; None: the base."""
        with self._store.reading() as db:
            return _active(db, owner)

    def lineage(self, owner: str) -> list[Registered]:
        """An owner's adapters, newest first."""
        with self._store.reading() as db:
            return [_row(r) for r in db.query("SELECT * FROM adapters WHERE owner = ? ORDER BY id DESC", [owner])]

    def activate(self, id: str | None, *, owner: str, at: datetime) -> Registered | None:
        """Let another of an owner's adapters serve, or, with None, the base.

        Raises:
            AdapterNotFound: there is none, or its files are not those that were promoted.
            AdapterStale: it was taught what is forgotten since.
        """
        if id is not None:
            with self._store.reading() as db:
                wanted = _find(db, id, owner)
            if wanted.stale:
                raise AdapterStale(f"{id} was taught what is forgotten since; sleep, and the next is made without it")
            if digest_of_files(self.folder_of(id)) != wanted.digest:
                raise AdapterNotFound(f"the files of {id} are gone or changed")

        def transaction(db: Database) -> Registered | None:
            db.execute("UPDATE adapters SET status = 'retired' WHERE owner = ? AND status = 'active'", [owner])
            if id is None:
                return None
            _find(db, id, owner)
            db.execute("UPDATE adapters SET status = 'active', activated_at = ? WHERE id = ?", [at.isoformat(), id])
            return _find(db, id, owner)

        return self._store.write(transaction)

    def roll_back(self, *, owner: str, at: datetime) -> Registered | None:
        """Back to what served before the active adapter: its nearest ancestor that may serve, or the base."""
        by_id = {one.id: one for one in self.lineage(owner)}
        now = self.active(owner)
        before = by_id.get(now.parent) if now and now.parent else None
        while before is not None and (before.stale or digest_of_files(self.folder_of(before.id)) != before.digest):
            before = by_id.get(before.parent) if before.parent else None
        return self.activate(before.id if before else None, owner=owner, at=at)

    def known(self, id: str) -> list[Learnt]:
        """What an adapter was taught."""
        with self._store.reading() as db:
            rows = db.execute(
                "SELECT experience, subject, relation, value, statement, asked, recalled FROM learnt WHERE adapter = ?"
                " AND statement <> '' ORDER BY subject, relation",
                [id],
            ).fetchall()
        names = [f.name for f in fields(Learnt)]
        return [Learnt(**dict(zip(names, row, strict=True))) for row in rows]

    def digest_of(self, id: str) -> str:
        """Digest of an adapter's weights. Raises: AdapterNotFound."""
        with self._store.reading() as db:
            for (digest,) in db.execute("SELECT digest FROM adapters WHERE id = ?", [id]).fetchall():
                return str(digest)
        raise AdapterNotFound(f"there is no adapter {id!r}")

    def retire(self, *, owner: str) -> None:
        """Let the base serve, as nothing is left of what the active adapter was taught."""

        def transaction(db: Database) -> None:
            db.execute("UPDATE adapters SET status = 'retired' WHERE owner = ? AND status = 'active'", [owner])
            db.execute("DELETE FROM unlearning WHERE owner = ?", [owner])

        self._store.write(transaction)

    def tidy(self, *, most: int) -> list[str]:
        """Remove folders that no row names, what stale adapters left, and all but each owner's newest `most`.

        Their rows stay, as the record; the active one's files always do.
        """
        with self._store.reading() as db:
            rows = [_row(r) for r in db.query("SELECT * FROM adapters ORDER BY id DESC")]
        kept: dict[str, list[str]] = {}
        named = {one.id for one in rows if one.status == "active"}
        for one in rows:
            of_owner = kept.setdefault(one.owner, [])
            if not one.stale and len(of_owner) < most:
                of_owner.append(one.id)
        named.update(*kept.values())
        strays = [p for p in self._folder.iterdir() if p.name not in named]
        for stray in strays:
            shutil.rmtree(stray, ignore_errors=True)
        return [s.name for s in strays]

    def _put(self, made: Path, id: str) -> str:
        part = self._folder / f".{id}.part"
        try:
            part.mkdir()
            for file in made.iterdir():  # not copytree, whose errors have no errno: a full disk is to be told
                shutil.copyfile(file, part / file.name)
                _flush(part / file.name)
            _flush(part)
            part.rename(self.folder_of(id))
        except OSError:
            shutil.rmtree(part, ignore_errors=True)
            raise
        _flush(self._folder)
        digest = digest_of_files(self.folder_of(id))
        assert digest is not None
        return digest


def _all_may_be_learnt(db: Database, experiences: Sequence[str]) -> bool:
    wanted = set(experiences)
    found = db.execute(
        f"SELECT count(DISTINCT id) FROM experiences WHERE private = 0 AND id IN ({','.join('?' for _ in wanted)})",
        sorted(wanted),
    ).fetchone()
    return int(found[0]) == len(wanted)


def digest_of_files(folder: Path) -> str | None:
    """Of an adapter's weights, its gate and its codebook; None: they are not there."""
    try:
        with (folder / WEIGHTS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        for name in BESIDE:
            if (folder / name).exists():
                digest.update((folder / name).read_bytes())
    except OSError:
        return None
    return digest.hexdigest()


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _active(db: Database, owner: str) -> Registered | None:
    for row in db.query("SELECT * FROM adapters WHERE owner = ? AND status = 'active'", [owner]):
        return _row(row)
    return None


def _find(db: Database, id: str, owner: str) -> Registered:
    for row in db.query("SELECT * FROM adapters WHERE id = ? AND owner = ?", [id, owner]):
        return _row(row)
    raise AdapterNotFound(f"there is no adapter {id!r}")


def _row(row: dict[str, object]) -> Registered:
    return Registered(
        id=str(row["id"]),
        owner=str(row["owner"]),
        night=str(row["night"]),
        parent=None if row["parent"] is None else str(row["parent"]),
        base=str(row["base"]),
        status=row["status"],  # type: ignore[arg-type]
        digest=str(row["digest"]),
        stale=bool(row["stale"]),
        created_at=datetime.fromisoformat(str(row["created_at"])),
        activated_at=None if row["activated_at"] is None else datetime.fromisoformat(str(row["activated_at"])),
    )
