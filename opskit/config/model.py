"""The only schema of opskit's configuration: plain classes on the standard library alone.

Types, defaults and descriptions of all keys stand here and nowhere else; what a bare type leaves open stands beside it
as a mark (`Matches`, `Between`, `Rule`). `schema` makes the strict pydantic models of it that judge a file, `build`
makes objects of what was judged good: a run whose config is known to be good never loads pydantic.

Every key's description is its documentation: it appears in the JSON schema and in the files that `init` writes. A field
typed `Reference` takes references to secrets only. Making these objects by hand judges nothing.

Another kind of source or destination is one class (with its `kind`, the key that announces it) and one member of
the union below. What several entries say together is judged in `dangers`, not here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from opskit.config.entry import Entry, key
from opskit.config.remote import AzureDestination, GcsDestination, Remote, SftpDestination, WebdavDestination
from opskit.config.rotating import Rotation
from opskit.config.terms import (
    ACCOUNT_NAME_PATTERN,
    ACCOUNT_PATTERN,
    BUCKET_PATTERN,
    DATABASE_PATTERN,
    ENDPOINT_PATTERN,
    FILENAME_PATTERN,
    FINGERPRINT_PATTERN,
    KMS_KEY_PATTERN,
    LABEL_PATTERN,
    PREFIX_PATTERN,
    REGION_PATTERN,
    SERVER_PATTERN,
    STORAGE_CLASS_PATTERN,
    TAG_PATTERN,
    VARIABLE_PATTERN,
    Between,
    Duration,
    Matches,
    Rule,
)
from opskit.secrets.reference import Reference

Values = Mapping[str, Any]
"""What a file says, judged and normalised, as plain values of JSON: defaults are left out, paths are absolute."""


Label = Annotated[str, Matches(LABEL_PATTERN)]
TagLabel = Annotated[str, Matches(TAG_PATTERN)]
FileName = Annotated[str, Matches(FILENAME_PATTERN), Rule.FILE_NAME]
Pattern = Annotated[str, Rule.NOT_EMPTY]
Fingerprint = Annotated[str, Rule.FINGERPRINT, Matches(FINGERPRINT_PATTERN)]
Argv = Annotated[tuple[str, ...], Rule.PROGRAM]
VariableName = Annotated[str, Matches(VARIABLE_PATTERN)]


class Verify(Entry):
    """Commands that judge restored data. They run in drills; exit 0 means good."""

    each: Annotated[Argv | None, Rule.PASSES_FILE] = key(
        "argv run once for each restored file; {file} is its path", default=None
    )
    all: Argv | None = key("argv run once in the restored folder", default=None)
    timeout: Duration = key("how long one of them may run", default=Duration.parse("10m"))
    dumps: dict[Pattern, Literal["postgresql", "mariadb"]] = key(
        "plain SQL dumps among the files, by path, loaded in drills; those of database sources need no mention",
        default_factory=dict,
    )
    queries: dict[Pattern, Annotated[tuple[Pattern, ...], Rule.NOT_EMPTY]] = key(
        "by database, or by path in dumps: asked after loading; each must give true, or a number other than 0",
        default_factory=dict,
    )
    load_timeout: Duration = key("how long loading one dump may take", default=Duration.parse("6h"))


class Hooks(Entry):
    """Commands around a backup, or around one source. They find OPSKIT_SOURCE, OPSKIT_ERROR and so on set."""

    before: Argv | None = key("run first; exit 75 skips this for now, any other but 0 fails it", default=None)
    after: Argv | None = key("run at the end, failed or not, wherever `before` ended well", default=None)
    on_error: Argv | None = key("run when it failed, with the reason in OPSKIT_ERROR", default=None)
    timeout: Duration = key("how long each may take before it is killed", default=Duration.parse("10m"))


class _Source(Entry):
    verify: Verify | None = key("commands that judge restored data; exit 0 means good", default=None)
    hooks: Hooks | None = key("commands around the backup of this source", default=None)
    tags: tuple[TagLabel, ...] = key("tags of each snapshot of this source", default=())


class PathsSource(_Source):
    """Files and folders of this host."""

    kind: ClassVar[str] = "paths"

    paths: Annotated[tuple[Path, ...], Rule.NOT_EMPTY] = key("files and folders to back up")
    exclude: tuple[Pattern, ...] = key("patterns as in .gitignore, relative to each of the paths", default=())
    exclude_if_present: tuple[FileName, ...] = key(
        "leave out folders that hold a file of one of these names", default=(".nobackup",)
    )
    exclude_caches: bool = key("leave out folders tagged by a CACHEDIR.TAG", default=True)
    one_file_system: bool = key("stay on the file system of each path", default=False)


class CommandSource(_Source):
    """The standard output of a command, backed up as one file; a failing command fails the backup."""

    kind: ClassVar[str] = "command"

    command: Argv = key("argv whose output is backed up; no shell")
    filename: FileName = key("name that the output gets in the snapshot")
    env: Annotated[dict[VariableName, Reference], Rule.VARIABLES] = key(
        "environment of the command: names and secret references, resolved when it runs", default_factory=dict
    )


_Port = Annotated[int, Between(1, 65535)]
_Database = Annotated[str, Matches(DATABASE_PATTERN)]
_User = Annotated[str, Matches(ACCOUNT_NAME_PATTERN)]
_Server = Annotated[str, Matches(SERVER_PATTERN)]


class PostgresqlServer(Entry):
    """A server, and what of it is dumped."""

    databases: tuple[_Database, ...] = key("names of databases; default: all but templates", default=())
    host: _Server | None = key(
        "name or address of the server, or the folder of its socket; default: the local socket", default=None
    )
    port: _Port | None = key("port of the server; default: 5432", default=None)
    user: _User | None = key("role that connects; default: the name of the user who runs the dump", default=None)
    password: Reference | None = key("reference to the password of that role; default: none", default=None)
    run_as: _User | None = key(
        "user of this system who runs the dump, for servers that ask the system who connects; needs root", default=None
    )
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = key(
        "how the connection is protected; default: prefer, which checks nothing", default=None
    )
    sslrootcert: Path | None = key("certificates that verify-ca and verify-full believe", default=None)
    globals: Literal["full", "without-passwords", "none"] = key(
        "roles and tablespaces; full needs a superuser, for the hashes of passwords", default="full"
    )
    maintenance_database: _Database = key("database that is connected to, to ask for the others", default="postgres")


class PostgresqlSource(_Source):
    """Databases of a PostgreSQL server, each dumped as plain SQL; a dump that fails, fails the backup."""

    kind: ClassVar[str] = "postgresql"

    postgresql: PostgresqlServer = key("the server, and what of it is dumped")


class MariadbServer(Entry):
    """A server, and what of it is dumped."""

    databases: tuple[_Database, ...] = key("names of databases; default: all but the server's own", default=())
    host: _Server | None = key("name or address of the server; default: the local socket", default=None)
    port: _Port | None = key("port of the server; default: 3306", default=None)
    socket: Path | None = key("socket of the server, instead of a host", default=None)
    user: _User | None = key("user who connects; default: the name of the user who runs the dump", default=None)
    password: Reference | None = key("reference to the password of that user; default: none", default=None)
    ssl_ca: Path | None = key(
        "certificates that are believed; with it, the connection is encrypted and the server's name checked",
        default=None,
    )
    client: Literal["mariadb", "mysql"] = key("whose client programs are called", default="mariadb")
    globals: bool = key("users and grants; with the client of MariaDB only", default=True)
    extended_insert: bool = key(
        "many rows in a statement: loads several times as fast, but hardly anything deduplicates", default=False
    )


class MariadbSource(_Source):
    """Databases of a MariaDB or MySQL server, each dumped as SQL; a dump that fails, fails the backup."""

    kind: ClassVar[str] = "mariadb"

    mariadb: MariadbServer = key("the server, and what of it is dumped")


class SqliteSource(_Source):
    """Files of SQLite, copied by its online backup, so that programs may write to them meanwhile."""

    kind: ClassVar[str] = "sqlite"

    sqlite: Annotated[tuple[Path, ...], Rule.NOT_EMPTY] = key("files of SQLite to back up")


class LocalDestination(Entry):
    """A folder on a mounted file system."""

    kind: ClassVar[str] = "path"

    path: Path = key("folder that holds the repository")
    medium: Label = key("label of the kind of medium, for the 3-2-1 rule", default="disk")
    offsite: bool = key("whether this copy is at another place than the original", default=False)
    must_be_mounted: bool = key(
        "refuse to write unless a medium is mounted there: an absent disk never fills the system disk", default=False
    )


class S3Bucket(Entry):
    """A place in a bucket, and how objects are kept there."""

    bucket: Annotated[str, Matches(BUCKET_PATTERN)] = key("name of the bucket, which must exist")
    prefix: Annotated[str, Matches(PREFIX_PATTERN)] | None = key(
        "what the keys of all objects begin with; default: nothing", default=None
    )
    region: Annotated[str, Matches(REGION_PATTERN)] | None = key(
        "the bucket's region; default: that of the AWS environment or profile", default=None
    )
    endpoint: Annotated[str, Matches(ENDPOINT_PATTERN)] | None = key(
        "address of the service; default: AWS", default=None
    )
    owner: Annotated[str, Matches(ACCOUNT_PATTERN)] | None = key(
        "id of the account that must own the bucket, in quotes; default: whoever owns it", default=None
    )
    storage_class: Annotated[str, Matches(STORAGE_CLASS_PATTERN)] | None = key(
        "storage class of new objects; default: the bucket's", default=None
    )
    sse: Literal["AES256", "aws:kms"] | None = key(
        "encryption by the service, on top of opskit's own; default: the bucket's", default=None
    )
    kms_key: Annotated[str, Matches(KMS_KEY_PATTERN)] | None = key("with sse aws:kms: which key", default=None)
    object_lock_days: Annotated[int, Between(1, 36_500)] | None = key(
        "days for which nobody can delete an object that a snapshot needs; the bucket must have object lock",
        default=None,
    )
    lock_mode: Literal["COMPLIANCE", "GOVERNANCE"] = key(
        "COMPLIANCE locks against everybody; GOVERNANCE yields to who may bypass it", default="COMPLIANCE"
    )
    access_key_id: Reference | None = key(
        "reference to the id of an access key; default: the usual AWS chain", default=None
    )
    secret_access_key: Reference | None = key("reference to the secret of that access key", default=None)


class S3Destination(Remote):
    """A bucket of AWS S3, or of a service that speaks its protocol."""

    kind: ClassVar[str] = "s3"

    s3: S3Bucket = key("the bucket that holds the repository")
    medium: Label = key("label of the kind of medium, for the 3-2-1 rule", default="object-storage")


Source = PathsSource | CommandSource | PostgresqlSource | MariadbSource | SqliteSource
Destination = LocalDestination | S3Destination | SftpDestination | WebdavDestination | AzureDestination | GcsDestination

_UpTo100 = Annotated[int, Between(1, 100)]


class Policy(Entry):
    """What `status` holds every source to."""

    copies: _UpTo100 = key("copies in all, the original included", default=3)
    media: _UpTo100 = key("different media", default=2)
    offsite: Annotated[int, Between(0, 100)] = key("copies elsewhere", default=1)
    max_age: Duration = key("greatest age of the newest snapshot", default=Duration.parse("26h"))
    verify_every: Duration = key("each copy is read back this often", default=Duration.parse("30d"))
    drill_every: Duration = key("each copy is restored in a drill this often", default=Duration.parse("92d"))


_Kept = Annotated[int, Between(0, 100_000)]


class Retention(Entry):
    """Which snapshots of each source `forget` keeps: those that any one rule keeps."""

    keep_last: _Kept = key("newest snapshots", default=3)
    keep_hourly: _Kept = key("newest of each of this many hours", default=0)
    keep_daily: _Kept = key("newest of each of this many days", default=14)
    keep_weekly: _Kept = key("newest of each of this many weeks", default=8)
    keep_monthly: _Kept = key("newest of each of this many months", default=24)
    keep_yearly: _Kept = key("newest of each of this many years", default=7)
    keep_within: Duration | None = key("all that are no older than the newest by more than this", default=None)
    keep_tags: tuple[TagLabel, ...] = key("all with one of these tags", default=())
    grace: Annotated[Duration, Rule.A_DAY_OR_MORE] = key(
        "how long what was forgotten can be taken back: `prune` deletes nothing sooner", default=Duration.parse("3d")
    )


_Percent = Annotated[int, Between(0, 100)]


class Alarms(Entry):
    """What is odd about a backup, beside the one before it. An alarm is told and kept in the snapshot."""

    shrink_percent: _Percent = key("a source lost more than this of its files or bytes; 0: never odd", default=50)
    change_percent: Annotated[int, Between(0, 1000)] = key(
        "more than this is new, of what there was; 0: never odd", default=50
    )
    entropy: bool = key("new content does not compress where earlier content did", default=True)
    fail: bool = key("a backup with an alarm ends with exit 3", default=False)


class Drills(Entry):
    """How `opskit drill` restores, and what it holds the times against."""

    scratch: Path | None = key("folder to restore into, wiped after each drill; default: below state_dir", default=None)
    objective_rto: Duration | None = key("a whole restore takes no longer than this", default=None)
    objective_rpo: Duration | None = key("the newest snapshot of the copy is no older than this", default=None)
    window: Duration = key("the snapshot is chosen among those of this time", default=Duration.parse("90d"))
    only: bool = key("this host restores what others back up, and backs nothing up itself", default=False)


class Keys(Entry):
    """OpenPGP keys by full fingerprint. Signers and maintainers default to the host's own key."""

    recipients: Annotated[tuple[Fingerprint, ...], Rule.NOT_EMPTY] = key(
        "who can restore; keep the private halves elsewhere"
    )
    retired: tuple[Fingerprint, ...] = key(
        "who could restore once; `opskit keys` puts them here, and what they agreed to counts on", default=()
    )
    signers: tuple[Fingerprint, ...] = key("whose snapshots are believed; default: host", default=())
    maintainers: tuple[Fingerprint, ...] = key("who may forget and prune; default: host", default=())
    passphrase: Reference | None = key(
        "reference to a passphrase that opens new backups too; then this host holds what opens its history",
        default=None,
    )
    host: Fingerprint | None = key("this host's own key, which signs what it makes", default=None)
    rotate_every: Duration | None = key(
        "recipients and host are due this long after they were made; `opskit rotate status` tells", default=None
    )


