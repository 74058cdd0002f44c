"""Looking into snapshots without a restore: entries by path, any bytes of any file, all snapshots side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import Damaged, OpskitError, SnapshotNotFound, StoreError, UsageError
from opskit.operations.mounting.file import OpenFile
from opskit.operations.mounting.packs import OpenPacks
from opskit.operations.mounting.places import Places
from opskit.operations.mounting.tree import TreeFinder
from opskit.operations.mounting.view import RepositoryView, SnapshotView
from opskit.repository import names, tree
from opskit.repository.index import IndexedPack
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.files import FileSource
from opskit.stores.base import Buffer, ObjectInfo, Store
from tests.operations.judging import found, lab_in, run
from tests.repositories import Keys, Lab, make_source, memory_copy, noise


def view_of(lab: Lab, packs: OpenPacks | None = None, top: bytes = b"") -> SnapshotView:
    """The newest snapshot of a lab."""
    snapshot = lab.history().snapshots[-1]
    return SnapshotView(snapshot, lab.reader(snapshot), packs or OpenPacks(), top)


def walk(view: SnapshotView, folder: bytes = b"") -> Iterator[bytes]:
    """Every path below a folder, as listings give them."""
    for name, entry in view.children(folder):
        path = folder + b"/" + name if folder else name
        yield path
        if entry.node.type == "dir":
            yield from walk(view, path)


def test_listings_and_entries_are_those_of_the_tree(lab: Lab, source: Path) -> None:
    """Whatever is walked to folder by folder is what the tree holds, in its order, and each path finds its entry."""
    make_source(source)
    (source / "docs-and-more").mkdir()  # sorts between docs and what is below docs, byte by byte
    for number in range(3000):  # several pieces of tree
        (source / "docs" / f"many-{number}-{'x' * 60}").write_bytes(b"")
    run(lab, FileSource([source]))
    view = view_of(lab)
    reader = lab.reader(lab.history().snapshots[-1])
    assert len(reader.root().chunks) > 3
    expected = list(reader.nodes(reader.root()))
    assert list(walk(view)) == [node.path for node in expected]
    for node in expected:
        entry = view.find(node.path)
        assert entry is not None and (entry.node.type, entry.node.size) == (node.type, node.size)
    for absent in (b"nothing", expected[-1].path + b"x", expected[5].path + b"/below", b"\xff", b"\x01"):
        assert view.find(absent) is None


def test_few_pieces_are_kept(lab: Lab, source: Path) -> None:
    """However many entries are looked at, only so many decoded pieces stay in memory."""
    for number in range(4000):
        (source / f"{number}-{'y' * 80}").touch()
    run(lab, FileSource([source]))
    finder = TreeFinder(lab.reader(lab.history().snapshots[-1]), held=2)
    paths = [node.path for node in finder.children(os.fsencode(source).strip(b"/"))]
    assert len(paths) == 4000 and len(finder._chunks) > 3
    assert all(finder.find(path) is not None for path in paths[::37])
    assert len(finder._held) == 2


def test_hard_links_are_one_inode(lab: Lab, source: Path) -> None:
    """Entries of one inode have one number and know how many they are; no others share a number."""
    make_source(source)
    (source / 'odd"hardlink":"name').write_bytes(b"to mislead whoever looks for words")
    os.link(source / 'odd"hardlink":"name', source / "twin")
    run(lab, FileSource([source]))
    view = view_of(lab)
    numbers: dict[int, list[tuple[bytes, int]]] = {}
    for path in walk(view):
        entry = view.find(path)
        assert entry is not None
        numbers.setdefault(entry.inode, []).append((path.rpartition(b"/")[2], entry.links))
    shared = sorted(sorted(each) for each in numbers.values() if len(each) > 1)
    assert shared == [[(b"hard", 2), (b"same.bin", 2)], [(b'odd"hardlink":"name', 2), (b"twin", 2)]]
    assert all(links == 1 for each in numbers.values() if len(each) == 1 for _, links in each)


@pytest.fixture(scope="module")
def holey(throwaway_keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, OpenFile]:
    """The content of a file of several chunks and holes, and the same file opened in its snapshot."""
    folder = tmp_path_factory.mktemp("holey")
    lab, path = lab_in(throwaway_keys, folder), folder / "source" / "holey"
    path.parent.mkdir()
    with path.open("wb") as file:
        for number in range(3):
            file.seek(2_000_000 * number + 300_000)
            file.write(noise(number, 900_000))
        file.truncate(7_000_000)
    run(lab, FileSource([path.parent]))
    opened = view_of(lab).open(os.fsencode(path).lstrip(b"/"))
    assert len(opened._chunks) > 1 and len(opened._starts) > len(opened._chunks)
    return path.read_bytes(), opened


@given(st.integers(0, 7_100_000), st.one_of(st.integers(0, 300), st.integers(0, 7_100_000)))
def test_any_bytes_are_those_of_the_file(holey: tuple[bytes, OpenFile], offset: int, length: int) -> None:
    """Whatever offset and length are asked for, over chunks, holes and the end, the answer is the file's own slice."""
    content, opened = holey
    assert opened.read(offset, length) == content[offset : offset + length]


