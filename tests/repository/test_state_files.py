"""The cache and the last tree: believed as far as their checksums go, and never further."""

from __future__ import annotations

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskit.errors import CacheError
from opskit.repository import lasttree
from opskit.repository.cache import Cache, PackRow, open_or_replace
from opskit.repository.durable import write_durably
from opskit.repository.index import Index, IndexedPack
from opskit.repository.lasttree import Writer, encode_record, read, read_about, signature_of

IDS = [bytes([number]) * 32 for number in range(6)]
ALL = range(100)
"""Every pack is live."""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache.sqlite", "repository")


def pack(cache: Cache, name: str, ids: list[bytes], run: int) -> PackRow:
    row = PackRow(cache.new_pack_number(), name, run, 10, 20)
    cache.add_pack(row, ids)
    return row


def test_what_is_noted_is_found(cache: Cache) -> None:
    """Chunks lead to packs, packs to runs and index objects; what is unindexed keeps its ids."""
    run = cache.add_run("run", "a" * 64)
    assert cache.add_run("run", "a" * 64) == run
    one, two = pack(cache, "one", IDS[:2], run), pack(cache, "two", IDS[2:4], run)
    assert [cache.find(chunk_id, ALL) for chunk_id in IDS] == [one.no, one.no, two.no, two.no, None, None]
    assert cache.find(IDS[0], {two.no}) is None, "what is in no listing is not there"
    assert sorted(cache.packs()) == [one, two]
    assert cache.unindexed_ids(one.no) == IDS[0] + IDS[1]
    cache.add_index("index", run, [one.no])
    cache.forget_unindexed([one.no])
    assert cache.unindexed_ids(one.no) is None and cache.unindexed_ids(two.no) is not None
    assert cache.indexes() == {one.no: [("index", run)]} and cache.index_names() == {"index"}


def test_a_crash_forgets_nothing_that_was_noted(cache: Cache, tmp_path: Path) -> None:
    """What was noted before a pack is put is there for a process that never closed the file."""
    row = pack(cache, "one", IDS, cache.add_run("run", "a" * 64))
    other = Cache(tmp_path / "cache.sqlite", "repository")
    assert other.find(IDS[0], ALL) == row.no and other.new_pack_number() > row.no
    other.close()


def test_loading_an_index_twice_changes_nothing(cache: Cache) -> None:
    """Index objects merge: in any order, any number of times."""
    first = Index("r1", "a" * 64, [IndexedPack("one", "r1", "a" * 64, 5, 6, IDS[0] + IDS[1])])
    both = [*first.packs, IndexedPack("two", "r2", "b" * 64, 7, 8, IDS[2])]
    second = Index("r2", "b" * 64, both)
    for name, index in (("x", first), ("y", second), ("x", first)):
        cache.load_index(name, index)
    assert {row.name for row in cache.packs()} == {"one", "two"}
    assert len({cache.find(IDS[0], ALL), cache.find(IDS[1], ALL)}) == 1 and cache.find(IDS[2], ALL) != cache.find(
        IDS[0], ALL
    )


@pytest.mark.parametrize(
    "change", ["chunks SET pack = pack + 1", "packs SET stored = 1", "manifests SET payload = x'00'"]
)
def test_a_row_that_changed_is_absent(cache: Cache, tmp_path: Path, change: str) -> None:
    """A flipped value makes its row unknown, never wrong."""
    row = pack(cache, "one", IDS[:1], cache.add_run("run", "a" * 64))
    cache.add_manifest("m", "signer", b"payload")
    cache.close()
    with sqlite3.connect(tmp_path / "cache.sqlite") as db:
        db.execute(f"UPDATE {change}")
    db.close()
    again = Cache(tmp_path / "cache.sqlite", "repository")
    found = [again.find(IDS[0], ALL), [*again.packs()], again.manifest("m")]
    assert found.count(None) + found.count([]) == 1
    assert all(each in (None, [], row.no, [row], ("signer", b"payload")) for each in found)
    again.close()


def test_foreign_and_broken_files_are_replaced(tmp_path: Path) -> None:
    """A cache of another repository, or no cache at all under that name, starts empty."""
    path = tmp_path / "cache.sqlite"
    Cache(path, "other").close()
    with pytest.raises(CacheError):
        Cache(path, "repository")
    for content in (None, b"rubbish" * 1000, b""):
        if content is not None:
            path.write_bytes(content)
        opened = open_or_replace(path, "repository")
        assert list(opened.packs()) == []
        opened.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_generations(cache: Cache) -> None:
    """Each run's last tree has a token of its own, per source."""
    assert cache.generation("a") is None
    first = cache.new_generation("a")
    assert cache.generation("a") == first != cache.new_generation("a") and cache.generation("b") is None


