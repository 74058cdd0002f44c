"""Requests to one bucket: what all parts of the store share.

It deliberately knows nothing of what a request is for; errors are translated by `failures`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from opskit.errors import StoreError
from opskit.stores.s3.body import Body
from opskit.stores.s3.connection import Connection
from opskit.stores.s3.failures import Failures, note_repetition, status_of

Answer = dict[str, Any]

_BUSY = {429, 500, 502, 503, 504}


class Bucket:
    """A place, the way to it, and the translation of its errors."""

    def __init__(self, connection: Connection, now: Callable[[], datetime]) -> None:
        self.place = connection.place
        self.connection = connection
        self.now = now
        self.failures = Failures(connection.place, now)

    def send(self, operation: str, **arguments: Any) -> Answer:
        """One request, its errors as botocore raises them; `operation` is the client's method.

        The only place that sends any, so that none reaches a bucket of another owner than the one that was named.
        """
        if self.place.owner is not None:
            arguments.setdefault("ExpectedBucketOwner", self.place.owner)
        try:
            answer = self._answer(operation, arguments)
        except ClientError as error:
            if not self.connection.answered() or status_of(error) not in _BUSY:
                raise
        else:
            self.connection.answered()
            return answer
        try:
            return self._answer(operation, arguments)  # there, but overloaded: worth more patience than silence
        except ClientError as error:
            note_repetition(error)
            raise

    def _answer(self, operation: str, arguments: dict[str, Any]) -> Answer:
        if isinstance(body := arguments.get("Body"), Body):
            body.seek(0)
        answer: Answer = getattr(self.connection.client(), operation)(Bucket=self.place.bucket, **arguments)
        return answer

    def ask(self, operation: str, name: str = "", **arguments: Any) -> Answer:
        """One request, about the object `name` where one is given; raises StoreError and its kinds."""
        if name:
            arguments["Key"] = self.place.key(name)
        with self.translated(operation, name):
            return self.send(operation, **arguments)

    def translated(self, operation: str, name: str = "") -> AbstractContextManager[None]:
        """Turns errors of the block into StoreErrors."""
        return self.failures.translated(operation, name)

    def look(self, name: str, **arguments: str) -> Answer | None:
        """What the endpoint knows of an object without reading it, or None where there is none; raises StoreError."""
        with self.translated("head_object", name):
            try:
                answer = self.send("head_object", Key=self.place.key(name), **arguments)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        return self.genuine(answer, name)

    def genuine(self, answer: Answer, name: str) -> Answer:
        """The answer, if S3 gave it; raises StoreError for the "200 OK" of a portal or proxy that stores nothing."""
        if not answer.get("ETag"):
            raise StoreError(
                f"{self.place.location}: {name}: expected an answer of S3, got one without an ETag",
                hint="check the endpoint's address: a proxy, a portal or another service may have answered",
            )
        return answer
