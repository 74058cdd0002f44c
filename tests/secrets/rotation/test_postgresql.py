"""Rotating passwords of a real PostgreSQL: nothing of them in its log, no refusal that is none, nobody locked out."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import psycopg
import pytest

from opskit.errors import ConfigError, OpskitError, ProgramMissing, TargetError, TargetRefused
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import document, parts_of, password
from opskit.secrets.rotation.targets.postgresql import (
    Admin,
    AlternatingUsers,
    PostgresqlAlternating,
    PostgresqlUser,
    Server,
    SingleUser,
)
from opskit.secrets.rotation.targets.postgresql import server as sessions
from tests.secrets.rotation import postgresql_server
from tests.secrets.rotation.postgresql_server import ADMIN_PASSWORD, CARELESS, Running

NO_ONE = password()


@pytest.fixture
def running() -> Running:
    """A server of many tests."""
    return postgresql_server.shared()


def failure(act: Callable[[], object], *values: Secret) -> TargetError:
    """The error of an act, in whose traceback there is none of these values, no statement and no verifier."""
    with pytest.raises(TargetError) as caught:
        act()
    told = "".join(traceback.format_exception(caught.value)) + str(caught.value.hint)
    assert not [each for each in (*values, ADMIN_PASSWORD, NO_ONE) if each.reveal() in told]
    assert not re.search(r"^psycopg\.", told, re.MULTILINE) and "SCRAM-SHA-256$" not in told
    return caught.value


def is_unclear(error: TargetError) -> bool:
    """Whether an error leaves it open what became of the call."""
    return not isinstance(error, TargetRefused)


def word(value: Secret) -> Secret:
    """The password of a value of alternating users."""
    return Secret(parts_of(value, "password")[0])


def user(value: Secret) -> str:
    """Its user."""
    return parts_of(value, "username")[0]


def connected(where: Server, name: str, secret: Secret) -> psycopg.Connection[Any]:
    """A session of an application."""
    return psycopg.connect(
        host=where.host, port=where.port, dbname=where.database, user=name, password=secret.reveal(), autocommit=True
    )


def traces(secret: Secret, role: str) -> set[str]:
    """What a password looks like in a log, or what is as good as it."""
    raw = secret.reveal_bytes()
    md5 = hashlib.md5(raw + role.encode()).hexdigest()
    coded = {base64.b64encode(b"." * shift + raw).decode()[4:-4] for shift in range(3)}
    return {secret.reveal(), quote_plus(secret.reveal()), raw.hex(), md5, *coded}


def rotated(target: PostgresqlUser | PostgresqlAlternating, old: Secret) -> Secret:
    """One whole rotation."""
    made = target.create(old, time.time())
    target.apply(made, old)
    assert target.verify(made)
    target.revoke(old, made, final=False)
    target.revoke(old, made, final=True)
    return made


def test_no_password_reaches_the_log_of_the_server(running: Running) -> None:
    """A server that logs every statement, and each refused one again, sees verifiers only."""
    seen = list[tuple[str, Secret]]()
    for admin in (postgresql_server.admin(), None):
        settings, first = running.single(admin)
        seen += [(settings.user, first), (settings.user, rotated(PostgresqlUser(settings), first))]
        if admin is None and not running.lets_two_alter_one_another:
            continue
        pair, value = running.alternating(admin, "CREATEROLE")
        last = rotated(PostgresqlAlternating(pair), value)
        seen += [(user(each), word(each)) for each in (value, last)]
    weak, value = running.alternating()  # may not alter one another
    made = PostgresqlAlternating(weak).create(value, 0)
    failure(lambda: PostgresqlAlternating(weak).apply(made, value), word(made), word(value))
    PostgresqlAlternating(weak).verify(made)
    log = running.log
    assert log.count("SCRAM-SHA-256$4096:") > len(seen) and "permission denied" in log
    for role, secret in [*seen, (user(made), word(made)), ("rotator", ADMIN_PASSWORD)]:
        assert not [trace for trace in traces(secret, role) if trace in log]


def test_an_application_sees_no_refused_login(running: Running) -> None:
    """Issue 5: who logs in every 50 ms with the value of the moment is never refused while users alternate."""
    settings, value = running.alternating(postgresql_server.admin())
    target = PostgresqlAlternating(settings)
    shared, refused, logins, stop = [value], list[str](), list[Secret](), threading.Event()

    def application() -> None:
        while not stop.wait(0.05):
            taken = shared[0]
            try:
                with connected(running.where, user(taken), word(taken)) as session:
                    session.execute("SELECT 1")
                logins.append(taken)
            except psycopg.Error as error:
                refused.append(str(error))

    def wait_for(is_true: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not is_true() and time.monotonic() < end:
            time.sleep(0.01)
        assert is_true()

    thread = threading.Thread(target=application)
    thread.start()
    try:
        for _ in range(6):
            old, started = shared[0], time.time()
            wait_for(lambda old=old: logins.count(old) >= 3)
            made = target.create(old, started)
            target.apply(made, old)
            assert target.verify(made)
            shared[0] = made
            wait_for(lambda made=made: logins[-1] is made)
            wait_for(lambda old=old, made=made, since=started: target.in_use(old, made, since) is None)
            target.revoke(old, made, final=False)
            target.revoke(old, made, final=True)
            assert not target.verify(old)
    finally:
        stop.set()
        thread.join()
    assert refused == [] and len({each.reveal() for each in logins}) == 7 and len(logins) >= 19


def test_a_refused_login_changes_nothing(running: Running) -> None:
    """Without an administrator, a current password that is refused is TargetRefused; with one it is not needed."""
    settings, first = running.single()
    made = password()
    for current in (None, NO_ONE):
        error = failure(lambda current=current: PostgresqlUser(settings).apply(made, current), made)
        assert isinstance(error, TargetRefused) and "administrator" in str(error.hint)
    assert PostgresqlUser(settings).verify(first)
    managed = PostgresqlUser(replace(settings, admin=postgresql_server.admin()))
    managed.apply(made, NO_ONE)
    assert managed.verify(made)
    stranger = PostgresqlUser(replace(settings, admin=Admin("rotator", lambda: NO_ONE)))
    assert isinstance(failure(lambda: stranger.apply(first, made), first, made), TargetRefused)
    assert managed.verify(made)


def test_a_call_that_was_cut_off_can_be_repeated(running: Running) -> None:
    """A user alone, whose password was replaced by a call that never returned, is not refused the second time."""
    settings, first = running.single()
    target, made = PostgresqlUser(settings), password()
    for _ in range(2):
        target.apply(made, first)
    assert target.verify(made)


def test_values_of_other_roles_are_refused(running: Running) -> None:
    """Whoever can write to the store cannot have the administrator alter a role of his choice."""
    settings, first = running.alternating(postgresql_server.admin())
    target, victim = PostgresqlAlternating(settings), running.role("LOGIN", NO_ONE)
    evil = document({"username": victim, "password": NO_ONE.reveal()})
    for act in (
        lambda: target.create(evil, 0),
        lambda: target.apply(evil, first),
        lambda: target.apply(first, evil),
        lambda: target.verify(evil),
        lambda: target.revoke(evil, first, final=True),
        lambda: target.revoke(first, evil, final=True),
        lambda: target.in_use(evil, first, 0),
        lambda: target.verify(Secret("a plain password")),
    ):
        assert isinstance(failure(act), TargetRefused)
    assert f'ALTER ROLE "{victim}"' not in running.log
    connected(running.where, victim, NO_ONE).close()


def test_the_value_in_use_is_never_replaced_or_disabled(running: Running) -> None:
    """A new value of the user that is in use is refused, and so is disabling the user that is kept."""
    settings, first = running.alternating(postgresql_server.admin())
    target = PostgresqlAlternating(settings)
    other = document({"username": user(first), "password": NO_ONE.reveal()})
    assert isinstance(failure(lambda: target.apply(other, first)), TargetRefused)
    assert isinstance(failure(lambda: target.revoke(other, first, final=True)), TargetRefused)
    assert target.verify(first)


@pytest.mark.parametrize("users", [("a", "a"), ("a", "rotator")])
def test_roles_must_be_different(users: tuple[str, str]) -> None:
    """Two users that are one, or the administrator, would lock somebody out."""
    with pytest.raises(ConfigError, match="two users and an administrator"):
        AlternatingUsers(server=Server("/nowhere"), users=users, admin=postgresql_server.admin())


def test_a_server_that_accepts_and_does_not_apply_is_found(running: Running) -> None:
    """A password of a role whose validity has passed is stored, and refused at login."""
    settings, _ = running.single(postgresql_server.admin(), "LOGIN VALID UNTIL '2001-01-01'")
    target, made = PostgresqlUser(settings), password()
    target.apply(made, None)
    assert not target.verify(made)


def test_a_login_without_the_password_proves_nothing(running: Running) -> None:
    """Where anybody is let in, verify is neither true nor false; an administrator may come in that way."""
    open_door = SingleUser(server=running.where, user=CARELESS)
    error = failure(lambda: PostgresqlUser(open_door).verify(NO_ONE))
    assert is_unclear(error) and "pg_hba.conf" in str(error.hint)
    settings, _ = running.single(Admin(CARELESS))
    made = password()
    PostgresqlUser(settings).apply(made, None)
    assert PostgresqlUser(settings).verify(made)


def test_other_reasons_are_no_refusal_of_the_password(running: Running) -> None:
    """Too many connections, a database that is not there: TargetError, never False."""
    settings, first = running.single(options="LOGIN CONNECTION LIMIT 0")
    error = failure(lambda: PostgresqlUser(settings).verify(first), first)
    assert is_unclear(error) and "too many connections" in str(error)
    assert PostgresqlUser(settings).verify(NO_ONE) is False
    settings, first = running.single()
    settings = replace(settings, users_connect_to=replace(running.where, database="none"))
    assert is_unclear(failure(lambda: PostgresqlUser(settings).verify(first), first))


def test_who_may_not_alter_a_role_is_told_what_it_takes(running: Running) -> None:
    """An administrator without the right is TargetRefused, with a hint; nothing has changed."""
    settings, first = running.single()
    poor = running.role("LOGIN", NO_ONE)
    target = PostgresqlUser(replace(settings, admin=Admin(poor, lambda: NO_ONE)))
    error = failure(lambda: target.apply(password(), first), first)
    assert isinstance(error, TargetRefused) and "ADMIN OPTION" in str(error.hint)
    assert target.verify(first)


def test_a_query_says_what_a_user_must_be_allowed(running: Running) -> None:
    """A user who logs in and may not do what the query does is refused by an error; what the query does is undone."""
    running.sql("DROP TABLE IF EXISTS stock", "CREATE TABLE stock (item text)")
    settings, first = running.single()
    target = PostgresqlUser(replace(settings, query="INSERT INTO stock VALUES ('100 % wool')"))
    error = failure(lambda: target.verify(first), first)
    assert isinstance(error, TargetRefused) and "42501" in str(error)
    running.sql(f"GRANT INSERT ON stock TO {settings.user}")
    assert target.verify(first)
    assert running.sql("SELECT item FROM stock") == []


def test_both_users_must_become_the_owner(running: Running) -> None:
    """A user that does not become the owner at login is no success: its successor could not use what it makes."""
    settings, first = running.alternating(postgresql_server.admin())
    target = PostgresqlAlternating(settings)
    assert target.verify(first)
    running.sql(f"ALTER ROLE {user(first)} RESET role")
    error = failure(lambda: target.verify(first), word(first))
    assert is_unclear(error) and f"SET role = {settings.owner}" in str(error.hint)


def test_a_server_that_would_log_md5_is_refused(running: Running) -> None:
    """An md5 verifier is as good as the password to who reads the log, so none is made; nothing is changed."""
    settings, first = running.single()
    running.sql(f"ALTER ROLE {settings.user} SET password_encryption = md5")
    made = password()
    error = failure(lambda: PostgresqlUser(settings).apply(made, first), made, first)
    assert isinstance(error, TargetRefused) and "password_encryption" in str(error.hint)
    assert PostgresqlUser(settings).verify(first)


def test_sessions_are_seen_and_ended(running: Running) -> None:
    """Open sessions of the old user are told, outlive being disabled, and end with a final revocation if so set."""
    settings, old = running.alternating(postgresql_server.admin())
    target = PostgresqlAlternating(replace(settings, terminate=True))
    made = target.create(old, 0)
    target.apply(made, old)
    assert target.in_use(old, made, time.time()) is None
    with connected(running.where, user(old), word(old)) as session:
        target.revoke(old, made, final=False)
        assert target.in_use(old, made, time.time()) == f"1 open session of {user(old)}"
        session.execute("SELECT 1")
        PostgresqlAlternating(settings).revoke(old, made, final=True)
        session.execute("SELECT 1")
        target.revoke(old, made, final=True)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert running.sql(
        f"SELECT rolpassword IS NULL AND NOT rolcanlogin FROM pg_authid WHERE rolname = '{user(old)}'"
    ) == [True]


def test_sessions_that_cannot_be_ended_are_an_error_after_the_change(running: Running) -> None:
    """By then the old user is disabled, so it is not said that nothing happened."""
    settings, old = running.alternating(Admin(CARELESS))
    target = PostgresqlAlternating(replace(settings, terminate=True))
    made = target.create(old, 0)
    target.apply(made, old)
    with connected(running.where, user(old), word(old)):
        error = failure(lambda: target.revoke(old, made, final=True), word(old), word(made))
    assert is_unclear(error) and "pg_signal_backend" in str(error.hint)
    assert not target.verify(old)


def test_users_alone_tell_of_one_another(running: Running) -> None:
    """Without an administrator the user that is kept tells of the old one's sessions, disabled or not."""
    settings, old = running.alternating(options="CREATEROLE")
    target = PostgresqlAlternating(settings)
    made = target.create(old, 0)
    target.apply(made, old)
    assert target.in_use(old, made, 0) is None
    with connected(running.where, user(old), word(old)):
        assert target.in_use(old, made, 0) == f"1 open session of {user(old)}"
        target.revoke(old, made, final=False)
        assert target.in_use(old, made, 0) == f"1 open session of {user(old)}"


