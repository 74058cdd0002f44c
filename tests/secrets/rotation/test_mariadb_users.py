"""Two accounts of a real MariaDB in turn: what is particular to it; what all targets keep to is in the contract."""

from __future__ import annotations

import base64
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace

import pytest

from opskit.errors import ConfigError, OpskitError, ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document, parts_of
from opskit.secrets.rotation.targets.mysql.alternating import AlternatingUsers, AlternatingUsersSettings
from opskit.secrets.rotation.targets.mysql.server import Access, Place
from opskit.secrets.rotation.targets.mysql.verifiers import native
from tests.secrets.rotation.sql_servers import HOSTS, SqlServer, alternating_users, mariadb_server
from tests.secrets.rotation.stranger import silent, without_tls

SENTINEL = "Sent1nel's\\pass:wörd"


@pytest.fixture
def server() -> SqlServer:
    return mariadb_server()


@pytest.fixture
def lab(server: SqlServer) -> tuple[AlternatingUsers, Secret]:
    return alternating_users()


def _settings(target: AlternatingUsers) -> AlternatingUsersSettings:
    return target._settings


def _value(user: str, password: str = SENTINEL) -> Secret:
    return document({"username": user, "password": password})


def _refusal(act: Callable[[], object]) -> OpskitError:
    """The error of a deed, whose text and traceback hold no password, and none of the library's errors."""
    with pytest.raises(OpskitError) as caught:
        act()
    text = f"{''.join(traceback.format_exception(caught.value))} {caught.value.hint}"
    assert SENTINEL not in text and "pymysql" not in text
    return caught.value


def _accounts(server: SqlServer, user: str) -> list[tuple[str, str, bool]]:
    """Host, verifier and whether it is locked, of each account of a user."""
    columns = "JSON_VALUE(Priv, '$.authentication_string'), JSON_VALUE(Priv, '$.account_locked')"
    rows = server.sql(f"SELECT Host, {columns} FROM mysql.global_priv WHERE User = %s", user)
    return sorted((host, verifier, locked == "1") for host, verifier, locked in rows)


def test_every_host_of_a_user_changes(lab: tuple[AlternatingUsers, Secret], server: SqlServer) -> None:
    """Password, lock and final verifier come to user@host for each host, and not to the other user."""
    target, first = lab
    user_a, user_b = _settings(target).users
    before = _accounts(server, user_a)
    target.apply(_value(user_b), first)
    hosts = sorted(HOSTS)
    assert _accounts(server, user_b) == [(host, native(SENTINEL.encode()), False) for host in hosts]
    target.revoke(_value(user_b), first, final=False)
    assert _accounts(server, user_b) == [(host, native(SENTINEL.encode()), True) for host in hosts]
    target.revoke(_value(user_b), first, final=True)
    assert all(locked and verifier != native(SENTINEL.encode()) for _, verifier, locked in _accounts(server, user_b))
    assert _accounts(server, user_a) == before


def test_users_alternate(lab: tuple[AlternatingUsers, Secret]) -> None:
    """A new value is for the user who is not in use; where none is, for the first."""
    target, first = lab
    users = _settings(target).users
    second = target.create(first, time.time())
    assert parts_of(second, "username") == (users[1],)
    assert parts_of(target.create(second, time.time()), "username") == (users[0],)
    assert parts_of(target.create(None, time.time()), "username") == (users[0],)


def test_no_log_of_the_server_has_a_password(lab: tuple[AlternatingUsers, Secret], server: SqlServer) -> None:
    """General, error and binary log hold the deeds and no password, in whatever encoding."""
    target, first = lab
    user = _settings(target).users[1]
    target.apply(_value(user), first)
    assert target.verify(_value(user))
    target.revoke(first, _value(user), final=True)
    _refusal(lambda: target.apply(_value("somebody"), first))
    server.sql("CREATE OR REPLACE USER %s@localhost IDENTIFIED VIA unix_socket", user)
    _refusal(lambda: target.apply(_value(user), first))
    logged, raw = server.logged(), SENTINEL.encode()
    assert f"'{user}'@'10.%'".encode() in logged
    # The statement is repeated as it was sent, so quotes would be doubled: a part without any is looked for, too.
    for form in (raw, b"Sent1nel", raw.hex().encode(), base64.b64encode(raw), SENTINEL.encode("utf-16-le")):
        assert form not in logged and form.upper() not in logged


