"""MariaDB as a source, on a real server: dumps that load, deduplicate, and count only when they are whole."""

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
from opskit.sources.databases.mariadb import Mariadb
from tests.database_servers import PASSWORD, Server
from tests.sources.dumping import dumped, entries_of, environment, opened, program_in_the_way, source_of
from tests.sources.walking import content, open_descriptors

ROWS = "SELECT id, HEX(note), HEX(bytes) FROM item ORDER BY id"


@pytest.fixture
def database(mariadb_server: Server) -> Iterator[str]:
    """A database with awkward rows, a view, a routine, a trigger and an event, which goes afterwards."""
    name, sql = f"app_{uuid.uuid4().hex[:8]}", mariadb_server.sql
    sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    sql(
        "CREATE TABLE item (id int AUTO_INCREMENT PRIMARY KEY, note text, bytes blob)",
        "INSERT INTO item (note, bytes) VALUES (NULL, NULL), ('', ''), ('line\\nä''\\\\😀', x'00ff0a27')",
        "CREATE TABLE log (what int)",
        "CREATE VIEW seen AS SELECT id FROM item",
        "CREATE PROCEDURE twice (n int) SELECT 2 * n",
        "CREATE TRIGGER added AFTER INSERT ON item FOR EACH ROW INSERT INTO log VALUES (NEW.id)",
        "CREATE EVENT tick ON SCHEDULE EVERY 1 DAY DO DELETE FROM log",
        database=name,
    )
    yield name
    sql(f"DROP DATABASE IF EXISTS {name}")


def client(server: Server, *databases: str, **options: object) -> Mariadb:
    """What the config would say of that server."""
    said = {"databases": databases, "socket": str(server.socket), "user": server.user, **options}
    return Mariadb(**said)  # type: ignore[arg-type]


def load(server: Server, dump: str, *database: str) -> None:
    """Load a dump as the documentation says."""
    words = ["mariadb", "--no-defaults", f"--socket={server.socket}", "--user=root", *database]
    done = subprocess.run(words, input=dump.encode(), capture_output=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr


def grow(server: Server, database: str, rows: int) -> None:
    """Many rows without the trigger."""
    columns = "SELECT concat(md5(seq), md5(seq * 7), repeat('x', seq % 80))"
    server.sql("DROP TRIGGER added", f"INSERT INTO item (note) {columns} FROM seq_1_to_{rows}", database=database)


def test_a_dump_loads_into_a_database_of_another_name(mariadb_server: Server, database: str) -> None:
    """All rows, NULLs and bytes come back the same, with the view, routine, trigger and event."""
    server, scratch = mariadb_server, f"{database}_scratch"
    dump = dumped(source_of(client(server, database)), f"databases/{database}.sql")
    server.sql(f"CREATE DATABASE {scratch}")
    load(server, dump, scratch)
    assert len(server.sql(ROWS, database=scratch)) == 3
    for query in (ROWS, "SELECT * FROM log", "SELECT * FROM seen"):
        assert server.sql(query, database=scratch) == server.sql(query, database=database)
    for table, column in (("routines", "routine_schema"), ("triggers", "trigger_schema"), ("events", "event_schema")):
        assert server.sql(f"SELECT count(*) FROM information_schema.{table} WHERE {column} = '{scratch}'") == ["1"]
    server.sql(f"DROP DATABASE {scratch}")


def test_a_database_comes_back_as_it_was(mariadb_server: Server, database: str) -> None:
    """After it was dropped, what is below create/ makes it with its character set, and the dump fills it."""
    server, source = mariadb_server, source_of(client(mariadb_server, database))
    create, dump = (dumped(source, f"{folder}/{database}.sql") for folder in ("create", "databases"))
    rows = server.sql(ROWS, database=database)
    server.sql(f"DROP DATABASE {database}")
    load(server, create)
    load(server, dump, database)
    assert server.sql(ROWS, database=database) == rows
    assert server.sql("SELECT @@collation_database", database=database) == ["utf8mb4_bin"]


def test_every_database_is_dumped_but_the_servers_own(mariadb_server: Server, database: str) -> None:
    """Without names there are two files for each database and one for users; system databases cannot be loaded."""
    found = entries_of(source_of(client(mariadb_server)))
    assert {f"create/{database}.sql", f"databases/{database}.sql", "globals.sql"} <= found.keys()
    assert not found.keys() & {f"databases/{name}.sql" for name in ("mysql", "sys", "information_schema")}
    chosen = entries_of(source_of(client(mariadb_server, database, globals=False)))
    assert list(chosen) == ["create", f"create/{database}.sql", "databases", f"databases/{database}.sql"]


def test_users_come_back(mariadb_server: Server, database: str) -> None:
    """A user who was dropped is there again once globals.sql is loaded, though others are there already."""
    server, user = mariadb_server, f"u_{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE USER {user}@localhost IDENTIFIED BY 'secret'", f"GRANT SELECT ON mysql.* TO {user}@localhost")
    grants = server.sql(f"SHOW GRANTS FOR {user}@localhost")
    dump = dumped(source_of(client(server, database)), "globals.sql")
    server.sql(f"DROP USER {user}@localhost")
    load(server, dump)
    assert server.sql(f"SHOW GRANTS FOR {user}@localhost") == grants
    server.sql(f"DROP USER {user}@localhost")


