"""The contract of sources: every kind keeps the promises in the docstring of opskit.sources.base."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from opskit.errors import SourceError
from opskit.sources.base import KINDS, Entry, Metadata, OpenFile, Problem, SmallReader, Source
from opskit.sources.command import CommandSource, StdinSource
from opskit.sources.databases.mariadb import Mariadb
from opskit.sources.databases.postgresql import Postgresql
from opskit.sources.databases.sqlite import SqliteSource
from opskit.sources.files import FileSource
from tests.database_servers import Server
from tests.sources.dumping import source_of
from tests.sources.walking import content, make, open_descriptors

DATA = bytes(range(256)) * 1000
NOW = 1_795_212_000_000_000_000


class Case(NamedTuple):
    """A source which holds DATA in one of its files, and one of the same kind which is absent as a whole.

    Where a source cannot hold any bytes, `name` is the file, and `holds` knows its content.
    """

    present: Source
    absent: Source
    name: bytes = b"data"
    holds: Callable[[bytes], bool] = DATA.__eq__


def files(folder: Path) -> Case:
    """A small tree."""
    make(folder, "tree/b/c", "tree/b-c", "tree/b.c", "tree/empty/")
    (folder / "tree/b/data").write_bytes(DATA)
    (folder / "tree/link").symlink_to("b")
    return Case(FileSource([folder / "tree"]), FileSource([folder / "gone"]))


def command(folder: Path) -> Case:
    """The output of a program."""
    code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)"
    return Case(
        CommandSource([sys.executable, "-c", code], "data", NOW), CommandSource(["no-such-program"], "data", NOW)
    )


def stdin(folder: Path) -> Case:
    """A file as standard input; `fixture` closes it."""
    (folder / "input").write_bytes(DATA)
    return Case(StdinSource("data", NOW, os.open(folder / "input", os.O_RDONLY)), StdinSource("data", NOW, 987))


def postgresql(server: Server) -> Case:
    """The dumps of a server, and of one that is not there."""
    here, gone = (Postgresql(("postgres",), host=str(place), user=server.user) for place in (server.socket, "/nowhere"))
    return Case(source_of(here), source_of(gone), b"postgres.sql", lambda text: b"database dump complete" in text)


def mariadb(server: Server) -> Case:
    """The dumps of a server, and of one that is not there."""
    server.sql("CREATE DATABASE IF NOT EXISTS contract")
    here, gone = (Mariadb(("contract",), socket=str(each), user=server.user) for each in (server.socket, "/nowhere"))
    return Case(source_of(here), source_of(gone), b"contract.sql", lambda text: b"Dump completed" in text)


def sqlite(folder: Path) -> Case:
    """A database, and one that is not there."""
    with closing(sqlite3.connect(folder / "data")) as database:
        database.execute("CREATE TABLE t (a)")
    here, gone = (SqliteSource([folder / name], folder / "copies") for name in ("data", "gone"))
    return Case(here, gone, holds=lambda copy: copy.startswith(b"SQLite format 3\0"))


@pytest.fixture(params=[files, command, stdin, postgresql, mariadb, sqlite], ids=lambda kind: kind.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Each kind of source; afterwards no descriptor is open that was not open before."""
    make_case: Callable[[Any], Case] = request.param
    given = tmp_path
    if make_case in (postgresql, mariadb):
        given = request.getfixturevalue(f"{make_case.__name__}_server")
    before = open_descriptors()
    made = make_case(given)
    yield made
    made.present.close()
    made.present.close()
    if make_case is stdin:
        os.close(made.present._fd)  # type: ignore[attr-defined]
    assert open_descriptors() == before


def entries(source: Source) -> list[Entry]:
    """All entries; any Problem fails the test."""
    found = []
    for item in source.entries():
        assert isinstance(item, Entry), item
        found.append(item)
    return found


def data_entry(case: Case) -> Entry:
    """The entry that holds DATA."""
    return next(entry for entry in entries(case.present) if entry.path.rpartition(b"/")[2] == case.name)


def test_entries_are_sorted_by_component_and_unique(case: Case) -> None:
    """Paths ascend strictly as tuples of parts, relative, and every folder comes before what it holds."""
    paths = [tuple(entry.path.split(b"/")) for entry in entries(case.present)]
    assert paths == sorted(set(paths)) and paths
    known = {()} | {parts for parts in paths}
    assert all(parts[:-1] in known and b"" not in parts for parts in paths)


