"""PostgreSQL as a source, on a real server: dumps that load, and failures that are never taken for content."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from opskit.errors import SourceError
from opskit.sources.databases.postgresql import Postgresql
from tests.database_servers import PASSWORD, UNPRIVILEGED, Server
from tests.sources.dumping import dumped, entries_of, environment, opened, program_in_the_way, source_of
from tests.sources.walking import content, needs_root, open_descriptors

ROWS = "SELECT id, note, blob FROM item ORDER BY id"


@pytest.fixture
def database(postgresql_server: Server) -> Iterator[str]:
    """A database with awkward rows and settings of its own, which goes afterwards."""
    name = f"app_{uuid.uuid4().hex[:8]}"
    sql = postgresql_server.sql
    sql(f"CREATE DATABASE {name}")
    sql(
        "CREATE TABLE item (id serial PRIMARY KEY, note text, blob bytea)",
        "INSERT INTO item (note, blob) SELECT 'line\nä''\\' || n, decode(md5(n::text), 'hex')"
        " FROM generate_series(1, 500) n",
        "INSERT INTO item (note) VALUES (NULL), (''), ('\\.')",
        f"ALTER DATABASE {name} SET work_mem = '9MB'",
        database=name,
    )
    yield name
    sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def client(server: Server, *databases: str, **options: object) -> Postgresql:
    """What the config would say of that server."""
    said = {"databases": databases, "host": str(server.socket), "user": server.user, **options}
    return Postgresql(**said)  # type: ignore[arg-type]


def load(server: Server, dump: str, database: str) -> None:
    """Load a dump as the documentation says."""
    words = ["psql", f"--host={server.socket}", f"--username={server.user}", "--no-psqlrc", "--quiet"]
    words += ["--set=ON_ERROR_STOP=1", f"--dbname={database}"]
    done = subprocess.run(
        words, input=dump, text=True, capture_output=True, check=False, env={**environment(), "PGPASSWORD": PASSWORD}
    )
    assert done.returncode == 0, done.stderr


def test_a_dump_loads_into_a_database_of_another_name(postgresql_server: Server, database: str) -> None:
    """All rows, NULLs, bytes and line ends come back the same, and the original is left alone."""
    server, scratch = postgresql_server, f"{database}_scratch"
    dump = dumped(source_of(client(server, database)), f"databases/{database}.sql")
    server.sql(f"CREATE DATABASE {scratch}")
    load(server, dump, scratch)
    rows = server.sql(ROWS, database=scratch)
    assert len(rows) > 503 and rows == server.sql(ROWS, database=database)
    assert server.sql("SELECT nextval('item_id_seq')", database=scratch) == ["504"]
    server.sql(f"DROP DATABASE {scratch}")


def test_a_database_comes_back_as_it_was(postgresql_server: Server, database: str) -> None:
    """After it was dropped, what is below create/ makes it with its settings, and the dump fills it."""
    server, source = postgresql_server, source_of(client(postgresql_server, database))
    create, dump = (dumped(source, f"{folder}/{database}.sql") for folder in ("create", "databases"))
    rows = server.sql(ROWS, database=database)
    server.sql(f"DROP DATABASE {database}")
    load(server, create, "postgres")
    load(server, dump, database)
    assert server.sql(ROWS, database=database) == rows
    assert server.sql("SHOW work_mem", database=database) == ["9MB"]


def test_every_database_is_dumped_but_templates(postgresql_server: Server, database: str) -> None:
    """Without names there are two files for each database and one for what belongs to none, in tree order."""
    found = entries_of(source_of(client(postgresql_server)))
    assert {
        f"create/{database}.sql",
        f"databases/{database}.sql",
        "databases/postgres.sql",
        "globals.sql",
    } <= found.keys()
    assert not [path for path in found if "template" in path]
    assert [path for path, entry in found.items() if entry.kind == "dir"] == ["create", "databases"]
    chosen = entries_of(source_of(client(postgresql_server, database, globals="none")))
    assert list(chosen) == ["create", f"create/{database}.sql", "databases", f"databases/{database}.sql"]


@pytest.mark.parametrize("name", ["a=b 'c\\", "postgresql://h/x", "../../%61/..", "-h evil", 'q"uote', "ü" * 31])
def test_names_are_taken_literally(postgresql_server: Server, name: str) -> None:
    """A name that looks like a connection string, an option or a path is that of a database and nothing else."""
    server, quoted = postgresql_server, '"' + name.replace('"', '""') + '"'
    server.sql(f"CREATE DATABASE {quoted}")
    try:
        source = source_of(client(server, name, globals="none"))
        paths = [path for path, entry in entries_of(source).items() if entry.kind == "file"]
        assert [path.count("/") for path in paths] == [1, 1]
        assert "database dump complete" in dumped(source, paths[1])
        assert "CREATE DATABASE" in dumped(source, paths[0])
    finally:
        server.sql(f"DROP DATABASE {quoted}")


def test_a_line_end_in_a_name(postgresql_server: Server) -> None:
    """pg_dump makes no such database: its content is dumped all the same, and what is left out is told."""
    server, told = postgresql_server, list[str]()
    server.sql('CREATE DATABASE "line\nend\n"')
    try:
        source = source_of(client(server, "line\nend\n", globals="none"), tell=told.append)
        assert list(entries_of(source)) == ["databases", "databases/line\nend\n.sql"]
        assert "complete" in dumped(source, "databases/line\nend\n.sql") and "line end in its name" in told[0]
    finally:
        server.sql('DROP DATABASE "line\nend\n"')


@pytest.mark.parametrize("password", ["a:b\\c", "\\", "::", " blank ", "#", "ä€", "x" * 900])
def test_any_password_gets_through(postgresql_server: Server, password: str) -> None:
    """Whatever characters it has, the server gets the password as it is."""
    server, role = postgresql_server, f"r_{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    try:
        entries_of(source_of(client(server, "postgres", user=role), password))
        with pytest.raises(SourceError, match="password authentication failed"):
            entries_of(source_of(client(server, "postgres", user=role), password + "x"))
    finally:
        server.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize("password", ["", "two\nlines", "n\0l"])
def test_a_password_that_cannot_be_passed(postgresql_server: Server, password: str) -> None:
    """What a password file cannot hold is refused, and not repeated."""
    with pytest.raises(SourceError, match="one line of text") as caught:
        entries_of(source_of(client(postgresql_server), password))
    assert not password or password not in str(caught.value)


def test_the_password_is_seen_by_nobody(postgresql_server: Server, database: str) -> None:
    """While a dump runs, no process of it has the password in its arguments or environment; its file has no name."""
    server = postgresql_server
    server.sql(
        "INSERT INTO item (note) SELECT repeat(md5(n::text), 50) FROM generate_series(1, 20000) n", database=database
    )
    output = opened(source_of(client(server, database)), f"databases/{database}.sql")
    assert output.readinto(memoryview(bytearray(100))) > 0
    (process,) = [each for each in psutil.Process().children() if each.name() == "pg_dump"]
    told = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
    assert PASSWORD.encode() not in told and PASSWORD[:4].encode() not in told
    place = process.environ()["PGPASSFILE"].replace("/self/", f"/{process.pid}/")
    assert os.readlink(place).startswith("/memfd:") and os.stat(place).st_mode == 0o100600
    output.close()


def test_what_the_environment_says_does_not_count(postgresql_server: Server) -> None:
    """A password of the environment does not come before the one of the config."""
    env = {**environment(), "PGPASSWORD": "wrong", "PGPASSFILE": "/nonexistent", "PGCLIENTENCODING": "LATIN1"}
    source = source_of(client(postgresql_server, "postgres"), env=env)
    assert "client_encoding = 'UTF8'" in dumped(source, "databases/postgres.sql")


@needs_root
def test_another_user_runs_the_dump(postgresql_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `run_as` the system vouches for that user, no password is needed, and HOME and the folder are theirs."""
    said = tmp_path / "said"
    said.mkdir()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    said.chmod(0o777)
    tmp_path.chmod(0o755)
    env = program_in_the_way(
        said, "pg_dump", f'id -un >{said}/who; echo "$HOME" >>{said}/who; pwd >>{said}/who; exec $real "$@"'
    )
    reachable = {**env, "PATH": f"{said}:{os.environ['PATH']}"}
    for parent in said.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    monkeypatch.chdir(closed)
    of_nobody = client(postgresql_server, "postgres", user=UNPRIVILEGED)
    assert "complete" in dumped(source_of(of_nobody, None, reachable, run_as=UNPRIVILEGED), "databases/postgres.sql")
    assert (said / "who").read_text().split() == [UNPRIVILEGED, "/nonexistent", "/"]
    with pytest.raises(SourceError, match="Peer authentication failed"):
        entries_of(source_of(of_nobody, None))