def test_dumps_differ_only_where_the_rows_do(mariadb_server: Server, database: str) -> None:
    """Two dumps of the same rows are the same bytes; a row that goes takes its own line with it and no other."""
    server, source, path = mariadb_server, source_of(client(mariadb_server, database)), f"databases/{database}.sql"
    grow(server, database, 20_000)
    first = dumped(source, path)
    assert first == dumped(source, path) and first.endswith("-- Dump completed\n")  # without a date
    server.sql("DELETE FROM item WHERE id = 17", database=database)
    gone = set(first.splitlines()) - set(dumped(source, path).splitlines())
    assert len(gone) == 1
    together = dumped(source_of(client(server, database, extended_insert=True)), path)
    assert together.count("INSERT INTO") < 10


@pytest.mark.parametrize("name", ["a b'c\\", "../../%61/..", "-h evil", "q`uote\nline", "ü" * 31, "--help"])
def test_names_are_taken_literally(mariadb_server: Server, name: str) -> None:
    """A name that looks like an option or a path is that of a database and nothing else."""
    server, quoted = mariadb_server, "`" + name.replace("`", "``") + "`"
    server.sql(f"CREATE DATABASE {quoted}", f"CREATE TABLE {quoted}.only_here (a int)")
    try:
        source = source_of(client(server, name, globals=False))
        paths = [path for path, entry in entries_of(source).items() if entry.kind == "file"]
        assert [path.count("/") for path in paths] == [1, 1]
        assert "CREATE DATABASE" in dumped(source, paths[0]) and "only_here" in dumped(source, paths[1])
    finally:
        server.sql(f"DROP DATABASE {quoted}")


@pytest.mark.parametrize(
    "password", ['"', "\\", "a'b#c;", 'x" #y', " blank ", "tab\there", "two\nlines", "ä€", "\\n", "x" * 70]
)
def test_any_password_gets_through(mariadb_server: Server, database: str, password: str) -> None:
    """Whatever characters it has, the server gets the password as it is."""
    server, user = mariadb_server, f"u_{uuid.uuid4().hex[:8]}"
    quoted = password.replace("\\", "\\\\").replace("'", "''")
    server.sql(f"CREATE USER {user}@localhost IDENTIFIED BY '{quoted}'", f"GRANT SELECT ON *.* TO {user}@localhost")
    try:
        entries_of(source_of(client(server, database, user=user), password))
        with pytest.raises(SourceError, match="Access denied"):
            entries_of(source_of(client(server, user=user), password + "x"))
    finally:
        server.sql(f"DROP USER {user}@localhost")


def test_nothing_to_dump_is_an_error(mariadb_server: Server) -> None:
    """A user who may see no database makes no empty snapshot."""
    server, user = mariadb_server, f"u_{uuid.uuid4().hex[:8]}"
    server.sql(f"CREATE USER {user}@localhost IDENTIFIED BY 'secret'")
    with pytest.raises(SourceError, match="at least one database that this user may see"):
        entries_of(source_of(client(server, user=user), "secret"))
    server.sql(f"DROP USER {user}@localhost")


@pytest.mark.parametrize("password", ["", "n\0l", "x" * 1001])
def test_a_password_that_cannot_be_passed(mariadb_server: Server, password: str) -> None:
    """What an option file cannot hold is refused, and not repeated."""
    with pytest.raises(SourceError, match="1 to 1000 bytes") as caught:
        entries_of(source_of(client(mariadb_server), password))
    assert not password or password not in str(caught.value)


def test_the_password_is_seen_by_nobody(mariadb_server: Server, database: str) -> None:
    """While a dump runs, no process of it has the password in its arguments or environment; its file has no name."""
    grow(mariadb_server, database, 50_000)
    output = opened(source_of(client(mariadb_server, database)), f"databases/{database}.sql")
    assert output.readinto(memoryview(bytearray(100))) > 0
    (process,) = [each for each in psutil.Process().children() if each.name() == "mariadb-dump"]
    told = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
    assert PASSWORD.encode() not in told and PASSWORD[:4].encode() not in told
    place = process.cmdline()[1].removeprefix("--defaults-extra-file=").replace("/self/", f"/{process.pid}/")
    assert os.readlink(place).startswith("/memfd:") and os.stat(place).st_mode == 0o100600
    output.close()