def test_a_password_may_hold_any_character(lab: tuple[AlternatingUsers, Secret]) -> None:
    """A password of quotes and other letters than ASCII is the one that logs in."""
    target, first = lab
    value = _value(_settings(target).users[1])
    target.apply(value, first)
    assert target.verify(value)


def test_a_refused_login_of_the_administrator_changes_nothing(
    lab: tuple[AlternatingUsers, Secret], server: SqlServer
) -> None:
    """It is a refusal that names server and user; so is the lack of a right."""
    target, first = lab
    user = _settings(target).users[1]
    before = _accounts(server, user)
    wrong = Access(server.place, "rotator", lambda: Secret(SENTINEL))
    powerless = Access(server.place, "backup", lambda: Secret("s:e\\c r\"e't#pä"))
    for access, words in ((wrong, "no such account and password"), (powerless, "it has no right to that")):
        broken = AlternatingUsers(replace(_settings(target), access=access))
        error = _refusal(lambda broken=broken: broken.apply(_value(user), first))  # type: ignore[misc]
        assert isinstance(error, TargetRefused) and words in str(error)
        assert access.admin in str(error) and str(server.socket) in str(error)
    assert _accounts(server, user) == before


def test_nobody_is_cut_off_by_mistake(lab: tuple[AlternatingUsers, Secret], server: SqlServer) -> None:
    """Values of other users, for the user in use, and the kept one itself are refused; a replaced one is no matter."""
    target, first = lab
    user = _settings(target).users[0]
    for act in (
        lambda: target.verify(_value("root")),
        lambda: target.apply(_value("root"), first),
        lambda: target.create(_value("root"), time.time()),
        lambda: target.apply(_value(user), first),
        lambda: target.revoke(first, first, final=True),
        lambda: target.apply(Secret("plain"), None),
    ):
        assert isinstance(_refusal(act), TargetRefused)
    target.revoke(_value(user), first, final=True)
    assert target.verify(first)


def test_an_account_that_got_another_password_is_left_alone(lab: tuple[AlternatingUsers, Secret]) -> None:
    """A revocation that is repeated late does not lock out the value that came after it."""
    target, first = lab
    user_a, user_b = _settings(target).users
    target.apply(_value(user_b, "second"), first)
    target.apply(_value(user_a, "third"), _value(user_b, "second"))
    target.revoke(first, _value(user_b, "second"), final=True)
    assert target.verify(_value(user_a, "third"))


def test_an_account_of_another_kind_is_left_alone(lab: tuple[AlternatingUsers, Secret], server: SqlServer) -> None:
    """Accounts that log in in another way, or in several, and users that are absent, are refused before any change."""
    target, first = lab
    user = _settings(target).users[1]
    for way in ("unix_socket", "mysql_native_password USING 'invalid' OR unix_socket"):
        server.sql(f"ALTER USER %s@localhost IDENTIFIED VIA {way}", user)
        before = _accounts(server, user)
        error = _refusal(lambda: target.apply(_value(user), first))
        assert isinstance(error, TargetRefused) and "logs in in another way" in str(error)
        assert _accounts(server, user) == before
    for host in HOSTS:
        server.sql("DROP USER %s@%s", user, host)
    server.sql(f"CREATE ROLE {user}")
    assert "has no account" in str(_refusal(lambda: target.apply(_value(user), first)))


def test_what_the_server_does_not_apply_is_not_accepted(
    lab: tuple[AlternatingUsers, Secret], server: SqlServer
) -> None:
    """Where the password has expired, or the account asks for more than that, verify says no."""
    target, first = lab
    user = _settings(target).users[1]
    target.apply(_value(user), first)
    server.sql("ALTER USER %s@localhost PASSWORD EXPIRE", user)
    assert not target.verify(_value(user))
    target.apply(_value(user), first)
    assert target.verify(_value(user))
    server.sql("ALTER USER %s@localhost REQUIRE X509", user)
    target.apply(_value(user), first)
    assert not target.verify(_value(user))


