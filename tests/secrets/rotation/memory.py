"""Rotation targets in memory, with one slot or two, and one that makes its values: the machine's scenarios use them."""

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


class MakingTarget(MemoryTarget):
    """Makes its values itself, as clouds do: a value is accepted from the moment in which it is made."""

    def __init__(self, first: bytes | None, *, keeps_old: bool) -> None:
        super().__init__(first, keeps_old=keeps_old)
        self.made: list[bytes] = []

    def create(self, current: Secret | None, since: float) -> Secret:
        for leftover in self.made:  # all of them: a world's rotations begin where nothing is left
            if current is None or leftover != current.reveal_bytes():
                self.accepted.discard(leftover)
                self.known.discard(leftover)
        made = super().create(current, since)
        self.made.append(made.reveal_bytes())
        self.accepted.add(made.reveal_bytes())
        self.known.add(made.reveal_bytes())
        return made
