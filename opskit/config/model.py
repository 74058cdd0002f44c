"""The only schema of opskit's configuration: strict, frozen pydantic models.

Unknown keys, wrong types and several kinds in one entry are errors; text is never taken for a number. Every
field's description is its documentation: it appears in the JSON schema and in the files that `init` writes.
Paths are made absolute against the validation context `base` (the config file's folder). A field typed
`SecretReference` takes references only.

Another kind of source or destination is one model (with its `kind`, the key that announces it) and one member
of the union below. What several entries say together is judged in `dangers`, not here.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path, PurePath
from typing import Annotated, Any, ClassVar, Literal

# No plugin of whatever else is installed runs in opskit, and looking for them would cost 15 ms at every start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from opskit.errors import UnresolvedReference
from opskit.secrets.reference import BUILT_IN_SCHEMES, Reference

LABEL_PATTERN = r"^[a-z0-9_-]{1,32}$"
TAG_PATTERN = r"^[A-Za-z0-9_.:=+-]{1,64}$"
FINGERPRINT_PATTERN = r"^[0-9A-Fa-f]{40}$"
FILENAME_PATTERN = r"^[^/\x00]{1,200}$"
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
# What a pattern means to a person; `load` puts it after "expected".
MEANINGS = {
    LABEL_PATTERN: "1 to 32 of a-z, 0-9, _ and -",
    TAG_PATTERN: "1 to 64 of letters, digits and _ . : = + -",
    FINGERPRINT_PATTERN: "a full fingerprint of 40 hexadecimal digits",
    FILENAME_PATTERN: "a file name without '/'",
    VARIABLE_PATTERN: "names of letters, digits and _, not beginning with a digit",
}
DURATION_PATTERN = r"^[1-9][0-9]{0,5}[mhdw]$"
DURATION_EXAMPLE = "a duration such as 90m, 26h, 30d or 2w"

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}  # seconds


class Duration(timedelta):
    """A length of time that shows itself as it was written: `26h` stays `26h`."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read `90m`, `26h`, `30d` or `2w`. Raises ValueError."""
        if not re.fullmatch(DURATION_PATTERN, text):
            raise ValueError(f"expected {DURATION_EXAMPLE}")
        duration = cls(seconds=int(text[:-1]) * _UNITS[text[-1]])
        duration.text = text
        return duration

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return Duration.parse, (self.text,)


def wrong(what: str, expected: str) -> PydanticCustomError:
    """A validation error in opskit's form; `load` adds where it stands and what was found there."""
    return PydanticCustomError("opskit", "{what}, expected {expected}", {"what": what, "expected": expected})


def _duration(value: object) -> Duration:
    if isinstance(value, Duration):
        return value
    try:
        return Duration.parse(value if isinstance(value, str) else "")
    except ValueError:
        raise wrong("not a duration", DURATION_EXAMPLE) from None


def _path(value: object, info: ValidationInfo) -> Path:
    text = str(value) if isinstance(value, PurePath) else value
    if not isinstance(text, str):
        raise wrong("wrong type", "a path as text")
    if not text.strip() or "\x00" in text or not _is_encodable(text):
        raise wrong("not a path", "a path")
    if text.startswith("~"):
        raise wrong("'~' is not expanded", "an absolute path")
    base = (info.context or {}).get("base")
    if base is None and not text.startswith("/"):
        raise wrong("relative path", "an absolute path")
    # normpath keeps a leading '//', which POSIX allows to mean something else.
    return Path(re.sub("^//", "/", os.path.normpath(os.path.join(base or "/", text))))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reference(value: object, info: ValidationInfo) -> Reference:
    if isinstance(value, Reference):
        return value
    schemes = (info.context or {}).get("schemes", BUILT_IN_SCHEMES)
    try:
        return Reference.parse(value if isinstance(value, str) else "", schemes)
    except UnresolvedReference as error:
        # `from None` and no input: what stands here may be the secret itself.
        raise PydanticCustomError("opskit_secret", "{message}", {"message": str(error)}) from None


