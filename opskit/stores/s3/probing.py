"""What an endpoint honours, found out by doing it: many that speak S3 take a header and ignore it.

The objects made for this have names that are no names of opskit, so no listing shows them, and are removed again. A
lock is tried for a few seconds, and only where the place asks for locks. It deliberately decides nothing: whoever
asks makes the store accordingly, and tells people.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from botocore.exceptions import BotoCoreError, ClientError

from opskit.stores.base import PROBE, looks_before
from opskit.stores.s3.body import Body
from opskit.stores.s3.bucket import Answer, Bucket
from opskit.stores.s3.failures import status_of
from opskit.stores.s3.store import S3Store

_FIRST, _OTHER = PROBE
_LOCK_SECONDS = 3
_STRANGERS = ("111122223333", "444455556666")
"""Ids of accounts that Amazon's documentation uses, and so nobody has."""


@dataclass(frozen=True, slots=True)
class Honours:
    """What holds at an endpoint.

    `conditional`: a put can be kept from replacing. `checksums`: bytes that do not fit their SHA-256 are refused.
    `versions`: the bucket keeps versions. `object_lock`: a locked object cannot be deleted; None where no lock was
    asked for. `owner`: a request that names another owner is refused; None where the place names none. `is_clean`:
    whether all that was put to find out could be removed (put-only credentials cannot).
    """

    conditional: bool
    checksums: bool
    versions: bool
    object_lock: bool | None
    owner: bool | None
    is_clean: bool

    def shortcomings(self) -> list[str]:
        """What is missing, and what that means; a sentence each."""
        found = []
        if not self.conditional:
            found.append(f"the endpoint ignores If-None-Match: {looks_before('writes')}")
        if not self.checksums:
            found.append("the endpoint ignores SHA-256 checksums: opskit sends MD5 ones")
        if self.object_lock is False:
            found.append("the bucket has no working object lock: make one with object lock, or drop object_lock_days")
        if self.owner is False:
            found.append("the endpoint ignores whose bucket is expected: owner protects nothing there")
        return found


def probe(store: S3Store) -> Honours:
    """Ask the endpoint by a few requests on throwaway objects; raises StoreError when it cannot even store one."""
    bucket = store.bucket
    key = f"{bucket.place.folder}.opskit-probe-{os.urandom(8).hex()}"
    made: list[tuple[str, Answer]] = []
    try:
        with bucket.translated("put_object"):
            conditional = _is_conditional(bucket, key, made)
            checksums = _checks_bytes(bucket, f"{key}.bytes", made)
            owner = _minds_owner(bucket, f"{key}.owner", made, conditional=conditional) if bucket.place.owner else None
            wants_lock = bucket.place.object_lock_days is not None
            object_lock = _locks(store, f"{key}.lock", made, conditional=conditional) if wants_lock else None
    except Exception:  # after an interruption nobody waits for an endpoint that hangs
        _clean(bucket, made)
        raise
    is_clean = _clean(bucket, made)
    versions = any("VersionId" in answer for _, answer in made)
    return Honours(conditional, checksums, versions, object_lock, owner, is_clean)


def _clean(bucket: Bucket, made: Sequence[tuple[str, Answer]]) -> bool:
    """Remove the throwaway objects; whether all are gone."""
    return all([_is_removed(bucket, *each) for each in made])


def _put(bucket: Bucket, key: str, body: bytes, made: list[tuple[str, Answer]], **wanted: object) -> Answer:
    # A bucket that locks by default takes no put without a checksum.
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    proof = {} if "ChecksumSHA256" in wanted else {"ContentMD5": md5}
    signed = Body(memoryview(body), hashlib.sha256(body).hexdigest())
    answer = bucket.genuine(bucket.send("put_object", Key=key, Body=signed, **proof, **wanted), "probe")
    made.append((key, answer))
    return answer


def _condition(is_honoured: bool) -> dict[str, str]:
    """What the policies that opskit prints demand of a put."""
    return {"IfNoneMatch": "*"} if is_honoured else {}


def _is_conditional(bucket: Bucket, key: str, made: list[tuple[str, Answer]]) -> bool:
    try:
        _put(bucket, key, _FIRST, made, IfNoneMatch="*")
    except ClientError as error:
        if status_of(error) not in {400, 501}:
            raise
        _put(bucket, key, _FIRST, made)  # it does not even take the header
        return False
    try:
        _put(bucket, key, _OTHER, made, IfNoneMatch="*")
    except ClientError as error:
        if status_of(error) != 412:
            raise
        return True
    return False


def _checks_bytes(bucket: Bucket, key: str, made: list[tuple[str, Answer]]) -> bool:
    digest = base64.b64encode(hashlib.sha256(_FIRST).digest()).decode()
    right = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digest, "IfNoneMatch": "*"}
    try:
        _put(bucket, key, _OTHER, made, **right)
    except ClientError as error:
        if status_of(error) != 400:
            raise
    else:
        return False
    try:
        _put(bucket, key, _FIRST, made, **right)
    except ClientError as error:
        if status_of(error) not in {400, 501}:
            raise
        return False  # it refused the header, not the bytes
    return True


def _minds_owner(bucket: Bucket, key: str, made: list[tuple[str, Answer]], *, conditional: bool) -> bool:
    """Whether a put is refused that expects the bucket to be somebody else's."""
    other = next(each for each in _STRANGERS if each != bucket.place.owner)
    try:
        _put(bucket, key, _FIRST, made, ExpectedBucketOwner=other, **_condition(conditional))
    except ClientError as error:
        if status_of(error) != 403:
            raise
        return True
    return False


def _locks(store: S3Store, key: str, made: list[tuple[str, Answer]], *, conditional: bool) -> bool:
    """Lock an object for some seconds of the endpoint's own clock, and try to delete it.

    A refusal alone says nothing: credentials that may not delete are what a host should have.
    """
    bucket = store.bucket
    until = _their_time(bucket, made) + timedelta(seconds=_LOCK_SECONDS)
    lock = {"ObjectLockMode": bucket.place.lock_mode, "ObjectLockRetainUntilDate": until}
    try:
        answer = _put(bucket, key, _FIRST, made, **lock, **_condition(conditional))
    except ClientError:
        return False
    version = {"VersionId": answer["VersionId"]} if answer.get("VersionId") else {}
    try:
        is_locked = bucket.send("head_object", Key=key, **version).get("ObjectLockRetainUntilDate") is not None
        bucket.send("delete_object", Key=key, **version)
    except ClientError as error:
        if error.operation_name != "DeleteObject":
            return False  # nothing shows whether it is locked
        store.sleep(_LOCK_SECONDS + 1)
        return is_locked
    return False


def _their_time(bucket: Bucket, made: list[tuple[str, Answer]]) -> datetime:
    """The endpoint's clock at its last answer."""
    headers = made[-1][1].get("ResponseMetadata", {}).get("HTTPHeaders", {}) if made else {}
    try:
        return parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return bucket.now()


def _is_removed(bucket: Bucket, key: str, answer: Answer) -> bool:
    version = answer.get("VersionId")
    try:
        bucket.send("delete_object", Key=key, **({"VersionId": version} if version else {}))
    except (ClientError, BotoCoreError):
        return False
    return True
