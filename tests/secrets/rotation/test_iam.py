"""What the contract does not say of IAM keys: the quota of two, whose keys they are, and what is told of them."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opskit.errors import TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import Witness, document
from opskit.secrets.rotation.targets.iam import UNUSED, IamKeys, IamSettings, iam_keys
from tests.secrets.rotation.iam_server import SELF_SERVICE, Iam, aws, between, id_of, refused

LONG_AGO = 1.7e9


@pytest.fixture
def iam() -> Iterator[Iam]:
    """The service, and an environment that leads to it."""
    with aws() as service:
        yield service


def target(iam: Iam, user: str) -> IamKeys:
    """Managed by the admin."""
    return iam_keys(IamSettings(user, admin=lambda: iam.admin))


def secret_of(key: Secret) -> str:
    """The part that nobody may see."""
    return str(json.loads(key.reveal())["secret_access_key"])


def forged(key: Secret, **parts: str) -> Secret:
    """A value with other parts."""
    return document({**json.loads(key.reveal()), **parts})


# The quota of two


@pytest.mark.parametrize(
    ("status", "created", "used"),
    [
        ("Active", LONG_AGO, LONG_AGO),
        ("Active", LONG_AGO, None),
        ("Inactive", LONG_AGO, -UNUSED + 3600),
        ("Inactive", -UNUSED + 3600, None),
        ("Active", 60.0, 90.0),
    ],
    ids=["active", "active-never-used", "used-lately", "made-lately", "made-and-used-since"],
)
def test_a_second_key_that_may_be_needed_stays(iam: Iam, status: str, created: float, used: float | None) -> None:
    """A key that is on, or that was used or made lately, or that is new but was used, is named and not deleted."""
    user, now = iam.user(), time.time()
    current, other = iam.key(user), iam.key(user)
    iam.client().update_access_key(UserName=user, AccessKeyId=id_of(other), Status=status)
    iam.age(current, LONG_AGO, LONG_AGO)
    iam.age(other, *(each if each is None or each == LONG_AGO else now + each for each in (created, used)))  # type: ignore[arg-type]
    before = iam.keys(user)
    with pytest.raises(TargetRefused, match=id_of(other)) as error:
        target(iam, user).create(current, now)
    assert f"--access-key-id {id_of(other)}" in str(error.value.hint) and id_of(current) not in str(error.value)
    assert iam.keys(user) == before


@pytest.mark.parametrize("used", [LONG_AGO, None])
def test_a_key_that_is_off_and_long_unused_makes_room(iam: Iam, used: float | None) -> None:
    """Such a key is deleted for a new one, as no rotation would ever get it back."""
    user = iam.user()
    current, other = iam.key(user), iam.key(user)
    iam.client().update_access_key(UserName=user, AccessKeyId=id_of(other), Status="Inactive")
    iam.age(other, LONG_AGO, used)
    made = target(iam, user).create(current, time.time())
    assert iam.keys(user) == {id_of(current): "Active", id_of(made): "Active"}


def test_a_key_that_is_off_stays_while_there_is_room(iam: Iam) -> None:
    """Nothing is deleted that is in nobody's way."""
    user = iam.user()
    other = iam.key(user)
    iam.client().update_access_key(UserName=user, AccessKeyId=id_of(other), Status="Inactive")
    iam.age(other, LONG_AGO, None)
    made = target(iam, user).create(None, time.time())
    assert iam.keys(user) == {id_of(other): "Inactive", id_of(made): "Active"}


def test_the_key_of_a_lost_answer_is_deleted() -> None:
    """A key that AWS made while the connection broke is asked for once, and gone when a key is made again."""
    asked = []

    def cut(done: object) -> None:
        asked.append(done())  # type: ignore[operator]

    since = time.time()
    with aws() as iam:
        user = iam.user()
        current = iam.key(user)
        iam.age(current, LONG_AGO, None)
        with between(CreateAccessKey=cut), pytest.raises(TargetError) as error:
            target(iam, user).create(current, since)
        assert len(asked) == 1 and not isinstance(error.value, TargetRefused)
        (orphan,) = iam.keys(user).keys() - {id_of(current)}
        made = target(iam, user).create(current, since)
        assert iam.keys(user).keys() == {id_of(current), id_of(made)} and id_of(made) != orphan


