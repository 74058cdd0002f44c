"""Key rings as the package `keyring` knows them, for tests: one that keeps secrets in memory, and bad ones."""

from __future__ import annotations

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError


class KeyringInMemory(KeyringBackend):
    """Keeps what it is given; `writes` are left before it does what `fails` says, "swallow" or "lock"."""

    priority = -1

    def __init__(self, writes: int = 1_000_000, fails: str = "lock") -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.writes, self.fails = writes, fails

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self._is_over(password):
            return
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if (service, username) not in self.entries:
            raise PasswordDeleteError("not found")
        if not self._is_over(""):
            del self.entries[service, username]

    def _is_over(self, password: str) -> bool:
        self.writes -= 1
        if self.writes >= 0:
            return False
        if self.fails == "lock":
            raise KeyringLocked(f"locked: {password}")
        return True
