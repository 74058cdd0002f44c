"""The part of wiring that knows secrets: which schemes references may have, and which of them are stores.

A file of secrets that lies beside a host's `gnupg` folder is opened with the key of that host, any other with the
user's own gpg (a smartcard or HSM behind its agent among what that may hold). What a scheme needs is loaded when
something of it is resolved: nearly every command starts here, and few hosts use more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.config.model import Config
from opskit.errors import ConfigError, NoKey, OpskitError, UsageError
from opskit.gpg import Keyring, recipients_of, usable_recipients
from opskit.repository import deleted_keys
from opskit.repository.durable import alone, write_alone
from opskit.secrets.base import SecretStore, StoreScheme
from opskit.secrets.reference import Reference, Resolver, Scheme, Secret
from opskit.secrets.stores.environment import EnvironmentScheme
from opskit.secrets.stores.files import CredentialScheme, FileScheme

if TYPE_CHECKING:
    from opskit.secrets.stores.gpgfile import GpgFileStore
    from opskit.secrets.stores.vault import Access

KEYRING = "gnupg"
"""The folder with the key of a host, below its state folder."""
FILE = "secrets.gpg"
"""The name of a host's own file of secrets, below its state folder."""
_ATTEMPTS = 5
Seal = Callable[[bytes], bytes]


def resolver(environ: Mapping[str, str]) -> Resolver:
    """Resolves secret references."""
    programs = {name: _Later(partial(_program, name, environ)) for name in ("op", "bw", "lpass")}
    stores = {name: _Later(partial(_reading, make)) for name, make in _STORES.items()}
    return Resolver(
        {
            "env": EnvironmentScheme(environ),
            "file": FileScheme(),
            "cred": CredentialScheme(environ),
            "cmd": _Later(lambda: _command(environ)),
            "gpg": _Later(lambda: StoreScheme(_gpg_files(_sealed_by_nobody))),
            "vault": _Later(lambda: StoreScheme(_vault(environ))),
            **stores,
            **programs,
        }
    )


def store_of(reference: Reference, config: Config, environ: Mapping[str, str], now: Callable[[], float]) -> SecretStore:
    """The store that a reference lies in, to be written; raises UsageError where the scheme is only read.

    `now` gives epoch seconds: one recipient that expired must not keep the others from their secrets.
    """
    if reference.scheme == "vault":
        return _vault(environ)
    if reference.scheme == "gpg":
        return _gpg_files(partial(_sealed, config, now))
    if reference.scheme in _STORES:
        return _STORES[reference.scheme]()
    expected = ", ".join(f"{name}:" for name in ("gpg", "vault", *_STORES))
    raise UsageError(
        f"{reference} is only read by opskit: expected a reference to a store that takes values: {expected}",
        hint=f"for example gpg://{config.state_dir / FILE}#NAME",
    )


def alone_with(config: Config) -> AbstractContextManager[None]:
    """Keep other commands of this host from changing secrets meanwhile; waits for them. May raise OpskitError."""
    return alone(config.state_dir / "secrets" / "lock")


def names_in(reference: Reference) -> dict[str, list[str]]:
    """The secrets in a file that gpg encrypted, and their stages; raises UsageError for any other reference."""
    if reference.scheme != "gpg" or reference.field is not None:
        raise UsageError(f"{reference}: expected a file of secrets, as in gpg:///var/lib/opskit/{FILE}")
    return _gpg_files(_sealed_by_nobody).names(reference)


class _Later:
    """A scheme that is made when something of it is resolved, once: some log in, or look for where they are."""

    def __init__(self, make: Callable[[], Scheme]) -> None:
        self._make = cache(make)

    def resolve(self, reference: Reference) -> Secret:
        return self._make().resolve(reference)


def _reading(make: Callable[[], SecretStore]) -> Scheme:
    return StoreScheme(make())


def _command(environ: Mapping[str, str]) -> Scheme:
    from opskit.secrets.stores.command import CommandScheme

    return CommandScheme(environ)


def _program(name: str, environ: Mapping[str, str]) -> Scheme:
    from opskit.secrets.stores.programs import PROGRAMS, ProgramScheme

    return ProgramScheme(PROGRAMS[name], environ)


def _dotenv_files() -> SecretStore:
    from opskit.secrets.stores.dotenv import DotenvStore, FileTools

    return DotenvStore(FileTools(partial(write_alone, like_before=True), alone))


def _key_ring() -> SecretStore:
    from opskit.secrets.stores.keyrings import KeyringStore

    return KeyringStore()


def _vault(environ: Mapping[str, str]) -> SecretStore:
    from opskit.secrets.stores.vault import Access

    home = environ.get("HOME")
    return _vault_of(Access.of(environ, Path(home) if home else None))


@lru_cache(maxsize=8)
def _vault_of(access: Access) -> SecretStore:
    """One a process, however many references there are: a secret id may be good for a few logins only."""
    from opskit.secrets.stores.vault import VaultStore

    return VaultStore(access)


def _gpg_files(seal: Seal) -> GpgFileStore:
    from opskit.secrets.stores.gpgfile import GpgFileStore, Tools

    return GpgFileStore(Tools(_opened, seal, write_alone, alone))


def _aws() -> SecretStore:
    from opskit.secrets.stores.aws import AwsSecretStore

    return AwsSecretStore()


_STORES: Mapping[str, Callable[[], SecretStore]] = {"aws-sm": _aws, "dotenv": _dotenv_files, "keyring": _key_ring}
"""Those that need to know nothing of this host, by scheme."""


def _opened(path: Path, data: bytes) -> bytes:
    home = path.resolve().parent / KEYRING
    if home.is_dir():
        for _attempt in range(_ATTEMPTS):
            try:
                with Keyring(home) as keyring:
                    return keyring.decrypt(data).payload
            except NoKey:
                if not _is_for(home, data):  # but perhaps for who runs this
                    break
    try:
        with Keyring(None) as own:
            return own.decrypt(data).payload
    except NoKey as error:
        error.hint = (
            f"keep it in a state folder of opskit: the key in {KEYRING}, beside it, is tried before your own gpg"
        )
        raise


def _is_for(home: Path, data: bytes) -> bool:
    """Whether a private key there should have opened it: then another command has ended the agent they shared."""
    with Keyring(home) as keyring:
        own = {key_id for key in keyring.keys() if key.has_secret for key_id in key.key_ids}
    return bool(own & set(recipients_of(data)))


def _sealed(config: Config, now: Callable[[], float], data: bytes) -> bytes:
    """To the host, which has to read it, and to the recipients of its backups, for the day it is lost."""
    if config.keys.host is None:
        raise ConfigError("keys.host is not set: this host has no key of its own", hint="run opskit init")
    with Keyring(config.state_dir / KEYRING) as keyring:
        wanted, deleted = [config.keys.host, *config.keys.recipients], deleted_keys.objections(config.state_dir)
        valid, _ = usable_recipients(keyring.keys(), wanted, now(), deleted)
        return keyring.encrypt(data, valid)


def _sealed_by_nobody(data: bytes) -> bytes:
    del data
    raise OpskitError("a secret was to be written where it was only to be read")
