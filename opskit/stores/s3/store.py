"""A store in a bucket: one object of S3 for each object, its key the prefix and the name.

Invariants:

- A put shows all bytes or no object, and never replaces (`writing` says what that takes).
- Nothing is believed that cannot be an answer of S3 (`reading`), and no error is an empty answer.
- One client with one pool of connections serves all threads. It is made at the first request, so a destination that
  is not used costs no start-up time and asks for no credentials.
- With `object_lock_days` in its place every object is locked from its put on.

In a bucket that keeps versions, deleting removes the newest version for good. If somebody had put it over an older
one, the older one shows again: that is how an object comes back which an intruder overwrote.

What it deliberately does not do: make or delete buckets, limit bandwidth, hash ranges, repeat a read that broke off
(`stores.wrappers.retry` does), or look for the parts of killed puts: a lifecycle rule of the bucket removes those.
Folder markers and other keys that are no names are passed over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from opskit.errors import StoreRefused
from opskit.stores.base import Buffer, ObjectInfo, check_name
from opskit.stores.s3 import locking, reading
from opskit.stores.s3.body import octets
from opskit.stores.s3.bucket import Bucket
from opskit.stores.s3.connection import Connection
from opskit.stores.s3.writing import DigestIn, Ways, Writer

MIB = 1024 * 1024


class S3Store:
    """Objects below a prefix of a bucket; see `opskit.stores.base` for the contract.

    `conditional` and `checksums` say what the endpoint honours, as `probe` finds out: without the first a put looks
    first and then writes; without the second it proves its bytes by MD5. `digest_in` gives the hex SHA-256 that a name
    promises: such bytes are not hashed again, and the endpoint is asked to hold them against it. Objects above
    `threshold` bytes go in parts of `part_size` (at least 5 MiB on AWS). `page_size` is how many keys a listing asks
    for at once, at most 1000. `now` dates locks and tells how wrong a clock is; `sleep` (seconds) and `chance` (0 to 1)
    space repeated conflicts.
    """

    at_once = 3
    """Requests with large bodies that make good use of a line, however long an answer takes."""

    def __init__(
        self,
        connection: Connection,
        now: Callable[[], datetime],
        *,
        conditional: bool = True,
        checksums: bool = True,
        digest_in: DigestIn = lambda _name: None,
        threshold: int = 64 * MIB,
        part_size: int = 16 * MIB,
        page_size: int = 1000,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.place = connection.place
        self.location = self.place.location
        self.lock_days = self.place.object_lock_days
        self.bucket = Bucket(connection, now)
        self.sleep = sleep
        ways = Ways(conditional, checksums, threshold, part_size)
        self._writer = Writer(self.bucket, ways, digest_in, sleep, chance)
        self._page_size = page_size

    def put(self, name: str, data: Buffer, *, replace: bool = False) -> None:
        """Store `data` under `name`, atomically and durably; raises ObjectExists (unless to replace), StoreError."""
        check_name(name)
        self._writer.put(name, octets(data), replace=replace)

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of `name`, or up to `length` of them from `offset`; raises ObjectNotFound, StoreError."""
        check_name(name)
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"expected an offset and a length of at least 0, got {offset} and {length}")
        if offset == 0 and length is None:
            return reading.read_whole(self.bucket, name)
        return reading.read_range(self.bucket, name, offset, length)

    def checksum_of(self, name: str) -> str | None:
        """The hex SHA-256 that the endpoint keeps of the whole object; None where it keeps none. Nothing is read.

        Raises ObjectNotFound, StoreError.
        """
        check_name(name)
        return reading.kept_checksum(self.bucket, name)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose first parts equal `prefix` ("" for all), sorted by name; raises StoreError."""
        if prefix:
            check_name(prefix)
        found = reading.listed(self.bucket, prefix, self._page_size)
        return found if prefix else self._writer.noting(found)

    def delete(self, name: str) -> None:
        """Remove `name`; raises ObjectNotFound, StoreRefused where a lock holds it, StoreError."""
        check_name(name)
        found = self.bucket.look(name)
        if found is None:
            raise self.bucket.failures.not_found(name)
        locked = found.get("ObjectLockRetainUntilDate")
        if locked is not None and locked > self.bucket.now():
            raise StoreRefused(
                f"{self.location}: cannot delete {name}: expected an object without a lock, "
                f"got one that is locked until {locked.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
                hint="run this again when the lock has ended",
            )
        version = found.get("VersionId")
        versions = {"VersionId": version} if version and version != "null" else {}
        self.bucket.ask("delete_object", name, **versions)

    def extend_lock(self, names: Iterable[str], until: datetime) -> datetime | None:
        """Lock each object at least until then, in whole seconds; never shortens a lock.

        Returns the earliest date that now holds for all of them, None without any. Raises ObjectNotFound,
        StoreRefused, StoreError; what was locked before the failure stays locked.
        """
        return locking.extend_lock(self.bucket, names, until)

    def locked_until(self, names: Iterable[str]) -> datetime | None:
        """The earliest date until which all the objects are locked; None where one is not. Raises as extend_lock."""
        return locking.locked_until(self.bucket, names)

    def close(self) -> None:
        """Close idle connections; the store can still be used."""
        self.bucket.connection.close()
