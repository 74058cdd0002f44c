"""One client of an endpoint, made when it is first needed and shared by all threads.

Invariants: credentials are asked for then, given to the client, and kept nowhere else. Each request has a time limit
and is repeated with growing, jittered pauses by botocore's "standard" mode: throttling, 5xx, lost connections.
Checksums are opskit's own business, so the client adds none of its own, which many endpoints would not understand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opskit.stores.s3.body import Body
from opskit.stores.s3.place import S3Place
from opskit.stores.s3.signing import sign_known_hashes

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

EXPECT_FROM = 1024 * 1024

Credentials = Callable[[], tuple[str, str]]
"""Fetches an access key id and its secret; may raise UnresolvedReference."""


class Connection:
    """The way to the endpoint of `place`; without `credentials` by the usual AWS chain (environment, profile, role).

    `connections` is how many requests may be under way at once; more threads wait. Time-outs are in seconds, the
    second one for the time between two pieces of an answer. `attempts` counts the first one too.
    """

    def __init__(
        self,
        place: S3Place,
        credentials: Credentials | None = None,
        *,
        connections: int = 16,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        attempts: int = 5,
    ) -> None:
        self.place = place
        self.connections = connections
        self._credentials = credentials
        self._timeouts = (connect_timeout, read_timeout)
        self._attempts = attempts
        self._lock = threading.Lock()
        self._client: S3Client | None = None

    def client(self) -> S3Client:
        """The client; the first call makes it. May raise botocore's errors, ValueError, UnresolvedReference."""
        with self._lock:
            if self._client is None:
                self._client = self._made()
            return self._client

    def close(self) -> None:
        """Close the connections that are kept open for the next request; the next one opens anew."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _made(self) -> S3Client:
        import boto3  # 0.25 s
        import botocore.session
        from botocore.config import Config

        # What botocore logs below this level shows requests with their session tokens.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        place = self.place
        connect_timeout, read_timeout = self._timeouts
        key, secret = self._credentials() if self._credentials else (None, None)
        core = botocore.session.get_session()
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        session = boto3.session.Session(
            aws_access_key_id=key, aws_secret_access_key=secret, botocore_session=core
        )  # fmt: skip
        config = Config(
            # Endpoints other than AWS hardly ever care for the region, but a signature needs one.
            region_name=place.region or session.region_name or ("us-east-1" if place.endpoint else None),
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            max_pool_connections=self.connections,
            tcp_keepalive=True,
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = session.client("s3", endpoint_url=place.endpoint, config=config)
        # Last: botocore's own handlers come first.
        client.meta.events.register_last("before-call.s3", _ask_first)
        sign_known_hashes(client)
        return client


def _timestamp(text: Any) -> datetime:
    """A time in an answer. botocore takes any form, and for that more time than for all the rest of a listing."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        found = None
    if found is not None and found.tzinfo is not None:
        return found
    from botocore.utils import parse_timestamp

    parsed: datetime = parse_timestamp(text)
    return parsed


def _ask_first(params: dict[str, Any], **_: object) -> None:
    """Ask before sending (Expect: 100-continue) for large bodies only.

    Asking costs a round trip, and a second where nobody answers; it pays where a taken name keeps a large body from
    being sent.
    """
    params["headers"].pop("Expect", None)
    body = params.get("body")
    if isinstance(body, Body) and len(body) >= EXPECT_FROM:
        params["headers"]["Expect"] = "100-continue"