@st.composite
def _pieced(draw: st.DrawFn) -> tuple[bytes, Node, dict[bytes, bytes]]:
    """A file put together of pieces of data and holes, cut into chunks without regard to the holes."""
    regions = draw(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=8))
    content, data, holes = b"", b"", []
    for number, (is_hole, length) in enumerate(regions):
        if is_hole:
            holes.append((len(content), length))
        piece = bytes(length) if is_hole else bytes([number + 1]) * length
        content += piece
        data += b"" if is_hole else piece
    chunks, contents = [], {}
    while data:
        count = draw(st.integers(1, len(data)))
        chunk_id = len(chunks).to_bytes(32, "big")
        chunks.append((chunk_id, count))
        contents[chunk_id], data = data[:count], data[count:]
    return content, Node(b"f", "file", 0o644, 0, 0, size=len(content), chunks=chunks, holes=holes), contents


@given(_pieced(), st.integers(0, 350), st.integers(0, 350))
def test_chunks_that_reach_over_holes(pieced: tuple[bytes, Node, dict[bytes, bytes]], offset: int, length: int) -> None:
    """The same where chunks reach over holes, as the format lets them."""
    content, node, contents = pieced
    opened = OpenFile(node, lambda chunk_id: memoryview(contents[chunk_id]))
    assert opened.read(offset, length) == content[offset : offset + length]


def test_entries_that_do_not_add_up_are_refused() -> None:
    """A file whose pieces are not its size, or that the backup could not read, has no content, rather than zeros."""
    chunk = (bytes(32), 5)
    with pytest.raises(Damaged, match="add up"):
        OpenFile(Node(b"f", "file", 0, 0, 0, size=9, chunks=[chunk]), lambda _: memoryview(b"12345"))
    with pytest.raises(Damaged, match="not backed up: locked"):
        OpenFile(Node(b"f", "file", 0, 0, 0, size=5, error="locked"), lambda _: memoryview(b"12345"))
    short = OpenFile(Node(b"f", "file", 0, 0, 0, size=5, chunks=[chunk]), lambda _: memoryview(b"1234"))
    with pytest.raises(Damaged, match="expected 5"):
        short.read(0, 5)


def test_a_huge_file_has_all_its_chunks(monkeypatch: pytest.MonkeyPatch, lab: Lab, source: Path) -> None:
    """A file whose lines of chunks fill several pieces of the tree is found and read from end to end."""
    monkeypatch.setattr(tree, "MAX_CHUNKS_A_LINE", 1)
    monkeypatch.setattr(tree, "MIN_CUT", 100)
    monkeypatch.setattr(tree, "MAX_CUT", 120)
    (source / "a").write_bytes(b"before")
    (source / "huge").write_bytes(noise(5, 9_000_000))
    (source / "z").write_bytes(b"behind")
    run(lab, FileSource([source]))
    view, top = view_of(lab), os.fsencode(source).lstrip(b"/")
    assert [name for name, _ in view.children(top)] == [b"a", b"huge", b"z"]
    opened = view.open(top + b"/huge")
    assert len(opened._chunks) > 4
    assert opened.read(0, 10_000_000) == (source / "huge").read_bytes()
    assert view.open(top + b"/z").read(0, 100) == b"behind"


