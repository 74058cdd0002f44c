"""What endpoints, networks and botocore report, as StoreErrors: what, expected, got, and what to do next.

Invariants: every error of botocore that can leave a request is translated, with the original as its cause. A message
of the endpoint is repeated only cut and printable, and never where it may speak of credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from opskit.errors import ClocksApart, ObjectNotFound, ObjectUnreadable, StoreError, StoreFull, StoreRefused
from opskit.stores.s3.place import S3Place


class BrokenOff(StoreError):
    """An answer ended early, or its bytes are not those that were stored: the same request may well succeed next."""


class WrongBytes(BrokenOff, ObjectUnreadable):
    """The endpoint gave other bytes than the put noted: on their way, or because they rotted there."""


def is_passing(error: StoreError) -> bool:
    """Whether a failure here is worth another try. Whatever else passes was tried again by botocore already."""
    return isinstance(error, BrokenOff)


class _Act(NamedTuple):
    """What an operation of S3 does, in words, and the permission that it takes."""

    verb: str
    permission: str


_ACTS = {
    "put_object": _Act("write", "s3:PutObject"),
    "create_multipart_upload": _Act("write", "s3:PutObject"),
    "upload_part": _Act("write", "s3:PutObject"),
    "complete_multipart_upload": _Act("write", "s3:PutObject"),
    "abort_multipart_upload": _Act("clean up", "s3:AbortMultipartUpload"),
    "get_object": _Act("read", "s3:GetObject"),
    "head_object": _Act("look at", "s3:GetObject"),
    "list_objects_v2": _Act("list", "s3:ListBucket"),
    "delete_object": _Act("delete", "s3:DeleteObject and s3:DeleteObjectVersion"),
    "put_object_retention": _Act("lock", "s3:PutObjectRetention"),
}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "403"}
_BAD_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId", "401"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_FULL = {"QuotaExceeded", "QuotaExceededException", "InsufficientStorage", "XMinioStorageFull", "StorageFull", "507"}
_ELSEWHERE = {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307"}
_ELSEWHERE |= {"IllegalLocationConstraintException", "IncorrectEndpoint"}
_BUSY = {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "RequestLimitExceeded", "503", "429"}
_NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    UnauthorizedSSOTokenError,
)


def code_of(error: ClientError) -> str:
    """The endpoint's code of an error; the HTTP status where it gave none."""
    return str(error.response.get("Error", {}).get("Code", "")) or str(status_of(error))


