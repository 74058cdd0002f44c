"""The composition root: turns a Config into the objects that operations take.

The only module that knows concrete stores and sources, and the one that asks the clock on their behalf.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opskit import endpoints, log, secretstores
from opskit.audit.actor import current_actor
from opskit.audit.log import AuditLog
from opskit.config.model import CommandSource as CommandConfig
from opskit.config.model import Config, Destination, LocalDestination, PathsSource, S3Destination
from opskit.errors import ConfigError, OpskitError, RepositoryNotFound, UnresolvedReference, UsageError
from opskit.gpg import Keyring, check_programs
from opskit.hooks import Hooks
from opskit.locations import bucket_at, is_bucket
from opskit.operations.session import Host
from opskit.repository import deleted_keys
from opskit.repository.identity import Identity, read_repository_id
from opskit.secrets.base import SecretStore
from opskit.secrets.reference import Reference, Resolver, Secret
from opskit.servers import destination_at, is_server
from opskit.sources.base import Source
from opskit.sources.command import CommandSource, StdinSource
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from opskit.stores.local import LocalStore

if TYPE_CHECKING:
    from opskit.sources.databases.scratch import ScratchDatabase
    from opskit.sources.loading import Loader


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def clock_ns() -> int:
    """The time in nanoseconds since the epoch."""
    return time.time_ns()


def boottime() -> float:
    """Seconds since the machine was started, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def local_store(path: Path, *, must_be_mounted: bool = False) -> LocalStore:
    """A store in a folder."""
    return LocalStore(path, must_be_mounted=must_be_mounted)


def store_of(destination: Destination, *, is_brief: bool = False, **honoured: bool) -> Store:
    """The store behind a destination; `honoured` is what `probe` found out of the endpoint of a bucket.

    `is_brief`: one that is far is not waited for as long as by who stores.
    """
    if isinstance(destination, LocalDestination):
        return local_store(destination.path, must_be_mounted=destination.must_be_mounted)
    if not isinstance(destination, S3Destination):
        from opskit import remotes

        return remotes.store_of(destination, _secret, is_brief=is_brief, conditional=honoured.get("conditional", True))
    from opskit import buckets  # it loads botocore, which only those who use a bucket should pay

    return buckets.bucket_store(destination, _secret, now, is_brief=is_brief, **honoured)


def _secret(reference: Reference) -> Secret:
    """What a reference stands for; raises UnresolvedReference."""
    return resolver(os.environ).resolve(reference)


def location_of(destination: Destination) -> str:
    """What a person would type to name the place of a destination; what is kept there is not looked at."""
    if isinstance(destination, LocalDestination):
        return str(destination.path)
    if not isinstance(destination, S3Destination):
        from opskit import remotes

        return remotes.location_of(destination)
    from opskit import buckets

    return buckets.place_of(destination.s3).location


def store_at(option: str, location: str) -> Store:
    """The store at a place that a person typed, a folder or elsewhere; raises UsageError naming `option`."""
    if is_server(location):
        return store_of(destination_at(option, location))
    if is_bucket(location):
        return store_of(S3Destination(s3=bucket_at(option, location)))
    return local_store(Path(location).absolute())


def innermost(store: Store) -> Store:
    """The store behind all wrappers."""
    while (inner := getattr(store, "inner", None)) is not None:
        store = inner
    return store


def prepare(store: Store) -> None:
    """Make what `init` makes before the first object: a folder. A bucket must exist. Raises StoreError."""
    create = getattr(innermost(store), "create", None)
    if create is not None:
        create()


def shortcomings(stores: Mapping[str, Store], names: Iterable[str]) -> list[str]:
    """What the servers of those destinations turned out to lack, in sentences; a silent one lacks nothing."""
    found = []
    for name in names:
        ask = getattr(innermost(stores[name]), "shortcomings", None)
        with contextlib.suppress(OpskitError):
            found += [f"{name}: {text}" for text in ask()] if ask is not None else []
    return found


def stores_of(config: Config, names: Sequence[str] = (), *, is_brief: bool = False) -> dict[str, Store]:
    """The stores of all destinations, or of those named, as `store_of`; raises UsageError for an unknown name."""
    unknown = [name for name in names if name not in config.destinations]
    if unknown:
        known = ", ".join(config.destinations)
        raise UsageError(f"no destination {unknown[0]!r}; the config has {known}")
    honoured = endpoints.for_puts(config.state_dir)
    return {
        name: store_of(each, is_brief=is_brief, **honoured.get(name, endpoints.assumed(each)))
        for name, each in config.destinations.items()
        if not names or name in names
    }