def _argv(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words or not words[0]:
        raise wrong("no program", "a list whose first word is a program")
    if any("\x00" in word for word in words):
        raise wrong("NUL in an argument", "arguments without NUL")
    return words


def _argv_for_each(words: tuple[str, ...]) -> tuple[str, ...]:
    if not any("{file}" in word for word in words):
        raise wrong("the file is not passed on", "an argument that holds {file}")
    return words


def _without_blanks(value: object) -> object:
    # gpg prints fingerprints in groups of four.
    return value.replace(" ", "") if isinstance(value, str) else value


def _whole_number(value: object) -> object:
    # To Python True == 1 == 1.0, and Literal compares like Python.
    if type(value) is not int:
        raise wrong("wrong type", "a whole number")
    return value


def _variables(value: object) -> object:
    # Judged here, not name by name: a name that is none (`NAME=value`) may hold the secret, so it is not repeated.
    if isinstance(value, dict) and not all(re.fullmatch(VARIABLE_PATTERN, str(name)) for name in value):
        raise wrong("a key is no name of a variable", MEANINGS[VARIABLE_PATTERN])
    return value


def _filename(value: str) -> str:
    if value in {".", ".."}:
        raise wrong("not a file name", "a file name")
    return value


# YAML knows lists only; the models hold tuples, which nobody can change.
_LIST = Field(strict=False)

Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
TagLabel = Annotated[str, StringConstraints(pattern=TAG_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=FILENAME_PATTERN), AfterValidator(_filename)]
Pattern = Annotated[str, StringConstraints(min_length=1)]
Fingerprint = Annotated[
    str, BeforeValidator(_without_blanks), StringConstraints(pattern=FINGERPRINT_PATTERN, to_upper=True)
]
AbsolutePath = Annotated[
    Path,
    PlainValidator(_path),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "format": "path"}),
]
DurationField = Annotated[
    Duration,
    PlainValidator(_duration),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
SecretReference = Annotated[
    Reference,
    PlainValidator(_reference),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "format": "uri", "description": "a secret reference: env:, file: or cred:"}),
]
Argv = Annotated[tuple[str, ...], _LIST, AfterValidator(_argv)]
VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)]


class Strict(BaseModel):
    """Base of all models here: nothing unknown, nothing converted, nothing changed, no input in messages."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True, validate_default=False
    )


class Verify(Strict):
    """Commands that judge restored data. They run in drills and after restores; exit 0 means good."""

    each: Annotated[Argv | None, AfterValidator(lambda words: words and _argv_for_each(words))] = Field(
        default=None, description="argv run once for each restored file; {file} is its path"
    )
    all: Argv | None = Field(default=None, description="argv run once in the restored folder")


class _Source(Strict):
    verify: Verify | None = Field(default=None, description="commands that judge restored data; exit 0 means good")
    tags: Annotated[tuple[TagLabel, ...], _LIST] = Field(default=(), description="tags of each snapshot of this source")


class PathsSource(_Source):
    """Files and folders of this host."""

    kind: ClassVar[str] = "paths"

    paths: Annotated[tuple[AbsolutePath, ...], _LIST, Field(min_length=1, description="files and folders to back up")]
    exclude: Annotated[tuple[Pattern, ...], _LIST] = Field(
        default=(), description="patterns as in .gitignore, relative to each of the paths"
    )
    exclude_if_present: Annotated[tuple[FileName, ...], _LIST] = Field(
        default=(".nobackup",), description="leave out folders that hold a file of one of these names"
    )
    exclude_caches: bool = Field(default=True, description="leave out folders tagged by a CACHEDIR.TAG")
    one_file_system: bool = Field(default=False, description="stay on the file system of each path")


class CommandSource(_Source):
    """The standard output of a command, backed up as one file; a failing command fails the backup."""

    kind: ClassVar[str] = "command"

    command: Argv = Field(description="argv whose output is backed up; no shell")
    filename: FileName = Field(description="name that the output gets in the snapshot")
    env: Annotated[dict[VariableName, SecretReference], BeforeValidator(_variables)] = Field(
        default_factory=dict,
        description="environment of the command: names and secret references, resolved when it runs",
    )


class LocalDestination(Strict):
    """A folder on a mounted file system."""

    kind: ClassVar[str] = "path"

    path: AbsolutePath = Field(description="folder that holds the repository")
    medium: Label = Field(default="disk", description="label of the kind of medium, for the 3-2-1 rule")
    offsite: bool = Field(default=False, description="whether this copy is at another place than the original")
    must_be_mounted: bool = Field(
        default=False,
        description="refuse to write unless a medium is mounted there: an absent disk never fills the system disk",
    )


def _kind_of(*models: type[PathsSource] | type[CommandSource]) -> Discriminator:
    """Choose a model by the one key that announces it. Tags are bracketed to tell them from keys in error locations."""
    kinds = [model.kind for model in models]

    def choose(value: object) -> str | None:
        if isinstance(value, models):
            return f"[{value.kind}]"
        found = [kind for kind in kinds if isinstance(value, dict) and kind in value]
        return f"[{found[0]}]" if len(found) == 1 else None

    message = f"exactly one of the keys {', '.join(kinds)}"
    return Discriminator(choose, custom_error_type="opskit_kind", custom_error_message=message)


Source = Annotated[
    Annotated[PathsSource, Tag("[paths]")] | Annotated[CommandSource, Tag("[command]")],
    _kind_of(PathsSource, CommandSource),
]
Destination = LocalDestination


class Policy(Strict):
    """What `status` holds every source to."""

    copies: int = Field(default=3, ge=1, le=100, description="copies in all, the original included")
    media: int = Field(default=2, ge=1, le=100, description="different media")
    offsite: int = Field(default=1, ge=0, le=100, description="copies elsewhere")
    max_age: DurationField = Field(default=Duration.parse("26h"), description="greatest age of the newest snapshot")
    verify_every: DurationField = Field(default=Duration.parse("30d"), description="each copy is read back this often")
    drill_every: DurationField = Field(
        default=Duration.parse("92d"), description="each copy is restored in a drill this often"
    )


_Kept = Annotated[int, Field(ge=0, le=100_000)]


class Retention(Strict):
    """Which snapshots of each source `forget` keeps: those that any one rule keeps."""

    keep_last: _Kept = Field(default=3, description="newest snapshots")
    keep_hourly: _Kept = Field(default=0, description="newest of each of this many hours")
    keep_daily: _Kept = Field(default=14, description="newest of each of this many days")
    keep_weekly: _Kept = Field(default=8, description="newest of each of this many weeks")
    keep_monthly: _Kept = Field(default=24, description="newest of each of this many months")
    keep_yearly: _Kept = Field(default=7, description="newest of each of this many years")

    @model_validator(mode="after")
    def _keeps_something(self) -> Retention:
        if not any(getattr(self, name) for name in Retention.model_fields):
            raise wrong("keeps no snapshot at all", "at least one keep_… above 0")
        return self


_Fingerprints = Annotated[tuple[Fingerprint, ...], _LIST]


class Keys(Strict):
    """OpenPGP keys by full fingerprint. Signers and maintainers default to the host's own key."""

    recipients: Annotated[
        _Fingerprints, Field(min_length=1, description="who can restore; keep the private halves elsewhere")
    ]
    signers: _Fingerprints = Field(default=(), description="whose snapshots are believed; default: host")
    maintainers: _Fingerprints = Field(default=(), description="who may forget and prune; default: host")
    host: Fingerprint | None = Field(default=None, description="this host's own key, which signs what it makes")

    @model_validator(mode="before")
    @classmethod
    def _host_by_default(cls, value: Any) -> Any:
        host = _without_blanks(value.get("host")) if isinstance(value, dict) else None
        # A malformed host is reported once, where it stands.
        if isinstance(host, str) and re.fullmatch(FINGERPRINT_PATTERN, host):
            return {"signers": [host], "maintainers": [host], **value}
        return value