def test_keys_of_a_user_that_lacks_the_current_one_stay(iam: Iam) -> None:
    """A session of another account, or a wrong user name, meets keys that nobody asked about: none is touched."""
    user, stranger = iam.user(), iam.user()
    current = iam.key(user)
    strange = iam.key(stranger)
    iam.age(strange, time.time() + 5, None)
    with pytest.raises(TargetRefused, match="not among those"):
        target(iam, stranger).create(current, time.time())
    assert iam.keys(stranger) == {id_of(strange): "Active"}


# What a key is believed


def test_a_key_of_somebody_else_is_no_answer(iam: Iam) -> None:
    """A key that works, but for another user, is neither accepted nor refused."""
    with pytest.raises(TargetRefused, match="of somebody else"):
        target(iam, iam.user()).verify(iam.key(iam.user()))


def test_a_wrong_secret_is_refused(iam: Iam) -> None:
    """The right id with another secret is not accepted."""
    user = iam.user()
    assert not target(iam, user).verify(forged(iam.key(user), secret_access_key="x" * 40))


@pytest.mark.parametrize(
    "answer",
    [
        refused("SignatureDoesNotMatch", 403, "Signature expired: 20261123T000000Z is now earlier than …"),
        refused("SignatureDoesNotMatch", 403, "Signature not yet current: …"),
        refused("Throttling", 400),
        refused("ServiceUnavailable", 503),
        (200, b"<html>Log in to the hotel's network</html>"),
    ],
    ids=["slow-clock", "fast-clock", "throttled", "unavailable", "portal"],
)
def test_what_says_nothing_of_the_key_is_an_error(answer: tuple[int, bytes]) -> None:
    """Neither a wrong clock nor a service in trouble makes a good key look refused."""
    with between(GetCallerIdentity=lambda _done: answer) as iam:
        user = iam.user()
        with pytest.raises(TargetError) as error:
            target(iam, user).verify(iam.key(user))
        assert not isinstance(error.value, TargetRefused)


@pytest.mark.parametrize("action", ["ListAccessKeys", "CreateAccessKey", "GetAccessKeyLastUsed"])
def test_an_answer_without_what_was_asked_for_is_an_error(action: str) -> None:
    """A portal that answers instead of AWS, or nothing in the answer: no key is made or deleted for that."""
    answer = f"<{action}Response><{action}Result/></{action}Response>" if action[0] != "L" else "<html/>"
    with between(**{action: lambda _done: (200, answer.encode())}) as iam:
        user = iam.user()
        current = iam.key(user)
        if action == "GetAccessKeyLastUsed":
            iam.key(user)
        before = iam.keys(user)
        with pytest.raises(TargetError) as error:
            target(iam, user).create(current, 0.0)
        assert not isinstance(error.value, TargetRefused) and iam.keys(user) == before


def test_an_unreachable_service_is_an_error(iam: Iam) -> None:
    """Nobody there: TargetError from every method, and no value in it."""
    user = iam.user()
    key, other = iam.key(user), iam.key(user)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with aws(nobody.getsockname()[1]):
            there = target(iam, user)
            for act in (
                lambda: there.create(key, 0.0),
                lambda: there.apply(other, key),
                lambda: there.verify(key),
                lambda: there.revoke(key, other, final=True),
            ):
                with pytest.raises(TargetError) as error:
                    act()
                assert not isinstance(error.value, TargetRefused)
                assert secret_of(key) not in f"{error.value} {error.value.hint} {error.value.__cause__!r}"


def test_an_answer_that_nothing_follows_is_found_out() -> None:
    """A service that says yes and leaves the key off: verify says so."""

    def said(_done: object) -> tuple[int, bytes]:
        return 200, b"<UpdateAccessKeyResponse><ResponseMetadata/></UpdateAccessKeyResponse>"

    with aws() as iam:
        user = iam.user()
        key, kept = iam.key(user), iam.key(user)
        target(iam, user).revoke(key, kept, final=False)
        with between(UpdateAccessKey=said):
            target(iam, user).apply(key, kept)
        assert not target(iam, user).verify(key)


# Who may do what


