"""A store in a folder of a mounted file system: disks, sticks, network shares."""

from __future__ import annotations

from opskit.stores.local.store import LocalStore

__all__ = ["LocalStore"]
