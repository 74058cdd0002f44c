"""TLS keys with certificates of the user's CA. Importing it loads no cryptography."""

from __future__ import annotations

from opskit.secrets.rotation.targets.tls.target import Endpoint, TlsKeys, TlsSettings

__all__ = ["Endpoint", "TlsKeys", "TlsSettings"]
