"""The database and its folder: one owner, all or nothing, never a later version's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pysqlite3
import pytest
from sqlite_utils import Database

from memory import data_dir, fulltext
from memory.errors import DatabaseTooNew, DataDirInUse, DataDirUnusable, StorageFailed
from memory.experience import Provenance
from memory.feedback import trust
from memory.migrations import migrations
from memory.store import Store, library_problem

AT = datetime(2026, 11, 22, tzinfo=UTC)


def count(store: Store) -> int:
    with store.reading() as db:
        return int(db.execute("SELECT count(*) FROM sessions").fetchone()[0])


def insert(db: Database, name: str) -> None:
    db.execute(
        "INSERT INTO sessions (id, owner, created_at, updated_at, tokenizer, head) VALUES (?, 'o', '', '', '', x'')",
        [name],
    )


def test_the_sqlite_in_use_is_the_safe_one() -> None:
    assert library_problem() is None


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    def transaction(db: Database) -> None:
        insert(db, "half")
        raise KeyError("interrupted")

    with pytest.raises(KeyError):
        store.write(transaction)
    assert count(store) == 0
    store.write(lambda db: insert(db, "whole"))
    assert count(store) == 1


def test_readers_cannot_write(store: Store) -> None:
    with pytest.raises(StorageFailed, match="readonly"), store.reading() as db:
        insert(db, "sneaky")


def test_a_full_text_index_that_changed_since_a_reader_searched_it_is_sound(store: Store) -> None:
    def made(db: Database) -> None:
        fulltext.create(db, 1)

    def told(n: int) -> Callable[[Database], None]:
        return lambda db: fulltext.add(db, 1, [fulltext.Page(n, f"word{n} and a dog", f"word{n} and a cat")])

    store.write(made)
    store.write(told(1))
    with store.reading() as db:
        fulltext.containing(db, 1, "dog")
    wrong_by_readers = []
    for n in range(2, 40):
        store.write(told(n))
        with store.reading() as db:
            wrong_by_readers += [row[0] for row in db.execute("PRAGMA quick_check(5)").fetchall() if row[0] != "ok"]
        assert store.problems() == []
    assert any("fts5" in line for line in wrong_by_readers)  # else SQLite has mended it, and `problems` may be simpler


def test_concurrent_writes_all_arrive(store: Store) -> None:
    def work(n: int) -> None:
        for i in range(20):
            store.write(partial(insert, name=f"{n}-{i}"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(store) == 160


def test_durability_is_switched_on(store: Store) -> None:
    pragmas = store.write(
        lambda db: [db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous", "foreign_keys")]
    )
    assert pragmas == ["wal", 2, 1]


def test_opening_again_keeps_what_was_written(tmp_path: Path) -> None:
    first = Store(tmp_path / "x.db")
    first.write(lambda db: insert(db, "kept"))
    first.close()
    again = Store(tmp_path / "x.db")
    assert count(again) == 1
    again.close()


def test_a_later_versions_database_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "x.db").close()
    with pysqlite3.connect(str(tmp_path / "x.db")) as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('slowwave', 'm999_later', '')"
        )
    with pytest.raises(DatabaseTooNew, match="m999_later"):
        Store(tmp_path / "x.db")


def test_trust_from_before_channels_still_counts_for_the_entity(tmp_path: Path) -> None:
    with pysqlite3.connect(str(tmp_path / "x.db")) as connection:
        before = Database(connection)
        migrations.apply(before, stop_before="m003_trust")
        before.execute("INSERT INTO owners (n, name) VALUES (1, 'alice')")
        before.execute("INSERT INTO sources VALUES (1, 'user', 4, 0, ?)", [AT.isoformat()])
    store = Store(tmp_path / "x.db")
    believed = trust(store, Provenance(channel="chat"), owner="alice", at=AT)
    assert believed.in_source == believed.in_entity == 6 / 8
    store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageFailed):
        Store(tmp_path / "x.db")


def test_one_process_owns_a_data_directory(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    with data_dir.owned(folder, owner="the first"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert data_dir.holder(folder) == "the first"
        with pytest.raises(DataDirInUse, match="the first"), data_dir.owned(folder, owner="the second"):
            pass
    with data_dir.owned(folder, owner="the third"):
        assert data_dir.holder(folder) == "the third"
    assert data_dir.holder(folder) is None


def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from memory import data_dir\n"
        "with data_dir.owned(Path(sys.argv[1]), owner='doomed'):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    assert data_dir.holder(tmp_path) == "doomed"
    process.kill()
    process.wait()
    process.stdout.close()
    with data_dir.owned(tmp_path, owner="next"):
        pass


def test_an_impossible_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataDirUnusable), data_dir.owned(tmp_path / "file" / "x", owner=str(os.getpid())):
        pass
