"""Access keys of an IAM user at AWS. The value is a JSON object: `access_key_id` and `secret_access_key`.

AWS makes the key and lets a user have two, so `create` already has it accepted, and needs a place: a key that an
interrupted call left behind is deleted, and one that is switched off and long unused; any other stays, and is named.

Invariants: boto3 is loaded by the first request. A key proves itself by sts:GetCallerIdentity, for which AWS asks no
permission; one that belongs to another user is refused. Making a key is asked for once: a repetition
by botocore could make a second one. No text of AWS or botocore is shown or kept as a cause, only codes; of a value only
the id is named, after its shape was checked, so that a secret written in its place is not.

AWS takes seconds until a change is known everywhere; waiting for that is not done here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import TIMEOUT, document, parts_of

PARTS = ("access_key_id", "secret_access_key")
UNUSED = 30 * 86400.0
"""Seconds since its last use after which a key that is switched off may make room for a new one."""
QUOTA = 2
"""Keys that a user may have; AWS does not raise it."""

_ID = re.compile(r"AKIA[A-Z0-9]{12,124}")
_CLOCK = re.compile(r"signature (expired|not yet current)", re.IGNORECASE)
_UNSURE = {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "RequestTimeout",
           "EntityTemporarilyUnmodifiable", "ConcurrentModification"}  # fmt: skip
_STATES = {True: "Active", False: "Inactive"}


@dataclass(frozen=True)
class IamSettings:
    """Whose keys, and who manages them: `admin`, or the user's own key (`is_self_managed`), or else an AWS profile."""

    user: str
    """The name of the IAM user, without its path."""
    region: str | None = None
    """Whose STS is asked whether a key is accepted; best the one that the key's users work in. None: as boto3 finds."""
    profile: str | None = None
    """The AWS profile that manages them; None: what boto3 finds (environment, default profile, role of the host)."""
    admin: Callable[[], Secret] | None = None
    """A key that manages them, in the shape of the value; instead of a profile."""
    is_self_managed: bool = False
    """Whether the user's own key manages them. Then nothing can tell whether the old one is used: asking is a use."""


@dataclass(frozen=True)
class _Key:
    """A key as AWS lists it; times are epoch seconds of AWS's clock, whole ones."""

    id: str
    is_active: bool
    created: float
    used: float | None = None


