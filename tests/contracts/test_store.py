"""The contract of a Store (opskit/stores/base.py), sentence by sentence, over every implementation."""

from __future__ import annotations

import copy
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import ObjectExists, ObjectNotFound, ObjectUnreadable
from opskit.stores import base
from opskit.stores.base import Buffer, Filling, Store, Streaming
from opskit.stores.local import LocalStore
from opskit.stores.local.publish import WAYS
from opskit.stores.memory import MemoryStore
from opskit.stores.url import Dav, UrlStore
from opskit.stores.wrappers.limits import Limited
from opskit.stores.wrappers.retry import Retrying
from tests.fakes import FaultyStore
from tests.stores import azure_server, gcs_server, s3_server, sftp_server, url_servers
from tests.stores.mounts import FILE_SYSTEMS, mounted

MakeStore = Callable[[], Store]
"""Makes an empty store, a new one each time."""


def _local(parent: Path, ways: int = 0, **options: Any) -> Callable[[], LocalStore]:
    def make() -> LocalStore:
        store = LocalStore(parent / uuid.uuid4().hex, **options)
        # As if the file system had refused the first ways already.
        store._ways = WAYS[ways:]
        store.create()
        return store

    return make


def _memory() -> MemoryStore:
    return MemoryStore(itertools.count(1_000_000.0).__next__)


def _s3(**options: Any) -> MakeStore:
    """Stores in one bucket that share their connections, each below a prefix of its own."""
    server = s3_server.running()
    client = s3_server.shared_client()

    def make() -> Store:
        connection = server.connection()
        connection._client = client
        # Small pages and parts, so that small objects and short listings take the long ways too.
        return server.store(connection, page_size=7, **options)

    return make


def _sftp(kind: str) -> MakeStore:
    """Stores in folders of one server that share its connection."""
    if why := sftp_server.missing():
        pytest.skip(why)
    server = sftp_server.running() if kind == "sftp" else sftp_server.running_plain()
    shared = server.connection()
    server.store(shared)  # which connects

    def make() -> Store:
        connection = copy.copy(shared)
        connection.place = server.place()
        return server.store(connection)

    return make


def _webdav() -> MakeStore:
    """Stores at one server, each below a folder of its own."""
    if why := url_servers.missing():
        pytest.skip(why)
    address = url_servers.running()

    def make() -> Store:
        name = uuid.uuid4().hex
        service = Dav(f"{address}/{name}", url_servers.USER, lambda: url_servers.PASSWORD)
        store = UrlStore(service, f"{address}/{name}")
        store.create()
        return store

    return make


def _azure() -> MakeStore:
    """Stores in one container that share their connections, each below a prefix of its own."""
    if why := azure_server.missing():
        pytest.skip(why)
    shared = azure_server.service()._client()

    def make() -> Store:
        service = azure_server.service()
        service._opened = shared
        return UrlStore(service, "az://here")

    return make


def _gcs(kind: str) -> MakeStore:
    """Stores in one bucket that share their connections, each below a prefix of its own."""
    if why := gcs_server.missing():
        pytest.skip(why)
    make_service = gcs_server.service if kind == "gcs" else gcs_server.lenient
    shared = make_service()

    def make() -> Store:
        service = make_service()
        service._wire, service._login = shared._wire, shared._login
        return UrlStore(service, "gs://here")

    return make


class InPieces:
    """A store whose objects all go in and out in pieces, through one buffer: put and get hold for that as well."""

    def __init__(self, inner: LocalStore | MemoryStore) -> None:
        self.inner, self.location = inner, inner.location
        self.list, self.delete = inner.list, inner.delete

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        if replace:
            self.inner.put(name, data, replace=True)
            return
        given = memoryview(data).cast("B")
        assert self.inner.put_pieces(name, _pieces(given)) == len(given)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        if offset < 0 or length is not None:  # a part is never asked for in pieces
            return self.inner.get(name, offset=offset, length=length)
        with closing(self.inner.pieces(name)) as pieces:
            return b"".join(map(bytes, pieces))[offset:]


def _pieces(data: memoryview) -> Iterator[Buffer]:
    """Pieces of growing length, one of nothing first, each overwritten by the next."""
    buffer = bytearray(1 << 20)
    yield b""
    start, length = 0, 1000
    while start < len(data):
        piece = data[start : start + length]
        buffer[: len(piece)] = piece
        yield memoryview(buffer)[: len(piece)]
        start, length = start + length, min(2 * length, len(buffer))


