"""Google Cloud Storage, by its JSON API over urllib3; google-auth logs in.

Importing it loads neither: they are an extra, and loaded when a request needs them.
"""

from __future__ import annotations

from opskit.stores.url.gcs.service import Gcs

__all__ = ["Gcs"]
