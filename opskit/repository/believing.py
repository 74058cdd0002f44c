"""Which signed objects are believed: manifests and marks.

Invariants: an object counts only when its bytes match its name, its signature is good, its signer has the role, and
what it says fits its name and this repository; everything else is reported and left out, never guessed at. One
bad object does not hide the others, and one copy's bad bytes do not hide another copy's good ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from opskit.errors import Damaged, Forged, OpskitError, StoreError
from opskit.gpg import Signed
from opskit.repository import names
from opskit.repository.cache import Cache
from opskit.repository.copy import Copy

Verify = Callable[[bytes], Signed]
"""Checks a signed object and returns payload and signer; raises Forged."""

Rejected = tuple[str, str, OpskitError]
"""(destination, object, reason) of an object that was not believed."""

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Judge:
    """Whose signatures count, for which repository. `role` is what the signers are called in messages and the config.

    What `cache` remembers was verified before; the role is checked anew.
    """

    verify: Verify
    allowed: frozenset[str]
    repository: str
    role: str = "signers"
    cache: Cache | None = None

    def believed(
        self,
        name: str,
        holders: list[Copy],
        check: Callable[[str, str, str, bytes], Found],
        rejected: list[Rejected],
    ) -> Found | None:
        """What `check(name, digest, signer, payload)` makes of an object, from the first holder that can be believed.

        Holders that cannot are taken out of `holders`, and noted in `rejected`.
        """
        digest = names.digest_in(name) or ""  # `listed` gives no name without one
        cached = self.cache.manifest(name) if self.cache else None
        if cached and cached[0] in self.allowed:
            with contextlib.suppress(Forged):  # the cache may be spoilt: the copies decide
                return check(name, digest, *cached)
        for copy in list(holders):
            try:
                signed = self._signed(copy.get(name))
                self._require_role(signed)
                found = check(name, digest, signed.fingerprint, signed.payload)
            except (Forged, StoreError) as error:
                rejected.append((copy.destination, name, error))
                holders.remove(copy)
                continue
            if self.cache:
                self.cache.add_manifest(name, signed.fingerprint, signed.payload)
            return found
        return None

    def require_repository(self, what: str, repository: str) -> None:
        """Raises Forged for an object of another repository."""
        if repository != self.repository:
            raise Forged(f"{what} of repository {repository}, expected {self.repository}")

    def _signed(self, data: bytes) -> Signed:
        """What is signed. Bytes that fit their name and are no message are no damage: somebody put them there."""
        try:
            return self.verify(data)
        except Damaged as error:
            raise Forged(str(error), hint=error.hint) from error

    def _require_role(self, signed: Signed) -> None:
        if signed.fingerprint not in self.allowed:
            raise Forged(
                f"signed by {signed.fingerprint}, which is not among the {self.role}",
                hint=f"if you trust this key, add it to keys.{self.role} in the config",
            )


def listed(copies: Iterable[Copy], wanted: Callable[[str], bool]) -> Mapping[str, list[Copy]]:
    """The wanted object names in order, with the copies that list them.

    Only names that opskit gives: what other programs leave in a folder (desktop.ini) says nothing.
    """
    found: dict[str, list[Copy]] = {}
    for copy in copies:
        for name in copy.objects:
            if wanted(name) and names.digest_in(name) is not None:
                found.setdefault(name, []).append(copy)
    return dict(sorted(found.items()))


def destinations(copies: Sequence[Copy]) -> list[str]:
    """The names of the copies' destinations."""
    return [copy.destination for copy in copies]
