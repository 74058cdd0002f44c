"""Small real repositories for tests: real keys, real backups and restores, and an independent look into the stores.

The judging half (`PackInspector`, `picture`) shares nothing with opskit's bookkeeping: it opens the packs with the run
keys that the key objects give to a recipient, and compares restored folders by what the system says of them.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from opskit import encoding
from opskit.errors import CacheError, OpskitError
from opskit.gpg import Keyring, Signed, verify, write_public_keyring
from opskit.operations.backup import Job, Options, backup
from opskit.operations.outcome import Result
from opskit.operations.restore import Restored, RestoreOptions, restore
from opskit.operations.session import Host, Session, open_copies, open_session, remove_cache
from opskit.operations.verify import CopyReport
from opskit.operations.verify import verify as verify_copies
from opskit.repository import copy as copies
from opskit.repository import names, pack
from opskit.repository.history import History, load_history
from opskit.repository.identity import Identity
from opskit.repository.manifest import Snapshot
from opskit.repository.pack import Unpacker
from opskit.repository.reader import SnapshotReader
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from opskit.stores.memory import MemoryStore

REPOSITORY = "0123456789abcdef0123456789abcdef"
HOST = "lab"
SOURCE = "data"
LONG_AGO = 10**10
"""Nanoseconds by which the clock of a run is ahead, so that files made just now may be remembered as unchanged."""


BELIEVED: dict[tuple[bytes, bytes], Signed] = {}
"""What signed objects say by the keys in a file, for judges; opskit's own operations ask by themselves."""


@dataclass(frozen=True)
class Keys:
    """A host that cannot read, and two recipients of whom it has the public halves only."""

    host: Keyring
    host_key: str
    recipients: Sequence[Keyring]
    recipient_keys: Sequence[str]
    trusted: Path
    retired: Sequence[str] = ()

    def identity(self) -> Identity:
        roles = [self.host_key]
        return Identity(
            self.host, self.host_key, list(self.recipient_keys), roles, self.trusted, roles, list(self.retired)
        )

    def decrypt(self, data: bytes) -> bytes:
        """As the first recipient does."""
        return self.recipients[0].decrypt(data).payload

    def believe(self, data: bytes) -> Signed:
        """What `verify` says by the trusted keys: a campaign asks about the same bytes again and again, gpgv once."""
        asked = data, self.trusted.read_bytes()
        if asked not in BELIEVED:
            BELIEVED[asked] = verify(data, self.trusted)
        return BELIEVED[asked]


def make_keys(folder: Path) -> Keys:
    """Three new keys in homes below `folder`, whose path must be short; the caller ends their agents."""
    host, *recipients = (Keyring(folder / name) for name in ("h", "r1", "r2"))
    host_key = host.generate("host <host@example.org>")
    recipient_keys = [each.generate(f"recipient {n} <r{n}@example.org>") for n, each in enumerate(recipients)]
    for each, fingerprint in zip(recipients, recipient_keys, strict=True):
        host.import_keys(each.export_public([fingerprint]))
    write_public_keyring(host.export_public([host_key]), folder / "trusted.gpg")
    return Keys(host, host_key, recipients, recipient_keys, folder / "trusted.gpg")