def test_no_permission_is_a_refusal_that_changes_nothing(iam: Iam) -> None:
    """A user who may not manage its keys is told the permissions, and has the keys it had."""
    user = iam.user()
    key = iam.key(user)
    with pytest.raises(TargetRefused, match="AccessDenied") as error:
        iam_keys(IamSettings(user, is_self_managed=True)).create(key, time.time())
    assert "iam:CreateAccessKey" in str(error.value.hint) and iam.keys(user) == {id_of(key): "Active"}


def test_a_profile_manages(iam: Iam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key of an admin the profile of the settings is used, and an unknown one is an error."""
    user, admin = iam.user(), json.loads(iam.admin.reveal())
    credentials = tmp_path / "credentials"
    credentials.write_text("[keeper]\n" + "".join(f"aws_{name} = {value}\n" for name, value in admin.items()))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    made = iam_keys(IamSettings(user, profile="keeper")).create(None, time.time())
    assert iam.keys(user) == {id_of(made): "Active"}
    with pytest.raises(TargetError, match="ProfileNotFound"):
        iam_keys(IamSettings(user, profile="nobody")).create(made, time.time())


def test_a_key_that_was_deleted_cannot_be_had_again(iam: Iam) -> None:
    """Applying it is an error and no refusal, as AWS says the same of a key that it does not know yet."""
    user = iam.user()
    key, kept = iam.key(user), iam.key(user)
    target(iam, user).revoke(key, kept, final=True)
    with pytest.raises(TargetError, match="has no access key") as error:
        target(iam, user).apply(key, kept)
    assert not isinstance(error.value, TargetRefused)


@pytest.mark.parametrize("final", [False, True])
def test_the_kept_key_is_never_revoked(iam: Iam, final: bool) -> None:
    """Two values of one key, as after a typing error in the store: nothing is switched off."""
    user = iam.user()
    key = iam.key(user)
    with pytest.raises(TargetRefused, match="the one that is kept"):
        target(iam, user).revoke(forged(key, secret_access_key="other"), key, final=final)
    assert iam.keys(user) == {id_of(key): "Active"}


# What is told


def test_use_is_told_by_aws(iam: Iam) -> None:
    """Use after a time shows, use before it does not, nor does none; who manages its own keys is no witness."""
    user, now = iam.user(*SELF_SERVICE), time.time()
    key = iam.key(user)
    watched = target(iam, user)
    assert isinstance(watched, Witness)
    assert watched.in_use(key, key, now) is None
    iam.age(key, LONG_AGO, now - 60)
    assert watched.in_use(key, key, now) is None
    told = watched.in_use(key, key, now - 120)
    assert told is not None and id_of(key) in told and "s3 in eu-west-1" in told
    assert not isinstance(iam_keys(IamSettings(user, is_self_managed=True)), Witness)


@pytest.mark.parametrize(
    "value",
    [
        "hunter2-in-the-wrong-place",
        '{"access_key_id": "hunter2-in-the-wrong-place", "secret_access_key": "AKIAEXAMPLEEXAMPLE00"}',
        '{"access_key_id": "AKIAEXAMPLEEXAMPLE00"}',
    ],
    ids=["no-json", "exchanged", "half"],
)
def test_a_value_of_another_shape_is_not_shown(iam: Iam, value: str) -> None:
    """What is no key is refused before AWS is asked, without a piece of it."""
    with pytest.raises(TargetRefused, match="another shape") as error:
        target(iam, "app").verify(Secret(value))
    assert "hunter2" not in f"{error.value} {error.value.hint} {error.value.__cause__!r}"


def test_no_secret_leaves(iam: Iam, caplog: pytest.LogCaptureFixture) -> None:
    """A user rotates its own key; neither requests nor logs hold the secret of one, though everything is logged."""
    user = iam.user(*SELF_SERVICE)
    caplog.set_level(logging.DEBUG)
    before = iam.key(user)
    caplog.clear()
    keys = iam_keys(IamSettings(user, is_self_managed=True))
    made = keys.create(before, time.time())
    keys.apply(made, before)
    assert keys.verify(made)
    keys.revoke(before, made, final=False)
    assert not keys.verify(before)
    keys.apply(before, made)
    assert keys.verify(before)
    keys.revoke(before, made, final=True)
    assert iam.keys(user) == {id_of(made): "Active"}
    requests = iam.requests.read_bytes()
    for each in (made, before):
        assert id_of(each).encode() in requests and secret_of(each).encode() not in requests
        assert secret_of(each) not in caplog.text