def _limited() -> Store:
    return Limited(_memory(), upload_rate=1e9, download_rate=1e9, clock=lambda: 0.0, sleep=lambda _seconds: None)


def _retrying() -> Store:
    return Retrying(_memory(), lambda _error: True, sleep=lambda _seconds: None, chance=lambda: 0.5)


S3 = {
    "s3": {},
    "s3-without-conditions": {"conditional": False, "checksums": False},
    "s3-in-parts": {"threshold": 500, "part_size": 400_000},
}
WRAPPED = {"faulty": lambda: FaultyStore(_memory()), "limited": _limited, "retrying": _retrying}
LOCAL = ["local", "local-in-pieces", "local-not-durable", "local-by-rename", "local-under-lock"]
SFTP = ["sftp", "sftp-without-extensions"]
GCS = ["gcs", "gcs-without-conditions"]
KINDS = ["memory", "memory-in-pieces", *LOCAL, *WRAPPED, *S3, *SFTP, "webdav", "azure", *GCS]
MOUNTED = [f"local-on-{kind}" for kind in FILE_SYSTEMS]
# A MOVE of WebDAV that replaces removes first what was there; `shortcomings` tells, and its own tests.
REPLACING = [kind for kind in KINDS + MOUNTED if kind != "webdav"]
FILLING = [*(kind for kind in LOCAL if kind != "local-in-pieces"), *MOUNTED]
STREAMING = ["memory", *(kind for kind in LOCAL if kind != "local-in-pieces"), *MOUNTED]


@pytest.fixture(scope="module", params=KINDS + MOUNTED)
def make_store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeStore]:
    """Each implementation in turn."""
    folder = tmp_path_factory.mktemp("stores")
    kind = request.param
    if kind.startswith("local-on-"):
        with mounted(kind.removeprefix("local-on-"), folder) as place:
            yield _local(place, must_be_mounted=True)
        return
    if kind in S3:
        yield _s3(**S3[kind])
        return
    if kind in ("webdav", "azure"):
        yield _webdav() if kind == "webdav" else _azure()
        return
    if kind in GCS:
        yield _gcs(kind)
        return
    if kind in SFTP:
        yield _sftp(kind)
        return
    yield {
        "memory": _memory,
        "memory-in-pieces": lambda: InPieces(_memory()),
        "local": _local(folder),
        "local-in-pieces": lambda: InPieces(_local(folder)()),
        "local-not-durable": _local(folder, durable=False),
        "local-by-rename": _local(folder, ways=1),
        "local-under-lock": _local(folder, ways=2),
        **WRAPPED,
    }[kind]


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    """An empty store."""
    return make_store()


# To vfat, names that differ only in case, or in dots at the end, are one, and "con" is none: none such are drawn.
parts = st.lists(st.text("abyz059_-", min_size=1, max_size=8), min_size=1, max_size=2).map(".".join)
names = st.lists(parts, min_size=1, max_size=5).map("/".join)
contents = st.binary(max_size=3000)


def _without_folders(objects: dict[str, bytes]) -> dict[str, bytes]:
    """Only the objects whose name is not also a folder of another."""
    return {name: data for name, data in objects.items() if not any(other.startswith(f"{name}/") for other in objects)}


BAD_NAMES = [
    *("", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", ".hidden", "a/.tmp/b", "1/2/3/4/5/6"),
    *("a b", "ä", "a\n", "a\0b", "a\\b", "a:b", "a\udc80", "x" * 256, "a/" + "x" * 256),
]


def test_bad_name_is_a_value_error(store: Store) -> None:
    """A name that some medium could not hold, or that could lead out, is refused by every method and does nothing."""
    for name in BAD_NAMES:
        with pytest.raises(ValueError, match="not an object name"):
            store.put(name, b"x")
        with pytest.raises(ValueError, match="not an object name"):
            store.get(name)
        with pytest.raises(ValueError, match="not an object name"):
            store.delete(name)
        if name:
            with pytest.raises(ValueError, match="not an object name"):
                store.list(name)
    assert list(store.list()) == []


def test_longest_names_are_stored(store: Store) -> None:
    """Five parts of 255 characters each are a name."""
    name = "/".join(letter * 255 for letter in "abcde")
    store.put(name, b"deep")
    assert store.get(name) == b"deep"
    assert [info.name for info in store.list()] == [name]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 4096, 3 * 1024 * 1024 + 1])
