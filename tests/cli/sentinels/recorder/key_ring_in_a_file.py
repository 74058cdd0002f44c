"""A key ring for processes of tests: it counts as a Secret Service, and keeps every value it was ever given in a file.

Once a file of that name with `.locked` at its end is there it fails as others do, and says what it was asked to keep.
"""

from __future__ import annotations

import json
import os

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

_PATH = os.environ["SENTINEL_KEYRING"]


class Keyring(KeyringBackend):
    """Lines of [service, user, value or null]; the last one counts."""

    priority = 9

    def get_password(self, service: str, username: str) -> str | None:
        self._require("")
        found = None
        if os.path.exists(_PATH):
            with open(_PATH) as file:
                for line in file:
                    entry = json.loads(line)
                    found = entry[2] if entry[:2] == [service, username] else found
        return found

    def set_password(self, service: str, username: str, password: str) -> None:
        self._require(password)
        self._add(service, username, password)

    def delete_password(self, service: str, username: str) -> None:
        self._require("")
        self._add(service, username, None)

    def _add(self, service: str, user: str, value: str | None) -> None:
        with open(_PATH, "a") as file:
            file.write(f"{json.dumps([service, user, value])}\n")

    def _require(self, value: str) -> None:
        if os.path.exists(f"{_PATH}.locked"):
            raise KeyringLocked(f"locked: {value}")


Keyring.__module__ = "keyring.backends.SecretService"
