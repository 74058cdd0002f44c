"""The part of wiring that knows secrets: which schemes references may have, and which of them are stores.

A file of secrets that lies beside a host's `gnupg` folder is opened with the key of that host, any other with the
user's own gpg (a smartcard or HSM behind its agent among what that may hold).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from opskit.config.model import Config
from opskit.errors import ConfigError, NoKey, OpskitError, UsageError
from opskit.gpg import Keyring, usable_recipients
from opskit.repository.durable import alone, write_durably
from opskit.secrets.base import SecretStore, StoreScheme
from opskit.secrets.reference import Reference, Resolver
from opskit.secrets.stores.dotenv import DotenvStore, FileTools
from opskit.secrets.stores.environment import EnvironmentScheme
from opskit.secrets.stores.files import CredentialScheme, FileScheme
from opskit.secrets.stores.gpgfile import GpgFileStore, Tools
from opskit.secrets.stores.keyrings import KeyringStore
from opskit.secrets.stores.programs import PROGRAMS, ProgramScheme

KEYRING = "gnupg"
"""The folder with the key of a host, below its state folder."""
FILE = "secrets.gpg"
"""The name of a host's own file of secrets, below its state folder."""
_PLAIN: dict[str, SecretStore] = {
    "dotenv": DotenvStore(FileTools(partial(write_durably, like_before=True), alone)),
    "keyring": KeyringStore(),
}
"""Stores that need to know nothing of this host."""


def resolver(environ: Mapping[str, str]) -> Resolver:
    """Resolves secret references."""
    return Resolver(
        {
            "env": EnvironmentScheme(environ),
            "file": FileScheme(),
            "cred": CredentialScheme(environ),
            "gpg": StoreScheme(_gpg_files(_sealed_by_nobody)),
            **{name: StoreScheme(store) for name, store in _PLAIN.items()},
            **{name: ProgramScheme(program, environ) for name, program in PROGRAMS.items()},
        }
    )


def store_of(reference: Reference, config: Config, now: Callable[[], float]) -> SecretStore:
    """The store that a reference lies in, to be written; raises UsageError where the scheme is only read.

    `now` gives epoch seconds: one recipient that expired must not keep the others from their secrets.
    """
    if reference.scheme == "gpg":
        return _gpg_files(partial(_sealed, config, now))
    if reference.scheme in _PLAIN:
        return _PLAIN[reference.scheme]
    expected = ", ".join(f"{name}:" for name in ("gpg", *_PLAIN))
    raise UsageError(
        f"{reference} is only read by opskit: expected a reference to a store that takes values: {expected}",
        hint=f"for example gpg://{config.state_dir / FILE}#NAME",
    )


def _gpg_files(seal: Callable[[bytes], bytes]) -> GpgFileStore:
    return GpgFileStore(Tools(_opened, seal, write_durably, alone))


def _opened(path: Path, data: bytes) -> bytes:
    home = path.resolve().parent / KEYRING
    if home.is_dir():
        try:
            with Keyring(home) as keyring:
                return keyring.decrypt(data).payload
        except NoKey:
            pass  # not made for the host that lives here, but perhaps for who runs this
    try:
        with Keyring(None) as own:
            return own.decrypt(data).payload
    except NoKey as error:
        error.hint = (
            f"keep it in a state folder of opskit: the key in {KEYRING}, beside it, is tried before your own gpg"
        )
        raise


def _sealed(config: Config, now: Callable[[], float], data: bytes) -> bytes:
    """To the host, which has to read it, and to the recipients of its backups, for the day it is lost."""
    if config.keys.host is None:
        raise ConfigError("keys.host is not set: this host has no key of its own", hint="run opskit init")
    with Keyring(config.state_dir / KEYRING) as keyring:
        valid, _ = usable_recipients(keyring.keys(), [config.keys.host, *config.keys.recipients], now())
        return keyring.encrypt(data, valid)


def _sealed_by_nobody(data: bytes) -> bytes:
    del data
    raise OpskitError("a secret was to be written where it was only to be read")