def test_every_buffer_comes_back(store: Store, kind: Callable[[bytes], Any], size: int) -> None:
    """Bytes, bytearray and memoryview of any size, nothing too, come back as the same bytes."""
    data = os.urandom(size)
    store.put("packs/ab/object", kind(data))
    assert store.get("packs/ab/object") == data
    assert [(info.name, info.size) for info in store.list()] == [("packs/ab/object", size)]


def test_wide_memoryview_is_stored_as_bytes(store: Store) -> None:
    """A memoryview of wider items is stored whole, its length in bytes."""
    store.put("wide", memoryview(bytes(range(16))).cast("I"))
    assert store.get("wide") == bytes(range(16))


def test_buffer_may_be_used_again(store: Store) -> None:
    """What the caller does with his buffer after a put does not reach the object."""
    data = bytearray(b"first")
    store.put("a", data)
    data[:] = b"other"
    assert store.get("a") == b"first"


def test_put_never_replaces(store: Store) -> None:
    """A name that is taken raises ObjectExists, changes nothing, and leaves nothing else behind."""
    store.put("keys/one", b"first")
    before = list(store.list())
    with pytest.raises(ObjectExists, match="keys/one"):
        store.put("keys/one", b"second")
    assert store.get("keys/one") == b"first"
    assert list(store.list()) == before


def test_put_replaces_where_it_is_told_to(store: Store) -> None:
    """With `replace` the object has the new bytes, once, and nothing else is left behind; an absent one is stored."""
    store.put("keys/one", b"first")
    store.put("keys/one", b"the second", replace=True)
    store.put("keys/two", b"", replace=True)
    assert (store.get("keys/one"), store.get("keys/two")) == (b"the second", b"")
    assert [(info.name, info.size) for info in store.list()] == [("keys/one", 10), ("keys/two", 0)]
    with pytest.raises(ValueError, match="not an object name"):
        store.put("../a", b"x", replace=True)


def test_what_is_too_large_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object larger than any that opskit makes is refused before it fills the memory; a part of it is read."""
    store.put("keys/large", bytes(1001))
    store.put("keys/largest", bytes(1000))
    monkeypatch.setattr(base, "LARGEST_OBJECT", 1000)
    with pytest.raises(ObjectUnreadable, match="1,001 bytes, expected at most 1,000"):
        store.get("keys/large")
    assert store.get("keys/large", offset=1, length=1000) == bytes(1000)
    assert store.get("keys/largest") == bytes(1000)


@pytest.mark.parametrize("make_store", REPLACING, indirect=True)
def test_a_reader_sees_the_old_or_the_new_bytes(store: Store) -> None:
    """While an object is replaced over and over, it is never absent, and never anything but one of the two."""
    texts = [b"a" * 30_000, b"b" * 30_000]
    store.put("a", texts[0])
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(lambda: [store.put("a", texts[number % 2], replace=True) for number in range(20)])
        while not done.done():
            assert store.get("a") in texts
    assert len(done.result()) == 20 and [info.name for info in store.list()] == ["a"]


@given(data=contents, offset=st.integers(0, 4000), length=st.none() | st.integers(0, 4000))
def test_range_is_a_slice(make_store: MakeStore, data: bytes, offset: int, length: int | None) -> None:
    """A range is that slice of the whole, cut off where the object ends."""
    store = make_store()
    store.put("a", data)
    assert store.get("a", offset=offset, length=length) == data[offset : None if length is None else offset + length]


@pytest.mark.parametrize("bounds", [{"offset": -1}, {"length": -1}])
def test_negative_range_is_a_value_error(store: Store, bounds: dict[str, int]) -> None:
    """A negative offset or length is a mistake, not a count from the end."""
    store.put("a", b"abc")
    with pytest.raises(ValueError, match="at least 0"):
        store.get("a", **bounds)


@pytest.mark.parametrize("name", ["absent", "packs/absent", "absent/absent", "packs"])
def test_absent_object_is_not_found(store: Store, name: str) -> None:
    """Reading or deleting what is not there, a folder of objects too, raises ObjectNotFound naming it."""
    store.put("packs/one", b"x")
    with pytest.raises(ObjectNotFound, match=name):
        store.get(name)
    with pytest.raises(ObjectNotFound, match=name):
        store.delete(name)
    assert [info.name for info in store.list()] == ["packs/one"]


def test_delete_removes_one_object_and_frees_the_name(store: Store) -> None:
    """After a delete the object is gone, its neighbours are not, and the name can be used again."""
    store.put("packs/one", b"1")
    store.put("packs/two", b"2")
    store.delete("packs/one")
    assert [info.name for info in store.list()] == ["packs/two"]
    with pytest.raises(ObjectNotFound):
        store.get("packs/one")
    store.put("packs/one", b"again")
    assert store.get("packs/one") == b"again"


def test_list_is_sorted_by_whole_name(store: Store) -> None:
    """The order is that of the names' bytes, also where "-" and "." sort before the "/" of a folder."""
    expected = sorted(["a-b", "a.b", "a/b", "a/c/d", "a0", "a/c.d", "a/c-", "a_b", "b", "0"])
    for name in reversed(expected):
        store.put(name, b"")
    assert [info.name for info in store.list()] == expected
    assert [info.name for info in store.list("a")] == ["a/b", "a/c-", "a/c.d", "a/c/d"]


