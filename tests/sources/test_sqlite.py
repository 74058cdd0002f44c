"""Files of SQLite as a source: copies that are one state of the database, whoever writes, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from opskit.errors import SourceError
from opskit.sources.base import Entry, Problem
from opskit.sources.databases.sqlite import SqliteSource
from tests.sources.walking import content, entry_of, needs_program, open_descriptors, walk

MODES = ["wal", "delete"]


def make(path: Path, mode: str = "wal", rows: int = 100) -> Path:
    """A closed database whose rows sum up to 0."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, amount INTEGER, note TEXT)")
        database.executemany("INSERT INTO account (amount, note) VALUES (0, ?)", [("x" * 500,)] * rows)
        database.commit()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where copies are made; empty and private afterwards, and no descriptor is left open."""
    before = open_descriptors()
    place = tmp_path / "state" / "sqlite"
    yield place
    assert open_descriptors() == before
    assert not place.exists() or (list(place.iterdir()) == [] and stat.S_IMODE(place.stat().st_mode) == 0o700)


def copied(source: SqliteSource, path: Path) -> bytes:
    """The copy of one database."""
    return content(source.open(entry_of(source, path)))


@contextmanager
def restored(copy: bytes, folder: Path) -> Iterator[sqlite3.Connection]:
    """A copy as it is after a restore, which passes SQLite's own check."""
    path = folder / "restored.db"
    path.write_bytes(copy)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        yield database
    path.unlink()