@dataclass
class Lab:
    """One host, its state folder, and the stores it backs up to. Its clock jumps a minute a run."""

    keys: Keys
    state: Path
    stores: dict[str, Store]
    minutes: int = 0
    repository: str = REPOSITORY
    workers: int = 1
    pictures: dict[str, Picture] = field(default_factory=dict)
    """What each snapshot must restore to, by object name."""
    label: str = HOST

    def create(self) -> Lab:
        """Make the repository at every store."""
        for number, store in enumerate(self.stores.values()):
            copies.create(store, self.about, copy_id=f"{number:032x}", kit={}, now=self.now())
        return self

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(minutes=self.minutes)

    def boottime(self) -> float:
        return time.monotonic() + 60 * self.minutes

    @property
    def about(self) -> bytes:
        """The bytes of `opskit.json`."""
        return copies.identity(self.repository, datetime(2026, 11, 21, tzinfo=UTC))

    def host(self) -> Host:
        return Host(self.label, self.keys.identity(), self.state, self.repository, self.now, self.boottime)

    @contextmanager
    def session(self, stores: Mapping[str, Store] | None = None) -> Iterator[Session]:
        """An open session on these stores (default: all), with the host's agent running."""
        self.keys.host.start_agent()
        session = open_session(self.host(), self.stores if stores is None else stores)
        try:
            yield session
        finally:
            session.close()

    def backup(self, source: Path, stores: Mapping[str, Store] | None = None, *, force: bool = False) -> Result:
        """Back up one folder to these stores and note what the snapshot must restore to."""
        self.minutes += 1
        try:
            return self._backup(source, stores, force=force)
        except CacheError:  # as the command does
            remove_cache(self.host())
            return self._backup(source, stores, force=force)

    def _backup(self, source: Path, stores: Mapping[str, Store] | None, *, force: bool) -> Result:
        seen = picture(source)
        options = Options(workers=self.workers, force_read=force)
        with self.session(stores) as session:
            job = Job(SOURCE, FileSource([source]))
            (result,) = backup(session, [job], options, clock_ns=lambda: time.time_ns() + LONG_AGO)
            written = {name for copy in session.copies for name in copy.objects if f"-{result.snapshot}" in name}
        self.pictures.update(dict.fromkeys(written, seen))
        return result

    def history(self, stores: Mapping[str, Store] | None = None) -> History:
        """The snapshots these stores show, read without state and cache."""
        found, _ = open_copies(self.stores if stores is None else stores, self.repository)
        return load_history(
            found,
            self.keys.believe,
            signers=[self.keys.host_key],
            repository=self.repository,
        )

    def reader(self, snapshot: Snapshot, stores: Mapping[str, Store] | None = None) -> SnapshotReader:
        """A reader of one snapshot from these stores, as the first recipient."""
        found, _ = open_copies(self.stores if stores is None else stores, self.repository)
        return SnapshotReader(snapshot.manifest, found, self.keys.decrypt, self.keys.trusted)

    def restore(self, snapshot: Snapshot, target: Path, stores: Mapping[str, Store] | None = None) -> Restored:
        """Restore one snapshot from these stores."""
        return restore(self.reader(snapshot, stores), target, RestoreOptions(workers=1))

    def verify(self, stores: Mapping[str, Store] | None = None) -> dict[str, CopyReport]:
        """Read these stores back."""
        found, _ = open_copies(self.stores if stores is None else stores, self.repository)
        return verify_copies(
            found,
            self.keys.believe,
            signers=[self.keys.host_key],
            repository=self.repository,
            workers=1,
        )

    def fork(self, state: Path) -> Lab:
        """An independent lab with the same past: stores copied into memory, the state folder copied to `state`."""
        shutil.copytree(self.state, state)
        stores = {name: memory_copy(store) for name, store in self.stores.items()}
        return Lab(self.keys, state, stores, self.minutes, self.repository, self.workers, dict(self.pictures))


PROVED: set[tuple[str, frozenset[str]]] = set()
"""Snapshots with the intact objects they were once restored from: the same bytes need be restored once."""


def assert_restores(
    lab: Lab, source: Path, folder: Path, stores: Mapping[str, Store] | None = None, why: object = ""
) -> None:
    """Every snapshot these stores show restores exactly, and none that a run reported has gone.

    A snapshot of a run that did not end must be as the source is now.
    """
    stores = lab.stores if stores is None else stores
    history = lab.history(stores)
    shown = {snapshot.name for snapshot in history.snapshots}
    assert lab.pictures.keys() <= shown, f"{why}: snapshots are gone: {lab.pictures.keys() - shown}"
    for snapshot in history.snapshots:
        proof = (snapshot.name, _intact(snapshot, stores))
        if proof in PROVED:
            continue
        target = folder / snapshot.id[:8]
        done = lab.restore(snapshot, target, stores)
        assert not done.problems, (why, snapshot.name, done.problems[:3])
        expected = lab.pictures.setdefault(snapshot.name, picture(source))
        assert picture(restored_below(target, source)) == expected, (why, snapshot.name)
        shutil.rmtree(target)
        PROVED.add(proof)


def _intact(snapshot: Snapshot, stores: Mapping[str, Store]) -> frozenset[str]:
    """What the snapshot needs and one of the stores holds with the right bytes."""
    found = set[str]()
    for store in stores.values():
        held = {info.name for info in store.list()} & {snapshot.name, *snapshot.manifest.object_names()}
        found |= {name for name in held if names.sha256(store.get(name)) == names.digest_in(name)}
    return frozenset(found)


def memory_store(location: str = "memory") -> MemoryStore:
    return MemoryStore(lambda: 0.0, location=location)


def memory_copy(store: Store, change: Callable[[str, bytes], bytes | None] = lambda name, data: data) -> MemoryStore:
    """All objects of a store in a new one, each as `change` makes it (None leaves it out)."""
    made = memory_store(store.location)
    for info in store.list():
        data = change(info.name, store.get(info.name))
        if data is not None:
            made.put(info.name, data)
    return made


@dataclass(frozen=True)
class Stored:
    """A readable pack of a store: its chunk ids in order, and those among them that are roots of trees."""

    ids: tuple[bytes, ...]
    roots: frozenset[bytes]


