"""Sealed keys: what is made, and whose word counts; by real gpg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opskit import encoding
from opskit.errors import Damaged, NoKey, OpskitError, UsageError
from opskit.gpg import Keyring, ephemeral_keyring
from opskit.repository import deleted_keys, evidence, names, sealed_keys
from opskit.repository.cache import open_or_replace
from opskit.repository.copy import Copy
from opskit.repository.sealed_keys import MAX, SealedKey, who_opens
from opskit.stores.memory import MemoryStore
from tests.gpg.keys import dated_key, private_folder

REPOSITORY = "5e" * 16
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    """A key ring with three keys."""
    with Keyring(tmp_path_factory.mktemp("g")) as keyring:
        for name in "abc":
            keyring.generate(name)
        yield keyring


@pytest.fixture(scope="module")
def keys(ring: Keyring) -> tuple[str, str, str]:
    """A maintainer's, that of who goes, and that of an heir."""
    one, two, three = (key.fingerprint for key in ring.keys())
    return one, two, three


@pytest.fixture(scope="module")
def private(ring: Keyring, keys: tuple[str, str, str]) -> bytes:
    """The private key of who goes."""
    return ring.export_secret(keys[1])


@pytest.fixture(scope="module")
def made(ring: Keyring, keys: tuple[str, str, str], private: bytes) -> tuple[str, bytes]:
    return sealed_keys.make(ring, keys[0], REPOSITORY, "web1", keys[1], [keys[2]], private, NOW)


def payload_of(ring: Keyring, data: bytes) -> bytes:
    return ring.verify(data).payload


def holding(*objects: tuple[str, bytes]) -> Copy:
    """A copy that holds these objects."""
    store = MemoryStore(now=lambda: 0.0)
    for name, data in objects:
        store.put(name, data)
    return Copy("a", store, "", REPOSITORY, {name: len(data) for name, data in objects})


def load(ring: Keyring, *objects: tuple[str, bytes], maintainer: str, repository: str = REPOSITORY) -> list[SealedKey]:
    return sealed_keys.load([holding(*objects)], ring.verify, maintainers=[maintainer], repository=repository)


def test_what_is_made_is_for_the_heirs_alone(
    ring: Keyring, keys: tuple[str, str, str], private: bytes, made: tuple[str, bytes]
) -> None:
    """An heir opens it, nobody else does, and the private key is nowhere in the clear."""
    host, gone, heir = keys
    (found,) = load(ring, made, maintainer=host)
    assert (found.recipient, found.heirs, found.created, found.name) == (gone, (heir,), NOW, made[0])
    with ephemeral_keyring(ring.export_secret(heir)) as his, ephemeral_keyring(private) as of_the_gone:
        opened = his.decrypt(found.sealed).payload
        assert opened.startswith(b"-----BEGIN PGP PRIVATE KEY BLOCK-----")
        with pytest.raises(NoKey):
            of_the_gone.decrypt(found.sealed)
    assert b"PRIVATE" not in payload_of(ring, made[1]) and "sealed=" not in repr(found)
    assert evidence.decode(payload_of(ring, made[1])).kind == "sealed-key"


def test_what_cannot_be_opened_later_is_not_made(
    ring: Keyring, keys: tuple[str, str, str], private: bytes, made: tuple[str, bytes]
) -> None:
    """No heir, or itself; another's key, a public one, one that a passphrase protects, or no key at all."""
    host, gone, heir = keys
    with ephemeral_keyring(None) as other:
        locked = other.generate("d", passphrase=b"x")
        text = other.export_secret(locked, passphrase=b"x")
    wrong: list[tuple[str, list[str], bytes, type[OpskitError]]] = [
        (gone, [], private, UsageError),
        (gone, [heir, gone], private, UsageError),
        (gone, [heir], ring.export_secret(heir), Damaged),
        (gone, [heir], private + ring.export_secret(heir), Damaged),
        (gone, [heir], ring.export_public([gone]), NoKey),
        (gone, [heir], b"x", Damaged),
        (locked, [heir], text, NoKey),
        (gone, ["A" * 40], private, NoKey),
    ]
    for recipient, heirs, key, error in wrong:
        with pytest.raises(error) as failure:
            sealed_keys.make(ring, host, REPOSITORY, "web1", recipient, heirs, key, NOW)
        assert "BEGIN PGP" not in str(failure.value)


def test_a_key_that_expired_is_sealed_too(ring: Keyring, keys: tuple[str, str, str], tmp_short: Path) -> None:
    """It opens what there is; its public half alone is still refused."""
    host, _, heir = keys
    with Keyring(private_folder(tmp_short / "g")) as other:
        gone = dated_key(other.home or tmp_short, "e", "20200101", "30d")
        private, public = other.export_secret(gone), other.export_public([gone])
    made = sealed_keys.make(ring, host, REPOSITORY, "web1", gone, [heir], private, NOW)
    (found,) = load(ring, made, maintainer=host)
    assert ring.decrypt(found.sealed).payload.startswith(b"-----BEGIN PGP PRIVATE KEY BLOCK-----")
    with pytest.raises(NoKey):
        sealed_keys.make(ring, host, REPOSITORY, "web1", gone, [heir], public, NOW)


