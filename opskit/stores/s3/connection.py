"""Clients of one endpoint, made when they are first needed and shared by all threads.

Invariants: credentials are asked for then, given to the clients, and kept nowhere else. Each request has a time limit
and is repeated with growing, jittered pauses by botocore's "standard" mode: throttling, 5xx, lost connections. As long
as nothing was heard of the endpoint the limits are short: a command should soon know which copies it can reach.
Checksums are opskit's own business, so clients add none of their own, which many endpoints would not understand.
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
    from boto3.session import Session
    from types_boto3_s3 import S3Client

EXPECT_FROM = 1024 * 1024

Credentials = Callable[[], tuple[str, str]]
"""Fetches an access key id and its secret; may raise UnresolvedReference."""


class Connection:
    """The way to the endpoint of `place`; without `credentials` by the usual AWS chain (environment, profile, role).

    `connections` is how many requests may be under way at once; more threads wait. Time-outs are in seconds, the
    second one for the time between two pieces of an answer. `attempts` counts the first one too. `first_…` hold until
    the endpoint has answered anything: with the defaults one that hangs is given up after 31 to 33 seconds.
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
        first_read_timeout: float = 10.0,
        first_attempts: int = 3,
    ) -> None:
        self.place = place
        self.connections = connections
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._patient = (read_timeout, attempts)
        self._first = (min(first_read_timeout, read_timeout), min(first_attempts, attempts))
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._trying: S3Client | None = None
        self._client: S3Client | None = None

    def client(self) -> S3Client:
        """The client; the first call makes it. May raise botocore's errors, ValueError, UnresolvedReference."""
        with self._lock:
            if self._client is not None:
                return self._client
            if self._trying is None:
                self._trying = self._made(*self._first)
            return self._trying

    def answered(self) -> bool:
        """The endpoint has spoken: from now on clients are patient. Whether that was news."""
        with self._lock:
            if self._client is not None:
                return False
            self._client = self._made(*self._patient)  # of the same session, which takes some milliseconds
            return True

    def close(self) -> None:
        """Close the connections that are kept open for the next request; the next one opens anew."""
        with self._lock:
            for each in (self._trying, self._client):
                if each is not None:
                    each.close()
            self._trying = self._client = self._session = None

    def _made(self, read_timeout: float, attempts: int) -> S3Client:
        from botocore.config import Config

        place = self.place
        if self._session is None:
            self._session = self._opened()
        region = place.region or self._session.region_name
        config = Config(
            # Endpoints other than AWS hardly ever care for the region, but a signature needs one.
            region_name=region or ("us-east-1" if place.endpoint else None),
            connect_timeout=self._connect_timeout,
            read_timeout=read_timeout,
            max_pool_connections=self.connections,
            tcp_keepalive=True,
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path" if place.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        client = self._session.client("s3", endpoint_url=place.endpoint, config=config)
        # Last: botocore's own handlers come first.
        client.meta.events.register_last("before-call.s3", _ask_first)
        sign_known_hashes(client)
        return client

    def _opened(self) -> Session:
        import boto3  # 0.25 s
        import botocore.session

        from opskit.stores.s3.model import Model

        # What botocore logs below this level shows requests with their session tokens.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        key, secret = self._credentials() if self._credentials else (None, None)
        core = botocore.session.get_session()
        core.register_component("data_loader", Model(core.get_config_variable("data_path")))
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        return boto3.session.Session(
            aws_access_key_id=key, aws_secret_access_key=secret, botocore_session=core
        )  # fmt: skip


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