def test_prefix_is_of_whole_parts(store: Store) -> None:
    """A prefix selects what lies below it and the object of that very name, never a name that merely begins so."""
    for name in ("packs/aa/1", "packs/ab/1", "packs/ab/2", "packs2", "opskit.json"):
        store.put(name, b"x")
    assert [info.name for info in store.list("packs")] == ["packs/aa/1", "packs/ab/1", "packs/ab/2"]
    assert [info.name for info in store.list("packs/ab")] == ["packs/ab/1", "packs/ab/2"]
    assert [info.name for info in store.list("packs/ab/2")] == ["packs/ab/2"]
    assert [info.name for info in store.list("opskit.json")] == ["opskit.json"]
    assert list(store.list("pack")) == list(store.list("packs/a")) == list(store.list("none/such")) == []


def test_modified_does_not_go_back(store: Store) -> None:
    """Times are the store's own epoch seconds, later for what was stored later, and stay as they are."""
    store.put("first", b"x")
    store.put("second", b"x")
    first, second = store.list()
    assert 0 < first.modified <= second.modified
    assert list(store.list()) == [first, second]


@given(objects=st.dictionaries(names, contents, max_size=8).map(_without_folders), drop=st.randoms())
def test_store_is_a_dictionary(make_store: MakeStore, objects: dict[str, bytes], drop: Any) -> None:
    """Whatever was put and not deleted is listed once, in order, with its size, and reads back."""
    store = make_store()
    for name, data in objects.items():
        store.put(name, data)
    for name in drop.sample(sorted(objects), len(objects) // 3):
        store.delete(name)
        del objects[name]
    assert [(info.name, info.size) for info in store.list()] == [(name, len(objects[name])) for name in sorted(objects)]
    assert {info.name: store.get(info.name) for info in store.list()} == objects


def test_concurrent_puts_of_one_name_have_one_winner(store: Store) -> None:
    """Of many puts of one name at once exactly one succeeds, the others raise ObjectExists, and its bytes stay."""
    start = threading.Barrier(8)

    def put(writer: int) -> bytes | None:
        data = bytes([writer]) * 100_000
        start.wait()
        try:
            store.put("marks/contended", data)
        except ObjectExists:
            return None
        return data

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            won = [data for data in pool.map(put, range(8)) if data is not None]
        assert len(won) == 1
        assert store.get("marks/contended") == won[0]
        store.delete("marks/contended")


def test_threads_do_not_disturb_one_another(store: Store) -> None:
    """Puts, gets and lists from several threads at once lose, mix up and invent nothing."""

    def work(worker: int) -> None:
        for number in range(12):
            name, data = f"packs/{number:02x}/{worker}", f"{worker} {number} ".encode() * 500
            store.put(name, data)
            assert store.get(name) == data
            assert name in {info.name for info in store.list(f"packs/{number:02x}")}

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(work, worker) for worker in range(6)]:
            done.result()
    listed = [info.name for info in store.list()]
    assert listed == sorted(f"packs/{number:02x}/{worker}" for number in range(12) for worker in range(6))


def test_reader_sees_all_bytes_or_no_object(store: Store) -> None:
    """While objects are being put, whatever is listed has its full size and reads back whole."""
    done = threading.Event()
    payload = os.urandom(300_000)

    def write() -> None:
        try:
            for number in range(25):
                store.put(f"packs/{number}", payload)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    is_last = False
    while not is_last:
        is_last = done.is_set()
        seen = list(store.list())
        assert {info.size for info in seen} <= {len(payload)}
        assert all(store.get(info.name) == payload for info in seen[-2:])
    writer.join()
    assert len(seen) == 25


