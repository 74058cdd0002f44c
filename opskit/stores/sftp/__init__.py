"""A store in a folder of an SFTP server: storage boxes, rsync.net, a colleague's NAS.

Importing it does not load asyncssh, which the first request does.
"""

from __future__ import annotations

from opskit.stores.sftp.connection import Connection, Secrets
from opskit.stores.sftp.failures import is_passing
from opskit.stores.sftp.place import SftpPlace
from opskit.stores.sftp.store import SftpStore

__all__ = ["Connection", "Secrets", "SftpPlace", "SftpStore", "is_passing"]