def test_open_connections_are_witnesses(lab: tuple[AlternatingUsers, Secret], server: SqlServer) -> None:
    """A connection shows while it is open, even of a locked account; the right to see none is no evidence."""
    target, first = lab
    user, its_password = parts_of(first, "username", "password")
    assert target.in_use(first, first, 0) is None
    with server.connect(user, its_password):
        target.apply(_value(_settings(target).users[1]), first)
        target.revoke(first, _value(_settings(target).users[1]), final=False)
        assert target.in_use(first, first, 0) == f"1 open connections of '{user}' to {server.socket}, from localhost"
    end = time.monotonic() + 5
    while target.in_use(first, first, 0) is not None:
        assert time.monotonic() < end
    server.sql("CREATE USER blind@localhost IDENTIFIED BY ''")
    blind = AlternatingUsers(replace(_settings(target), access=Access(server.place, "blind")))
    assert "'blind' cannot see connections" in str(_refusal(lambda: blind.in_use(first, first, 0)))
    server.sql("DROP USER blind@localhost")


def test_nothing_is_said_of_a_server_that_does_not_answer(
    lab: tuple[AlternatingUsers, Secret], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absent, or silent: that is no refusal, and ends in time."""
    target, first = lab
    monkeypatch.setattr("opskit.secrets.rotation.targets.mysql.server.TIMEOUT", 0.2)
    with silent() as silent_port:
        for port in (1, silent_port):
            place = Place("127.0.0.1", port)
            away = AlternatingUsers(replace(_settings(target), access=Access(place, "rotator", lambda: Secret("x"))))
            value = _value(_settings(target).users[1])
            for act in (
                lambda away=away, value=value: away.verify(value),
                lambda away=away, value=value: away.apply(value, first),
                lambda away=away, value=value: away.revoke(value, first, final=True),
                lambda away=away, value=value: away.in_use(value, value, 0),
            ):
                error = _refusal(act)  # type: ignore[arg-type]
                assert type(error) is TargetError and f"127.0.0.1:{port}" in str(error)


def test_passwords_cross_a_network_in_tls_alone(lab: tuple[AlternatingUsers, Secret], server: SqlServer) -> None:
    """The server must show a certificate for its name; whoever strips its offer of TLS is sent nothing."""
    target, first = lab
    over = Place("localhost", server.port, ca_file=str(server.ca_file))
    assert AlternatingUsers(replace(_settings(target), entrance=over)).verify(first)
    for place in (replace(over, ca_file=None), replace(over, host="127.0.0.1")):
        error = _refusal(lambda place=place: AlternatingUsers(replace(_settings(target), entrance=place)).verify(first))  # type: ignore[misc]
        assert type(error) is TargetError and "is not trusted" in str(error)
    nowhere = replace(over, ca_file="/none")
    error = _refusal(lambda: AlternatingUsers(replace(_settings(target), entrance=nowhere)).verify(first))
    assert "expected a file of them, got /none" in str(error)
    with without_tls(server.socket) as (port, seen):
        stripped = AlternatingUsers(replace(_settings(target), entrance=replace(over, port=port)))
        error = _refusal(lambda: stripped.verify(first))
        assert type(error) is TargetError and "does not offer TLS" in str(error)
    assert b"".join(seen) == b""


def test_settings_must_name_two_users_and_another(server: SqlServer) -> None:
    """One user twice does not alternate, and an administrator who locks himself out helps nobody."""
    for users in (("a", "a"), ("a", "rotator")):
        with pytest.raises(ConfigError, match="expected two, and an administrator beside them"):
            AlternatingUsers(AlternatingUsersSettings(server.access(), users))


def test_the_library_is_an_extra(lab: tuple[AlternatingUsers, Secret], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the message says how to get it."""
    target, first = lab
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ProgramMissing) as caught:
        target.verify(first)
    assert "pip install 'opskit[mysql]'" in str(caught.value.hint)
