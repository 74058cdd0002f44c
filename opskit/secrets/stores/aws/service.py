"""Requests to AWS Secrets Manager, and what goes wrong with them as opskit's errors.

Invariants: boto3 is loaded with the first request. Credentials, profiles and endpoints (AWS_ENDPOINT_URL,
AWS_ENDPOINT_URL_SECRETS_MANAGER) are found by its own rules and kept nowhere else. Every request has a time limit, and
is repeated by botocore's "standard" mode; one that hangs is given up after about half a minute.

No text of the service or of botocore is repeated, nor are their errors kept as causes: a refusal may quote the request,
and with it a value. The service's code of the error is told instead.
"""

from __future__ import annotations

import logging
import re
import threading
from typing import Any
from urllib.parse import urlsplit

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError
from opskit.secrets.reference import Reference

Answer = dict[str, Any]

_PERMISSIONS = {
    "get_secret_value": "GetSecretValue",
    "describe_secret": "DescribeSecret",
    "create_secret": "CreateSecret",
    "put_secret_value": "PutSecretValue",
    "update_secret_version_stage": "UpdateSecretVersionStage",
    "delete_secret": "DeleteSecret",
    "restore_secret": "RestoreSecret",
}
_SCHEDULED = re.compile(r"marked (for )?delet")
_DENIED = {"AccessDeniedException", "AccessDenied"}
# Codes of the service, what they mean, and what to do then.
_ANSWERS: tuple[tuple[set[str], str, str], ...] = (
    (
        {"UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch",
         "IncompleteSignature", "InvalidAccessKeyId", "MissingAuthenticationToken"},
        "expected credentials that AWS knows",
        "check the AWS profile and environment, and this host's clock (timedatectl)",
    ),
    (
        {"ExpiredTokenException", "ExpiredToken", "RequestExpired"},
        "expected valid credentials, the session has expired",
        "log in again (aws sso login, a fresh role session)",
    ),
    (
        {"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded",
         "InternalServiceError", "InternalFailure", "ServiceUnavailable", "ServiceUnavailableException"},
        "expected an answer, AWS is overloaded or throttles",
        "try again later",
    ),
    (
        {"DecryptionFailure", "EncryptionFailure"},
        "expected a KMS key that works",
        "see that the secret's key exists and is enabled, and that these credentials may use it "
        "(kms:Decrypt, kms:GenerateDataKey)",
    ),
    (
        {"LimitExceededException"},
        "expected room, a quota of AWS is reached",
        "a secret takes about 100 versions a day; see the quotas of Secrets Manager in the AWS console",
    ),
    (
        {"ResourceExistsException", "InvalidParameterException"},
        "expected the stages to be as they were a moment ago",
        "try again: somebody else may have changed this secret meanwhile",
    ),
    (
        {"InvalidRequestException"},
        "expected a secret that takes this",
        "look at it in the AWS console: it may be scheduled for deletion, a replica, or managed by another service",
    ),
)  # fmt: skip


def region_of(reference: Reference) -> str | None:
    """The region that a reference names, by `?region=` or in its ARN."""
    said = reference.option("region")
    return said or (reference.locator.split(":")[3] if reference.locator.startswith("arn:") else None)


class Service:
    """Secrets Manager in every region that is asked for; may be shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[str | None, Any] = {}

    def ask(self, reference: Reference, operation: str, **arguments: Any) -> Answer:
        """One request about the secret; `operation` is the client's method.

        Raises SecretAbsent where there is no such secret or stage, or none that can be read, as it is to be deleted,
        and SecretStoreError for whatever else goes wrong.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        if operation != "create_secret":
            arguments["SecretId"] = reference.locator
        try:
            answer: Answer = getattr(self._client(region_of(reference)), operation)(**arguments)
        except ClientError as error:
            raise _refused(reference, operation, error.response) from None
        except (BotoCoreError, ResponseParserError, ValueError) as error:
            raise _unanswered(reference, error) from None
        if "ARN" not in answer:
            raise SecretStoreError(
                f"{reference}: expected an answer of AWS Secrets Manager, got one without an ARN",
                hint="check AWS_ENDPOINT_URL: a proxy, a portal or another service may have answered",
            )
        return answer

    def _client(self, region: str | None) -> Any:
        with self._lock:
            if region not in self._clients:
                self._clients[region] = _made(region)
            return self._clients[region]


def _made(region: str | None) -> Any:
    import boto3  # 0.25 s
    from botocore.config import Config

    # What botocore logs below this level shows requests with the values in them.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    config = Config(
        connect_timeout=10.0, read_timeout=10.0, retries={"mode": "standard", "total_max_attempts": 3}
    )  # fmt: skip
    return boto3.session.Session().client("secretsmanager", region_name=region, config=config)


def _refused(reference: Reference, operation: str, answer: Any) -> OpskitError:
    """The error for an answer that says no."""
    said = answer.get("Error", {})
    code = re.sub(r"[^A-Za-z0-9.]", "?", str(said.get("Code", "")))[:60]
    if code == "ResourceNotFoundException":
        return SecretAbsent(f"{reference} cannot be resolved: expected a secret, AWS Secrets Manager has none")
    if operation == "get_secret_value" and code == "InvalidRequestException" and _is_scheduled(said):
        return SecretAbsent(f"{reference} cannot be resolved: expected a secret, it is scheduled for deletion")
    if code in _DENIED:
        permission = f"secretsmanager:{_PERMISSIONS[operation]}"
        return SecretStoreError(
            f"{reference}: access denied: expected the permission {permission}, got {code}",
            hint=f"allow {permission} on this secret, and kms:Decrypt and kms:GenerateDataKey on its key if it has one "
            "of its own, or use credentials that may",
        )
    for codes, expected, hint in _ANSWERS:
        if code in codes:
            return SecretStoreError(f"{reference}: {expected}: got {code}", hint=hint)
    return SecretStoreError(
        f"{reference}: expected success, got {code or 'an answer without a code'}",
        hint="look the code up in the documentation of AWS Secrets Manager; a proxy may have answered instead of it",
    )


def _is_scheduled(said: Any) -> bool:
    return bool(_SCHEDULED.search(str(said.get("Message", ""))))


def _unanswered(reference: Reference, error: Exception) -> SecretStoreError:
    """The error for a request that got no answer, or could not even be made."""
    from botocore import exceptions

    kind = type(error).__name__
    if isinstance(error, exceptions.NoRegionError):
        return SecretStoreError(
            f"{reference}: expected the region of the secret, got none",
            hint="write ?region=… at the end of the reference, or set AWS_REGION or AWS_DEFAULT_REGION or the profile",
        )
    if isinstance(
        error,
        exceptions.NoCredentialsError
        | exceptions.PartialCredentialsError
        | exceptions.CredentialRetrievalError
        | exceptions.ProfileNotFound
        | exceptions.UnauthorizedSSOTokenError,
    ):
        return SecretStoreError(
            f"{reference}: expected AWS credentials, got {kind}",
            hint="set up an AWS profile, the environment (AWS_ACCESS_KEY_ID, …) or a role of this machine",
        )
    if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
        where = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).hostname
        return SecretStoreError(
            f"{reference}: cannot reach AWS Secrets Manager{f' at {where}' if where else ''}: "
            f"expected an answer, got {kind}",
            hint="check the network, the region, AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_SECRETS_MANAGER",
        )
    return SecretStoreError(
        f"{reference}: the request cannot be made: expected success, got {kind}",
        hint="check the region, AWS_ENDPOINT_URL and the AWS profile",
    )
