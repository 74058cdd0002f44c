"""Making and bringing back a host, below the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.errors import ConfigError, NoKey, SnapshotNotFound, StoreRefused, UsageError
from opskit.gpg import Keyring
from opskit.operations.initialise import (
    host_key,
    import_recipient,
    kit_digests,
    make_copies,
    new_recipient,
    repository_of,
    write_recovery_key,
)
from opskit.operations.rebuild import find_host, learn
from opskit.operations.session import open_copies
from opskit.repository import copy as copies
from opskit.repository import names
from opskit.repository.cache import Cache
from opskit.repository.heads import Heads
from opskit.repository.recovery.keyfile import KeyFile
from opskit.sources.files import FileSource
from tests.fakes import Fault, FaultyStore
from tests.operations.judging import run
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
    """An existing file, or a link in its place, is refused."""
    armor = b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nx\n-----END PGP PRIVATE KEY BLOCK-----\n"
    known = KeyFile(REPOSITORY, "0" * 64, ["A" * 40], ["A" * 40], armor, b"")
    write_recovery_key(tmp_path / "new" / "key", known)
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("new/key", "link"):
        with pytest.raises(UsageError):
            write_recovery_key(tmp_path / name, known)
    assert not (tmp_path / "elsewhere").exists()


def test_the_repository_is_remembered(lab: Lab, tmp_path: Path) -> None:
    """Its id comes from the state; a destination that holds one this host does not know is refused."""
    about = copies.identity("a" * 32, lab.now())
    empty = {"e": memory_store()}
    assert repository_of(tmp_path / "s", empty, lambda: about) == about
    assert repository_of(tmp_path / "s", lab.stores, lambda: b"never asked") == about
    with pytest.raises(ConfigError, match="already holds"):
        repository_of(tmp_path / "t", lab.stores, lambda: about)
    assert not (tmp_path / "t").exists()


def test_copies_are_made_one_by_one(lab: Lab) -> None:
    """One destination that fails does not keep others from being made; repeated, what is there is present."""
    about = copies.identity("a" * 32, lab.now())
    refusing = FaultyStore(memory_store(), {n: Fault("before", StoreRefused("no")) for n in range(1, 20)})
    stores = {"bad": refusing, "good": memory_store()}
    arguments = {"prepare": lambda name: None, "about": about, "new_id": lambda: "1", "now": lab.now()}
    made = make_copies(stores, **arguments)
    assert (made.created, list(made.failed)) == (["good"], ["bad"])
    assert make_copies(stores, **arguments).present == ["good"]
    for name, digest in kit_digests().items():
        assert names.sha256(stores["good"].get(name)) == digest


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
