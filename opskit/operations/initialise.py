"""Make what a host needs to back up: its key, the recipients, the repository id and the copies.

Invariants: safe to repeat; what exists is kept and never changed. Nothing that a person must keep (a
recovery key) is overwritten, and it is on disk before anything refers to it. The new recipient's private
half exists in memory and in the file that was asked for, nowhere else. A destination that was made once is
remembered in the state, and made again only where that is asked for: its medium may just be absent, and a
repository on the bare mount point would look like a copy.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from opskit import encoding, gpg
from opskit.errors import (
    ConfigError,
    CopyUnidentified,
    Damaged,
    NoKey,
    NotMounted,
    ObjectNotFound,
    OpskitError,
    RepositoryNotFound,
    StoreError,
    StoreRefused,
    UsageError,
)
from opskit.gpg import Keyring
from opskit.operations.session import open_copies
from opskit.repository import copy as copies
from opskit.repository import names
from opskit.repository.durable import sync_folder, write_durably
from opskit.repository.identity import read_repository, write_repository
from opskit.repository.recovery import keyfile, kit
from opskit.repository.recovery.keyfile import KeyFile
from opskit.stores.base import Store

_PAST = "destinations.json"


@dataclass(slots=True)
class Made:
    """What `init` did: destinations newly made, those already there, and the reasons of those not reached."""

    created: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: dict[str, OpskitError] = field(default_factory=dict)


class Past(NamedTuple):
    """That a destination was made: its copy id ("" if nobody saw it), and the day (UTC, YYYY-MM-DD)."""

    copy: str
    made: str


class Recipient(NamedTuple):
    """A public key that was asked for: primary fingerprint, and the key itself, armored."""

    fingerprint: str
    public: bytes


LOST_STATE_HINT = "opskit init --from LOCATION --key FILE --recovery-key NEWFILE brings a host back whose state is lost"


def make_private_folder(path: Path) -> None:
    """Make a folder (0700) and its parents (0755 at most, whatever the umask); raises OpskitError."""
    try:
        for each in (*reversed(path.parents), path):
            if not each.exists():
                each.mkdir(mode=0o700 if each == path else 0o755, exist_ok=True)
    except OSError as error:
        raise OpskitError(f"the folder {path} cannot be made: {(error.strerror or 'error').lower()}") from error


def host_key(keyring: Keyring, wanted: str | None, label: str) -> str:
    """The fingerprint of this host's key, made when there is none; raises NoKey when a configured one is gone."""
    own = [key.fingerprint for key in keyring.keys() if key.has_secret]
    if wanted is None:
        # one left by an init that was interrupted is as good as a new one, if its subkey was made too
        whole = [key.fingerprint for key in keyring.keys() if key.has_secret and key.can_sign and key.can_encrypt]
        return whole[0] if whole else keyring.generate(f"opskit host {label}")
    if wanted not in own:
        raise NoKey(
            f"the host key {wanted} has no private half in {keyring.home}",
            hint=LOST_STATE_HINT,
        )
    return wanted


def read_recipients(
    texts: Sequence[str], now: float, deleted: Mapping[str, str] | None = None
) -> tuple[list[Recipient], list[str]]:
    """Look at recipients before anything is made: the keys, and what speaks against some of them.

    `now` is in epoch seconds, `deleted` as `usable_recipients` takes it. Raises UsageError where a key is not there, or
    where none can be encrypted to.
    """
    if not texts:
        return [], []
    with gpg.ephemeral_keyring(None) as scratch:
        fingerprints = list(dict.fromkeys(import_recipient(scratch, text) for text in texts))
        valid, rejected = gpg.usable_recipients(scratch.keys(), fingerprints, now, deleted)
        if not valid:
            raise UsageError(f"--recipient: nobody could restore: {'; '.join(rejected)}")
        return [Recipient(each, scratch.export_public([each])) for each in fingerprints], rejected


def import_recipient(keyring: Keyring, text: str) -> str:
    """Take in a recipient: a file with a public key, or the fingerprint of one the user's own gpg knows."""
    path = Path(text)
    data = path.read_bytes() if path.is_file() else _from_own_gpg(text)
    if b"PRIVATE KEY BLOCK" in data:
        raise UsageError(
            f"--recipient: {path} holds a private key: this host must not see one of a recipient",
            hint="export the public half: gpg --armor --export FINGERPRINT",
        )
    try:
        found = keyring.import_keys(data)
    except Damaged as error:
        raise UsageError(
            f"--recipient: {path} holds no OpenPGP public key",
            hint="whoever has the key writes one: gpg --armor --export FINGERPRINT > public.asc",
        ) from error
    if len(found) != 1:
        raise UsageError(f"--recipient: expected one key in {path}, found {len(found)}")
    return found[0]


def _from_own_gpg(text: str) -> bytes:
    try:
        with Keyring(None) as own:
            return own.export_public([text])
    except OpskitError as error:  # also a gpg that has no home folder yet
        raise UsageError(
            f"--recipient: {text!r}: no such file, and no such key in your gpg",
            hint="name a file with a public key, or all 40 digits of a fingerprint that gpg --list-keys shows",
        ) from error