def everything(target: PostgresqlUser | PostgresqlAlternating, old: Secret) -> Iterator[Callable[[], object]]:
    """All calls that ask the server."""
    made = target.create(old, 0)
    yield lambda: target.verify(old)
    yield lambda: target.apply(made, old)
    if isinstance(target, PostgresqlAlternating):
        yield lambda: target.revoke(old, made, final=True)
        yield lambda: target.in_use(old, made, 0)


def test_a_server_that_is_down_is_no_refusal(tmp_path: Path) -> None:
    """Nobody can say what is accepted where nobody answers."""
    value = document({"username": "a", "password": NO_ONE.reveal()})
    for where in (Server(str(tmp_path)), Server("127.0.0.1", port=1), Server("no-such-host.invalid")):
        single = SingleUser(server=where, user="a")
        pair = AlternatingUsers(server=where, users=("a", "b"), admin=postgresql_server.admin())
        for act in (*everything(PostgresqlUser(single), NO_ONE), *everything(PostgresqlAlternating(pair), value)):
            error = failure(act)
            assert is_unclear(error) and str(where) in str(error)


def test_a_change_that_waits_is_given_up_and_does_not_come_later(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that somebody else is altering is waited for, shortly; what was told to have failed stays undone."""
    monkeypatch.setattr(sessions, "_STATEMENT_SECONDS", 0.3)
    settings, first = running.single(postgresql_server.admin())
    target, made = PostgresqlUser(settings), password()
    with running.superuser.transaction():
        running.sql(f"ALTER ROLE {settings.user} CONNECTION LIMIT 5")
        error = failure(lambda: target.apply(made, first), made, first)
        assert is_unclear(error) and "QueryCanceled" in str(error)
    assert target.verify(first) and not target.verify(made)


def test_a_connection_that_is_cut_before_the_end_changes_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server itself does not give up either, the connection is cut; the statement is rolled back then."""
    monkeypatch.setattr(sessions, "_SECONDS", 0.5)
    settings, first = running.single(postgresql_server.admin())
    target, made = PostgresqlUser(settings), password()
    with running.superuser.transaction():
        running.sql(f"ALTER ROLE {settings.user} CONNECTION LIMIT 5")
        error = failure(lambda: target.apply(made, first), made, first)
        assert is_unclear(error) and "longer than 0.5 s" in str(error)
    assert target.verify(first) and not target.verify(made)


@contextmanager
def answering(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """The port of something that is not PostgreSQL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    answer(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_nothing_goes_over_a_network_in_plain_text() -> None:
    """A server that declines TLS gets to know neither user nor password, unless the settings say disable."""
    got = list[bytes]()

    def decline(peer: socket.socket) -> None:
        peer.recv(8)  # the request for TLS
        peer.sendall(b"N")
        got.append(peer.recv(1000))

    with answering(decline) as port:
        for sslmode in ("verify-full", "verify-ca", "require"):
            where = Server(
                "127.0.0.1", port=port, sslmode=sslmode, sslrootcert=None if sslmode == "require" else __file__
            )
            assert is_unclear(
                failure(lambda where=where: PostgresqlUser(SingleUser(server=where, user="a")).verify(NO_ONE))
            )
    assert not any(got)
    assert Server("db").sslmode == "verify-full"


def test_a_server_that_is_full_breaks_off_or_hangs_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full before the password was asked for, lost after it, or silent for too long: TargetError."""

    def decline(peer: socket.socket) -> None:
        peer.recv(1000)
        told = b"SFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0"
        peer.sendall(b"E" + (len(told) + 4).to_bytes(4, "big") + told)

    def break_off(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.sendall(b"R\0\0\0\x08\0\0\0\x03")  # asks for the password
        peer.recv(1000)

    for answer in (decline, break_off):
        with answering(answer) as port:
            where = Server("127.0.0.1", port=port, sslmode="disable")
            assert is_unclear(
                failure(lambda where=where: PostgresqlUser(SingleUser(server=where, user="a")).verify(NO_ONE))
            )
    monkeypatch.setattr(sessions, "_SECONDS", 2)  # the least that libpq takes
    done = threading.Event()
    with answering(lambda peer: done.wait(20)) as port:
        where = Server("127.0.0.1", port=port, sslmode="disable")
        error = failure(lambda: PostgresqlUser(SingleUser(server=where, user="a")).verify(NO_ONE))
        done.set()
    assert is_unclear(error) and "timeout" in str(error)


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate")
def test_a_server_with_tls_that_speaks_german(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate must be of a known authority and for that name; a refusal is one in any language."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*new.split(), *names], check=True, capture_output=True)
    port = free_port()
    for name, value in {"LANGUAGE": "de", "PGPORT": str(port)}.items():
        monkeypatch.setenv(name, value)
    lines = ("hostssl all all 127.0.0.1/32 scram-sha-256", "hostssl all all ::1/128 scram-sha-256")
    with postgresql_server.started(*lines, port=port, listen_addresses="localhost", lc_messages="C.utf8") as running:
        data = running.server.socket / "data"
        for path, copy in ((certificate, data / "server.crt"), (key, data / "server.key")):
            postgresql_server.hand_over(Path(shutil.copy(path, copy)))
        running.sql("ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        where = Server("localhost", port=port, sslrootcert=str(certificate))
        _require_tls(running, where)
        _require_german(running, where)


def _require_tls(running: Running, where: Server) -> None:
    settings, first = running.single()
    target = PostgresqlUser(replace(settings, server=where))
    made = rotated(target, first)
    assert target.verify(made)
    for wrong in (replace(where, host="127.0.0.1"), replace(where, sslrootcert="system")):
        elsewhere = PostgresqlUser(replace(settings, server=running.where, users_connect_to=wrong))
        error = failure(lambda elsewhere=elsewhere: elsewhere.verify(made), made)
        assert is_unclear(error) and "certificate" in str(error)


def _require_german(running: Running, where: Server) -> None:
    settings, old = running.alternating(postgresql_server.admin())
    target = PostgresqlAlternating(replace(settings, users_connect_to=where))
    made = rotated(target, old)
    assert target.verify(made) and not target.verify(old)
    if "Passwort-Authentifizierung" not in running.log:
        pytest.skip("no German messages of PostgreSQL installed")
    target.apply(old, made)
    target.revoke(old, made, final=False)
    assert not target.verify(old)
    alone = PostgresqlAlternating(replace(settings, users_connect_to=where, admin=None))
    assert not alone.verify(document({"username": user(made), "password": NO_ONE.reveal()}))
    error = failure(lambda: alone.verify(old), word(old))
    assert is_unclear(error) and "FATAL" in str(error)


def test_the_driver_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the error says how to get it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ProgramMissing) as caught:
        PostgresqlUser(SingleUser(server=Server("/nowhere"), user="a")).verify(NO_ONE)
    assert isinstance(caught.value, OpskitError) and "opskit[postgresql]" in str(caught.value.hint)


def test_the_driver_is_not_loaded_before_it_is_needed() -> None:
    """Importing the targets costs no start-up time."""
    code = "import sys, opskit.secrets.rotation.targets.postgresql; print('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
