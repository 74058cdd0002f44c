"""What single fields cannot show: entries that contradict one another, and settings that are legal but risky.

Paths are compared as written: the file system is not touched, so symbolic links and mounts are the business of the
operations. Excludes are understood conservatively (names, anchored paths and globs): what this module cannot
recognise as excluded is reported, and a plain pattern settles it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path

from opskit.config.model import (
    Config,
    Destination,
    LocalDestination,
    MariadbSource,
    PathsSource,
    PostgresqlSource,
    S3Bucket,
    S3Destination,
    SqliteSource,
)
from opskit.config.references import references_in, risk_of
from opskit.config.remote import AzureDestination, GcsDestination, SftpDestination, WebdavDestination
from opskit.config.rotating import BackupKeyRotation
from opskit.config.rotation_rules import rotation_contradictions
from opskit.config.syntax import Location
from opskit.secrets.reference import Reference


def contradictions(config: Config) -> list[tuple[Location, str]]:
    """Settings that cannot be meant: (field, "what, expected X")."""
    return [
        *_self_backups(config),
        *_shared_places(config),
        *_shared_buckets(config),
        *_shared_servers(config),
        *_half_settings(config),
        *_overlapping_paths(config),
        *_database_contradictions(config),
        *rotation_contradictions(config),
    ]


def warnings(config: Config) -> list[str]:
    """Risks of a valid configuration, one sentence each, beginning with the field."""
    return [
        *_key_risks(config),
        *_policy_risks(config),
        *_source_risks(config),
        *_bucket_risks(config),
        *_server_risks(config),
        *_line_risks(config),
        *_reference_risks(config),
    ]


def _folders(config: Config) -> dict[str, LocalDestination]:
    return {name: each for name, each in config.destinations.items() if isinstance(each, LocalDestination)}


def _buckets(config: Config) -> dict[str, S3Bucket]:
    return {name: each.s3 for name, each in config.destinations.items() if isinstance(each, S3Destination)}


def _self_backups(config: Config) -> Iterator[tuple[Location, str]]:
    places: list[tuple[Location, LocalDestination | None, Path]] = [(("state_dir",), None, config.state_dir)]
    places += [(("destinations", name, "path"), each, each.path) for name, each in _folders(config).items()]
    for location, destination, path in places:
        for name, source in config.sources.items():
            root = _holding_root(source, path) if isinstance(source, PathsSource) else None
            if root is None or (isinstance(source, PathsSource) and _is_kept_apart(source, destination)):
                continue
            if path == root:
                yield location, f"is also a path of source '{name}', expected another folder"
            else:
                pattern = f"/{path.relative_to(root)}/"
                yield (
                    location,
                    f"lies inside source '{name}', which would back itself up; "
                    f"expected a folder outside {root}, or '{pattern}' in sources.{name}.exclude",
                )


def _holding_root(source: PathsSource, path: Path) -> Path | None:
    """The source path that holds `path` without excluding it."""
    for root in source.paths:
        if path.is_relative_to(root) and not _is_excluded(path.relative_to(root), source.exclude):
            return root
    return None


def _is_kept_apart(source: PathsSource, destination: LocalDestination | None) -> bool:
    """A medium that must be mounted is another file system, which `one_file_system` does not enter."""
    return source.one_file_system and destination is not None and destination.must_be_mounted


def _is_excluded(path: Path, patterns: tuple[str, ...]) -> bool:
    """Whether `path`, relative to the root of its source, or a folder around it is excluded; the last match counts."""
    for length in range(1, len(path.parts) + 1):
        verdict = False
        for pattern in patterns:
            if _matches(path.parts[:length], pattern.removeprefix("!")):
                verdict = not pattern.startswith("!")
        if verdict:
            return True
    return False


def _matches(parts: tuple[str, ...], pattern: str) -> bool:
    pattern = pattern.removesuffix("/")
    if pattern.startswith("**/") and "/" not in pattern[3:]:
        pattern = pattern[3:]
    if "/" not in pattern:
        return fnmatchcase(parts[-1], pattern)
    wanted = pattern.removeprefix("/").split("/")
    return len(wanted) == len(parts) and all(map(fnmatchcase, parts, wanted))


def _shared_places(config: Config) -> Iterator[tuple[Location, str]]:
    destinations = list(_folders(config).items())
    for i, (name, destination) in enumerate(destinations):
        if destination.path == config.state_dir:
            yield ("destinations", name, "path"), "is also state_dir, expected another folder"
        for other, earlier in destinations[:i]:
            if destination.path.is_relative_to(earlier.path) or earlier.path.is_relative_to(destination.path):
                yield (
                    ("destinations", name, "path"),
                    f"shares its folder with destination '{other}', expected a folder outside {earlier.path}",
                )


def _shared_buckets(config: Config) -> Iterator[tuple[Location, str]]:
    buckets = list(_buckets(config).items())
    for i, (name, place) in enumerate(buckets):
        for other, earlier in buckets[:i]:
            same = (place.endpoint, place.bucket) == (earlier.endpoint, earlier.bucket)
            one, two = (f"{each.prefix}/" if each.prefix else "" for each in (place, earlier))
            if same and (one.startswith(two) or two.startswith(one)):
                yield (
                    ("destinations", name, "s3", "bucket"),
                    f"shares its place with destination '{other}', expected another bucket or prefix",
                )


def _shared_servers(config: Config) -> Iterator[tuple[Location, str]]:
    places: dict[tuple[str, ...], str] = {}
    for name, destination in config.destinations.items():
        kind = destination.kind
        there = _server_place(destination)
        if there and (earlier := places.setdefault(there, name)) != name:
            yield ("destinations", name, kind), f"is the place of destination '{earlier}' too, expected another folder"


def _server_place(destination: Destination) -> tuple[str, ...]:
    """What two destinations at servers share where they are one; () for other kinds."""
    match destination:
        case SftpDestination(sftp=there):
            return "sftp", there.host.lower(), str(there.port), there.user or "", there.path.rstrip("/")
        case WebdavDestination(webdav=dav):
            return "webdav", dav.url.rstrip("/")
        case AzureDestination(azure=at):
            return "azure", at.account, at.address, at.container, at.prefix or ""
        case GcsDestination(gcs=google):
            return "gcs", google.address, google.bucket, google.prefix or ""
        case _:
            return ()


def _half_logins(config: Config) -> Iterator[tuple[Location, str]]:
    for name, destination in config.destinations.items():
        where: Location = ("destinations", name, destination.kind)
        match destination:
            case SftpDestination(sftp=there) if there.passphrase is not None and there.identity_file is None:
                yield (*where, "passphrase"), "has no use, expected identity_file: beside it"
            case WebdavDestination(webdav=dav) if dav.password is not None and dav.user is None:
                yield (*where, "password"), "stands alone, expected user beside it"
            case AzureDestination(azure=at) if at.account_key is not None and at.sas_token is not None:
                yield (*where, "sas_token"), "has no use beside account_key, expected one of them"
            case _:
                continue


def _line_risks(config: Config) -> Iterator[str]:
    for name, destination in config.destinations.items():
        where = f"destinations.{name}.{destination.kind}"
        match destination:
            case WebdavDestination(webdav=dav) if dav.url.startswith("http://"):
                yield f"{where}.url: the password travels unencrypted: whoever listens can delete this copy"
            case AzureDestination(azure=at) if at.address.startswith("http://"):
                yield f"{where}.endpoint: requests travel unencrypted: whoever listens learns a sas_token"
            case GcsDestination(gcs=google) if google.address.startswith("http://"):
                yield f"{where}.endpoint: requests travel unencrypted: whoever listens learns a token, good for an hour"
            case _:
                continue


def _reference_risks(config: Config) -> Iterator[str]:
    for place, reference in references_in(config):
        if (risk := risk_of(reference, config.environment)) is not None:
            yield f"{place}: {risk}"


def _half_settings(config: Config) -> Iterator[tuple[Location, str]]:
    yield from _half_logins(config)
    for name, place in _buckets(config).items():
        where: Location = ("destinations", name, "s3")
        if (place.access_key_id is None) != (place.secret_access_key is None):
            lone, other = ("access_key_id", "secret_access_key")
            lone, other = (other, lone) if place.access_key_id is None else (lone, other)
            yield (*where, lone), f"stands alone, expected {other} beside it"
        if place.kms_key is not None and place.sse != "aws:kms":
            yield (*where, "kms_key"), "has no use, expected sse: aws:kms beside it"


def _overlapping_paths(config: Config) -> Iterator[tuple[Location, str]]:
    for name, source in config.sources.items():
        paths = source.paths if isinstance(source, PathsSource) else ()
        for (i, path), (j, root) in permutations(enumerate(paths), 2):
            # Of two equal paths only the later is superfluous.
            if path.is_relative_to(root) and (path != root or i > j):
                yield ("sources", name, "paths", i), f"already part of {root}, expected paths that do not overlap"
                break


def _database_contradictions(config: Config) -> Iterator[tuple[Location, str]]:
    for name, source in config.sources.items():
        where: Location = ("sources", name, getattr(source, "kind", ""))
        if isinstance(source, PostgresqlSource) and source.postgresql.run_as and source.postgresql.password:
            yield (*where, "run_as"), "has no use beside a password, expected one of the two"
        if isinstance(source, MariadbSource):
            if source.mariadb.socket and (source.mariadb.host or source.mariadb.port):
                yield (*where, "socket"), "stands beside a host or port, expected one of the two"
            if source.mariadb.client == "mysql" and source.mariadb.globals:
                yield (*where, "client"), "cannot write users and grants, expected globals: false beside it"
        if isinstance(source, SqliteSource):
            for i, path in enumerate(source.sqlite):
                if path in source.sqlite[:i]:
                    yield (*where, i), "stands there twice, expected each file once"


def _is_always_here(secret: Reference, config: Config) -> bool:
    """Whether a secret lies on this host itself, as far as its reference tells."""
    return secret.scheme in ("keyring", "dotenv") or Path(secret.locator).is_relative_to(config.state_dir)


def _key_risks(config: Config) -> Iterator[str]:
    keys = config.keys
    if len(set(keys.recipients)) < 2:
        yield (
            "keys.recipients: only one recipient: if its private key is lost, every backup is lost; "
            "add a second one, kept at another place"
        )
    for fingerprint in dict.fromkeys(keys.recipients):
        if fingerprint in {*keys.signers, *keys.maintainers, keys.host}:
            yield (
                f"keys.recipients: {fingerprint} also signs or maintains: "
                "its private half is within reach of a host that backs up; use separate keys"
            )
    if keys.passphrase is not None:
        yield (
            f"keys.passphrase: this host can resolve {keys.passphrase}: whoever gets in there, and at a copy, can read "
            "all history that it opens; with recipients alone he could read none"
        )
    for name, entry in config.rotations.items():
        if isinstance(entry, BackupKeyRotation) and _is_always_here(entry.secret, config):
            yield (
                f"rotations.{name}.secret: {entry.secret} can be read here at any time: whoever gets in reads all "
                "history that it opens; keep it behind the credential of the person who rotates (vault:, a smartcard)"
            )
    if keys.host is not None and keys.host in keys.maintainers:
        yield (
            "keys.maintainers: the host's own key is a maintainer: an intruder on this host can erase history "
            "wherever prune runs; keep a maintainer key elsewhere"
        )
    if keys.host is not None and keys.host not in keys.signers:
        yield "keys.signers: the host's own key is not a signer: snapshots made here will not be believed"


def _policy_risks(config: Config) -> Iterator[str]:
    if config.drills.only:  # it sees some of the copies of others, and answers for none
        return
    copies = len(config.destinations) + 1
    if copies < config.policy.copies:
        yield (
            f"policy.copies: {config.policy.copies} copies are demanded, and with the original "
            f"there can be {copies}; add a destination"
        )
    offsite = sum(destination.offsite for destination in config.destinations.values())
    if offsite < config.policy.offsite:
        demanded = config.policy.offsite
        yield f"policy.offsite demands {demanded} elsewhere; of the destinations, {offsite} are offsite"


def _source_risks(config: Config) -> Iterator[str]:
    if not config.sources and not config.drills.only:
        yield "sources: nothing is backed up; add a source"
    for name, source in config.sources.items():
        for path in source.paths if isinstance(source, PathsSource) else ():
            if set("*?[$") & set(str(path)):
                yield f"sources.{name}.paths: {path} is taken literally; wildcards and variables are not expanded"
            for label, destination in _folders(config).items():
                if path != destination.path and path.is_relative_to(destination.path):
                    yield f"sources.{name}.paths: {path} lies inside destination '{label}', beside its repository"


def _bucket_risks(config: Config) -> Iterator[str]:
    for name, place in _buckets(config).items():
        if place.storage_class in {"GLACIER", "DEEP_ARCHIVE"}:
            yield (
                f"destinations.{name}.s3.storage_class: {place.storage_class} cannot be read without a restore "
                "that takes hours: verify, drill and restore fail until then; GLACIER_IR reads at once"
            )
        if place.endpoint is not None and place.endpoint.startswith("http://"):
            yield f"destinations.{name}.s3.endpoint: requests travel unencrypted; the backups are, the names are not"
        if place.object_lock_days is not None and place.lock_mode == "GOVERNANCE":
            yield (
                f"destinations.{name}.s3.lock_mode: GOVERNANCE: whoever may bypass it can delete before the lock ends; "
                "COMPLIANCE locks against everybody"
            )


def _server_risks(config: Config) -> Iterator[str]:
    for name, source in config.sources.items():
        if isinstance(source, PostgresqlSource):
            server = source.postgresql
            if _is_remote(server.host) and server.sslmode not in {"verify-ca", "verify-full"}:
                yield (
                    f"sources.{name}.postgresql.sslmode: without verify-full somebody between here and {server.host} "
                    "can read what is dumped, or be the server"
                )
        if isinstance(source, MariadbSource) and _is_remote(source.mariadb.host) and source.mariadb.ssl_ca is None:
            yield (
                f"sources.{name}.mariadb.ssl_ca: without it somebody between here and {source.mariadb.host} "
                "can read what is dumped, or be the server"
            )


def _is_remote(host: str | None) -> bool:
    return host is not None and not host.startswith(("/", "127.")) and host not in {"localhost", "::1"}
