"""Making and bringing back a host, below the command line."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import (
    ConfigError,
    Damaged,
    NoKey,
    OpskitError,
    RepositoryNotFound,
    SnapshotNotFound,
    StoreRefused,
    UsageError,
)
from opskit.gpg import Keyring
from opskit.operations.initialise import (
    Past,
    host_key,
    import_recipient,
    make_copies,
    make_private_folder,
    new_recipient,
    read_past,
    read_recipients,
    repository_of,
    write_past,
    write_recovery_key,
)
from opskit.operations.rebuild import find_host, learn
from opskit.operations.session import open_copies
from opskit.repository import copy as copies
from opskit.repository import names
from opskit.repository.cache import Cache
from opskit.repository.heads import Heads
from opskit.repository.recovery import digests
from opskit.repository.recovery.keyfile import KeyFile
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from tests.fakes import Fault, FaultyStore
from tests.gpg.keys import private_folder
from tests.operations.judging import run
from tests.operations.test_session import Far
from tests.repositories import HOST, REPOSITORY, Lab, memory_store


@pytest.fixture
def keyring(tmp_short: Path) -> Keyring:
    """An empty home of this test's own."""
    made = Keyring(tmp_short / "home")
    made.create()
    return made


def test_the_host_key_is_made_once(keyring: Keyring) -> None:
    """A key left by an interrupted init is taken, a configured one that is gone is NoKey."""
    first = host_key(keyring, None, "web")
    assert host_key(keyring, None, "web") == first == host_key(keyring, first, "web")
    with pytest.raises(NoKey):
        host_key(keyring, "0" * 40, "web")


def test_a_new_recipient_never_enters_the_hosts_ring(keyring: Keyring) -> None:
    """The private half is handed to the writer; the host keeps the public one."""
    handed: list[tuple[str, bytes]] = []
    fingerprint = new_recipient(keyring, "Safe", None, lambda *pair: handed.append(pair))
    assert [name for name, _ in handed] == [fingerprint] and b"PRIVATE KEY" in handed[0][1]
    assert [(key.fingerprint, key.has_secret) for key in keyring.keys()] == [(fingerprint, False)]


def test_a_writer_that_fails_leaves_no_recipient(keyring: Keyring) -> None:
    """If the private half could not be written, nobody is encrypted to."""

    def fail(_fingerprint: str, _secret: bytes) -> None:
        raise UsageError("disk full")

    with pytest.raises(UsageError):
        new_recipient(keyring, "Safe", None, fail)
    assert keyring.keys() == []


def test_what_is_no_public_key(keyring: Keyring, tmp_path: Path) -> None:
    """A private key or rubbish as a recipient is refused and not imported."""
    (tmp_path / "private").write_bytes(b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    (tmp_path / "rubbish").write_bytes(b"hello")
    with pytest.raises(UsageError, match="private key"):
        import_recipient(keyring, str(tmp_path / "private"))
    with pytest.raises(Exception, match=r"(?i)key"):
        import_recipient(keyring, str(tmp_path / "rubbish"))
    assert keyring.keys() == []


def test_a_recovery_key_is_never_overwritten(tmp_path: Path) -> None:
    """An existing file, or a link in its place, is refused; so is a folder that is not there, which is not made."""
    armor = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nx\n-----END PGP PRIVATE KEY BLOCK-----\n"
    known = KeyFile(REPOSITORY, "0" * 64, ["A" * 40], ["A" * 40], armor, b"")
    write_recovery_key(tmp_path / "key", known)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link", "stick/key"):
        with pytest.raises(UsageError):
            write_recovery_key(tmp_path / name, known)
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "stick").exists()


def test_the_repository_is_remembered(lab: Lab, tmp_path: Path) -> None:
    """Its id comes from the state; a destination that holds one this host does not know is refused."""
    about = copies.identity("a" * 32, lab.now())
    empty = {"e": memory_store()}
    assert repository_of(tmp_path / "s", empty, lambda: about) == about
    assert repository_of(tmp_path / "s", lab.stores, lambda: b"never asked") == about
    with pytest.raises(ConfigError, match="already holds"):
        repository_of(tmp_path / "t", lab.stores, lambda: about)
    assert not (tmp_path / "t").exists()


def test_destinations_are_asked_side_by_side_what_they_hold(tmp_path: Path) -> None:
    """No destination waits for another: one that hangs takes its half minute once, however many do."""
    meeting = threading.Barrier(2, timeout=20)
    first = [iter([meeting.wait]) for _ in range(2)]
    far: dict[str, Store] = {
        str(number): Far(memory_store(), lambda once=once: next(once, lambda: 0)()) for number, once in enumerate(first)
    }
    assert repository_of(tmp_path / "s", far, lambda: b"new") == b"new"


def test_copies_are_made_one_by_one(lab: Lab, tmp_path: Path) -> None:
    """One destination that fails does not keep others from being made; repeated, what is there is present."""
    about = copies.identity("a" * 32, lab.now())
    refusing = FaultyStore(memory_store(), {n: Fault("before", StoreRefused("no")) for n in range(1, 20)})
    stores: dict[str, Store] = {"bad": refusing, "good": memory_store()}
    arguments: dict[str, Any] = {
        "prepare": lambda name: None, "about": about, "state": tmp_path, "new_id": lambda: "1", "now": lab.now()
    }  # fmt: skip
    made = make_copies(stores, **arguments)
    assert (made.created, list(made.failed)) == (["good"], ["bad"])
    assert make_copies(stores, **arguments).present == ["good"]
    for name, digest in digests().items():
        assert names.sha256(stores["good"].get(name)) == digest
    assert read_past(tmp_path) == {"good": Past("1", lab.now().date().isoformat())}


