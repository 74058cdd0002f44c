"""A store at a service of HTTP: Azure Blob Storage, Google Cloud Storage, WebDAV.

Importing it loads no library of any: those are extras, and loaded when a request needs them.
"""

from __future__ import annotations

from opskit.stores.url.azure import Azure, AzureSecrets
from opskit.stores.url.dav import Dav
from opskit.stores.url.gcs import Gcs
from opskit.stores.url.service import Honours
from opskit.stores.url.store import Lost, UrlStore, is_passing

__all__ = ["Azure", "AzureSecrets", "Dav", "Gcs", "Honours", "Lost", "UrlStore", "is_passing"]
