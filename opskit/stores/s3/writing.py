"""Putting an object under a free name, whole or not at all.

Invariants:

- Where the endpoint honours `If-None-Match: *`, no put can replace anything, whoever else writes. Where it does not,
  the name is looked at first; that holds among the threads of this store, and between hosts only because objects
  are named by their hash. So there a name that promises a hash is not looked at again when a whole listing did not
  show it: what may have come since has the same bytes, and putting them once more changes nothing that can be read.
- Every object carries a mark drawn for its put. When the answer to a put was lost and its repetition finds the name
  taken, the mark tells our own object from one that was there before.
- An object of several parts appears when it is completed; the parts of a put that failed are removed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from opskit.errors import ObjectExists, StoreError, StoreRefused
from opskit.stores.base import ObjectInfo
from opskit.stores.s3.body import Body
from opskit.stores.s3.bucket import Answer, Bucket
from opskit.stores.s3.failures import code_of, status_of, was_repeated

MARK, SHA256 = "opskit-put", "opskit-sha256"
"""Names of the metadata that each object carries."""

_CONFLICTS = {"ConditionalRequestConflict", "OperationAborted"}
_MAX_CONFLICTS = 8
_MAX_PARTS = 10_000  # what S3 takes


@dataclass(frozen=True, slots=True)
class Ways:
    """How objects are put: what the endpoint honours, and from which size on an object is sent in parts (bytes)."""

    conditional: bool = True
    checksums: bool = True
    threshold: int = 64 * 1024 * 1024
    part_size: int = 16 * 1024 * 1024


DigestIn = Callable[[str], str | None]
"""The lower-case hex SHA-256 that an object's bytes have according to its name; None where it says nothing."""


