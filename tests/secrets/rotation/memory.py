"""A rotation target in memory, with one slot or two: what the machine's scenarios run against."""

from __future__ import annotations

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import password


class MemoryTarget:
    """Accepts values, and says which."""

    def __init__(self, first: bytes | None, *, keeps_old: bool) -> None:
        self.keeps_old = keeps_old
        self.accepted: set[bytes] = set() if first is None else {first}
        self.known: set[bytes] = set(self.accepted)
        """All that was ever accepted and not deleted: revoked values among them."""

    def create(self, current: Secret | None, since: float) -> Secret:
        del current, since
        return password()

    def apply(self, secret: Secret, current: Secret | None) -> None:
        del current
        if not self.keeps_old:
            self.accepted, self.known = set(), set()
        self.accepted.add(secret.reveal_bytes())
        self.known.add(secret.reveal_bytes())

    def verify(self, secret: Secret) -> bool:
        return secret.reveal_bytes() in self.accepted

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        assert kept.reveal_bytes() != secret.reveal_bytes()
        if self.keeps_old:
            self.accepted.discard(secret.reveal_bytes())
        if final:
            self.known.discard(secret.reveal_bytes())
