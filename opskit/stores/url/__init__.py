"""A store at a service of HTTP that names its objects by path: WebDAV.

Importing it loads no library of it: that is an extra, and loaded when a request needs it.
"""

from __future__ import annotations

from opskit.stores.url.dav import Dav
from opskit.stores.url.store import Lost, UrlStore, is_passing

__all__ = ["Dav", "Lost", "UrlStore", "is_passing"]