def new_recipient(keyring: Keyring, user_id: str, passphrase: bytes | None, write: Callable[[str, bytes], None]) -> str:
    """Generate a recipient in memory, hand (fingerprint, armored private key) to `write`, keep the public half."""
    with gpg.ephemeral_keyring(None) as ephemeral:
        fingerprint = ephemeral.generate(user_id, passphrase=passphrase)
        write(fingerprint, ephemeral.export_secret(fingerprint, passphrase=passphrase))
        keyring.import_keys(ephemeral.export_public([fingerprint]))
    return fingerprint


def write_recovery_key(path: Path, known: KeyFile) -> None:
    """Write a recovery-key file, mode 0600, durably and whole, or leave none.

    Raises UsageError when the file exists, or its folder does not, OpskitError.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(
            f"the recovery-key file {path} exists; it is never overwritten", hint="name another file, or move it away"
        ) from error
    except OSError as error:
        raise UsageError(
            f"the recovery-key file {path} cannot be written: {(error.strerror or 'error').lower()}",
            hint="is the stick mounted, and writable? name a file in a folder that is there",
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(keyfile.encode(known))
            file.flush()
            os.fsync(file.fileno())
        _sync_name(path)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OpskitError(
                f"the recovery-key file {path} cannot be written: {(error.strerror or 'error').lower()}",
                hint="make room there, or name a file at another place",
            ) from error
        raise


def _sync_name(path: Path) -> None:
    try:
        sync_folder(path.parent)
    except OSError as error:
        if error.errno != errno.EINVAL:  # CIFS and its like: names there are the server's business
            raise


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

    Raises ConfigError when a destination already holds a repository this host knows nothing of, or the remains of one.
    """
    known = read_repository(state)
    if known is not None:
        return known
    found, absent = open_copies(stores, None)
    for error in absent.values():
        if isinstance(error, CopyUnidentified):
            raise ConfigError(
                f"{error}: expected an empty folder, or a repository that this host knows",
                hint="recover.py restores without that file; to take the repository over, copy opskit.json there from "
                "another of its copies, then: opskit init --from LOCATION --key FILE --recovery-key NEWFILE",
            ) from error
    for copy in found:
        raise ConfigError(
            f"{copy.destination}: {copy.store.location} already holds repository {copy.repository}",
            hint="to take it over: opskit init --from LOCATION --key FILE --recovery-key NEWFILE; "
            "else choose an empty folder",
        )
    about = new()
    make_private_folder(state)
    write_repository(state, about)
    return about


def read_past(state: Path) -> dict[str, Past]:
    """Which destinations were made before, by name; raises Damaged."""
    path = state / _PAST
    try:
        value = encoding.decode_object(path.read_bytes(), what=str(path))
        return {name: Past(str(copy), str(made)) for name, (copy, made) in value.items()}
    except FileNotFoundError:
        return {}
    except (Damaged, TypeError, ValueError) as error:
        raise Damaged(
            f"{path} is damaged: it says which destinations were made",
            hint="see that every medium is mounted, then move this file away and run opskit init again",
        ) from error


def write_past(state: Path, past: Mapping[str, Past]) -> None:
    """Remember which destinations were made, durably."""
    write_durably(state / _PAST, encoding.encode({name: [*each] for name, each in past.items()}))


def make_copies(
    stores: Mapping[str, Store],
    prepare: Callable[[str], None],
    about: bytes,
    *,
    state: Path,
    again: Collection[str] = (),
    new_id: Callable[[], str],
    now: datetime,
) -> Made:
    """Make the repository at every destination; `prepare` makes a destination's folder.

    One that was made before and is not there fails, unless it is among `again`: its medium may be absent.
    """
    made, fixed, past = Made(), kit(), read_past(state)
    for destination, store in stores.items():
        try:
            if destination in past and destination not in again:
                _require_present(destination, store, past[destination])
            prepare(destination)
            is_new = copies.create(store, about, copy_id=new_id(), kit=fixed, now=now)
            copy_id = copies.copy_id_at(store)
        except OpskitError as error:
            made.failed[destination] = error
            continue
        (made.created if is_new else made.present).append(destination)
        if destination not in past or past[destination].copy != copy_id:
            past[destination] = Past(copy_id, now.date().isoformat())
            write_past(state, past)
    return made


def _require_present(destination: str, store: Store, past: Past) -> None:
    try:
        store.get(names.REPOSITORY)
    except (NotMounted, StoreRefused):
        raise
    except StoreError as error:
        # A half-made repository is known by its copy id, so the medium is there and the rest may be made.
        if isinstance(error, ObjectNotFound) and past.copy and copies.copy_id_at(store) == past.copy:
            return
        raise RepositoryNotFound(
            f"was made {'on' if past.copy else 'before'} {past.made} and is not there now: is it mounted? "
            f"to make it anew: opskit init --destination {destination}={store.location}"
        ) from error


def write_trusted(keyring: Keyring, path: Path, fingerprints: Sequence[str]) -> None:
    """The key ring file that signatures are checked against."""
    gpg.write_public_keyring(keyring.export_public(list(dict.fromkeys(fingerprints))), path)