@pytest.mark.parametrize("mode", MODES)
def test_a_closed_database_is_copied_and_left_as_it_was(tmp_path: Path, folder: Path, mode: str) -> None:
    """The copy has all rows and whole pages; beside the original nothing appears and nothing in it changes."""
    path = make(tmp_path / "app.db", mode)
    before = (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir()))
    copy = copied(SqliteSource([path], folder), path)
    with restored(copy, tmp_path) as database:
        assert database.execute("SELECT count(*) FROM account").fetchone() == (100,)
    assert len(copy) == len(before[0]) and len(copy) % 4096 == 0
    folder.rmdir()
    folder.parent.rmdir()
    assert (path.read_bytes(), path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_is_one_state_while_others_write(
    tmp_path: Path, folder: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another connection moves amounts, every copy has a sum of 0, is intact, and comes to its end."""
    monkeypatch.setattr("opskit.sources.databases.sqlite.PAGES_A_STEP", 1)  # as many steps as a large one would have
    path, halt = make(tmp_path / "app.db", mode, rows=3000), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            while not halt.wait(0.003 if mode == "delete" else 0):
                database.execute("BEGIN IMMEDIATE")
                database.execute("UPDATE account SET amount = amount + 1 WHERE id = abs(random()) % 1500 + 1")
                database.execute("UPDATE account SET amount = amount - 1 WHERE id = abs(random()) % 1500 + 1501")
                database.execute("COMMIT")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        moved = set()
        for _ in range(10):
            with restored(copied(SqliteSource([path], folder), path), tmp_path) as database:
                query = "SELECT sum(amount), count(*), sum(abs(amount)) FROM account"
                total, count, absolute = database.execute(query).fetchone()
                assert (total, count) == (0, 3000)
                moved.add(absolute)
        assert len(moved) > 1  # something was written meanwhile
    finally:
        halt.set()
        writer.join()


def test_what_is_only_in_the_log_is_copied(tmp_path: Path, folder: Path) -> None:
    """Rows that were committed to the write-ahead log, and not yet to the file, are in the copy; so is their time."""
    path = make(tmp_path / "app.db")
    os.utime(path, ns=(10**18, 10**18))
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO account (note) VALUES ('late')")
        database.commit()
        assert b"late" not in path.read_bytes()
        source = SqliteSource([path], folder)
        assert entry_of(source, path).stat.st_mtime_ns == Path(f"{path}-wal").stat().st_mtime_ns > 10**18
        with restored(copied(source, path), tmp_path) as copy:
            assert copy.execute("SELECT note FROM account WHERE id = 101").fetchone() == ("late",)


def test_equal_databases_have_equal_copies(tmp_path: Path, folder: Path) -> None:
    """A database that did not change is copied to the same bytes, and a changed row changes few of its pages."""
    path = make(tmp_path / "app.db", rows=2000)
    source = SqliteSource([path], folder)
    first = copied(source, path)
    assert first == copied(source, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE account SET note = replace(note, 'x', 'y') WHERE id = 1000")
        database.commit()
    second = copied(source, path)
    pages = [(first[at : at + 4096], second[at : at + 4096]) for at in range(0, len(first), 4096)]
    assert len(first) == len(second) and 1 <= sum(one != two for one, two in pages) <= 2


def test_a_database_that_is_opened_while_it_is_copied(tmp_path: Path, folder: Path) -> None:
    """Of a database at rest that somebody opens, fills and closes again meanwhile, no mixture is kept."""
    path, calls = make(tmp_path / "app.db"), list[int]()

    def fill(place: Path) -> int:
        calls.append(1)
        if len(calls) == 1:
            with closing(sqlite3.connect(path)) as database:
                database.executemany("INSERT INTO account (note) VALUES (?)", [("y" * 500,)] * 1000)
                database.commit()
        return shutil.disk_usage(place).free

    with restored(copied(SqliteSource([path], folder, free_bytes=fill), path), tmp_path) as database:
        assert database.execute("SELECT count(*) FROM account").fetchone() == (1100,)
    assert len(calls) == 2


def test_an_empty_database(tmp_path: Path, folder: Path) -> None:
    """A file that SQLite has made and not written to is a database without tables."""
    (tmp_path / "empty.db").touch()
    with restored(copied(SqliteSource([tmp_path / "empty.db"], folder), tmp_path / "empty.db"), tmp_path) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_entries_stand_where_the_files_are(tmp_path: Path, folder: Path) -> None:
    """Each database is an entry at its own path, with its mode and owner, after the folders above it, in tree order."""
    for name in ("b.db", "a-b/c.db", "a/d.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        make(tmp_path / name).chmod(0o640)
    os.link(tmp_path / "b.db", tmp_path / "twin")
    source = SqliteSource([tmp_path / "b.db", tmp_path / "a-b/c.db", tmp_path / "a/d.db"], folder)
    entries, problems = walk(source)
    assert problems == [] and [os.path.relpath(b"/" + each.path, os.fsencode(tmp_path)) for each in entries] == [
        b"a/d.db", b"a-b/c.db", b"b.db",
    ]  # fmt: skip
    assert {(each.stat.st_mode, each.stat.st_nlink) for each in entries} == {(0o100640, 1)}
    parents = [item.path for item in source.entries() if isinstance(item, Entry) and item.is_parent]
    assert os.fsencode(tmp_path).lstrip(b"/") in parents and len(parents) == len(set(parents))


@needs_program("setfattr")
def test_extended_attributes_are_those_of_the_original(tmp_path: Path, folder: Path) -> None:
    """What is attached to the file is recorded, read by its path."""
    path = make(tmp_path / "app.db")
    if subprocess.run(["setfattr", "-n", "user.origin", "-v", "here", path], check=False).returncode:
        pytest.skip("this file system has no user attributes")
    source = SqliteSource([path], folder)
    assert source.metadata(entry_of(source, path)).xattrs == {b"user.origin": b"here"}


def test_what_is_no_file_is_known_first(tmp_path: Path, folder: Path) -> None:
    """A missing file, a folder and a symbolic link are SourceErrors before the first entry."""
    good = make(tmp_path / "app.db")
    (tmp_path / "link").symlink_to(good)
    for name, reason in (("gone", "no such file"), ("link", "got a symbolic link"), ("", "expected a file of SQLite")):
        with pytest.raises(SourceError, match=reason) as caught:
            next(SqliteSource([good, tmp_path / name], folder).entries())
        assert caught.value.exit_code == 4


def test_what_is_no_database(tmp_path: Path, folder: Path) -> None:
    """A file of something else is a SourceError that names it."""
    (tmp_path / "text").write_text("this is not SQLite" * 300)
    with pytest.raises(SourceError, match="text: cannot be copied: file is not a database"):
        copied(SqliteSource([tmp_path / "text"], folder), tmp_path / "text")


def test_a_database_that_stays_locked(tmp_path: Path, folder: Path) -> None:
    """Who keeps a database to himself for too long makes the backup fail, not hang."""
    path = make(tmp_path / "app.db", "delete")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None); "
         "d.execute('BEGIN EXCLUSIVE'); print('held', flush=True); sys.stdin.read()", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(SourceError, match="locked") as caught:
            copied(SqliteSource([path], folder, busy_seconds=0.1), path)
        assert caught.value.hint is not None and "another program" in caught.value.hint
        holder.kill()


def test_short_space_is_known_before_it_is_filled(tmp_path: Path, folder: Path) -> None:
    """A copy that would not fit is not begun; the message says how much it needs."""
    path = make(tmp_path / "app.db")
    source = SqliteSource([path], folder, free_bytes=lambda _folder: 1_000_000)
    with pytest.raises(SourceError, match=r"needs 16,[0-9,]+ bytes in .*, 1,000,000 are free"):
        copied(source, path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Where no copy can be made the error names the folder."""
    path = make(tmp_path / "app.db")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"file/sqlite: no copy of .*app\.db can be made there: not a directory"):
        copied(SqliteSource([path], tmp_path / "file" / "sqlite"), path)


def test_left_overs_go_and_copies_in_use_stay(tmp_path: Path, folder: Path) -> None:
    """What a killed run left is removed by the next; a copy has no name as soon as it is complete."""
    path = make(tmp_path / "app.db")
    source = SqliteSource([path], folder)
    opened = source.open(entry_of(source, path))
    assert not isinstance(opened, Problem) and list(folder.iterdir()) == []
    (folder / "left").write_bytes(b"half a copy")
    copied(source, path)
    assert list(folder.iterdir()) == []
    assert len(content(opened)) == path.stat().st_size
    source.close()


def test_closing_the_source_closes_its_copies(tmp_path: Path, folder: Path) -> None:
    """A copy that nobody read to its end does not keep its space; the fixture counts descriptors."""
    path = make(tmp_path / "app.db")
    source = SqliteSource([path], folder)
    source.open(entry_of(source, path))
    source.close()
    source.close()