def test_run_as_somebody_unknown(postgresql_server: Server) -> None:
    """A user whom the system does not know is a SourceError that says so."""
    with pytest.raises(SourceError, match="no user 'no-such-user'"):
        entries_of(source_of(client(postgresql_server), None, run_as="no-such-user"))


def test_what_is_not_there_is_known_first(postgresql_server: Server, tmp_path: Path) -> None:
    """A server that is down, a wrong password and an unknown database are SourceErrors before the first entry."""
    server = postgresql_server
    for wrong, password, reason in (
        (client(server, host=str(tmp_path)), PASSWORD, "No such file or directory"),
        (client(server), "wrong", "password authentication failed"),
        (client(server), None, "no password supplied"),
        (client(server, "gone"), PASSWORD, "no database 'gone'; there are:"),
    ):
        source = source_of(wrong, password)
        with pytest.raises(SourceError, match=reason) as caught:
            next(source.entries())
        assert caught.value.exit_code == 4


def test_a_missing_program_names_its_package(postgresql_server: Server, tmp_path: Path) -> None:
    """Where pg_dump is not installed, the hint says what to install."""
    with pytest.raises(SourceError, match="command psql: not found") as caught:
        entries_of(source_of(client(postgresql_server), env={"PATH": str(tmp_path)}))
    assert caught.value.hint == "Debian, Ubuntu: apt-get install postgresql-client"