def damaged(lab: Lab, reader: SnapshotReader, path: bytes) -> str:
    """Change a byte of the pack that holds a file's first chunk, at the first copy; returns the pack's name."""
    (node,) = reader.nodes(reader.root(), path)
    (pack,) = Places(reader.indexed_packs()).packs_of(node.chunks[0][0])
    first = next(iter(lab.stores))
    lab.stores[first] = memory_copy(
        lab.stores[first], lambda name, data: data[:-1] + bytes([data[-1] ^ 1]) if name == names.pack(pack) else data
    )
    return pack


def test_a_damaged_pack_fails_its_files_alone(throwaway_keys: Keys, source: Path, tmp_path: Path) -> None:
    """Files of a damaged pack cannot be read, again and again; all others can, and another copy makes all whole."""
    lab = lab_in(throwaway_keys, tmp_path, "a", "b")
    (source / "first").write_bytes(noise(1, 20_000))
    run(lab, FileSource([source]))
    (source / "second").write_bytes(noise(2, 20_000))
    run(lab, FileSource([source]))
    top = os.fsencode(source).lstrip(b"/")
    pack = damaged(lab, lab.reader(lab.history().snapshots[-1]), top + b"/second")
    both = view_of(lab)
    assert both.open(top + b"/second").read(0, 30_000) == noise(2, 20_000)
    del lab.stores["b"]
    alone = view_of(lab)
    for _ in range(2):
        with pytest.raises(Damaged, match=pack[:16]):
            alone.open(top + b"/second").read(0, 10)
        assert alone.open(top + b"/first").read(5, 30_000) == noise(1, 20_000)[5:]


class Leaving:
    """A store that can go away and come back."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.location, self.is_away = inner, inner.location, False

    def get(self, name: str) -> bytes:
        if self.is_away:
            raise StoreError("away")
        return self.inner.get(name)

    def put(self, name: str, data: Buffer) -> None:
        self.inner.put(name, data)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self.inner.list(prefix)

    def delete(self, name: str) -> None:
        self.inner.delete(name)


def test_a_store_that_comes_back_is_asked_again(lab: Lab, source: Path) -> None:
    """What could not be reached is tried at the next read; only damage is remembered."""
    (source / "file").write_bytes(noise(1, 20_000))
    run(lab, FileSource([source]))
    store = lab.stores["a"] = Leaving(lab.stores["a"])
    opened = view_of(lab).open(os.fsencode(source / "file").lstrip(b"/"))
    store.is_away = True
    for _ in range(2):
        with pytest.raises(OpskitError):
            opened.read(0, 10)
    store.is_away = False
    assert opened.read(0, 10) == noise(1, 20_000)[:10]


def test_packs_kept_have_a_limit(lab: Lab, source: Path) -> None:
    """Reading far more than the limit keeps no more than that, and every byte is right."""
    for number in range(6):
        (source / f"{number}").write_bytes(noise(number, 300_000))
        run(lab, FileSource([source]))
    packs = OpenPacks(held_bytes=700_000)
    view, top = view_of(lab, packs), os.fsencode(source).lstrip(b"/")
    for number in (0, 1, 2, 3, 4, 5, 0, 5):
        assert view.open(top + b"/%d" % number).read(0, 400_000) == noise(number, 300_000)
        assert packs._bytes <= 700_000 and packs._bytes == sum(each.result().size for each in packs._held.values())
    packs.close()


def test_packs_read_in_order_are_opened_ahead(lab: Lab, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads the packs of a run one after the other finds the next one open; who jumps about does not."""
    monkeypatch.setattr("opskit.repository.pack._ROOM", 1_200_000)
    for number in range(5):
        (source / f"{number}").write_bytes(noise(number, 500_000) + noise(number + 9, 500_000))
    run(lab, FileSource([source]))
    packs = OpenPacks()
    view, top = view_of(lab, packs), os.fsencode(source).lstrip(b"/")
    for number in (0, 1):
        view.open(top + b"/%d" % number).read(0, 2_000_000)
    packs._ahead.submit(int).result()  # behind whatever was begun
    assert len(packs._held) >= 3
    packs.close()