def test_kind_and_stat_agree(case: Case) -> None:
    """The kind is the one in st_mode; parents are folders."""
    for entry in entries(case.present):
        assert entry.kind == KINDS[entry.stat.st_mode >> 12]
        assert isinstance(entry.stat.st_mtime_ns, int) and isinstance(entry.stat.st_rdev, int)
        assert entry.kind == "dir" or not entry.is_parent


def test_content_is_complete(case: Case) -> None:
    """Reading until 0 gives all bytes, whatever the buffer, and closing twice is harmless."""
    opened = case.present.open(data_entry(case))
    assert case.holds(content(opened, 1000))
    assert not isinstance(opened, Problem)
    opened.close()


def test_a_descriptor_is_of_the_file_or_absent(case: Case) -> None:
    """`fd` is a regular file at its beginning, or -1."""
    opened = case.present.open(data_entry(case))
    assert not isinstance(opened, Problem)
    if opened.fd != -1:
        assert stat.S_ISREG(os.fstat(opened.fd).st_mode)
        assert os.read(opened.fd, len(DATA) + 1) == DATA
        assert not os.get_inheritable(opened.fd)
    opened.close()


def test_a_small_read_gives_what_the_thorough_way_gives_or_nothing(case: Case) -> None:
    """In one go or not at all: the same bytes and owners, and the file as it was afterwards."""
    if not isinstance(case.present, SmallReader):
        return
    for item in case.present.entries():
        if not isinstance(item, Entry) or item.kind != "file" or not item.stat.st_size:
            continue
        for wrong in (item.stat.st_size + 1, item.stat.st_size // 2):
            found = case.present.read_small(item, memoryview(bytearray(wrong)))
            assert found is None or found.after.st_size != wrong
        buffer = bytearray(item.stat.st_size)
        small = case.present.read_small(item, memoryview(buffer))
        assert small is not None
        opened = case.present.open(item)
        assert buffer == content(opened, 1000)
        assert not isinstance(opened, Problem)
        metadata = case.present.metadata(item, opened)
        assert (small.user, small.group) == (metadata.user, metadata.group)
        assert (small.after.st_ino, small.after.st_mtime_ns) == (item.stat.st_ino, item.stat.st_mtime_ns)
        opened.close()


def test_a_small_read_is_for_the_entry_yielded_last(case: Case) -> None:
    """Once the walk has gone on or ended there is no small read, and nothing else is read in its place."""
    if not isinstance(case.present, SmallReader):
        return
    before: list[Entry] = []
    for item in case.present.entries():
        assert isinstance(item, Entry)
        assert all(case.present.read_small(each, memoryview(bytearray(item.stat.st_size))) is None for each in before)
        before.append(item)
    assert all(case.present.read_small(each, memoryview(bytearray(len(DATA)))) is None for each in before)


def test_metadata_is_complete(case: Case) -> None:
    """Every entry has metadata without a Problem, an open file gives the same as none."""
    for entry in entries(case.present):
        found = case.present.metadata(entry)
        assert isinstance(found, Metadata) and found.problem is None
        assert bool(found.target) == (entry.kind == "symlink")
    entry = data_entry(case)
    opened = case.present.open(entry)
    assert not isinstance(opened, Problem)
    assert case.present.metadata(entry, opened) == case.present.metadata(entry)
    opened.close()


def test_absence_is_known_before_the_first_entry(case: Case) -> None:
    """A source that is absent as a whole raises SourceError, exit code 4, instead of yielding anything."""
    with pytest.raises(SourceError) as caught:
        next(case.absent.entries())
    assert caught.value.exit_code == 4
    case.absent.close()


def test_closing_half_way_frees_everything(case: Case) -> None:
    """A suspended walk with a file open in the middle can be closed; the fixture counts descriptors."""
    stream = case.present.entries()
    entry = next(item for item in stream if isinstance(item, Entry) and item.path.endswith(case.name))
    opened = case.present.open(entry)
    assert not isinstance(opened, Problem)
    assert opened.readinto(memoryview(bytearray(10))) > 0
    stream.close()  # type: ignore[attr-defined]
    opened.close()


def test_open_works_while_the_walk_is_suspended_from_another_thread(case: Case) -> None:
    """A reader thread may open what the walk just yielded."""
    read: list[bytes] = []
    for item in case.present.entries():
        if isinstance(item, Entry) and item.path.endswith(case.name):
            thread = threading.Thread(target=_read, args=(case.present, item, read))
            thread.start()
            thread.join()
    assert len(read) >= 1 and all(map(case.holds, read[-1:]))


def _read(source: Source, entry: Entry, into: list[bytes]) -> None:
    opened: OpenFile | Problem = source.open(entry)
    into.append(content(opened))