def test_only_a_maintainers_word_counts(ring: Keyring, keys: tuple[str, str, str], made: tuple[str, bytes]) -> None:
    """Another signer's, one of another repository, under another time, torn or too large is left out."""
    host, _, heir = keys
    name, data = made
    moved = names.evidence(NOW + timedelta(seconds=1), "sealed-key", names.sha256(data))
    value = encoding.decode_object(payload_of(ring, data), what="x")
    larger, large = (ring.sign(encoding.encode({**value, "new": os.urandom(size).hex()}), host) for size in (MAX, 9))
    assert [each.name for each in load(ring, made, maintainer=host)] == [name]
    assert not load(ring, made, maintainer=heir)
    assert not load(ring, made, maintainer=host, repository="6f" * 16)
    assert not load(ring, (moved, data), (name, data[:-9]), maintainer=host)
    for each, expected in ((large, 1), (larger, 0)):
        stored = (names.evidence(NOW, "sealed-key", names.sha256(each)), each)
        assert len(load(ring, stored, maintainer=host)) == expected


def test_what_says_something_else_is_left_out(
    ring: Keyring, keys: tuple[str, str, str], made: tuple[str, bytes], tmp_path: Path
) -> None:
    """Strictly read, and as evidence nobody stumbles over it, though it is in the cache."""
    host, gone, heir = keys
    value = encoding.decode_object(payload_of(ring, made[1]), what="x")
    said = value["sealed-key"]
    wrong: list[object] = [
        *({**said, name: each} for name in said for each in (None, "", [], 7, {})),
        {**said, "heirs": [heir, host]}, {**said, "heirs": [heir, heir]}, {**said, "heirs": [gone]},
        {**said, "recipient": gone.lower()}, {**said, "sealed": said["sealed"] + "ü"}, None, [],
    ]  # fmt: skip
    for each in wrong:
        with pytest.raises(Damaged):
            sealed_keys.decode(encoding.encode({**value, "sealed-key": each}))
    data = ring.sign(encoding.encode({**value, "sealed-key": wrong[0]}), host)
    copy = holding((names.evidence(NOW, "sealed-key", names.sha256(data)), data), made)
    cache = open_or_replace(tmp_path / "c.sqlite", REPOSITORY)
    try:
        for _ in range(2):
            ledger = evidence.load_evidence([copy], ring.verify, signers=[host], repository=REPOSITORY, cache=cache)
            assert len(ledger.kept) == 2 and not ledger.rejected and not ledger.drills()
            found = sealed_keys.load([copy], ring.verify, maintainers=[host], repository=REPOSITORY, cache=cache)
            assert [each.name for each in found] == [made[0]]
    finally:
        cache.close()


def test_who_opens(ring: Keyring, keys: tuple[str, str, str], made: tuple[str, bytes]) -> None:
    """The heirs who are recipients, by way of others perhaps; nobody's where a copy lacks it."""
    host, gone, heir = keys
    (first,) = load(ring, made, maintainer=host)
    last, copy = "A" * 40, holding(made, ("evidence/x", b""))
    second = replace(first, recipient=heir, heirs=(last,), name="evidence/x")
    assert who_opens(gone, [first], [copy], [heir]) == [heir]
    assert who_opens(gone, [first, second], [copy], [last]) == [last]
    assert who_opens(gone, [first, replace(second, heirs=(gone,))], [copy], []) == [heir, gone]
    assert who_opens(gone, [first], [copy, holding()], [heir]) == [] == who_opens(last, [first], [copy], [heir])


def test_a_host_notes_its_own_recipients(
    ring: Keyring, keys: tuple[str, str, str], made: tuple[str, bytes], tmp_path: Path
) -> None:
    """Only whom its config names, and not whom it took back later than that."""
    host, gone, heir = keys
    found = load(ring, made, maintainer=host)
    sealed_keys.note_deleted(tmp_path, [heir], found)
    assert not [*tmp_path.iterdir()]
    sealed_keys.note_deleted(tmp_path, [heir, gone], found)
    assert deleted_keys.read(tmp_path) == {gone: NOW.date()}
    deleted_keys.take_back(tmp_path, gone, NOW + timedelta(seconds=1))
    sealed_keys.note_deleted(tmp_path, [gone], found)
    assert deleted_keys.read(tmp_path) == {}
    sealed_keys.note_deleted(tmp_path, [gone], [replace(found[0], created=NOW + timedelta(seconds=2))])
    assert [*deleted_keys.read(tmp_path)] == [gone]