def test_a_destination_is_made_once(lab: Lab, tmp_path: Path) -> None:
    """One made before and empty now fails and stays empty, until it is asked for by name."""
    about, prepared = copies.identity("a" * 32, lab.now()), list[str]()
    arguments: dict[str, Any] = {"about": about, "state": tmp_path, "new_id": lambda: "1", "now": lab.now()}
    assert make_copies({"d": memory_store()}, prepared.append, **arguments).created == ["d"]
    prepared.clear()
    bare = memory_store()
    made = make_copies({"d": bare}, prepared.append, **arguments)
    assert isinstance(made.failed["d"], RepositoryNotFound) and "is it mounted?" in str(made.failed["d"])
    assert (prepared, list(bare.list())) == ([], [])
    assert make_copies({"d": bare}, prepared.append, **arguments, again=["d"]).created == ["d"]


def test_what_is_remembered_of_destinations(tmp_path: Path) -> None:
    """The record reads back as it was written, and a damaged one is not taken for none."""
    past = {"a": Past("1", "2026-11-21"), "b": Past("", "2026-11-21")}
    write_past(tmp_path, past)
    assert read_past(tmp_path) == past
    (tmp_path / "destinations.json").write_text('{"a": 5}')
    with pytest.raises(Damaged, match="which destinations were made"):
        read_past(tmp_path)


def test_folders_are_never_open_to_others(tmp_path: Path) -> None:
    """Under umask 000 the folder is made 0700, and its parents 0755."""
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "x" / "y" / "z")
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("x", "x/y", "x/y/z")]
    assert modes == [0o755, 0o755, 0o700]


def test_recipients_that_cannot_be_used(tmp_short: Path, tmp_path: Path) -> None:
    """Only expired recipients are refused; one beside a good one is told."""
    home = private_folder(tmp_short / "owner")
    with Keyring(home) as owner:
        good = owner.generate("good")
        old = owner.generate("old")
        subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--quick-set-expire", old, "seconds=60"],
            check=True, capture_output=True,
        )  # fmt: skip
        for name in (good, old):
            (tmp_path / name).write_bytes(owner.export_public([name]))
    later = time.time() + 3600
    with pytest.raises(UsageError, match=r"nobody could restore: .*expired on"):
        read_recipients([str(tmp_path / old)], later)
    found, doubts = read_recipients([str(tmp_path / old), str(tmp_path / good)], later)
    assert [each.fingerprint for each in found] == [old, good]
    assert len(doubts) == 1 and old in doubts[0]


# Bringing back


def test_finding_and_learning(lab: Lab, source: Path, tmp_path: Path) -> None:
    """The newest snapshot tells config and keys; the learnt cache knows every pack the old one knew, and the heads."""
    for number in range(3):
        (source / f"f{number}").write_text(str(number))
        run(lab, FileSource([source]))
    opened, _ = open_copies(lab.stores, REPOSITORY)
    found = find_host(lab.history(), opened, lab.keys.decrypt, lab.keys.trusted, None)
    assert (found.host, found.config, found.keys, len(found.snapshots)) == (HOST, "{}", "none", 3)
    cache, heads = Cache(tmp_path / "new.sqlite", REPOSITORY), Heads(tmp_path / "heads.json")
    packs = learn(cache, heads, opened, found.snapshots, lab.keys.decrypt, lab.keys.trusted)
    old = Cache(lab.state / "cache" / f"{REPOSITORY}.sqlite", REPOSITORY)
    assert {row.name for row in cache.packs()} == {row.name for row in old.packs()}
    assert packs == len(list(old.packs()))
    head = heads.newest(HOST, "data")
    assert head is not None and head.sequence == 3
    cache.close()
    old.close()


def test_nothing_to_find(lab: Lab) -> None:
    """A copy without snapshots, and a host nobody knows, are told apart."""
    opened, _ = open_copies(lab.stores, REPOSITORY)
    with pytest.raises(SnapshotNotFound):
        find_host(lab.history(), opened, lab.keys.decrypt, lab.keys.trusted, None)


def test_an_unknown_host(lab: Lab, source: Path) -> None:
    """--host with a label that no snapshot carries is UsageError, naming those there are."""
    run(lab, FileSource([source]))
    opened, _ = open_copies(lab.stores, REPOSITORY)
    with pytest.raises(UsageError, match=HOST):
        find_host(lab.history(), opened, lab.keys.decrypt, lab.keys.trusted, "elsewhere")


def test_a_recovery_key_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """Where it cannot be written to its end no half of it stays, which the next run would refuse to overwrite."""
    path = tmp_path / "key.asc"
    lines = ["-----BEGIN PGP PRIVATE KEY BLOCK-----", "", *["A" * 64] * 400, "-----END PGP PRIVATE KEY BLOCK-----", ""]
    known = KeyFile("r" * 32, "0" * 64, ["A" * 40], ["A" * 40], "\n".join(lines).encode(), b"")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OpskitError, match="cannot be written"):
            write_recovery_key(path, known)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not path.exists()