def dump_loader() -> Loader:
    """What loads dumps of databases in drills, into servers that are thrown away."""
    from opskit import databases

    return databases.throwaway(os.environ.get("PATH", os.defpath))


def read_only(stores: Mapping[str, Store]) -> dict[str, Store]:
    """The stores for a command that reads: whatever goes wrong in it, no copy is changed."""
    from opskit.stores.wrappers.readonly import ReadOnly

    return {name: ReadOnly(store) for name, store in stores.items()}


Part = Literal["put", "backup", "maintain"]
PARTS: tuple[Part, ...] = ("put", "backup", "maintain")
"""What a host may be allowed to do at a bucket."""


def iam_policy_of(config: Config, name: str, may: Part) -> str:
    """The least policy for a destination in a bucket; raises UsageError for any other."""
    found = config.destinations.get(name)
    if not isinstance(found, S3Destination):
        raise UsageError(
            f"{name!r}: expected a destination with s3:, got {'another kind' if found else 'no such name'}"
        )
    from opskit.stores.s3 import iam_policy

    bucket = found.s3
    return iam_policy(
        bucket.bucket, bucket.prefix or "",
        may=may, object_lock=bucket.object_lock_days is not None, kms_key=bucket.kms_key,
    )  # fmt: skip


def probed_stores(config: Config) -> tuple[dict[str, Store], list[str]]:
    """The stores of all destinations, endpoints asked what they honour and that noted; what they lack, in sentences.

    An endpoint that does not answer is left for whoever uses the store to tell.
    """
    known, lacking = endpoints.noted(config.state_dir), list[str]()
    for name, destination in config.destinations.items():
        try:
            found = _probed(destination)
        except OpskitError:
            continue
        if found is None:
            continue
        known[name], texts = found
        lacking += [f"{name}: {text}" for text in texts]
    if known:
        endpoints.note(config.state_dir, known)
    return stores_of(config), lacking


def _probed(destination: Destination) -> tuple[dict[str, bool], list[str]] | None:
    """What to note of an endpoint, and what it lacks; None where there is nothing to find out. Raises StoreError."""
    if isinstance(destination, S3Destination):
        from opskit import buckets

        bucket = buckets.probed(innermost(store_of(destination)))
        if bucket is None:
            return None
        known = endpoints.entry(
            conditional=bucket.conditional, checksums=bucket.checksums, object_lock=bucket.object_lock
        )
        return known, bucket.shortcomings()
    if destination.kind != "gcs":
        return None
    from opskit import remotes

    google = remotes.probed(innermost(store_of(destination)))
    if google is None:
        return None
    return endpoints.entry(conditional=google.conditional, checksums=google.checksums), google.shortcomings()


def resolver(environ: Mapping[str, str]) -> Resolver:
    """Resolves secret references."""
    return secretstores.resolver(environ)


def secret_store(reference: Reference, config: Config, environ: Mapping[str, str]) -> SecretStore:
    """The store that a secret lies in, to be written; raises UsageError for a scheme that is only read."""
    return secretstores.store_of(reference, config, environ, time.time)


def alone_with_secrets(config: Config) -> contextlib.AbstractContextManager[None]:
    """Keep other commands of this host from changing secrets meanwhile."""
    return secretstores.alone_with(config)


def secrets_in(reference: Reference) -> dict[str, list[str]]:
    """The names of the secrets in a file, with the stages in which each has a value; raises UsageError."""
    return secretstores.names_in(reference)


def keyring_folder(state: Path) -> Path:
    """Where this host's GnuPG home lies."""
    return state / secretstores.KEYRING


def trusted_file(state: Path) -> Path:
    """The key ring file with the public keys of signers and maintainers."""
    return state / "trusted.gpg"


def identity_of(config: Config) -> Identity:
    """This host's key and roles; raises ConfigError before `opskit init`."""
    if config.keys.host is None:
        raise ConfigError("keys.host is not set: this host has no key of its own", hint="run opskit init")
    return Identity(
        Keyring(keyring_folder(config.state_dir)),
        config.keys.host,
        config.keys.recipients,
        (*config.keys.signers, *config.keys.maintainers),
        trusted_file(config.state_dir),
        config.keys.maintainers,
        config.keys.retired,
        None if config.keys.passphrase is None else partial(_reveal, config.keys.passphrase),
        partial(deleted_keys.objections, config.state_dir),
    )