def _default_workers() -> int:
    return min(len(os.sched_getaffinity(0)), 4)


class Performance(Entry):
    """How much of the machine a backup takes."""

    background: bool = key("run at idle CPU and I/O priority", default=False)
    workers: Annotated[int, Between(1, 16)] = key(
        "processes at once; default: CPUs, at most 4", default_factory=_default_workers
    )


def _default_host() -> str:
    """This machine's name without its domain, as a label."""
    label = re.sub("[^a-z0-9_-]+", "-", os.uname().nodename.partition(".")[0].lower()).strip("-")
    return label[:32] or "host"


class Config(Entry):
    """The whole configuration of one host."""

    version: Annotated[Literal[1], Rule.WHOLE_NUMBER] = key("version of this file's format")
    host: Label = key("label of this host in snapshots", default_factory=_default_host)
    state_dir: Path = key("where opskit keeps its own state", default=Path("/var/lib/opskit"))
    environment: Literal["development", "staging", "production"] = key(
        "what this host is for; outside development, secrets that lie in the clear are warned of", default="production"
    )
    simulated: bool = key("a demonstration: labels of media and places are pretended", default=False)
    sources: dict[Label, Source] = key("what is backed up, by name")
    destinations: Annotated[dict[Label, Destination], Rule.NOT_EMPTY] = key("where copies go, by name")
    policy: Policy = key("what `opskit status` demands of every source", default_factory=Policy)
    retention: Retention = key("which snapshots `opskit forget` keeps", default_factory=Retention)
    alarms: Alarms = key("what is odd about a backup", default_factory=Alarms)
    hooks: Hooks = key("commands around each `opskit backup`", default_factory=Hooks)
    rotations: dict[Label, Rotation] = key("secrets that get new values, by name", default_factory=dict)
    drills: Drills = key("how `opskit drill` restores", default_factory=Drills)
    keys: Keys = key("OpenPGP keys, by full fingerprint")
    performance: Performance = key("how much of the machine a backup takes", default_factory=Performance)
    given: Values = key("", default_factory=dict)
    """No key: what the file said. A copy with other values keeps what the file of the original said."""

    def as_given(self) -> str:
        """What the file said, as JSON: judged, with absolute paths, and without defaults, which may be others later."""
        return json.dumps(self.given, ensure_ascii=False, separators=(",", ":"))