class PackInspector:
    """Opens packs by way of the key objects and remembers them: a campaign looks at the same packs again and again."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._run_keys: dict[str, set[bytes]] = {}
        self._packs: dict[str, Stored] = {}

    def packs(self, store: Store) -> dict[str, Stored]:
        """Digest → content of each pack which is intact and has an intact key object in this store."""
        found = {}
        objects = [info.name for info in store.list()]
        run_keys = set[bytes]().union(*(self._open_key(store, name) for name in objects if name.startswith("keys/")))
        for name in objects:
            digest = names.digest_in(name)
            if name.startswith("packs/") and digest is not None and (stored := self._open(store, name, run_keys)):
                found[digest] = stored
        return found

    def _open_key(self, store: Store, name: str) -> set[bytes]:
        data = store.get(name)
        if sha256(data).hexdigest() != names.digest_in(name):
            return set()
        if name not in self._run_keys:
            value = encoding.decode_object(self._keys.decrypt(data), what=name)
            self._run_keys[name] = {str(key).encode() for key in value.values()}
        return self._run_keys[name]

    def _open(self, store: Store, name: str, run_keys: set[bytes]) -> Stored | None:
        data = store.get(name)
        if sha256(data).hexdigest() != names.digest_in(name):
            return None
        if name not in self._packs:
            for key in run_keys:
                try:
                    tar = Unpacker().open(data, key)
                except OpskitError:
                    continue
                members = [(chunk_id, bytes(content)) for chunk_id, content in pack.members(tar)]
                assert all(sha256(content).digest() == chunk_id for chunk_id, content in members)
                roots = frozenset(chunk_id for chunk_id, content in members if content.startswith(b'{"chunks":['))
                self._packs[name] = Stored(tuple(chunk_id for chunk_id, _ in members), roots)
        return self._packs.get(name)


Picture = dict[str, tuple[object, ...]]
"""Relative path → everything of an entry that a restore must bring back."""


def picture(root: Path) -> Picture:
    """The picture of a folder: contents, types, owners, modes, times, targets, attributes, hard links."""
    found: Picture = {}
    groups: dict[tuple[int, int], str] = {}
    pending = [root]
    while pending:
        path = pending.pop()
        status = path.lstat()
        relative = str(path.relative_to(root))
        content = ""
        if stat.S_ISREG(status.st_mode):
            content = sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISDIR(status.st_mode):
            pending.extend(sorted(path.iterdir(), reverse=True))
        size = status.st_size if stat.S_ISREG(status.st_mode) else 0
        attributes = tuple((key, os.getxattr(path, key, follow_symlinks=False)) for key in _attributes(path))
        first = groups.setdefault((status.st_dev, status.st_ino), relative)
        found[relative] = (
            (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev),
            size,
            content,
            attributes,
            first,
        )
    return found


def _attributes(path: Path) -> list[str]:
    try:
        return sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return []


def restored_below(target: Path, source: Path) -> Path:
    """Where a restore recreates `source` below `target`."""
    return target / str(source).lstrip("/")


def make_source(root: Path) -> Path:
    """A small folder with one of (nearly) everything."""
    (root / "docs" / "deep" / "er").mkdir(parents=True)
    for number in range(12):
        (root / "docs" / f"note-{number:02}.txt").write_bytes(f"note {number}\n".encode() * (number * 40 + 1))
    (root / "docs" / "deep" / "er" / "x").write_bytes(b"far down")
    (root / "empty").touch()
    (root / "nothing").mkdir()
    (root / "large.bin").write_bytes(noise(1, 3_000_000))
    (root / "same.bin").write_bytes(noise(2, 50_000))
    (root / "same-again.bin").write_bytes(noise(2, 50_000))
    os.link(root / "same.bin", root / "docs" / "hard")
    (root / "link").symlink_to("docs/note-01.txt")
    (root / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(root / "pipe", 0o640)
    with (root / "sparse").open("wb") as file:
        file.seek(700_000)
        file.write(b"end of a hole")
    (root / os.fsdecode(b"latin-\xe9")).write_bytes(b"not UTF-8")
    (root / "new\nline").write_bytes(b"a name of two lines")
    (root / "docs" / "private").write_bytes(b"closed")
    (root / "docs" / "private").chmod(0o400)
    os.utime(root / "empty", ns=(10**18 + 7, 10**18 + 7))
    return root


def change_source(root: Path) -> Path:
    """Some files changed, added, removed, renamed, and one in the middle of a large one."""
    (root / "docs" / "note-03.txt").write_bytes(b"changed")
    (root / "docs" / "added.txt").write_bytes(b"added")
    (root / "docs" / "note-05.txt").unlink()
    (root / "docs" / "note-06.txt").rename(root / "docs" / "moved.txt")
    data = bytearray((root / "large.bin").read_bytes())
    data[1_500_000:1_500_010] = b"ten bytes."
    (root / "large.bin").write_bytes(data)
    (root / "second.bin").write_bytes(noise(3, 900_000))
    (root / "link").unlink()
    (root / "link").symlink_to("docs/added.txt")
    return root


def noise(seed: int, length: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(seed).randbytes(length)


def apart(folder: Path, name: str) -> Path:
    """A path below a folder that nobody has used: a fixture of a module may be made twice in one worker of xdist."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder)) / name