# The last tree

signatures = st.binary(min_size=40, max_size=40)
records = st.lists(
    st.tuples(
        st.binary(min_size=1, max_size=40), signatures,
        st.lists(st.integers(0, 2**32 - 1), max_size=4), st.binary(max_size=60),
    ),
    max_size=20,
)  # fmt: skip


@settings(max_examples=20)
@given(records)
def test_records_survive(tmp_path_factory: pytest.TempPathFactory, some: list) -> None:  # type: ignore[type-arg]
    """Records come back in order, and `raw` is what was written; the closing facts come back too."""
    path = tmp_path_factory.mktemp("tree") / "t"
    writer = Writer(path)
    for each in some:
        writer.add(encode_record(*each))
    writer.finish({"root": "abc", "pack": 7})
    found = list(read(path))
    assert [(each.path, each.signature, list(each.packs), each.lines) for each in found] == [
        (name, signature, list(packs), lines) for name, signature, packs, lines in some
    ]
    assert [each.raw for each in found] == [encode_record(*each) for each in some]
    assert read_about(path) == {"root": "abc", "pack": 7}


def test_a_damaged_block_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any flipped byte or cut, only records from before it are believed, and they are right."""
    monkeypatch.setattr(lasttree, "_BLOCK_BYTES", 100)
    path = tmp_path / "t"
    writer = Writer(path)
    written = [encode_record(b"p%02d" % number, b"%040d" % number, [number], b"line") for number in range(20)]
    for each in written:
        writer.add(each)
    writer.finish({"root": "abc"})
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        for wrong in (good[:position], good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]):
            path.write_bytes(wrong)
            found = [each.raw for each in read(path)]
            assert found == written[: len(found)]
            assert read_about(path) in ({}, {"root": "abc"})


def test_only_a_finished_tree_replaces_the_last(tmp_path: Path) -> None:
    """A run that ends early leaves the old tree; `finish` replaces it; what is not there reads as empty."""
    path = tmp_path / "sub" / "t"
    assert list(read(path)) == [] and read_about(path) == {}
    for name, ends in ((b"first", True), (b"second", False)):
        writer = Writer(path)
        writer.add(encode_record(name, bytes(40), [], b""))
        writer.finish({}) if ends else writer.discard()
    assert [each.path for each in read(path)] == [b"first"]
    assert os.listdir(path.parent) == ["t"] and path.stat().st_mode & 0o777 == 0o600


def test_a_signature_notices(tmp_path: Path) -> None:
    """Content, size, time and identity each change the signature; reading does not."""
    file = tmp_path / "f"
    file.write_bytes(b"1")
    before = signature_of(file.stat())
    file.read_bytes()
    assert signature_of(file.stat()) == before
    os.utime(file, ns=(0, 5))
    assert signature_of(file.stat()) != before


def test_a_durable_write_replaces_whole(tmp_path: Path) -> None:
    """The file is the old or the new one, mode 0600, with nothing beside it, after a failure too."""
    path = tmp_path / "new" / "f"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["f"] and path.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(TypeError):
        write_durably(path, "text")  # type: ignore[arg-type]
    assert os.listdir(path.parent) == ["f"] and path.read_bytes() == b"two"


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """However many write a file at once, a reader finds one of the texts, whole, and nothing is left beside it."""
    path, texts = tmp_path / "f", [bytes([65 + number]) * 100_000 for number in range(4)]
    write_durably(path, texts[0])
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(lambda text=text: [write_durably(path, text) for _ in range(10)]) for text in texts]
        while not all(each.done() for each in done):
            assert path.read_bytes() in texts
    assert all(each.exception() is None for each in done) and os.listdir(tmp_path) == ["f"]


def test_a_cache_in_use_is_not_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that another process holds locked is an error, and stays where it is."""
    path = tmp_path / "cache.sqlite"
    open_or_replace(path, "r").close()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.1))  # instead of five seconds
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    before = path.stat().st_ino

    with pytest.raises(CacheError, match="locked"):
        open_or_replace(path, "r")

    assert path.stat().st_ino == before
    holder.close()


def test_who_may_rename_in_the_folder_cannot_have_another_file_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode and owner go to the file that was made, though its name leads to another one by then."""
    folder, victim, real = tmp_path / "service", tmp_path / "shadow", os.fsync
    folder.mkdir()
    for file, mode in ((folder / "conf", 0o666), (victim, 0o600)):
        file.touch()
        file.chmod(mode)

    def swapped(descriptor: int) -> None:
        for each in folder.glob("*.new"):
            each.unlink()
            each.symlink_to(victim)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", swapped)
    write_durably(folder / "conf", b"new", like_before=True)
    assert victim.stat().st_mode & 0o777 == 0o600
