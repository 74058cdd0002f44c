"""Walking the folders of a server: objects with size and time, sorted, and nothing else.

Several folders are asked for at once, because each answer takes its time. Nothing that a server names is believed:
what is not a name of an object, and whatever is not a plain file, is passed over. A failure is raised, never a short
list; only a folder that vanished since it was seen is empty.
"""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING

from opskit.stores.base import ObjectInfo, check_name
from opskit.stores.sftp.connection import Connection

if TYPE_CHECKING:
    from asyncssh import SFTPClient

_DEEPEST = 5
_AT_ONCE = 16


async def listed(connection: Connection, session: SFTPClient, path: str, prefix: str) -> list[ObjectInfo]:
    """All objects below the folder `path`, whose names begin with `prefix` ("" or parts and a "/"), sorted."""
    found: dict[str, ObjectInfo] = {}
    turns = asyncio.Semaphore(_AT_ONCE)
    folders = await _scanned(connection, session, path, prefix, found)
    while folders:
        scans = [_later(turns, connection, session, f"{path}/{each}", f"{prefix}{each}/", found) for each in folders]
        below = await asyncio.gather(*scans)
        folders = [f"{folder}/{leaf}" for folder, leaves in zip(folders, below, strict=True) for leaf in leaves]
    return sorted(found.values())


async def _later(
    turns: asyncio.Semaphore,
    connection: Connection,
    session: SFTPClient,
    path: str,
    prefix: str,
    found: dict[str, ObjectInfo],
) -> list[str]:
    import asyncssh

    async with turns:
        try:
            return await _scanned(connection, session, path, prefix, found)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            return []  # removed since it was seen: nothing in it is an object any more


async def _scanned(
    connection: Connection, session: SFTPClient, path: str, prefix: str, found: dict[str, ObjectInfo]
) -> list[str]:
    """Note the objects of one folder; returns the names of the folders in it that may hold more."""
    folders = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(connection.timeout) as limit:
        async for entry in session.scandir(path):
            limit.reschedule(loop.time() + connection.timeout)  # as long as names come, it goes on
            leaf, attributes = str(entry.filename), entry.attrs
            if not _is_name(prefix + leaf) or attributes.permissions is None:
                continue
            if stat.S_ISDIR(attributes.permissions) and prefix.count("/") + 1 < _DEEPEST:
                folders.append(leaf)
            elif stat.S_ISREG(attributes.permissions):
                name = prefix + leaf
                found[name] = ObjectInfo(name, attributes.size or 0, float(attributes.mtime or 0))
    return folders


def _is_name(name: str) -> bool:
    try:
        check_name(name)
    except ValueError:
        return False
    return True