def _default_workers() -> int:
    return min(len(os.sched_getaffinity(0)), 4)


class Performance(Strict):
    """How much of the machine a backup takes."""

    background: bool = Field(default=False, description="run at idle CPU and I/O priority")
    workers: int = Field(
        default_factory=_default_workers, ge=1, le=16, description="processes at once; default: CPUs, at most 4"
    )


def _default_host() -> str:
    """This machine's name without its domain, as a label."""
    label = re.sub("[^a-z0-9_-]+", "-", os.uname().nodename.partition(".")[0].lower()).strip("-")
    return label[:32] or "host"


class Config(Strict):
    """The whole configuration of one host."""

    # `model_construct` takes the defaults without building a validator for each section at every start.

    version: Annotated[Literal[1], BeforeValidator(_whole_number)] = Field(description="version of this file's format")
    host: Label = Field(default_factory=_default_host, description="label of this host in snapshots")
    state_dir: AbsolutePath = Field(default=Path("/var/lib/opskit"), description="where opskit keeps its own state")
    simulated: bool = Field(default=False, description="a demonstration: labels of media and places are pretended")
    sources: dict[Label, Source] = Field(description="what is backed up, by name")
    destinations: dict[Label, Destination] = Field(min_length=1, description="where copies go, by name")
    policy: Policy = Field(
        default_factory=Policy.model_construct, description="what `opskit status` demands of every source"
    )
    retention: Retention = Field(
        default_factory=Retention.model_construct, description="which snapshots `opskit forget` keeps"
    )
    keys: Keys = Field(description="OpenPGP keys, by full fingerprint")
    performance: Performance = Field(
        default_factory=Performance.model_construct, description="how much of the machine a backup takes"
    )