def test_a_dump_that_is_killed_is_no_content(postgresql_server: Server, database: str) -> None:
    """When pg_dump dies in the middle, the last read says so; nothing of it is left behind."""
    server, before = postgresql_server, open_descriptors()
    server.sql("INSERT INTO item (note) SELECT repeat('x', 3000) FROM generate_series(1, 3000) n", database=database)
    output = opened(source_of(client(server, database)), f"databases/{database}.sql")
    output.readinto(memoryview(bytearray(100)))
    (process,) = [each for each in psutil.Process().children() if each.name() == "pg_dump"]
    process.send_signal(signal.SIGKILL)
    with pytest.raises(SourceError, match=r"command pg_dump: .* killed by SIGKILL"):
        content(output)
    assert open_descriptors() == before


def test_a_server_that_goes_in_the_middle_is_no_content(postgresql_server: Server, database: str) -> None:
    """When the connection ends while rows flow, the last read says why."""
    server = postgresql_server
    server.sql("INSERT INTO item (note) SELECT md5(n::text) FROM generate_series(1, 100000) n", database=database)
    output = opened(source_of(client(server, database)), f"databases/{database}.sql")
    output.readinto(memoryview(bytearray(100)))
    server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'")
    with pytest.raises(SourceError, match="exit status 1: pg_dump: error"):
        content(output)


def test_a_database_that_goes_before_its_turn(postgresql_server: Server, database: str) -> None:
    """A database that is dropped after it was listed is an error, never an empty file."""
    source = source_of(client(postgresql_server, database))
    entry = entries_of(source)[f"databases/{database}.sql"]
    postgresql_server.sql(f"DROP DATABASE {database}")
    with pytest.raises(SourceError, match=f'database "{database}" does not exist'):
        content(source.open(entry))


def test_warnings_of_a_good_dump_are_told(postgresql_server: Server, tmp_path: Path) -> None:
    """What pg_dump says although it ends with 0 is handed on; its content counts."""
    told: list[str] = []
    env = program_in_the_way(tmp_path / "bin", "pg_dump", 'echo "pg_dump: warning: odd" >&2; exec $real "$@"')
    source = source_of(client(postgresql_server, "postgres"), env=env, tell=told.append)
    assert "complete" in dumped(source, "databases/postgres.sql")
    assert told == ["pg_dump: pg_dump: warning: odd"]


def test_a_whole_dump_with_a_bad_status_is_no_content(postgresql_server: Server, tmp_path: Path) -> None:
    """The exit status counts, however complete the output looks."""
    env = program_in_the_way(tmp_path / "bin", "pg_dump", '$real "$@"; exit 3')
    with pytest.raises(SourceError, match="got exit status 3"):
        dumped(source_of(client(postgresql_server, "postgres"), env=env), "databases/postgres.sql")


def test_the_documented_rights_suffice(postgresql_server: Server, database: str) -> None:
    """A role that may read all data dumps whole databases, and the globals without passwords."""
    server, role = postgresql_server, f"r_{uuid.uuid4().hex[:8]}"
    if int(server.sql("SHOW server_version_num")[0]) < 140000:
        pytest.skip("pg_read_all_data needs PostgreSQL 14")
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'", f"GRANT pg_read_all_data TO {role}")
    try:
        source = source_of(client(server, database, user=role, globals="without-passwords"), "secret")
        for path, entry in entries_of(source).items():
            assert entry.kind == "dir" or "complete" in dumped(source, path)
    finally:
        server.sql(f"DROP ROLE {role}")


def test_globals_with_and_without_hashes_of_passwords(postgresql_server: Server) -> None:
    """Roles are in globals.sql; without superuser, only the variant without passwords can be had."""
    server = postgresql_server
    assert "SCRAM-SHA-256$" in dumped(source_of(client(server, "postgres")), "globals.sql")
    role = f"r_{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        without = source_of(client(server, "postgres", user=role, globals="without-passwords"), "secret")
        text = dumped(without, "globals.sql")
        assert f"CREATE ROLE {role}" in text and "SCRAM" not in text
        with pytest.raises(SourceError, match="pg_authid"):
            dumped(source_of(client(server, "postgres", user=role), "secret"), "globals.sql")
    finally:
        server.sql(f"DROP ROLE {role}")