@given(st.lists(st.lists(st.binary(min_size=32, max_size=32), max_size=6), max_size=6))
def test_places_name_every_pack_that_holds_a_chunk(packs: list[list[bytes]]) -> None:
    """Each chunk is found in all packs that hold it, equal beginnings of ids or not."""
    described = [IndexedPack(str(no), "run", "", 0, 0, b"".join(ids)) for no, ids in enumerate(packs)]
    places = Places(described)
    for chunk_id in {each for ids in packs for each in ids} | {bytes(32), b"\xff" * 32}:
        held = {str(no) for no, ids in enumerate(packs) if chunk_id in ids}
        assert held <= set(places.packs_of(chunk_id))


def test_all_snapshots_side_by_side(lab: Lab, source: Path) -> None:
    """Sources are folders, snapshots folders by time and id, `latest` leads to the newest, forgotten ones are out."""
    results = []
    for number in range(3):
        (source / "file").write_bytes(b"%d" % number)
        results.append(run(lab, FileSource([source]), name="web"))
    results.append(run(lab, FileSource([source]), name="mail"))
    opened: list[str] = []
    history = lab.history()
    packs = OpenPacks()

    def open_snapshot(snapshot: object) -> SnapshotReader:
        opened.append(snapshot.id)  # type: ignore[attr-defined]
        return lab.reader(snapshot)  # type: ignore[arg-type]

    view = RepositoryView(history.snapshots, {results[1].snapshot}, open_snapshot, packs)
    assert [name for name, _ in view.children(b"")] == [b"mail", b"web"] and view.count == 3
    names_shown = [name for name, _ in view.children(b"web")]
    assert [each[-8:].decode() for each in names_shown[:2]] == [results[0].snapshot[:8], results[2].snapshot[:8]]
    assert names_shown[2] == b"latest" and not opened, "nobody has looked into a snapshot yet"
    link = view.find(b"web/latest")
    assert link is not None and link.node.target == names_shown[1]
    inner = os.fsencode(source / "file").lstrip(b"/")
    for name, content in zip(names_shown[:2], (b"0", b"2"), strict=True):
        assert view.open(b"web/" + name + b"/" + inner).read(0, 9) == content
    assert opened == [results[0].snapshot, results[2].snapshot]
    for absent in (b"ftp", b"web/1999", b"web/" + names_shown[0] + b"/nothing", b"mail/latest/x"):
        assert view.find(absent) is None
    with pytest.raises(UsageError):
        view.open(b"web/latest")
    packs.close()


def test_a_folder_of_a_snapshot(lab: Lab, source: Path) -> None:
    """A view may begin at a folder; a file, or nothing, is refused."""
    make_source(source)
    result = run(lab, FileSource([source]))
    snapshot, top = found(lab, result), os.fsencode(source).lstrip(b"/")
    view = view_of(lab, top=top + b"/docs/deep")
    assert [name for name, _ in view.children(b"")] == [b"er"]
    assert view.open(b"er/x").read(0, 100) == b"far down"
    with pytest.raises(UsageError, match="no folder"):
        view_of(lab, top=top + b"/empty")
    with pytest.raises(SnapshotNotFound):
        view_of(lab, top=b"nowhere")
    assert snapshot.id == result.snapshot


def test_a_damaged_tree_lists_nothing(lab: Lab, source: Path) -> None:
    """Where a part of the tree is lost, looking fails; a listing that lacks entries is never shown as whole."""
    for number in range(20):
        (source / f"{number}").touch()
    run(lab, FileSource([source]))
    snapshot = lab.history().snapshots[-1]
    pack = names.pack(snapshot.manifest.tree_pack)
    lab.stores["a"] = memory_copy(lab.stores["a"], lambda name, data: data[:-1] if name == pack else data)
    with pytest.raises(OpskitError):
        list(walk(view_of(lab)))