class IamKeys:
    """The two keys that an IAM user may have. Made by `iam_keys`."""

    keeps_old = True

    def __init__(self, settings: IamSettings) -> None:
        self._settings = settings
        self._session: Any = None
        """Of boto3; it keeps what is read from files, and no key of ours."""

    def create(self, current: Secret | None, since: float) -> Secret:
        """A new key, accepted from now on; see the contract. Raises TargetRefused where two keys are in the way."""
        self._make_room(current, since)
        made = _within(self._iam(current, "create_access_key", UserName=self._settings.user), "AccessKey")
        return document(dict(zip(PARTS, (made["AccessKeyId"], made["SecretAccessKey"]), strict=True)))

    def apply(self, secret: Secret, current: Secret | None) -> None:
        """Switch the key on; one that was deleted cannot be had again."""
        try:
            self._switch(secret, current or secret, on=True)
        except _Refused as refused:
            if refused.code != "NoSuchEntity":
                raise
            # No refusal: AWS may be late to know a key that it has just made.
            raise TargetError(
                f"the IAM user {self._settings.user} has no access key {_id_of(secret)}, or AWS does not know it yet",
                hint="try again; where it was deleted for good: opskit rotate undo",
            ) from None

    def verify(self, secret: Secret) -> bool:
        """Whether AWS knows the key; raises TargetRefused where it is of another user."""
        try:
            answer = self._ask(self._as(secret), "sts", "get_caller_identity", {})
        except _Refused as refused:
            if not refused.is_of_credential:
                raise
            return False
        owner = str(answer.get("Arn", "")).rpartition(":")[2]
        if not owner.startswith("user/") or owner.rpartition("/")[2] != self._settings.user:
            raise TargetRefused(
                f"access key {_id_of(secret)} is of somebody else: expected one of the IAM user {self._settings.user}",
                hint="compare: aws sts get-caller-identity, with that key",
            )
        return True

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        """Switch the key off, or delete it; one that is gone already is no error."""
        key_id = _id_of(secret)
        if key_id == _id_of(kept):
            raise TargetRefused(f"access key {key_id} is the one that is kept: nothing was changed")
        try:
            if final:
                self._delete(key_id, kept)
            else:
                self._switch(secret, kept, on=False)
        except _Refused as refused:
            if refused.code != "NoSuchEntity":
                raise

    def _switch(self, secret: Secret, login: Secret, *, on: bool) -> None:
        self._iam(
            login, "update_access_key",
            UserName=self._settings.user, AccessKeyId=_id_of(secret), Status=_STATES[on],
        )  # fmt: skip

    def _delete(self, key_id: str, login: Secret | None) -> None:
        self._iam(login, "delete_access_key", UserName=self._settings.user, AccessKeyId=key_id)

    # Room for a new key

    def _make_room(self, current: Secret | None, since: float) -> None:
        listed = self._iam(current, "list_access_keys", UserName=self._settings.user)
        keys = [_key(each) for each in _within(listed, "AccessKeyMetadata")]
        if current is not None and _id_of(current) not in {key.id for key in keys}:
            raise TargetRefused(
                f"access key {_id_of(current)} is not among those of the IAM user {self._settings.user}: "
                "expected the current one there",
                hint="check the name of the user, and that the session which manages it is of the same AWS account",
            )
        others = [self._used(key, current) for key in keys if current is None or key.id != _id_of(current)]
        needless = [key for key in others if _is_orphan(key, since)]
        if len(keys) - len(needless) >= QUOTA:
            needless += [key for key in others if _is_forgotten(key, since)][:1]
        if len(keys) - len(needless) >= QUOTA:
            raise self._full(others)
        for key in needless:
            self._delete(key.id, current)

    def _used(self, key: _Key, login: Secret | None) -> _Key:
        used, _ = self._last_used(key.id, login)
        return _Key(key.id, key.is_active, key.created, used)

    def _last_used(self, key_id: str, login: Secret | None) -> tuple[float | None, str]:
        """When a key was last used, as far as AWS tells yet, and for what."""
        answer = _within(self._iam(login, "get_access_key_last_used", AccessKeyId=key_id), "AccessKeyLastUsed")
        when = answer.get("LastUsedDate")
        what = f"{_plain(answer.get('ServiceName'))} in {_plain(answer.get('Region'))}"
        return (None if when is None else when.timestamp()), what

    def _full(self, others: Sequence[_Key]) -> TargetRefused:
        told = " and ".join(
            f"{key.id} ({'active' if key.is_active else 'inactive'}, "
            f"{'never used' if key.used is None else f'last used {_shown(key.used)}'})"
            for key in others
        )
        return TargetRefused(
            f"the IAM user {self._settings.user} has {QUOTA} access keys, and AWS allows no third: "
            f"expected room beside the current one, got {told}",
            hint="once nobody needs it: aws iam delete-access-key "
            f"--user-name {self._settings.user} --access-key-id {others[0].id}",
        )

    # Requests

    def _iam(self, login: Secret | None, operation: str, **arguments: Any) -> dict[str, Any]:
        return self._ask(self._manager(login), "iam", operation, arguments)

    def _manager(self, login: Secret | None) -> dict[str, Any]:
        """What boto3 is to log in with to manage keys, where not as its session does; `login` is an accepted key."""
        if self._settings.admin is not None:
            return self._as(self._settings.admin())
        if not self._settings.is_self_managed:
            return {}
        if login is None:
            raise TargetError(
                f"nobody may manage the keys of the IAM user {self._settings.user}: expected a current key, got none",
                hint="name a profile or an admin's key for the first one",
            )
        return self._as(login)

    def _as(self, secret: Secret) -> dict[str, Any]:
        _, value = parts_of(secret, *PARTS)
        return {"aws_access_key_id": _id_of(secret), "aws_secret_access_key": value}

    def _ask(self, login: dict[str, Any], service: str, operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        said = f"{operation.replace('_', '-')} for the IAM user {self._settings.user}"
        try:
            client = self._client(login, service, is_once=operation == "create_access_key")
            answer: dict[str, Any] = getattr(client, operation)(**arguments)
        except ClientError as error:
            raise _refusal(said, error.response) from None
        except (BotoCoreError, ResponseParserError, ValueError, LookupError) as error:
            # LookupError: botocore's own, for an answer of a proxy or a portal.
            raise TargetError(
                f"aws {service} {said}: expected an answer, got {type(error).__name__}",
                hint="check the network, the region, the AWS profile and environment, AWS_ENDPOINT_URL",
            ) from None
        return answer

    def _client(self, login: dict[str, Any], service: str, *, is_once: bool) -> Any:
        import boto3  # 0.25 s
        from botocore.config import Config

        # What botocore logs below this level shows answers, and with them new keys.
        logging.getLogger("botocore").setLevel(logging.WARNING)
        if self._session is None:
            self._session = boto3.session.Session(
                profile_name=self._settings.profile, region_name=self._settings.region
            )  # fmt: skip
        config = Config(
            connect_timeout=TIMEOUT, read_timeout=TIMEOUT,
            retries={"mode": "standard", "total_max_attempts": 1 if is_once else 2},
        )  # fmt: skip
        return self._session.client(service, config=config, **login)


class WatchedIamKeys(IamKeys):
    """The same, with somebody to ask AWS whether a key is still used who does not use it for that."""

    def in_use(self, secret: Secret, kept: Secret, since: float) -> str | None:
        """By AWS's record of the last use, which may be late by minutes to hours."""
        used, what = self._last_used(_id_of(secret), None)
        if used is None or used <= since:
            return None
        return f"AWS saw access key {_id_of(secret)} last at {_shown(used)}, for {what}"


def iam_keys(settings: IamSettings) -> IamKeys:
    """The target, which is a Witness unless the user manages its own keys."""
    return IamKeys(settings) if settings.is_self_managed and settings.admin is None else WatchedIamKeys(settings)


class _Refused(TargetRefused):
    """AWS said no; `code` says why."""

    def __init__(self, message: str, code: str, *, is_of_credential: bool, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.is_of_credential = is_of_credential


def _refusal(said: str, answer: Any) -> TargetError:
    """The error for an answer; it is no refusal where it may come after the work was done, or says to try later."""
    error = answer.get("Error", {})
    code = _plain(error.get("Code"))
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "SignatureDoesNotMatch" and _CLOCK.search(str(error.get("Message", ""))):
        return TargetError(f"{said}: AWS refuses the time of this host", hint="set the clock: timedatectl")
    if code in _UNSURE or not 400 <= status < 500:
        return TargetError(f"{said}: expected success, got {code}", hint="try again later")
    return _Refused(
        f"{said}: refused by AWS: {code}",
        code,
        is_of_credential=code in {"InvalidClientTokenId", "SignatureDoesNotMatch"},
        hint="look the code up in the documentation of AWS IAM; for AccessDenied allow iam:ListAccessKeys, "
        "iam:CreateAccessKey, iam:UpdateAccessKey, iam:DeleteAccessKey and iam:GetAccessKeyLastUsed on that user",
    )


def _within(answer: dict[str, Any], name: str) -> Any:
    if name not in answer:
        raise TargetError(f"expected an answer of AWS with {name}, got another", hint="check AWS_ENDPOINT_URL")
    return answer[name]


def _id_of(secret: Secret) -> str:
    key_id, _ = parts_of(secret, *PARTS)
    if not _ID.fullmatch(key_id):
        raise TargetRefused(
            "the value in the store has another shape: expected the id of an access key (AKIA…) in access_key_id",
            hint="a key of a role (ASIA…) ends by itself; else set the value once by hand, as it is in use now",
        )
    return key_id


def _key(listed: Any) -> _Key:
    return _Key(str(listed["AccessKeyId"]), listed["Status"] == "Active", listed["CreateDate"].timestamp())


def _is_orphan(key: _Key, since: float) -> bool:
    """Whether an interrupted `create` made it: nobody ever had its secret. AWS tells whole seconds."""
    return key.created >= int(since) and key.used is None


def _is_forgotten(key: _Key, since: float) -> bool:
    return not key.is_active and (key.used or key.created) < since - UNUSED


def _shown(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _plain(word: object) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "?", str(word or "no code"))[:60]
