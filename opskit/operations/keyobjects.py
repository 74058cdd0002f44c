"""Key objects: run keys, encrypted so that each reader of the backups opens them, and nobody else.

Invariants: every key object is made here, whoever writes it; a reader that cannot be encrypted to is named, never left
out in silence; there is no key object without a usable recipient. What becomes of older objects is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opskit import encoding
from opskit.errors import NoKey
from opskit.gpg import usable_recipients
from opskit.operations.session import Host
from opskit.repository.identity import Identity


@dataclass(frozen=True, slots=True)
class Readers:
    """Who is to open a key object: full fingerprints of recipients. `rejected` tells who cannot, and why."""

    recipients: list[str]
    rejected: list[str]


def readers_of(host: Host) -> Readers:
    """The readers that this host's config names, as far as they can be encrypted to now; raises NoKey without any."""
    identity = host.identity
    valid, rejected = usable_recipients(identity.keyring.keys(), identity.recipients, host.now().timestamp())
    if not valid:
        raise NoKey(
            "no recipient can be encrypted to: " + "; ".join(rejected or ["none is configured"]),
            hint="check the clock of this host: it is behind the day on which the keys were made"
            if all("the clock" in reason for reason in rejected) and rejected
            else "opskit keys list shows the recipients; import a renewed public key or add another recipient",
        )
    return Readers(valid, rejected)


def seal(identity: Identity, keys: Mapping[str, str], readers: Readers) -> bytes:
    """The key object of these runs (id → run key) for these readers."""
    return identity.keyring.encrypt(encoding.encode(dict(keys)), readers.recipients)
