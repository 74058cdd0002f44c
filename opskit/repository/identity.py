"""Who this host is to a repository: its key, whom it encrypts to, and whose signatures it believes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opskit import encoding, gpg
from opskit.errors import ConfigError, Damaged, Forged
from opskit.gpg import Keyring, Signed
from opskit.repository import names
from opskit.repository.durable import write_durably


@dataclass(frozen=True, slots=True)
class Identity:
    """The host's GnuPG home and the roles from the config; fingerprints are 40 upper-case hex digits.

    `signers` may sign snapshots (maintainers among them), `maintainers` alone may sign marks. `trusted` is a key ring
    file with the public keys of both, for gpgv. `retired` were recipients once: what they agreed to counts on.
    `passphrase` gives one that opens key objects beside the recipients; it raises UnresolvedReference.
    `deleted` gives the recipients that nobody can be any more, with the reason (`deleted_keys`); it raises ConfigError.
    It is asked by who encrypts alone: a damaged note must not stand in the way of a restore.
    """

    keyring: Keyring
    host_key: str
    recipients: Sequence[str]
    signers: Sequence[str]
    trusted: Path
    maintainers: Sequence[str] = ()
    retired: Sequence[str] = ()
    passphrase: Callable[[], bytes] | None = None
    deleted: Callable[[], Mapping[str, str]] = dict

    def verify(self, data: bytes) -> Signed:
        """Check a signed object against the trusted keys; raises Forged."""
        return gpg.verify(data, self.trusted)

    def agreed(self, data: bytes) -> bytes:
        """The payload of a message that a recipient signed, or one that was a recipient; raises Forged, Damaged."""
        signed = self.keyring.verify(data)
        if signed.fingerprint not in (*self.recipients, *self.retired):
            raise Forged(
                f"signed by {signed.fingerprint}, which is not among the recipients",
                hint="if it is, or was, a recipient, add it to keys.recipients or keys.retired in the config",
            )
        return signed.payload


def read_repository(state: Path) -> bytes | None:
    """The bytes of `opskit.json` of the repository this state folder belongs to; None when there is none yet.

    Raises ConfigError where that cannot be seen: a user who may not look must not take it for a host without state.
    """
    try:
        return (state / names.REPOSITORY).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{state / names.REPOSITORY} cannot be read: {(error.strerror or 'error').lower()}",
            hint="run opskit as the user that owns state_dir (sudo?), or name a config of your own with --config",
        ) from error


def read_repository_id(state: Path) -> str | None:
    """The id of that repository; raises ConfigError when the file is damaged or cannot be read."""
    about = read_repository(state)
    try:
        return None if about is None else id_in(about)
    except Damaged as error:
        raise ConfigError(
            f"{state / names.REPOSITORY} is damaged: {error}",
            hint=f"copy {names.REPOSITORY} from any of your destinations over it: it is the same at all of them",
        ) from error


def id_in(about: bytes) -> str:
    """The repository id in the bytes of an `opskit.json`; raises Damaged."""
    found = encoding.decode_object(about, what=names.REPOSITORY).get("id")
    if not isinstance(found, str):
        raise Damaged(f"{names.REPOSITORY}: expected a repository id, found none")
    return found


def write_repository(state: Path, about: bytes) -> None:
    """Remember the repository of this state folder, durably."""
    write_durably(state / names.REPOSITORY, about)
