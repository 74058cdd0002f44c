"""Ways into a repository for commands that read it: by the config, or by a location and a key file alone.

Invariant: whose signatures count is known before a manifest is believed: from the config on a host that
has one, from the recovery-key file otherwise. Nothing in the repository is asked about that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opskit import gpg
from opskit.config.model import Config
from opskit.errors import Damaged, NoKey, OpskitError
from opskit.gpg import Keyring, Signed
from opskit.operations.session import open_copies
from opskit.repository.cache import Cache, open_or_replace
from opskit.repository.copy import Copy
from opskit.repository.heads import Heads
from opskit.repository.history import History, load_history
from opskit.repository.reader import Decrypt
from opskit.repository.recovery import keyfile
from opskit.repository.recovery.keyfile import KeyFile
from opskit.wiring import host_of, local_store, stores_of

Ask = Callable[[str], bytes]
"""Asks the person for a passphrase; raises NoKey where there is nobody to ask."""

MAX_KEY_FILE = 1024 * 1024


@dataclass(slots=True)
class Access:
    """Opened copies and what it takes to judge them. `cache` and `heads` only on a host with a config."""

    copies: list[Copy]
    absent: Mapping[str, OpskitError]
    repository: str
    signers: Sequence[str]
    trusted: Path
    cache: Cache | None = None
    heads: Heads | None = None
    recover_sha256: str | None = None

    def verify(self, data: bytes) -> Signed:
        """Check a signed object against the trusted keys; raises Forged."""
        return gpg.verify(data, self.trusted)

    def history(self, source: str | None = None) -> History:
        """All snapshots the copies show."""
        return load_history(
            self.copies,
            self.verify,
            signers=self.signers,
            repository=self.repository,
            cache=self.cache,
            source=source,
        )


@contextmanager
def by_config(config: Config, destinations: Sequence[str] = ()) -> Iterator[Access]:
    """Open the copies of a config, or those named; raises the first one's error when none can be opened."""
    host = host_of(config)
    copies, absent = open_copies(stores_of(config, destinations), host.repository)
    if not copies:
        raise next(iter(absent.values()))
    cache = open_or_replace(host.state / "cache" / f"{host.repository}.sqlite", host.repository)
    heads = Heads(host.state / "heads" / f"{host.repository}.json")
    try:
        yield Access(copies, absent, host.repository, host.identity.signers, host.identity.trusted, cache, heads)
    finally:
        cache.close()


@contextmanager
def by_key_file(location: str, key: Path) -> Iterator[Access]:
    """Open one copy with a recovery-key file and nothing else; raises NoKey, RepositoryNotFound, StoreError."""
    gpg.check_programs()
    known = read_key_file(key)
    copies, absent = open_copies({"repository": local_store(Path(location).absolute())}, known.repository)
    if not copies:
        raise next(iter(absent.values()))
    if not known.signers:
        raise NoKey(
            f"{key} does not say whose signatures to believe: expected a recovery-key file, got a bare key",
            hint="use the file that opskit init wrote, or the config of a host that backs up here",
        )
    with tempfile.TemporaryDirectory(prefix="opskit-") as folder:
        trusted = Path(folder) / "trusted.gpg"
        gpg.write_public_keyring(known.public, trusted)
        signers = (*known.signers, *known.maintainers)
        yield Access(copies, absent, copies[0].repository, signers, trusted, recover_sha256=known.recover_sha256)


def read_key_file(path: Path) -> KeyFile:
    """Parse a recovery-key file, or a bare OpenPGP private key; raises NoKey."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_KEY_FILE)
    except OSError as error:
        raise NoKey(f"the key file {path} cannot be read: {error.strerror}") from error
    try:
        return keyfile.decode(data)
    except Damaged as error:
        raise NoKey(f"{path}: {error}", hint=error.hint) from error


@contextmanager
def private_key(key: Path | None, ask: Ask, passphrase: bytes | None = None) -> Iterator[Decrypt]:
    """Decrypt with a key file (imported to memory for this block) or, without one, the user's own gpg.

    A protected key file needs a passphrase: the one given, else `ask` is called once. Raises NoKey.
    """
    if key is None:
        with Keyring(None) as own:
            yield lambda data: own.decrypt(data, passphrase=passphrase).payload
        return
    known = read_key_file(key)
    if not known.secret:
        raise NoKey(f"{key} holds no private key", hint="use the recovery-key file that opskit init wrote")
    with gpg.ephemeral_keyring(None) as keyring:
        try:
            keyring.import_keys(known.secret)
        except Damaged as error:
            raise NoKey(
                f"{key}: gpg finds no whole key in it: expected a private key as it was exported, got a broken one",
                hint="take another copy of the recovery-key file: the one on paper, or from another safe place",
            ) from error
        yield _Opener(keyring, ask, passphrase)


class _Opener:
    """Decrypts, asking for the passphrase when the key turns out to have one."""

    def __init__(self, keyring: Keyring, ask: Ask, passphrase: bytes | None) -> None:
        self._keyring, self._ask, self._passphrase = keyring, ask, passphrase
        self._asked = passphrase is not None

    def __call__(self, data: bytes) -> bytes:
        try:
            return self._keyring.decrypt(data, passphrase=self._passphrase or b"").payload
        except NoKey as error:
            # only gpg's words tell a key that is locked from one that does not fit
            if self._asked or "passphrase" not in str(error):
                raise
        self._passphrase, self._asked = self._ask("passphrase of the key file: "), True
        return self(data)
