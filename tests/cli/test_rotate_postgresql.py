"""`opskit rotate` with a real PostgreSQL: two users take turns under an application that logs in all the time."""

from __future__ import annotations

import textwrap
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.cli.hosts import Machine
from tests.secrets.rotation import postgresql_server

ENTRY = """
rotations:
  app-db:
    secret: gpg://{state}/secrets.gpg#app-db
    propagation: 2s
    postgresql:
      host: {socket}
      users: [{first}, {second}]
      owner: {owner}
      admin: {admin}
      admin_password: file://{folder}/admin
    consumers:
      app: {{files: {{{folder}/app.url: "postgresql://{{username}}:{{password:url}}@localhost/postgres"}}}}
"""


class Application(threading.Thread):
    """Logs in every 50 ms with whatever its file says; keeps what was refused."""

    def __init__(self, file: Path, socket: str) -> None:
        super().__init__()
        self._file, self._socket, self._ended = file, socket, threading.Event()
        self.users: list[str] = []
        self.refused: list[str] = []

    def run(self) -> None:
        while not self._ended.wait(0.05):
            found = urlsplit(self._file.read_text())
            try:
                login = {"user": found.username, "password": found.password, "dbname": "postgres"}
                psycopg.connect(host=self._socket, **login).close()
                self.users.append(str(found.username))
            except psycopg.Error as error:
                self.refused.append(str(error))

    def __enter__(self) -> Application:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def test_no_login_is_refused_while_users_take_turns(machine: Machine) -> None:
    """Three rotations, each to its end: the application never sees a refused login, and no password is in any log."""
    server = postgresql_server.shared()
    settings, first = server.alternating(postgresql_server.admin())
    prepare(machine, settings, first)
    with Application(machine.folder / "app.url", server.where.host) as application:
        for _ in range(3):
            answer = machine.run("rotate", "run", "app-db")
            assert answer.code == 0, answer.err
            retire(machine)
    assert application.refused == []
    assert set(application.users) == set(settings.users) and len(application.users) > 10
    word = urlsplit((machine.folder / "app.url").read_text()).password
    kept = b"".join(each.read_bytes() for each in machine.state.rglob("*") if each.is_file())
    assert word and word.encode() not in kept and word not in server.log


def retire(machine: Machine) -> None:
    """The old user's last session may just be ending: then somebody asks again."""
    for _ in range(20):
        answer = machine.run("rotate", "retire", "app-db", "--now")
        if answer.code == 0:
            return
        assert "still used" in answer.err, answer
    pytest.fail("the old user stays in use")


def test_undo_after_a_failed_test_leaves_the_old_login(machine: Machine) -> None:
    """A new user that lacks a right fails the test: the rotation goes back by itself, and the old login works."""
    server = postgresql_server.shared()
    settings, first = server.alternating(postgresql_server.admin())
    server.sql(
        f"CREATE TABLE of_{settings.users[0]} ()", f"GRANT SELECT ON of_{settings.users[0]} TO {settings.users[0]}"
    )
    prepare(machine, settings, first)
    machine.edit_config(f"      owner: {settings.owner}\n", f'      query: "SELECT * FROM of_{settings.users[0]}"\n')
    for user in settings.users:
        server.sql(f"ALTER ROLE {user} RESET role")
    before = machine.run("secrets", "get", secret(machine)).data
    answer = machine.run("rotate", "run", "app-db")
    assert answer.code != 0
    if "ROLLED_BACK" not in answer.err:
        machine.run("rotate", "undo", "app-db")
    assert machine.run("--json", "rotate", "status").json[0]["last"]["state"] == "ROLLED_BACK"
    assert machine.run("secrets", "get", secret(machine)).data == before
    found = urlsplit((machine.folder / "app.url").read_text())
    psycopg.connect(host=server.where.host, user=found.username, password=found.password, dbname="postgres").close()


def secret(machine: Machine) -> str:
    return f"gpg://{machine.state}/secrets.gpg#app-db"


def prepare(machine: Machine, settings: postgresql_server.AlternatingUsers, first: postgresql_server.Secret) -> None:
    """The config, the secret as it is in use, the application's file, the administrator's password."""
    user, word = postgresql_server.parts(first)
    admin = machine.folder / "admin"
    admin.touch(0o600)
    admin.write_text(postgresql_server.ADMIN_PASSWORD.reveal())
    (machine.folder / "app.url").write_text(f"postgresql://{user}:{word}@localhost/postgres")
    text = ENTRY.format(
        state=machine.state, folder=machine.folder, socket=settings.server.host, owner=settings.owner,
        first=settings.users[0], second=settings.users[1], admin=postgresql_server.ADMIN,
    )  # fmt: skip
    machine.config.write_text(machine.config.read_text() + textwrap.dedent(text))
    process = machine.start("secrets", "set", secret(machine), stdin=-1)
    process.communicate(first.reveal_bytes(), timeout=60)
    assert process.returncode == 0
