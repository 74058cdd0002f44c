"""A store at a service of HTTP: Azure Blob Storage, WebDAV.

Importing it loads no library of either: those are extras, and loaded when a request needs them.
"""

from __future__ import annotations

from opskit.stores.url.azure import Azure, AzureSecrets
from opskit.stores.url.dav import Dav
from opskit.stores.url.store import Lost, UrlStore, is_passing

__all__ = ["Azure", "AzureSecrets", "Dav", "Lost", "UrlStore", "is_passing"]
