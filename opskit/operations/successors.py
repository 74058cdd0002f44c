"""A host's new key: certified by the old one, and made able to read the index that only the old one opens.

Invariants: nothing here makes a key believed. A certificate reaches a copy before anything that the new key signed.
Index objects are stored anew, never removed: manifests name the old ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from opskit import gpg
from opskit.errors import Damaged, Forged, NoKey, OpskitError, StoreError
from opskit.gpg import Keyring
from opskit.operations.session import Session
from opskit.operations.storing import Storing
from opskit.repository import certificates, names
from opskit.repository import index as indexes
from opskit.repository.certificates import Certificate, load_certificates
from opskit.repository.copy import Copy


def certify(
    keyring: Keyring, repository: str, host: str, old: str, new: str, now: datetime
) -> tuple[Certificate, str, bytes]:
    """The certificate of `new` by `old`, the name of its object, and its bytes."""
    public = keyring.export_public([new]).decode()
    certificate = Certificate(repository, host, now.replace(microsecond=0), old, new, public)
    data = keyring.sign(certificates.encode(certificate), old)
    return certificate, names.evidence(certificate.created, certificates.SIGNER, names.sha256(data)), data


def put_where_absent(copies: Sequence[Copy], name: str, data: bytes) -> dict[str, OpskitError]:
    """Put an object to the copies that lack it; returns those that did not take it, with reasons."""
    failures: dict[str, OpskitError] = {}
    for copy in copies:
        try:
            if copy.objects.get(name) != len(data):
                copy.put(name, data)
        except OpskitError as error:
            failures[copy.destination] = error
    return failures


def successors(copies: Sequence[Copy], trusted: Path, signers: Sequence[str], repository: str) -> list[Certificate]:
    """The certificates that lead from `signers` to keys that are not among them, in the order in which they lead.

    `trusted` holds the public keys of the signers. A certificate whose key does not decode is left out.
    """
    found: list[Certificate] = []
    allowed = set(signers)
    if not any(f"Z-{certificates.SIGNER}-" in name for copy in copies for name in copy.objects):
        return found
    with tempfile.TemporaryDirectory(prefix="opskit-") as folder:
        ring = Path(folder) / "chain.gpg"
        ring.write_bytes(trusted.read_bytes() if trusted.is_file() else b"")
        while True:
            shown = load_certificates(
                copies, lambda data: gpg.verify(data, ring), signers=allowed, repository=repository
            )
            added = [each for each in shown if each.new not in allowed and _add(ring, each)]
            if not added:
                return found
            found += added
            allowed.update(each.new for each in added)


def _add(ring: Path, certificate: Certificate) -> bool:
    """Add the public key to a key ring file; False where there is none in the certificate."""
    one = ring.with_name("one.gpg")
    try:
        gpg.write_public_keyring(certificate.public.encode(), one)
    except OpskitError:
        return False
    with ring.open("ab") as file:
        file.write(one.read_bytes())
    return True


def told(certificate: Certificate) -> str:
    """A certificate in words."""
    return (
        f"{certificate.host} changed its key to {certificate.new} on {certificate.created:%Y-%m-%d}, "
        f"certified by its old key {certificate.old}"
    )


def way_to(found: Sequence[Certificate], new: str) -> list[Certificate]:
    """The certificates that lead to `new`, the first of them by a signer who is trusted already; none: no way."""
    way: list[Certificate] = []
    for certificate in reversed(found):
        if certificate.new == (way[0].old if way else new):
            way.insert(0, certificate)
    return way


def take_in(keyring: Keyring, certificate: Certificate) -> None:
    """Import the certified public key, once it is sure to be that one alone; raises Forged."""
    data = certificate.public.encode()
    with gpg.ephemeral_keyring(None) as scratch:
        try:
            there = scratch.import_keys(data)
        except Damaged as error:
            raise Forged(f"the certificate for {certificate.new} carries no such public key") from error
        if there != [certificate.new] or any(key.has_secret for key in scratch.keys()):
            raise Forged(f"the certificate for {certificate.new} carries other keys")
    keyring.import_keys(data)


def cover(session: Session, workers: int) -> int:
    """Store index objects that the host's present key opens for all live packs that have none; returns how many packs.

    The key ring has the former private key too. Raises NoKey where no recipient is valid, CacheError, and the copies'
    errors when none works any more.
    """
    identity = session.host.identity
    covered: set[str] = set()
    wanted: dict[str, indexes.IndexedPack] = {}
    for name in sorted({name for copy in session.copies for name in copy.objects if name.startswith("index/")}):
        try:
            opened = identity.keyring.decrypt(session.get(name))
            packs = indexes.decode(opened.payload, repository=session.host.repository).packs
        except (Forged, NoKey, StoreError):
            continue  # another host's, or damaged: neither was of use to this host before
        if opened.signer == identity.host_key:
            covered.update(pack.pack for pack in packs)
        elif opened.signer in identity.signers:
            wanted.update((pack.pack, pack) for pack in packs)
    for row in session.live.values():
        if row.name in wanted and row.name not in covered and row.no not in session.unindexed:
            session.cache.add_pack(row, list(wanted[row.name].chunk_ids()))
            session.unindexed.append(row.no)
    count = len(session.unindexed)
    if count:
        with Storing(session, workers) as storing:
            storing.finish()
    return count
