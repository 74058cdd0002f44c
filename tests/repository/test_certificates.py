"""Certificates of host keys: whose word counts, and for what; by real gpg."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from opskit import gpg
from opskit.gpg import Keyring
from opskit.operations.successors import successors, way_to
from opskit.repository import certificates, names
from opskit.repository.certificates import Certificate
from opskit.repository.copy import Copy
from opskit.stores.memory import MemoryStore

REPOSITORY = "5e" * 16
NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyring]:
    """A key ring with three keys."""
    with Keyring(tmp_path_factory.mktemp("g")) as keyring:
        for name in "abc":
            keyring.generate(name)
        yield keyring


def keys_of(ring: Keyring) -> tuple[str, str, str]:
    one, two, three = (key.fingerprint for key in ring.keys())
    return one, two, three


def published(ring: Keyring, signer: str, certificate: Certificate, time: datetime = NOW) -> Copy:
    """A copy that holds a certificate, signed by `signer`."""
    data = ring.sign(certificates.encode(certificate), signer)
    name = names.evidence(time, "signer", names.sha256(data))
    store = MemoryStore(now=lambda: 0.0)
    store.put(name, data)
    return Copy("a", store, "", REPOSITORY, {name: len(data)})


def made(ring: Keyring, old: str, new: str) -> Certificate:
    return Certificate(REPOSITORY, "web1", NOW, old, new, ring.export_public([new]).decode())


def found(ring: Keyring, copies: list[Copy], signers: list[str], tmp_path: Path) -> list[str]:
    trusted = tmp_path / "trusted.gpg"
    gpg.write_public_keyring(ring.export_public(signers), trusted)
    return [each.new for each in successors(copies, trusted, signers, REPOSITORY)]


def test_a_signers_word_of_itself_counts_and_leads_on(ring: Keyring, tmp_path: Path) -> None:
    """One certifies two, two certifies three: from one both are found, from three none, and the way is told."""
    one, two, three = keys_of(ring)
    copies = [published(ring, two, made(ring, two, three)), published(ring, one, made(ring, one, two))]
    assert found(ring, copies, [one], tmp_path) == [two, three]
    assert found(ring, copies, [three], tmp_path) == []
    chain = [made(ring, one, two), made(ring, two, three)]
    assert [each.new for each in way_to(chain, three)] == [two, three]
    assert [each.new for each in way_to(chain, two)] == [two] and way_to(chain, one) == []


def test_nobody_speaks_for_another_signer(ring: Keyring, tmp_path: Path) -> None:
    """A signer that certifies the successor of another one, however trusted both are, is not believed."""
    one, two, three = keys_of(ring)
    assert found(ring, [published(ring, one, made(ring, two, three))], [one, two], tmp_path) == []


def test_another_repository_name_or_key_counts_for_nothing(ring: Keyring, tmp_path: Path) -> None:
    """A certificate of another repository, under another time, or with a broken key is left out."""
    one, two, _ = keys_of(ring)
    good = made(ring, one, two)
    later = datetime(2026, 11, 23, tzinfo=UTC)
    assert found(ring, [published(ring, one, replace(good, repository="ab" * 16))], [one], tmp_path) == []
    assert found(ring, [published(ring, one, replace(good, public="no key"))], [one], tmp_path) == []
    assert found(ring, [published(ring, one, good, later)], [one], tmp_path) == []
    assert found(ring, [published(ring, one, good)], [one], tmp_path) == [two]
