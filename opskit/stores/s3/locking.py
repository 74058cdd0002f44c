"""Object lock: until when objects cannot be deleted or replaced, and putting that date off.

Invariants: a lock is only ever extended. The date given for several objects is the earliest one: what holds for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from opskit.errors import StoreRefused
from opskit.stores.s3.bucket import Bucket

T = TypeVar("T")


def extend_lock(bucket: Bucket, names: Iterable[str], until: datetime) -> datetime | None:
    """Lock each object at least until then; returns the earliest date that now holds, None without objects.

    Raises ObjectNotFound, StoreRefused, StoreError; objects that were reached before stay locked.
    """
    return min(_each(bucket, names, lambda name: _extend(bucket, name, until)), default=None)


def locked_until(bucket: Bucket, names: Iterable[str]) -> datetime | None:
    """The earliest date until which the objects are locked; None where one is not, or where there are none."""
    dates = _each(bucket, names, lambda name: _lock_of(bucket, name))
    known = [date for date in dates if date is not None]
    return min(known) if known and len(known) == len(dates) else None


def _each(bucket: Bucket, names: Iterable[str], act: Callable[[str], T]) -> list[T]:
    pool = ThreadPoolExecutor(bucket.connection.connections)
    try:
        found = [task.result() for task in [pool.submit(act, name) for name in names]]
    except BaseException as error:
        # Whoever interrupts does not wait for an endpoint that hangs.
        pool.shutdown(wait=isinstance(error, Exception), cancel_futures=True)
        raise
    pool.shutdown()
    return found


def _extend(bucket: Bucket, name: str, until: datetime) -> datetime:
    # S3 keeps whole seconds: rounded up, so that the promise holds.
    wanted = until.astimezone(UTC).replace(microsecond=0)
    if wanted < until:
        wanted += timedelta(seconds=1)
    try:
        locked = _lock_of(bucket, name)
    except StoreRefused:
        locked = None  # it may not be looked at; S3 itself refuses to shorten a lock
    if locked is not None and locked >= wanted:
        return locked
    retention = {"Mode": bucket.place.lock_mode, "RetainUntilDate": wanted}
    bucket.ask("put_object_retention", name, Retention=retention)
    return wanted


def _lock_of(bucket: Bucket, name: str) -> datetime | None:
    found = bucket.look(name)
    if found is None:
        raise bucket.failures.not_found(name)
    date: datetime | None = found.get("ObjectLockRetainUntilDate")
    return date
