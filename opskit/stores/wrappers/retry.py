"""A store that tries again what may well succeed the next time.

Invariants: a refusal, a full or absent medium, a taken name and an absent object are never tried again, whatever
`is_passing` says. A listing that broke off begins anew behind the last object that was given out, so that each comes
once. Whoever makes it says what passes; the pauses grow twofold, each drawn between half of it and all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from opskit.errors import NotMounted, ObjectExists, ObjectNotFound, StoreError, StoreFull, StoreRefused
from opskit.stores.base import Buffer, ObjectInfo, Store, Swept, sweepable

T = TypeVar("T")

FINAL = (NotMounted, ObjectExists, ObjectNotFound, StoreFull, StoreRefused)
"""What another try cannot change."""


class Retrying:
    """`inner`, each call tried up to `attempts` times while it fails with a StoreError that `is_passing`.

    The pause before attempt n+1 is at most `pause` · 2ⁿ⁻¹ seconds and at most `longest`. `sleep` takes seconds,
    `chance` gives a number from 0 to 1; both are passed in.
    """

    def __init__(
        self,
        inner: Store,
        is_passing: Callable[[StoreError], bool],
        *,
        sleep: Callable[[float], None],
        chance: Callable[[], float],
        attempts: int = 4,
        pause: float = 0.5,
        longest: float = 20.0,
    ) -> None:
        self.inner = inner
        self.location = inner.location
        self._is_passing = is_passing
        self._sleep, self._chance = sleep, chance
        self._attempts, self._pause, self._longest = attempts, pause, longest

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`; raises ObjectExists, StoreError.

        A name that is taken at a later try, by the same bytes, was taken by an earlier one whose answer was lost.
        """

        def attempt(failures: int) -> None:
            try:
                self.inner.put(name, data, replace=replace)
            except ObjectExists:
                if not failures or self.inner.get(name) != memoryview(data).cast("B"):
                    raise

        self._again(attempt)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        return self._again(lambda _failures: self.inner.get(name, offset=offset, length=length))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects below `prefix`, sorted by name; raises StoreError."""
        return self._listed(prefix, self.inner.list(prefix))

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreError.

        One that is gone at a later try was removed by an earlier one whose answer was lost.
        """

        def attempt(failures: int) -> None:
            try:
                self.inner.delete(name)
            except ObjectNotFound:
                if not failures:
                    raise

        self._again(attempt)

    def sweep(self, *, now: float, older_than: float, dry_run: bool = False) -> Swept:
        """Remove what killed puts left behind, see Sweepable; nothing where `inner` knows no such files.

        What a try that broke off had removed is gone, and not counted. Raises StoreError.
        """
        inner = sweepable(self.inner)
        if inner is None:
            return Swept()
        return self._again(lambda _failures: inner.sweep(now=now, older_than=older_than, dry_run=dry_run))

    def _again(self, attempt: Callable[[int], T]) -> T:
        """The outcome of `attempt`, which gets the number of failures before it."""
        failures = 0
        while True:
            try:
                return attempt(failures)
            except StoreError as error:
                failures += 1
                self._wait(error, failures)

    def _wait(self, error: StoreError, failures: int) -> None:
        """Pause before the next try; raises `error` where there is none."""
        if isinstance(error, FINAL) or failures >= self._attempts or not self._is_passing(error):
            raise error
        self._sleep(min(self._longest, self._pause * 2 ** (failures - 1)) * (1 + self._chance()) / 2)

    def _listed(self, prefix: str, found: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        last, failures = "", 0
        while True:
            try:
                for info in found:
                    if info.name > last:
                        yield info
                        last, failures = info.name, 0
                return
            except StoreError as error:
                failures += 1
                self._wait(error, failures)
            found = self.inner.list(prefix)
