"""Two passwords of an account of a real MySQL; what all targets keep to is in the contract."""

from __future__ import annotations

import pytest

from opskit.errors import ConfigError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.targets.mysql.dual import DualPasswords, DualPasswordsSettings
from opskit.secrets.rotation.targets.mysql.server import Access, Place
from tests.secrets.rotation.sql_servers import HOSTS, SqlServer, dual_passwords, mysql_server

FIRST, SECOND, THIRD = Secret("first"), Secret("Sent1nel's\\second:wörd"), Secret("Sent1nel third")


@pytest.fixture
def server() -> SqlServer:
    return mysql_server()


@pytest.fixture
def target(server: SqlServer) -> DualPasswords:
    return dual_passwords()[0]


def _user(target: DualPasswords) -> str:
    return target._settings.user


def _accepted(target: DualPasswords) -> list[Secret]:
    return [each for each in (FIRST, SECOND, THIRD) if target.verify(each)]


def _alter(server: SqlServer, target: DualPasswords, host: str, change: str, *values: str) -> None:
    server.sql(f"ALTER USER %s@%s {change}", _user(target), host, *values)


def _has_old(server: SqlServer, target: DualPasswords) -> dict[str, bool]:
    query = "SELECT Host, User_attributes->>'$.additional_password' IS NOT NULL FROM mysql.user WHERE User = %s"
    return {host: bool(has) for host, has in server.sql(query, _user(target))}


def test_every_host_changes(target: DualPasswords, server: SqlServer) -> None:
    """A new password keeps the old one at each host, and revoking discards it at each."""
    target.apply(SECOND, FIRST)
    assert _has_old(server, target) == dict.fromkeys(HOSTS, True)
    target.revoke(FIRST, SECOND, final=True)
    assert _has_old(server, target) == dict.fromkeys(HOSTS, False)
    assert _accepted(target) == [SECOND]


def test_hosts_that_differ_come_together(target: DualPasswords, server: SqlServer) -> None:
    """Where somebody changed one host by hand, each gets what it lacks, and keeps the current one."""
    _alter(server, target, "10.%", "IDENTIFIED BY %s RETAIN CURRENT PASSWORD", SECOND.reveal())
    target.apply(SECOND, FIRST)
    assert _has_old(server, target) == dict.fromkeys(HOSTS, True)
    assert _accepted(target) == [FIRST, SECOND]


def test_a_repetition_does_not_throw_the_old_one_away(target: DualPasswords) -> None:
    """RETAIN CURRENT PASSWORD twice would leave the new one twice, and the one in use nowhere."""
    for _ in range(3):
        target.apply(SECOND, FIRST)
    assert _accepted(target) == [FIRST, SECOND]


def test_a_leftover_makes_room_for_a_new_one(target: DualPasswords) -> None:
    """Where the current password is the old one of two, that one stays, and the primary, known to nobody, goes."""
    target.apply(SECOND, FIRST)
    target.apply(THIRD, FIRST)
    assert _accepted(target) == [FIRST, THIRD]


def test_an_older_password_is_not_pushed_out(target: DualPasswords) -> None:
    """A third one would end what a consumer may still use: that is refused, and nothing changes."""
    target.apply(SECOND, FIRST)
    with pytest.raises(TargetRefused, match="still accepts an older password"):
        target.apply(THIRD, SECOND)
    assert _accepted(target) == [FIRST, SECOND]


def test_the_primary_can_be_given_up(target: DualPasswords, server: SqlServer) -> None:
    """The old one becomes the primary again, with no room taken; the other order ends alike."""
    target.apply(SECOND, FIRST)
    target.revoke(SECOND, FIRST, final=False)
    assert _accepted(target) == [FIRST] and _has_old(server, target) == dict.fromkeys(HOSTS, False)
    with pytest.raises(TargetRefused, match="it is the one to be kept"):
        target.revoke(FIRST, FIRST, final=True)


def test_an_account_without_a_password_gets_one(target: DualPasswords, server: SqlServer) -> None:
    """MySQL cannot keep an empty password beside another."""
    for host in HOSTS:
        _alter(server, target, host, "IDENTIFIED BY ''")
    target.apply(SECOND, None)
    assert _accepted(target) == [SECOND]


def test_no_log_of_the_server_has_a_password(target: DualPasswords, server: SqlServer) -> None:
    """Nor does what the server shows of statements, even where it is told to log them as they came."""
    server.sql("SET GLOBAL log_raw = ON")
    try:
        target.apply(SECOND, FIRST)
        target.revoke(SECOND, FIRST, final=True)
    finally:
        server.sql("SET GLOBAL log_raw = OFF")
    shown = server.sql("SELECT SQL_TEXT FROM performance_schema.events_statements_history_long")
    shown += server.sql("SELECT SQL_TEXT FROM performance_schema.events_statements_history")
    assert f"'{_user(target)}'@'10.%'".encode() in server.logged()
    assert b"Sent1nel" not in server.logged() and "Sent1nel" not in repr(shown)


def test_what_is_not_known_is_left_alone(target: DualPasswords, server: SqlServer) -> None:
    """Another plugin, another user, a wrong administrator, MariaDB's table: refused before any change."""
    _alter(server, target, "10.%", "IDENTIFIED WITH sha256_password BY 'x'")
    with pytest.raises(TargetRefused, match="logs in in another way: expected caching_sha2_password"):
        target.apply(SECOND, FIRST)
    nobody = DualPasswords(DualPasswordsSettings(server.access(), "nobody"))
    with pytest.raises(TargetRefused, match="has no account 'nobody'"):
        nobody.apply(SECOND, FIRST)
    wrong = Access(server.place, "rotator", lambda: SECOND)
    with pytest.raises(TargetRefused, match=r"'rotator' cannot log in at .*: no such account and password"):
        DualPasswords(DualPasswordsSettings(wrong, _user(target))).apply(SECOND, FIRST)
    assert _accepted(target) == [FIRST]


def test_an_account_is_not_its_own_administrator() -> None:
    """It would bar itself at the next step."""
    with pytest.raises(ConfigError, match="cannot be its own administrator"):
        DualPasswords(DualPasswordsSettings(Access(Place(), "app"), "app"))
