"""`vault://MOUNT/PATH#KEY`: secrets in HashiCorp Vault or OpenBao, in a KV version 2 secrets engine.

Importing it does not load hvac: that is an extra, and loaded when a reference is resolved.
"""

from __future__ import annotations

from opskit.secrets.stores.vault.access import Access
from opskit.secrets.stores.vault.store import VaultStore

__all__ = ["Access", "VaultStore"]