def test_what_the_environment_says_does_not_count(mariadb_server: Server, database: str, tmp_path: Path) -> None:
    """Neither the password of ~/.my.cnf nor that of a variable comes before the one of the config."""
    (tmp_path / ".my.cnf").write_text("[client]\npassword=wrong\n")
    env = {**environment(), "HOME": str(tmp_path), "MYSQL_PWD": "wrong"}
    assert "Dump completed" in dumped(source_of(client(mariadb_server, database), env=env), f"databases/{database}.sql")


def test_what_is_not_there_is_known_first(mariadb_server: Server, tmp_path: Path) -> None:
    """A server that is down, a wrong password and an unknown database are SourceErrors before the first entry."""
    server = mariadb_server
    for wrong, password, reason in (
        (client(server, socket=str(tmp_path / "s")), PASSWORD, "Can't connect"),
        (client(server, socket=None, host="127.0.0.1", port=9), PASSWORD, "Can't connect to server on '127.0.0.1'"),
        (client(server), "wrong", "Access denied"),
        (client(server, "gone"), PASSWORD, "no database 'gone'; there are:"),
    ):
        source = source_of(wrong, password)
        with pytest.raises(SourceError, match=reason) as caught:
            next(source.entries())
        assert caught.value.exit_code == 4


def test_a_missing_program_names_its_package(tmp_path: Path) -> None:
    """Where mariadb-dump is not installed, the hint says what to install."""
    with pytest.raises(SourceError, match="command mariadb: not found") as caught:
        entries_of(source_of(Mariadb(), env={"PATH": str(tmp_path)}))
    assert caught.value.hint == "Debian, Ubuntu: apt-get install mariadb-client"


def test_a_dump_that_is_killed_is_no_content(mariadb_server: Server, database: str) -> None:
    """When the program dies in the middle, the last read says so; nothing of it is left behind."""
    before = open_descriptors()
    grow(mariadb_server, database, 50_000)
    output = opened(source_of(client(mariadb_server, database)), f"databases/{database}.sql")
    output.readinto(memoryview(bytearray(100)))
    (process,) = [each for each in psutil.Process().children() if each.name() == "mariadb-dump"]
    process.send_signal(signal.SIGKILL)
    with pytest.raises(SourceError, match=r"command mariadb-dump: .* killed by SIGKILL"):
        content(output)
    assert open_descriptors() == before


def test_a_server_that_goes_in_the_middle_is_no_content(mariadb_server: Server, database: str) -> None:
    """When the connection ends while rows flow, the last read says why."""
    server = mariadb_server
    grow(server, database, 100_000)
    output = opened(source_of(client(server, database)), f"databases/{database}.sql")
    output.readinto(memoryview(bytearray(100)))
    (connection,) = server.sql("SELECT id FROM information_schema.processlist WHERE user = 'backup'")
    server.sql(f"KILL {connection}")
    with pytest.raises(SourceError, match=r"mariadb-dump: .*(Lost connection|Error)"):
        content(output)


def test_a_database_that_goes_before_its_turn(mariadb_server: Server, database: str) -> None:
    """A database that is dropped after it was listed is an error, never an empty file."""
    source = source_of(client(mariadb_server, database))
    entry = entries_of(source)[f"databases/{database}.sql"]
    mariadb_server.sql(f"DROP DATABASE {database}")
    with pytest.raises(SourceError, match=f"Unknown database '{database}'"):
        content(source.open(entry))


def test_tables_without_transactions_are_told(mariadb_server: Server, database: str) -> None:
    """A dump of MyISAM tables may be torn: the source says which databases have some."""
    told: list[str] = []
    mariadb_server.sql("CREATE TABLE old (a int) ENGINE = MyISAM", database=database)
    entries_of(source_of(client(mariadb_server, database), tell=told.append))
    assert len(told) == 1 and database in told[0] and "without transactions" in told[0]


def test_the_programs_of_mysql(mariadb_server: Server, database: str) -> None:
    """With `client: mysql` the programs of that name are called; an option that only Oracle's know is no error."""
    told: list[str] = []
    source = source_of(client(mariadb_server, database, client="mysql", globals=False), tell=told.append)
    assert "Dump completed" in dumped(source, f"databases/{database}.sql")
    assert all("set-gtid-purged" in text for text in told)


def test_a_whole_dump_with_a_bad_status_is_no_content(mariadb_server: Server, database: str, tmp_path: Path) -> None:
    """The exit status counts, however complete the output looks."""
    env = program_in_the_way(tmp_path / "bin", "mariadb-dump", '$real "$@"; exit 3')
    with pytest.raises(SourceError, match="got exit status 3"):
        dumped(source_of(client(mariadb_server, database), env=env), f"databases/{database}.sql")
