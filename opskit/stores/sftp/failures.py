"""What servers, networks and asyncssh report, as StoreErrors: what, expected, got, and what to do next.

Servers say little: OpenSSH calls a full disk, a quota and a read-only file system "Failure", all three. So where that
is the answer to a change, the file system is asked (`statvfs@openssh.com`) what it may have been.
Invariant: nothing that asyncssh raises leaves untranslated; no message repeats a password or the content of a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opskit.errors import ObjectNotFound, StoreError, StoreFull, StoreRefused
from opskit.stores.sftp.place import SftpPlace

if TYPE_CHECKING:
    from asyncssh import SFTPClient

_READ_ONLY = 1  # ST_RDONLY


class Lost(StoreError):
    """The connection ended, or nothing came any more: the same request may well succeed on a new one."""


def is_passing(error: StoreError) -> bool:
    """Whether a failure here is worth another try, on a new connection."""
    return isinstance(error, Lost)


def not_found(place: SftpPlace, name: str) -> ObjectNotFound:
    """The error for an object that is not there."""
    return ObjectNotFound(
        f"{place.location}: {name}: expected an object, got nothing", hint="run opskit verify to see what is missing"
    )


def no_folder(place: SftpPlace) -> StoreError:
    """The error for a root that is not there."""
    return StoreError(
        f"{place.location}: expected a folder, got nothing: the folder is absent",
        hint="correct the path, or make the repository there: opskit init --destination NAME=sftp://USER@HOST/PATH",
    )


def misplaced(place: SftpPlace, name: str, expected: str) -> StoreRefused:
    """The error for a symlink, a device or the like in the place of an object or a folder."""
    return StoreRefused(
        f"{place.location}: {name}: expected {expected}, got something else",
        hint="opskit never makes one there; find out who did, and move it away",
    )


@contextmanager
def translated(place: SftpPlace, verb: str, name: str = "") -> Iterator[None]:
    """Turn what asyncssh and the network raise within the block into a StoreError."""
    import asyncssh

    cannot = f"{place.location}: cannot {verb}{' ' + name if name else ''}"
    try:
        yield
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
        raise not_found(place, name) if name else no_folder(place) from error
    except (asyncssh.SFTPPermissionDenied, asyncssh.SFTPWriteProtect, asyncssh.SFTPCannotDelete) as error:
        raise _denied(cannot, error) from error
    except (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded) as error:
        raise full(cannot, error.reason) from error
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError) as error:
        raise _lost(cannot, error) from error
    except asyncssh.Error as error:
        raise StoreError(
            f"{cannot}: expected success, got {_safe(error.reason) or type(error).__name__}",
            hint="the server says no more: look there for a quota, a damaged disk, and its log",
        ) from error
    except (TimeoutError, EOFError, OSError) as error:
        raise _lost(cannot, error) from error


def _denied(cannot: str, error: Exception) -> StoreRefused:
    return StoreRefused(
        f"{cannot}: expected permission, got {_safe(str(error))}",
        hint="check owner and mode of that folder at the server, and what the account may do",
    )


def full(cannot: str, said: str) -> StoreFull:
    """The error for a server without space; `said` is what it answered."""
    return StoreFull(
        f"{cannot}: expected space, got {_safe(said)}",
        hint="free some space there, raise the quota, or let opskit forget and prune do it",
    )


def _lost(cannot: str, error: Exception) -> Lost:
    what = "no answer came" if isinstance(error, TimeoutError) else "the connection was lost"
    reason = f": {_safe(str(error))}" if str(error) else ""
    return Lost(
        f"{cannot}: {what}{reason}",
        hint="check the network and the server; what was stored will be reused, "
        "and opskit sync gives this copy what it misses",
    )


async def explained(place: SftpPlace, session: SFTPClient, error: Exception, act: str, size: int) -> Exception:
    """The error that stands behind a bare "Failure" of a change, as far as the file system shows one."""
    import asyncssh

    if not isinstance(error, asyncssh.SFTPFailure):
        return error
    cannot = f"{place.location}: cannot {act}"
    try:
        found = await session.statvfs(place.path)
    except asyncssh.Error:
        return error
    if found.flags & _READ_ONLY:
        return _denied(cannot, asyncssh.SFTPPermissionDenied("the file system there is mounted read-only"))
    block = found.frsize or found.bsize
    # Of the last blocks some are kept back, and what was just written is gone again.
    if found.bavail * block < size + 64 * block or (found.files and not found.favail):
        return full(cannot, f"{error.reason} and {found.bavail * block:,} bytes left")
    return error


def _safe(text: str) -> str:
    line = " ".join(text.split())
    return "".join(each for each in line if each.isprintable())[:300]