def status_of(error: ClientError) -> int:
    """The HTTP status of an error."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def was_repeated(error: ClientError) -> bool:
    """Whether botocore had sent the request before the one that was answered so."""
    return bool(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def note_repetition(error: ClientError) -> None:
    """Have `was_repeated` say so."""
    error.response["ResponseMetadata"]["RetryAttempts"] = 1


class Failures:
    """Translates what goes wrong at one place; `now` serves to say how far apart the clocks are."""

    def __init__(self, place: S3Place, now: Callable[[], datetime]) -> None:
        self._place = place
        self._now = now

    @contextmanager
    def translated(self, operation: str, name: str = "") -> Iterator[None]:
        """Turn what the block raises into a StoreError; `operation` is the client's method."""
        try:
            yield
        except ClientError as error:
            raise self._answered(error, _ACTS[operation], name) from error
        except (BotoCoreError, ResponseParserError, ValueError) as error:
            raise self._unanswered(error, self._cannot(_ACTS[operation], name)) from error
        except HTTPError as error:  # of an answer that says no botocore reads the body itself, and lets this through
            raise BrokenOff(
                f"{self._cannot(_ACTS[operation], name)}: the endpoint's answer broke off: {_reason(error)}",
                hint="try again; if it goes on, look at the network between here and the endpoint",
            ) from error

    @contextmanager
    def unbroken(self, name: str) -> Iterator[None]:
        """Turn what ends the body of an answer early into BrokenOff."""
        try:
            yield
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError, HTTPError) as error:
            raise BrokenOff(
                f"{self._cannot(_ACTS['get_object'], name)}: expected all of it, got a part: {_reason(error)}",
                hint="try again; if it goes on, look at the network between here and the endpoint",
            ) from error

    def not_found(self, name: str) -> ObjectNotFound:
        """The error for an object that is not there."""
        return ObjectNotFound(
            f"{self._place.location}: {name}: expected an object, got nothing",
            hint="run opskit verify to see what is missing",
        )

    def _cannot(self, act: _Act, name: str) -> str:
        return f"{self._place.location}: cannot {act.verb}{' ' + name if name else ''}"

    def _answered(self, error: ClientError, act: _Act, name: str) -> StoreError:
        """The StoreError for an answer that says no."""
        code, cannot = code_of(error), self._cannot(act, name)
        if code == "NoSuchKey" or (code == "404" and name):
            return self.not_found(name)
        if code in {"NoSuchBucket", "404"}:
            return StoreError(
                f"{cannot}: no such bucket: expected a bucket {self._place.bucket}, got none",
                hint="make the bucket, or correct its name, region and endpoint; opskit never makes a bucket",
            )
        for codes, judge in self._judges():
            if code in codes:
                return judge(error, act, cannot)
        if code.startswith("KMS."):
            hint = "see that the key exists and is enabled, and that these credentials may use it"
            return StoreRefused(f"{cannot}: the encryption key cannot be used: {_said(error)}", hint=hint)
        hint = "look the code up in the endpoint's documentation; a proxy in between may have answered instead of it"
        return StoreError(f"{cannot}: expected success, got {_said(error)}", hint=hint)

    def _judges(self) -> tuple[tuple[set[str], Callable[[ClientError, _Act, str], StoreError]], ...]:
        return (
            (_DENIED, self._denied),
            (_BAD_CREDENTIALS, self._bad_credentials),
            (_EXPIRED, self._expired),
            (_FULL, self._full),
            (_ELSEWHERE, self._elsewhere),
            (_BUSY, self._busy),
            ({"RequestTimeTooSkewed"}, self._skewed),
            ({"InvalidObjectState"}, self._archived),
        )

    def _denied(self, error: ClientError, act: _Act, cannot: str) -> StoreError:
        place = f"arn:aws:s3:::{self._place.bucket}"
        where = place if "List" in act.permission else f"{place}/{self._place.folder}*"
        if self._place.owner is not None:  # the endpoint does not say which of the two it was
            return StoreRefused(
                f"{cannot}: access denied: expected a bucket of account {self._place.owner}, "
                f"and the permission {act.permission} there, got {_said(error)}",
                hint="ask whom the bucket belongs to (aws s3api list-buckets, by the account's own credentials); "
                f"if it is {self._place.owner}, allow {act.permission} on {where}; if not, store nothing there",
            )
        return StoreRefused(
            f"{cannot}: access denied: expected the permission {act.permission}, got {_said(error)}",
            hint=f"allow {act.permission} on {where}, or use credentials that may; "
            "a bucket that belongs to somebody else answers the same, and so does one that locks its objects",
        )

    def _bad_credentials(self, error: ClientError, _act: _Act, cannot: str) -> StoreError:
        return StoreRefused(
            f"{cannot}: expected credentials that the endpoint knows, got {_safe(code_of(error))}",
            hint="check access_key_id and secret_access_key of this destination, or the AWS profile and environment",
        )

    def _expired(self, _error: ClientError, _act: _Act, cannot: str) -> StoreError:
        return StoreRefused(
            f"{cannot}: expected valid credentials, got a session that has expired",
            hint="log in again (aws sso login, a fresh role session), or use a key that does not expire",
        )

    def _full(self, error: ClientError, _act: _Act, cannot: str) -> StoreError:
        return StoreFull(
            f"{cannot}: expected space, got {_said(error)}",
            hint="raise the quota, free some space there, or let opskit forget and prune do it",
        )

    def _elsewhere(self, error: ClientError, _act: _Act, cannot: str) -> StoreError:
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        found = headers.get("x-amz-bucket-region") or error.response.get("Error", {}).get("Region")
        used = self._place.region or "the default one"
        if found:
            region = _safe(str(found))
            hint = f"write region: {region} for this destination"
            return StoreRefused(f"{cannot}: the bucket is in another region: expected {region}, got {used}", hint=hint)
        hint = "set region, and endpoint where it is not AWS, for this destination"
        return StoreRefused(f"{cannot}: expected the bucket's own region, got {used}: {_said(error)}", hint=hint)

    def _busy(self, error: ClientError, _act: _Act, cannot: str) -> StoreError:
        return StoreError(
            f"{cannot}: the endpoint is overloaded or throttles: expected success, got {_said(error)}",
            hint="try again later; fewer hosts at once, or a limit of the upload rate, help when it goes on",
        )

    def _skewed(self, error: ClientError, _act: _Act, cannot: str) -> StoreError:
        hint = "set this host's clock (timedatectl set-ntp true), then run this again"
        date = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            theirs = parsedate_to_datetime(date)
        except ValueError:
            return ClocksApart(f"{cannot}: this host's clock and the endpoint's are too far apart", hint=hint)
        ours = self._now()
        seconds = round((ours - theirs).total_seconds())
        direction = "ahead of" if seconds > 0 else "behind"
        return ClocksApart(
            f"{cannot}: this host's clock is {abs(seconds)} s {direction} the endpoint's: "
            f"expected {theirs:%Y-%m-%dT%H:%M:%SZ}, got {ours:%Y-%m-%dT%H:%M:%SZ}",
            hint=hint,
        )

    def _archived(self, _error: ClientError, _act: _Act, cannot: str) -> StoreError:
        return StoreRefused(
            f"{cannot}: expected an object that can be read, got one in an archive (Glacier)",
            hint="restore it first (aws s3api restore-object), wait until that is done, then run this again",
        )

    def _unanswered(self, error: Exception, cannot: str) -> StoreError:
        """The StoreError for a request that got no answer, or none that S3 would give."""
        if isinstance(error, _NO_CREDENTIALS):
            hint = (
                "give access_key_id and secret_access_key as references, or set up an AWS profile, environment or role"
            )
            return StoreRefused(f"{cannot}: expected credentials, got {_reason(error)}", hint=hint)
        if isinstance(error, NoRegionError):
            return StoreError(f"{cannot}: expected a region, got none", hint="write region: for this destination")
        if isinstance(error, ResponseParserError):
            hint = "check the endpoint's address: a proxy, a portal or another service may have answered"
            return StoreError(f"{cannot}: expected an answer of S3, got something else", hint=hint)
        if isinstance(error, SSLError):
            hint = "check the endpoint's certificate and this host's clock and CA certificates (AWS_CA_BUNDLE)"
            return StoreError(f"{cannot}: no secure connection: {_reason(error)}", hint=hint)
        if isinstance(error, ReadTimeoutError | ConnectTimeoutError):
            hint = (
                "see whether the service is up, and whether a firewall or proxy holds requests back; "
                "what was stored will be reused, and opskit sync gives this copy what it misses"
            )
            return StoreError(f"{cannot}: the endpoint cannot be reached, no answer came: {_reason(error)}", hint=hint)
        if isinstance(error, NoConnection | HTTPClientError):
            hint = "check the network, the endpoint's address and any firewall or proxy; what was stored will be reused"
            return StoreError(f"{cannot}: the endpoint cannot be reached: {_reason(error)}", hint=hint)
        hint = "check bucket, region and endpoint of this destination"
        return StoreError(f"{cannot}: {_reason(error)}", hint=hint)


def _said(error: ClientError) -> str:
    """What the endpoint said: its code and, where it has one, its message."""
    message = _safe(str(error.response.get("Error", {}).get("Message", "")))
    return f"{_safe(code_of(error))}: {message}" if message else _safe(code_of(error))


def _reason(error: Any) -> str:
    """What botocore says, on one line; of a failed request only what kind of failure it was and where."""
    return _safe(str(error)) or type(error).__name__


def _safe(text: str) -> str:
    line = " ".join(text.split())
    return "".join(each for each in line if each.isprintable())[:300]
