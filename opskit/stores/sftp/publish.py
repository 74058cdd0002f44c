"""Giving a finished file at the server its final name, without ever replacing anything; and replacing, when told to.

`hardlink@openssh.com` is link(2), which never replaces, whoever else writes. Where a server or its file system has no
links, a rename does it, after a look, and one at a time among the threads of a store: SFTP's own rename must refuse a
taken name (OpenSSH's does, some servers' does not), `posix-rename@openssh.com` replaces by definition. There two hosts
could meet on one name only by storing the same bytes, for objects are named by their hash.

A reader sees all bytes under the new name, or no such name: the file is complete and written out before.
"""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncssh import SFTPClient


class Taken(Exception):
    """The name is in use; `mode` is that of what has it."""

    def __init__(self, mode: int) -> None:
        super().__init__("taken")
        self.mode = mode


class Publisher:
    """Names finished files; remembers what the server turned out to lack."""

    def __init__(self) -> None:
        self.links = True
        self._one_at_a_time: asyncio.Lock | None = None

    async def publish(self, session: SFTPClient, unfinished: str, path: str) -> bool:
        """Give the file its name; whether the unfinished name is gone. Raises Taken, SFTPError."""
        import asyncssh

        if self.links:
            try:
                await session.link(unfinished, path)
                return False
            except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.SFTPNoSuchFile):
                raise
            except asyncssh.SFTPError:
                # OpenSSH calls a taken name "Failure", and a file system without links as well.
                await require_free(session, path)
        if self._one_at_a_time is None:
            self._one_at_a_time = asyncio.Lock()
        async with self._one_at_a_time:
            await require_free(session, path)
            await self._renamed(session, unfinished, path)
        self.links = False  # the rename did what the link could not
        return True

    async def _renamed(self, session: SFTPClient, unfinished: str, path: str) -> None:
        import asyncssh

        try:
            await session.rename(unfinished, path)
        except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.SFTPNoSuchFile):
            raise
        except asyncssh.SFTPError as error:
            await require_free(session, path)
            try:
                await session.posix_rename(unfinished, path)
            except asyncssh.SFTPOpUnsupported:
                raise error from None


async def replace(session: SFTPClient, unfinished: str, path: str) -> None:
    """Give the file a name that may be taken. Raises SFTPError.

    Without posix-rename@openssh.com what was there goes first, so that for a moment nothing is: what replaces an
    object has put its bytes aside before, and the new ones lie at the server already.
    """
    import asyncssh

    try:
        await session.posix_rename(unfinished, path)
    except asyncssh.SFTPOpUnsupported:
        if await mode_of(session, path) is not None:
            await session.remove(path)
        await session.rename(unfinished, path)


async def mode_of(session: SFTPClient, path: str) -> int | None:
    """The st_mode of what has that name, a symlink's own; None where there is nothing."""
    import asyncssh

    try:
        return (await session.lstat(path)).permissions or stat.S_IFREG
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return None


async def require_free(session: SFTPClient, path: str) -> None:
    """Raise Taken where something has that name."""
    mode = await mode_of(session, path)
    if mode is not None:
        raise Taken(mode)