def public_keys_of(config: Config, identity: Identity) -> str:
    """The public keys of all that the config names, armored: each snapshot carries them for a host that was lost."""
    keys = config.keys
    known = {key.fingerprint for key in identity.keyring.keys()}
    everyone = [each for each in (*keys.recipients, *keys.retired, *keys.signers, *keys.maintainers) if each in known]
    return identity.keyring.export_public(list(dict.fromkeys(everyone))).decode()


def host_of(config: Config) -> Host:
    """This host's side of the repository; raises ConfigError or RepositoryNotFound before `opskit init`.

    Raises ProgramMissing where gpg is absent or too old: nothing works without it.
    """
    check_programs()
    repository = read_repository_id(config.state_dir)
    if repository is None:
        raise RepositoryNotFound(
            f"{config.state_dir} knows no repository",
            hint="run opskit init; if this host was lost: opskit init --from LOCATION --key FILE --recovery-key NEW; "
            "to restore at once: opskit restore SNAPSHOT --repository LOCATION --key FILE --target DIR",
        )
    return Host(config.host, identity_of(config), config.state_dir, repository, now, boottime)


def audit_folder(config: Config) -> Path:
    """Where the audit log of this host lies."""
    return config.state_dir / "audit"


def audit_log(config: Config, via: str = "cli") -> AuditLog:
    """This host's audit log, to be closed by the caller; nothing is made before the first record."""
    return AuditLog(
        audit_folder(config),
        host=config.host,
        actor=current_actor(via, os.environ),
        now=now,
        token=lambda count: os.urandom(count).hex(),
    )


def lock_file(config: Config) -> Path:
    """What runs on this repository lock."""
    return config.state_dir / "lock"


def source_of(name: str, config: Config) -> Source:
    """The source behind a name; raises UsageError for an unknown one."""
    found = config.sources.get(name)
    if isinstance(found, CommandConfig):
        return CommandSource(
            found.command,
            found.filename,
            clock_ns(),
            _environment(os.environ),
            more_env=lambda: _revealed(found.env),
            redact=log.redact,
        )
    if isinstance(found, PathsSource):
        return FileSource(
            [os.fsencode(path) for path in found.paths],
            exclude=found.exclude,
            exclude_if_present=found.exclude_if_present,
            exclude_caches=found.exclude_caches,
            one_file_system=found.one_file_system,
            skip=_own_folders(config),
        )
    if found is not None:
        from opskit import databases  # it loads what hosts without databases should not pay for

        return databases.source(found, config.state_dir, clock_ns(), _environment(os.environ), _reveal)
    raise UsageError(f"no source {name!r}; the config has {', '.join(config.sources) or 'none'}")


def hooks_of(config: Config, source: str | None = None) -> Hooks:
    """The commands around a run, or around one source."""
    found = config.hooks if source is None else config.sources[source].hooks
    if found is None:
        return Hooks()
    return Hooks(
        found.before or (), found.after or (), found.on_error or (), found.timeout.total_seconds(),
        env=_environment(os.environ), redact=log.redact,
    )  # fmt: skip


def scratch_database(name: str, config: Config, database: str) -> ScratchDatabase:
    """A new database on the server that a source dumps; raises UsageError where it dumps none."""
    from opskit import databases

    return databases.scratch(config.sources.get(name), database, _environment(os.environ), _reveal)


def stdin_source(filename: str) -> Source:
    """Standard input as a source of one file."""
    return StdinSource(filename, clock_ns())


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a source's command inherits: all but what steers opskit itself, its key ring and its passphrases."""
    return {name: value for name, value in environ.items() if name != "GNUPGHOME" and not name.startswith("OPSKIT_")}


def _reveal(reference: Reference) -> bytes:
    """A secret, which no message shows from now on; raises UnresolvedReference."""
    value = resolver(os.environ).resolve(reference).reveal_bytes()
    log.register_secret(value)
    return value


def _revealed(references: Mapping[str, Reference]) -> dict[str, str]:
    """Variables with their values; raises UnresolvedReference."""
    variables = {}
    for name, reference in references.items():
        value = _reveal(reference)
        if b"\0" in value:
            raise UnresolvedReference(f"{reference} cannot be the variable {name}: expected text, got a NUL in it")
        variables[name] = os.fsdecode(value)
    return variables


def _own_folders(config: Config) -> list[tuple[int, int]]:
    """Device and inode of folders a backup must not read into itself: its state, its destinations."""
    found = []
    folders = (each.path for each in config.destinations.values() if isinstance(each, LocalDestination))
    for path in (config.state_dir, *folders):
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append((status.st_dev, status.st_ino))
    return found
