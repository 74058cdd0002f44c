"""Stores in buckets, from what the config says of them: the part of wiring that only hosts with a bucket load."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from opskit import log
from opskit.config.model import S3Bucket, S3Destination
from opskit.remotes import BRIEF, wrapped
from opskit.repository.names import digest_in
from opskit.secrets.reference import Reference, Secret
from opskit.stores import s3
from opskit.stores.base import Store
from opskit.stores.s3 import S3Place

Resolve = Callable[[Reference], Secret]
"""What a reference stands for; raises UnresolvedReference."""


def bucket_store(
    destination: S3Destination,
    resolve: Resolve,
    now: Callable[[], datetime],
    *,
    conditional: bool = True,
    checksums: bool = True,
    is_brief: bool = False,
) -> Store:
    """A store in a bucket, within the destination's limits, that reads again what broke off.

    `is_brief`: as long as nothing was heard of the endpoint it is asked once, and waited for BRIEF seconds only.
    """
    bucket = destination.s3
    first: dict[str, Any] = {"first_read_timeout": BRIEF, "first_attempts": 1} if is_brief else {}
    connection = s3.Connection(place_of(bucket), _credentials(bucket, resolve), **first)
    inside = s3.S3Store(connection, now, conditional=conditional, checksums=checksums, digest_in=digest_in)
    if destination.parallel is not None:
        inside.at_once = destination.parallel
    return wrapped(inside, destination, s3.is_passing)


def probed(store: Store) -> s3.Honours | None:
    """What the endpoint of a store in a bucket honours; None for another kind. Raises StoreError."""
    return s3.probe(store) if isinstance(store, s3.S3Store) else None


def place_of(bucket: S3Bucket) -> S3Place:
    """What the store has to know of a bucket."""
    return S3Place(
        bucket.bucket,
        bucket.prefix or "",
        region=bucket.region,
        endpoint=bucket.endpoint,
        owner=bucket.owner,
        storage_class=bucket.storage_class,
        sse=bucket.sse,
        kms_key=bucket.kms_key,
        object_lock_days=bucket.object_lock_days,
        lock_mode=bucket.lock_mode,
    )


def _credentials(bucket: S3Bucket, resolve: Resolve) -> Callable[[], tuple[str, str]] | None:
    """Resolves the references to an access key, when it is needed; None: the usual AWS chain."""
    key, secret = bucket.access_key_id, bucket.secret_access_key
    if key is None or secret is None:
        return None

    def resolved() -> tuple[str, str]:
        found = resolve(secret)
        log.register_secret(found.reveal_bytes())
        return resolve(key).reveal(), found.reveal()

    return resolved
