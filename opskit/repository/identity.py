"""Who this host is to a repository: its key, whom it encrypts to, and whose signatures it believes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opskit import gpg
from opskit.errors import Damaged
from opskit.gpg import Keyring, Signed
from opskit.repository import encoding
from opskit.repository.durable import write_durably

_FILE = "repository.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """The host's GnuPG home and the roles from the config; fingerprints are 40 upper-case hex digits.

    `trusted` is a key ring file with the public keys of signers and maintainers, for gpgv.
    """

    keyring: Keyring
    host_key: str
    recipients: Sequence[str]
    signers: Sequence[str]
    trusted: Path

    def verify(self, data: bytes) -> Signed:
        """Check a signed object against the trusted keys; raises Forged."""
        return gpg.verify(data, self.trusted)


def read_repository_id(state: Path) -> str | None:
    """The repository this state folder belongs to; None when there is none yet."""
    try:
        return str(encoding.decode_object((state / _FILE).read_bytes(), what=str(state / _FILE))["repository"])
    except FileNotFoundError:
        return None
    except KeyError as error:
        raise Damaged(f"{state / _FILE}: expected a repository id, found none") from error


def write_repository_id(state: Path, repository: str) -> None:
    """Remember the repository of this state folder, durably."""
    write_durably(state / _FILE, encoding.encode({"repository": repository}))
