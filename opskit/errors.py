"""Every exception of opskit, with its exit code and a hint for the person who reads it.

An exception means "could not find out" or "could not do"; a bad *answer* (a damaged object, an
unreadable file) is a result, reported with exit code 3. The tree:

    OpskitError                      1   base: nothing else is raised on purpose
    ├── UsageError                   2   the command line makes no sense
    ├── ConfigError                  2   the config cannot be used
    ├── ProgramMissing               2   an external program is absent or too old
    ├── SourceError                  4   a source is absent, or a source command failed
    ├── Skipped                     75   a hook asks to leave something out for now
    ├── RepositoryNotFound          10   no repository at that place
    ├── SnapshotNotFound            10   no snapshot by that name
    ├── RepositoryLocked            11   another run holds the lock
    ├── RotationLocked              11   another run rotates this secret, or a program that it started still runs
    ├── NoKey                       12   no private key at hand opens it, or no usable recipient
    ├── Forged                      13   a signature or hash is wrong, or history went backwards
    │   └── Damaged                 13   bytes differ from the name they are stored under
    ├── StoreError                  20   a destination cannot be reached
    │   ├── ObjectNotFound          20   the destination has no such object
    │   ├── ObjectUnreadable        20   the medium has lost the object's bytes, or changed them
    │   ├── CopyUnidentified        20   what a copy is opened by is damaged or gone
    │   ├── ObjectExists            20   a put found the name taken
    │   ├── StoreFull               21   the destination has no space left
    │   ├── StoreRefused            22   permission denied or read-only
    │   │   └── ClocksApart         22   this host's clock and the destination's are too far apart
    │   └── NotMounted              23   the medium is not mounted
    ├── StateFull                   21   the disk with the state folder has no space left, and something is under way
    ├── StateRefused                22   the same, read-only
    ├── UnresolvedReference         30   a secret reference cannot be resolved
    │   └── SecretAbsent            30   the secret store has no such secret
    ├── SecretStoreError            31   a secret store cannot be used, or does not keep what it is given
    ├── TargetError                 31   what became of a secret at its target is not known
    │   └── TargetRefused           31   the target said no, and is as it was before
    ├── CacheError                   1   the disposable cache is unusable (callers rebuild it)
    ├── AuditError                   1   the audit log cannot be read or written
    │   └── AuditLogNotFound        10   there is no audit log yet
    └── Interrupted                130   the person or the system asked to stop

"Could not read the source" (SourceError) and "could not write the destination" (StoreError) never
share a base below OpskitError: mistaking one for the other is how backups lose data silently.
"""

from __future__ import annotations

from collections.abc import Mapping


class OpskitError(Exception):
    """Base of all expected failures.

    The message is lower case, says what happened, what was expected and what was found, and
    never contains a secret. `hint` says what to do next, on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(OpskitError):
    """The command line is contradictory or incomplete."""

    exit_code = 2


class ConfigError(OpskitError):
    """The configuration is absent, unreadable or wrong; the message carries file:line:col."""

    exit_code = 2


class ProgramMissing(OpskitError):
    """An external program is absent, or older than opskit can trust."""

    exit_code = 2


class SourceError(OpskitError):
    """A source as a whole could not be read: its path is gone or its command failed."""

    exit_code = 4


class Skipped(OpskitError):
    """A hook asked to leave a source or a run out for now."""

    exit_code = 75


class RepositoryNotFound(OpskitError):
    """There is no opskit repository at the given place."""

    exit_code = 10


class SnapshotNotFound(OpskitError):
    """No snapshot, or more than one, answers to the given name."""

    exit_code = 10


class RepositoryLocked(OpskitError):
    """Another run on this host works on the same repository."""

    exit_code = 11


class NoKey(OpskitError):
    """No private key at hand opens the repository, or no recipient can be encrypted to."""

    exit_code = 12


class Forged(OpskitError):
    """A signature is wrong or by a stranger, or history went backwards."""

    exit_code = 13


class Damaged(Forged):
    """Stored bytes differ from the hash they are named by, or do not decode."""


class StoreError(OpskitError):
    """A destination failed: unreachable, or an error of its medium."""

    exit_code = 20


class ObjectNotFound(StoreError):
    """The destination answers, and has no object of that name."""


class CopyUnidentified(StoreError):
    """There is a copy, and what says which one (opskit.json, copy.json) is damaged or gone."""


class ObjectUnreadable(StoreError):
    """The medium does not give the object's bytes any more, or gives others than were put; asking again is no use.

    `found` are the bytes it gave, if any.
    """

    def __init__(self, message: str, *, hint: str | None = None, found: bytes | None = None) -> None:
        super().__init__(message, hint=hint)
        self.found = found


class ObjectExists(StoreError):
    """A put found the name taken; nothing was written."""


class StoreFull(StoreError):
    """The destination has no space (or no inodes, or no quota) left."""

    exit_code = 21


class StoreRefused(StoreError):
    """The destination refused: permission denied, read-only, locked."""

    exit_code = 22


class ClocksApart(StoreRefused):
    """This host's clock and the destination's are too far apart."""


class NotMounted(StoreError):
    """The destination must be a mounted medium and is not mounted."""

    exit_code = 23


class StateFull(OpskitError):
    """The disk with the state folder has no space left for what must be noted before anything goes on."""

    exit_code = 21


class StateRefused(OpskitError):
    """The state folder cannot be written: its file system, or the file in it, is read-only."""

    exit_code = 22


class UnresolvedReference(OpskitError):
    """A secret reference is malformed or cannot be resolved."""

    exit_code = 30


class SecretAbsent(UnresolvedReference):
    """The secret store answers, and has no such secret, or not in that stage."""


class SecretStoreError(OpskitError):
    """A secret store cannot be read or written, refuses, or lost what it was given."""

    exit_code = 31


class RotationLocked(OpskitError):
    """Another run rotates this secret, or a program that one started is still at work."""

    exit_code = 11


class TargetError(OpskitError):
    """What must accept a secret could not be used, and nobody can say what became of the call."""

    exit_code = 31


class TargetRefused(TargetError):
    """What must accept a secret said no, and is as it was before."""


class CacheError(OpskitError):
    """The disposable host cache is corrupt or of another repository; rebuild it."""


class AuditError(OpskitError):
    """The audit log cannot be read or written; what was asked for is not recorded for certain.

    A full disk is one too: the log lies in the state folder, and StoreFull (21) would send people to a destination.
    """


class AuditLogNotFound(AuditError):
    """Nothing was recorded on this host yet."""

    exit_code = 10


class Interrupted(OpskitError):
    """A signal asked to stop; what was done so far stays."""

    exit_code = 130


def together(failures: Mapping[str, OpskitError]) -> OpskitError:
    """One error for several destinations that failed: a line for each, the first one's kind and hint."""
    first = next(iter(failures.values()))
    lines = [str(each) if str(each).startswith(f"{name}:") else f"{name}: {each}" for name, each in failures.items()]
    return type(first)("\n".join(lines), hint=first.hint)
