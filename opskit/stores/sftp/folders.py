"""The folders of a store at a server: made when they are needed, and written out where the server can do that.

SFTP has no request for writing out a folder. OpenSSH on Linux opens a folder like a file and takes the fsync of it;
where that is refused once it is not asked for again, and a name that is new lives as long as the server's own habits
let it. Each folder is looked after once in the life of a store.
"""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

from opskit.stores.sftp import failures
from opskit.stores.sftp.connection import Connection
from opskit.stores.sftp.publish import mode_of

if TYPE_CHECKING:
    from asyncssh import SFTPClient

_MODE = 0o700


class Folders:
    """The folders below `root`."""

    def __init__(self, connection: Connection, root: str) -> None:
        self._connection = connection
        self._root = root
        self._syncs = True
        self._made: set[str] = set()
        self._written_out: set[str] = set()

    async def make_root(self, session: SFTPClient) -> None:
        """Make the root and its parents where absent. Raises SFTPError, StoreError."""
        lead = "/" if self._root.startswith("/") else ""
        parts = self._root.strip("/").split("/")
        missing = []
        for count in range(len(parts), 0, -1):
            path = lead + "/".join(parts[:count])
            if await self._connection.within(mode_of(session, path)) is not None:
                break
            missing.append(path)
        for path in reversed(missing):
            await self._make(session, path)
            await self.sync(session, path.rpartition("/")[0] or lead or ".")
        if not await self._connection.within(session.isdir(self._root)):
            raise failures.misplaced(self._connection.place, self._root, "a folder")

    async def make(self, session: SFTPClient, path: str) -> None:
        """Make the folder at `path` below the root ("" for the root itself) and those above it; raises StoreError."""
        if not path or path in self._made:
            return
        above = path.rpartition("/")[0]
        await self.make(session, above)
        parent = f"{self._root}/{above}" if above else self._root
        is_new = await self._make(session, f"{self._root}/{path}")
        # One that was there may have been made by a run that was killed before it was written out.
        if is_new or parent not in self._written_out:
            await self.sync(session, parent)
            self._written_out.add(parent)
        self._made.add(path)

    async def _make(self, session: SFTPClient, path: str) -> bool:
        """Make one folder; whether it was not there."""
        import asyncssh

        try:
            await self._connection.within(session.mkdir(path, asyncssh.SFTPAttrs(permissions=_MODE)))
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists, asyncssh.SFTPPermissionDenied) as error:
            mode = await self._connection.within(mode_of(session, path))
            if mode is None:
                place = self._connection.place
                raise await failures.explained(place, session, error, "make a folder", 0) from error
            if not stat.S_ISDIR(mode):
                raise failures.misplaced(self._connection.place, path, "a folder") from error
            return False
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath) as error:
            raise failures.no_folder(self._connection.place) from error
        return True

    async def sync(self, session: SFTPClient, path: str) -> None:
        """Have a folder written out, where the server does that. Raises SFTPError of a medium that fails."""
        import asyncssh

        if not self._syncs:
            return
        within = self._connection.within
        try:
            folder = await within(session.open(path, asyncssh.FXF_READ, encoding=None))
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
            raise
        except asyncssh.SFTPError:
            self._syncs = False
            return
        try:
            await asyncio.wait_for(folder.fsync(), 5 * self._connection.timeout)
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
            raise
        except asyncssh.SFTPError:
            self._syncs = False  # EINVAL and its like: names there are the server's business
        finally:
            await within(folder.close())
