"""Make what a host needs to back up: its key, the recipients, the repository id and the copies.

Invariants: safe to repeat; what exists is kept and never changed. Nothing that a person must keep (a
recovery key) is overwritten, and it is on disk before anything refers to it. The new recipient's private
half exists in memory and in the file that was asked for, nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from opskit import gpg
from opskit.errors import ConfigError, NoKey, OpskitError, UsageError
from opskit.gpg import Keyring
from opskit.repository import copy as copies
from opskit.repository import names
from opskit.repository.identity import read_repository, write_repository
from opskit.repository.recovery import keyfile, kit
from opskit.repository.recovery.keyfile import KeyFile
from opskit.stores.base import Store


@dataclass(slots=True)
class Made:
    """What `init` did: destinations newly made, those already there, and the reasons of those not reached."""

    created: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, OpskitError] = field(default_factory=dict)


def host_key(keyring: Keyring, wanted: str | None, label: str) -> str:
    """The fingerprint of this host's key, made when there is none; raises NoKey when a configured one is gone."""
    own = [key.fingerprint for key in keyring.keys() if key.has_secret]
    if wanted is None:
        # one left by an init that was interrupted is as good as a new one
        return own[0] if own else keyring.generate(f"opskit host {label}")
    if wanted not in own:
        raise NoKey(
            f"the host key {wanted} has no private half in {keyring.home}",
            hint="if this host's state was lost, opskit init --from LOCATION --key FILE brings it back",
        )
    return wanted


def import_recipient(keyring: Keyring, text: str) -> str:
    """Take in a recipient: a file with a public key, or the fingerprint of one the user's own gpg knows."""
    path = Path(text)
    if path.is_file():
        data = path.read_bytes()
        if b"PRIVATE KEY BLOCK" in data:
            raise UsageError(
                f"{path} holds a private key: this host must not see one of a recipient",
                hint="export the public half: gpg --armor --export FINGERPRINT",
            )
    else:
        with Keyring(None) as own:
            data = own.export_public([text])
    found = keyring.import_keys(data)
    if len(found) != 1:
        raise UsageError(f"expected one key in {path}, found {len(found)}")
    return found[0]


def new_recipient(keyring: Keyring, user_id: str, passphrase: bytes | None, write: Callable[[str, bytes], None]) -> str:
    """Generate a recipient in memory, hand (fingerprint, armored private key) to `write`, keep the public half."""
    with gpg.ephemeral_keyring(None) as ephemeral:
        fingerprint = ephemeral.generate(user_id, passphrase=passphrase)
        write(fingerprint, ephemeral.export_secret(fingerprint, passphrase=passphrase))
        keyring.import_keys(ephemeral.export_public([fingerprint]))
    return fingerprint


def write_recovery_key(path: Path, known: KeyFile) -> None:
    """Write a recovery-key file, mode 0600, durably; raises UsageError when the file exists."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(
            f"the recovery-key file {path} exists; it is never overwritten", hint="name another file, or move it away"
        ) from error
    except OSError as error:
        raise UsageError(f"the recovery-key file {path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(keyfile.encode(known))
        file.flush()
        os.fsync(file.fileno())


def recovery_key(keyring: Keyring, repository: str, host: str, secret: bytes) -> KeyFile:
    """What a recovery-key file says: the private key, and all it takes to trust a copy."""
    return KeyFile(
        repository=repository,
        recover_sha256=names.sha256(kit()[names.RECOVER_PROGRAM]),
        signers=[host],
        maintainers=[host],
        secret=secret,
        public=keyring.export_public([host]),
    )


def repository_of(state: Path, stores: Mapping[str, Store], new: Callable[[], bytes]) -> bytes:
    """The `opskit.json` this host works with: the one in its state, else a new one if no destination holds one yet.

    Raises ConfigError when a destination already holds a repository this host knows nothing of.
    """
    known = read_repository(state)
    if known is not None:
        return known
    for destination, store in stores.items():
        try:
            found = copies.open_copy(destination, store)
        except OpskitError:
            continue
        raise ConfigError(
            f"{destination}: {store.location} already holds repository {found.repository}",
            hint="to take it over: opskit init --from LOCATION --key RECOVERY-KEY-FILE; else choose an empty folder",
        )
    about = new()
    write_repository(state, about)
    return about


def make_copies(
    stores: Mapping[str, Store],
    prepare: Callable[[str], None],
    about: bytes,
    *,
    new_id: Callable[[], str],
    now: datetime,
) -> Made:
    """Make the repository at every destination; `prepare` makes a destination's folder."""
    made, fixed = Made(), kit()
    for destination, store in stores.items():
        try:
            prepare(destination)
            is_new = copies.create(store, about, copy_id=new_id(), kit=fixed, now=now)
        except OpskitError as error:
            made.failed[destination] = error
            continue
        (made.created if is_new else made.present).append(destination)
    return made


def write_trusted(keyring: Keyring, path: Path, fingerprints: Sequence[str]) -> None:
    """The key ring file that signatures are checked against."""
    gpg.write_public_keyring(keyring.export_public(list(dict.fromkeys(fingerprints))), path)


def kit_digests() -> dict[str, str]:
    """SHA-256 of the recovery kit's objects, for manifests."""
    return {name: names.sha256(data) for name, data in kit().items()}