def _streaming(store: Store) -> Streaming:
    assert isinstance(store, Streaming)
    return store


@pytest.mark.parametrize("make_store", FILLING, indirect=True)
def test_an_object_is_read_into_memory_that_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the memory is what `get` gives, of any size; what is absent or too large asks for no memory."""
    assert isinstance(store, Filling)
    memory = memoryview(bytearray(b"." * 400_000))
    for size in (0, 1, 300_001):
        name = f"packs/{size}"
        store.put(name, random.Random(size).randbytes(size))
        assert store.get_into(name, lambda size: memory[:size]) == store.get(name)
    assert bytes(memory[300_001:]) == b"." * 99_999

    def refused(size: int) -> memoryview:
        raise AssertionError(f"asked for {size} bytes")

    with pytest.raises(ObjectNotFound):
        store.get_into("packs/2", refused)
    monkeypatch.setattr(base, "LARGEST_OBJECT", 1000)
    with pytest.raises(ObjectUnreadable, match="expected at most 1,000"):
        store.get_into("packs/300001", refused)


@pytest.mark.parametrize("make_store", STREAMING, indirect=True)
@pytest.mark.parametrize("given", [0, 1, 5_000_000])
def test_pieces_that_end_in_an_error_store_nothing(store: Store, given: int) -> None:
    """What the giver of pieces raises is raised, whatever came before it; nothing is stored or left behind."""

    def breaking() -> Iterator[bytes]:
        for start in range(0, given, 1_000_000):
            yield bytes(min(1_000_000, given - start))
        raise LookupError("broken off")

    with pytest.raises(LookupError, match="broken off"):
        _streaming(store).put_pieces("packs/ab/one", breaking())
    assert list(store.list()) == []
    left = Path(store.location) / ".tmp"
    assert not left.exists() or os.listdir(left) == []
    assert _streaming(store).put_pieces("packs/ab/one", [b"who", b"le"]) == 5
    assert store.get("packs/ab/one") == b"whole"


@pytest.mark.parametrize("make_store", STREAMING, indirect=True)
def test_pieces_of_a_taken_name_are_not_asked_for(store: Store) -> None:
    """A name that is taken raises ObjectExists before the first piece would have to be read from anywhere."""
    store.put("packs/ab/one", b"first")

    def untouched() -> Generator[bytes, None, None]:
        raise AssertionError("asked for")
        yield b""

    with pytest.raises(ObjectExists, match="packs/ab/one"):
        _streaming(store).put_pieces("packs/ab/one", untouched())
    assert store.get("packs/ab/one") == b"first"


PUT_LOOP = """
import sys, pathlib, hashlib, os
from opskit.stores.local import LocalStore
from opskit.stores.local.publish import WAYS
store = LocalStore(pathlib.Path(sys.argv[1]))
store._ways = WAYS[int(sys.argv[2]):]
print("ready", flush=True)
while True:
    data = os.urandom(400_000)
    name = hashlib.sha256(data).hexdigest()
    if len(sys.argv) > 3:
        store.put_pieces(f"packs/{name[:2]}/{name}", (data[at : at + 7000] for at in range(0, len(data), 7000)))
    else:
        store.put(f"packs/{name[:2]}/{name}", data)
    print(name, flush=True)
"""


@pytest.mark.parametrize("how", [[], ["pieces"]])
@pytest.mark.parametrize("ways", range(len(WAYS)))
def test_killed_writer_leaves_whole_objects_only(tmp_path: Path, ways: int, how: list[str]) -> None:
    """However a writer is killed, every listed object is whole, every acknowledged one is there, and puts go on."""
    store = _local(tmp_path, ways)()
    acknowledged: list[str] = []
    for kills in range(4):
        output = tmp_path / f"output-{kills}"
        with output.open("wb") as file:
            child = subprocess.Popen([sys.executable, "-c", PUT_LOOP, store.location, str(ways), *how], stdout=file)
        # The moment is drawn from the work done, not from a clock: 1 to 4 puts, and some part of the next.
        while output.read_text().count("\n") < 2 + kills:
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        acknowledged += output.read_text().split()[1:]
        found = {info.name.rpartition("/")[2]: store.get(info.name) for info in store.list()}
        assert all(sha256(data).hexdigest() == name for name, data in found.items())
        assert set(acknowledged) <= set(found)
    store.put("snapshots/next", b"goes on")
    assert store.get("snapshots/next") == b"goes on"