class Writer:
    """Puts objects.

    `digest_in` saves hashing bytes that are named by their hash; `sleep` (seconds) and `chance` (0 to 1) serve the
    pauses after a conflict.
    """

    def __init__(
        self,
        bucket: Bucket,
        ways: Ways,
        digest_in: DigestIn,
        sleep: Callable[[float], None],
        chance: Callable[[], float],
    ) -> None:
        self._bucket = bucket
        self._ways = ways
        self._digest = digest_in
        self._sleep, self._chance = sleep, chance
        self._busy: set[str] = set()
        self._seen: set[str] | None = None
        self._freed = threading.Condition()

    def put(self, name: str, body: memoryview, *, replace: bool = False) -> None:
        """Store `body`; raises ObjectExists (unless to replace), StoreError."""
        mark = os.urandom(12).hex()
        if replace:
            self._put(name, body, mark, {})
            return
        if self._ways.conditional:
            self._put(name, body, mark, {"IfNoneMatch": "*"})
            return
        with self._alone(name):
            if not self._is_free(name) and self._bucket.look(name) is not None:
                raise self._taken(name)
            self._put(name, body, mark, {})
            if self._seen is not None:
                self._seen.add(name)

    def noting(self, listing: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        """The same listing, of the whole store; once it has come to its end, it tells which names are free."""
        if self._ways.conditional:
            yield from listing
            return
        seen: set[str] = set()
        for info in listing:
            seen.add(info.name)
            yield info
        self._seen = seen

    def _is_free(self, name: str) -> bool:
        """Whether there can be nothing of that name but the very bytes that are to be put."""
        return self._seen is not None and name not in self._seen and self._digest(name) is not None

    def _put(self, name: str, body: memoryview, mark: str, condition: dict[str, str]) -> None:
        is_large = len(body) > self._ways.threshold
        send, operation = (self._send_parts, "upload_part") if is_large else (self._send_whole, "put_object")
        for conflicts in range(_MAX_CONFLICTS):
            with self._bucket.translated(operation, name):
                try:
                    self._bucket.genuine(send(name, body, mark, condition), name)
                    return
                except ClientError as error:
                    if not self._is_conflict(name, mark, error, conflicts):
                        return
            # Two writers met, and S3 decided for neither. It asks for another try.
            self._sleep((1 + self._chance()) * 0.05 * 2**conflicts)
        raise StoreError(
            f"{self._bucket.place.location}: cannot write {name}: expected a decision between writers, got conflicts",
            hint="another run writes the same object; run this again when it is done",
        )

    def _is_conflict(self, name: str, mark: str, error: ClientError, conflicts: int) -> bool:
        """True: try again. False: the object is ours, only the answer was lost. Else raises what it is."""
        if code_of(error) in _CONFLICTS:
            return True
        if status_of(error) == 412:
            if (conflicts or was_repeated(error)) and self._is_ours(name, mark):
                return False
            raise self._taken(name) from error
        # An upload that is gone was completed by the request whose answer was lost, or by nobody.
        if code_of(error) == "NoSuchUpload" and self._is_ours(name, mark):
            return False
        raise error

    def _is_ours(self, name: str, mark: str) -> bool:
        try:
            found = self._bucket.look(name)
        except StoreRefused:
            return False  # credentials that may only put cannot tell; then the name counts as taken
        return found is not None and found.get("Metadata", {}).get(MARK) == mark

    def _taken(self, name: str) -> ObjectExists:
        return ObjectExists(
            f"{self._bucket.place.location}: {name}: expected a free name, got an object stored earlier"
        )

    def _send_whole(self, name: str, body: memoryview, mark: str, condition: dict[str, str]) -> Answer:
        digest = self._digest(name) or hashlib.sha256(body).hexdigest()
        return self._bucket.send(
            "put_object",
            Key=self._bucket.place.key(name),
            Body=Body(body, digest),
            **self._kept_as(mark, digest),
            **self._proof(body, digest),
            **condition,
        )

    def _send_parts(self, name: str, body: memoryview, mark: str, condition: dict[str, str]) -> Answer:
        kept = self._kept_as(mark, self._digest(name) or hashlib.sha256(body).hexdigest())
        algorithm = {"ChecksumAlgorithm": "SHA256"} if self._ways.checksums else {}
        begun = self._bucket.send("create_multipart_upload", Key=self._bucket.place.key(name), **kept, **algorithm)
        upload = {"Key": self._bucket.place.key(name), "UploadId": begun.get("UploadId") or ""}
        try:
            parts = [self._send_part(upload, number, part) for number, part in enumerate(self._parts(body), 1)]
            return self._bucket.send(
                "complete_multipart_upload", **upload, MultipartUpload={"Parts": parts}, **condition
            )  # fmt: skip
        except BaseException:
            with suppress(ClientError, BotoCoreError):  # what was wrong first is what counts
                self._bucket.send("abort_multipart_upload", **upload)
            raise

    def _parts(self, body: memoryview) -> Iterator[memoryview]:
        size = max(self._ways.part_size, -(-len(body) // _MAX_PARTS))
        return (body[start : start + size] for start in range(0, len(body), size))

    def _send_part(self, upload: dict[str, str], number: int, part: memoryview) -> Answer:
        digest = hashlib.sha256(part).hexdigest()
        proof = self._proof(part, digest)
        sent = self._bucket.send("upload_part", **upload, PartNumber=number, Body=Body(part, digest), **proof)
        known = {"ChecksumSHA256": proof["ChecksumSHA256"]} if "ChecksumSHA256" in sent else {}
        return {"PartNumber": number, "ETag": sent.get("ETag", ""), **known}

    def _kept_as(self, mark: str, digest: str) -> dict[str, Any]:
        """What S3 is asked to keep with an object: marks, storage class, encryption, lock."""
        place = self._bucket.place
        wanted: dict[str, Any] = {
            "Metadata": {MARK: mark, SHA256: digest},
            "StorageClass": place.storage_class,
            "ServerSideEncryption": place.sse,
            "SSEKMSKeyId": place.kms_key,
        }
        if place.object_lock_days:
            wanted["ObjectLockMode"] = place.lock_mode
            wanted["ObjectLockRetainUntilDate"] = self._bucket.now() + timedelta(days=place.object_lock_days)
        return {name: value for name, value in wanted.items() if value is not None}

    def _proof(self, body: memoryview, digest: str) -> dict[str, str]:
        """What lets the endpoint refuse bytes that changed on their way: SHA-256, or MD5, which all endpoints know."""
        if self._ways.checksums:
            return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(bytes.fromhex(digest)).decode()}
        return {"ContentMD5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Keep other threads of this store from putting the same name meanwhile."""
        with self._freed:
            self._freed.wait_for(lambda: name not in self._busy)
            self._busy.add(name)
        try:
            yield
        finally:
            with self._freed:
                self._busy.discard(name)
                self._freed.notify_all()
