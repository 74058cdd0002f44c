"""A store in a folder of an SFTP server: one file an object, laid out as `stores.local` does.

Invariants:

- A put writes a hidden temporary file, has the server write it out (`fsync@openssh.com`), gives it its final name in a
  way that cannot replace anything (`publish`), and has the folder written out, where the server can do that. So a
  reader sees all bytes or no object, also when the connection or the server dies at any moment.
- Whether a server can be told to write out, and can link, is seen by asking it; `shortcomings` tells what it lacks.
- Nothing that a server names or sends is believed: names are judged, sizes compared, plain files alone are objects.

What it deliberately does not do: run commands, follow symlinks in an object's place, retry (`stores.wrappers.retry`
does), limit bandwidth, check hashes. SFTP knows no put-only accounts: what may be deleted is the server's business.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from opskit.errors import ObjectExists, StoreError
from opskit.stores.base import Buffer, ObjectInfo, Swept, check_name, check_size, looks_before
from opskit.stores.sftp import failures
from opskit.stores.sftp.connection import Connection
from opskit.stores.sftp.failures import translated
from opskit.stores.sftp.folders import Folders
from opskit.stores.sftp.listing import listed
from opskit.stores.sftp.publish import Publisher, Taken, mode_of, replace, require_free
from opskit.stores.sftp.transfer import read_all, write_all

if TYPE_CHECKING:
    from asyncssh import SFTPClient

T = TypeVar("T")

_UNFINISHED = ".tmp"
_WORTH_A_LOOK = 128 * 1024
"""Bytes: a taken name is noticed before more than this is sent for nothing."""


class SftpStore:
    """Objects as files below the place of `connection`; see `opskit.stores.base` for the contract."""

    def __init__(self, connection: Connection) -> None:
        self.place = connection.place
        self.location = self.place.location
        self.at_once = connection.parallel
        self._connection = connection
        self._root = self.place.path.rstrip("/") or "/"
        self._publisher = Publisher()
        self._folders = Folders(connection, self._root)
        self._syncs_files = True

    def create(self) -> None:
        """Make the root folder (0700) and its parents where absent; the only call that does. May raise StoreError."""
        self._run(self._create, "create")

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`, atomically and durably; raises ObjectExists (unless to replace), StoreError."""
        check_name(name)
        view = memoryview(data)
        octets = view.cast("B") if view.nbytes else memoryview(b"")
        self._run(self._put, "write", name, octets, may_replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"expected an offset and a length of at least 0, got {offset} and {length}")
        data: bytes = self._run(self._get, "read", name, offset, length)
        return data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name; raises StoreError."""
        if prefix:
            check_name(prefix)
        return self._listed(prefix)

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreError."""
        check_name(name)
        self._run(self._delete, "delete", name)

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        """Remove what killed puts left behind, see Sweepable. May raise StoreError."""
        found: Swept = self._run(self._sweep, "clean", "", now, older_than, dry_run=dry_run)
        return found

    def seen_at(self) -> str:
        """The server's key and the file system there, whatever name leads to it; "" where it does not tell both."""
        found: str = self._run(self._seen_at, "look at")
        return found

    def shortcomings(self) -> Sequence[str]:
        """What the server turned out to lack, and what that means, a sentence each. The root must be there.

        Raises StoreError.
        """
        found: Sequence[str] = self._run(self._tried, "write")
        return found

    def close(self) -> None:
        """Close the connection; the store can still be used."""
        self._connection.close()

    def _run(self, act: Any, verb: str, name: str = "", *arguments: Any, **options: Any) -> Any:
        """The outcome of `act(session, name, …)`, its errors translated."""

        async def run() -> Any:
            async with self._connection.session() as session:
                with translated(self.place, verb, name):
                    return await act(session, name, *arguments, **options)

        return self._connection.run(run)

    async def _in_time(self, step: Awaitable[T]) -> T:
        return await self._connection.within(step)

    # Writing

    async def _create(self, session: SFTPClient, _name: str) -> None:
        await self._folders.make_root(session)

    async def _put(self, session: SFTPClient, name: str, data: memoryview, *, may_replace: bool) -> None:
        import asyncssh

        path = f"{self._root}/{name}"
        try:
            if not may_replace and len(data) > _WORTH_A_LOOK:
                await self._in_time(require_free(session, path))
            await self._folders.make(session, name.rpartition("/")[0])
            unfinished = await self._written(session, data)
            try:
                await self._named(session, unfinished, path, may_replace=may_replace)
            except asyncssh.SFTPNoSuchFile as error:  # not the object, which nobody asked for
                raise StoreError(
                    f"{self.location}: cannot write {name}: expected the folder and the bytes to be there still, "
                    "got neither or one of them",
                    hint="somebody else removes files in this repository; run this again",
                ) from error
        except Taken as error:
            await self._refuse_taken(session, name, error.mode)
        except asyncssh.SFTPFailure as error:
            raise await failures.explained(self.place, session, error, f"write {name}", len(data)) from error

    async def _written(self, session: SFTPClient, data: memoryview) -> str:
        """Write a new hidden file and have it written out; returns its path. Leaves nothing on failure."""
        import asyncssh

        await self._folders.make(session, _UNFINISHED)
        path = f"{self._root}/{_UNFINISHED}/{os.getpid()}-{os.urandom(8).hex()}"
        mode = asyncssh.FXF_WRITE | asyncssh.FXF_CREAT | asyncssh.FXF_EXCL
        attributes = asyncssh.SFTPAttrs(permissions=0o600)
        file = await self._in_time(session.open(path, mode, attributes, encoding=None))
        try:
            try:
                await write_all(file, data, self._connection.timeout)
                await self._synced(file)
            finally:
                await self._in_time(file.close())
        except BaseException:
            await self._removed_quietly(session, path)
            raise
        return path

    async def _synced(self, file: Any) -> None:
        import asyncssh

        if self._syncs_files:
            try:
                # A disk that is busy with other people's files may take its time.
                await asyncio.wait_for(file.fsync(), 5 * self._connection.timeout)
            except asyncssh.SFTPOpUnsupported:
                self._syncs_files = False

    async def _named(self, session: SFTPClient, unfinished: str, path: str, *, may_replace: bool) -> None:
        is_gone = False
        try:
            if may_replace:
                await self._in_time(replace(session, unfinished, path))
                is_gone = True
            else:
                is_gone = await self._in_time(self._publisher.publish(session, unfinished, path))
        finally:
            # A link leaves it behind, and so does every failure; a rename took it away.
            if not is_gone:
                await self._removed_quietly(session, unfinished)
        await self._folders.sync(session, path.rpartition("/")[0])

    async def _removed_quietly(self, session: SFTPClient, path: str) -> None:
        """Remove what is in the way of nobody; a failure must not hide another."""
        import asyncssh

        with suppress(asyncssh.Error, OSError):
            await self._in_time(session.remove(path))

    async def _refuse_taken(self, session: SFTPClient, name: str, mode: int) -> NoReturn:
        """Raise ObjectExists, once the object there is as durable as one of our own: the caller will rely on it."""
        if not stat.S_ISREG(mode):
            raise failures.misplaced(self.place, name, "a free name or an object")
        await self._folders.sync(session, f"{self._root}/{name}".rpartition("/")[0])
        raise ObjectExists(f"{self.location}: {name}: expected a free name, got an object stored earlier")

    async def _delete(self, session: SFTPClient, name: str) -> None:
        import asyncssh

        path = f"{self._root}/{name}"
        await self._object(session, name)
        try:
            await self._in_time(session.remove(path))
        except asyncssh.SFTPFailure as error:
            raise await failures.explained(self.place, session, error, f"delete {name}", 0) from error
        await self._folders.sync(session, path.rpartition("/")[0])

    async def _sweep(self, session: SFTPClient, _name: str, now: float, older_than: float, *, dry_run: bool) -> Swept:
        import asyncssh

        folder, found = f"{self._root}/{_UNFINISHED}", Swept()
        try:
            entries = await self._in_time(session.readdir(folder))
        except asyncssh.SFTPNoSuchFile:
            return found
        for entry in entries:
            leaf, attributes = str(entry.filename), entry.attrs
            is_file = "/" not in leaf and stat.S_ISREG(attributes.permissions or 0)
            if is_file and now - (attributes.mtime or now) >= older_than:
                with suppress(asyncssh.SFTPNoSuchFile):
                    if not dry_run:
                        await self._in_time(session.remove(f"{folder}/{leaf}"))
                    found = Swept(found.files + 1, found.total_bytes + (attributes.size or 0))
        return found

    # Reading

    async def _object(self, session: SFTPClient, name: str) -> int:
        """The size of an object; raises ObjectNotFound, StoreRefused for what is no plain file."""
        # Looked at first: opening a FIFO would keep the server's process from ever answering.
        found = await self._in_time(session.lstat(f"{self._root}/{name}"))
        mode = found.permissions or 0
        if stat.S_ISDIR(mode):
            raise failures.not_found(self.place, name)
        if not stat.S_ISREG(mode):
            raise failures.misplaced(self.place, name, "an object")
        return found.size or 0

    async def _get(self, session: SFTPClient, name: str, offset: int, length: int | None) -> bytes:
        size = await self._object(session, name)
        if length is None:
            check_size(self.location, name, size)
        wanted = max(0, (size if length is None else min(size, offset + length)) - offset)
        file = await self._in_time(session.open(f"{self._root}/{name}", "rb"))
        try:
            return await read_all(file, offset, wanted, self._connection.timeout)
        except EOFError as error:
            raise StoreError(
                f"{self.location}: {name}: {error}",
                hint="something else writes in this repository; run opskit verify",
            ) from error
        finally:
            await self._in_time(file.close())

    def _listed(self, prefix: str) -> Iterator[ObjectInfo]:
        yield from self._run(self._found, "list", "", prefix)

    async def _found(self, session: SFTPClient, _name: str, prefix: str) -> Any:
        """The objects of a folder, or one object, or nothing; without the root an error."""
        if not prefix:
            return await listed(self._connection, session, self._root, "")
        path = f"{self._root}/{prefix}"
        mode = await self._in_time(mode_of(session, path))
        if mode is None:
            await self._in_time(session.lstat(self._root))
            return []
        if stat.S_ISDIR(mode):
            return await listed(self._connection, session, path, f"{prefix}/")
        size = await self._object(session, prefix)
        found = await self._in_time(session.lstat(path))
        return [ObjectInfo(prefix, size, float(found.mtime or 0))]

    # What the server can do, and where it is

    async def _seen_at(self, session: SFTPClient, _name: str) -> str:
        import asyncssh

        try:
            found = await self._in_time(session.statvfs(self._root))
        except asyncssh.SFTPOpUnsupported:
            return ""
        key = self._connection.host_key()
        # Some file systems have no id, and then say 0.
        return f"server with the key {key}, file system {found.fsid:x}" if key and found.fsid else ""

    async def _tried(self, session: SFTPClient, _name: str) -> Sequence[str]:
        import asyncssh

        unfinished = await self._written(session, memoryview(b"opskit: may this be linked?\n"))
        other = f"{unfinished}-link"
        found = []
        try:
            await self._in_time(session.link(unfinished, other))
            await self._removed_quietly(session, other)
        except asyncssh.SFTPError:
            found.append(f"the server has no hard links: {looks_before('renames')}")
        await self._removed_quietly(session, unfinished)
        if not self._syncs_files:
            found.append(
                "the server cannot be told to write to its disk (fsync@openssh.com): if it loses power, "
                "what it took last may be gone; verify tells"
            )
        return found
