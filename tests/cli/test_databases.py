"""Databases from config to restore, on real servers: backed up, dumped into a scratch database, and queried."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from opskit.repository.recovery import recover
from tests.cli.hosts import Answer, Machine, objects
from tests.database_servers import PASSWORD, Server


def add_source(machine: Machine, entry: str) -> None:
    """Give the host a source `db`."""
    machine.edit_config("sources:\n", f"sources:\n  db: {entry}\n")


def secret(machine: Machine, value: str = PASSWORD) -> str:
    """A reference to a password in a file."""
    path = machine.folder / "password"
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text(value)
    return f"file://{path}"


def postgresql(machine: Machine, server: Server, more: str = "", password: str = PASSWORD) -> None:
    """The databases of that server, as source `db`."""
    where = f"host: {server.socket}, user: {server.user}, password: {secret(machine, password)!r}"
    add_source(machine, f"{{postgresql: {{{where}{more}}}}}")


def restored(machine: Machine, path: str) -> bytes:
    """One file of the newest snapshot of `db`."""
    answer = machine.run("restore", f"db@latest:{path}", "--stdout", "--key", machine.key)
    assert answer.code == 0, answer.err
    return answer.data


def good(answer: Answer) -> Answer:
    """An answer with exit code 0."""
    assert answer.code == 0, answer.err
    return answer


def test_postgresql_into_a_scratch_database(machine: Machine, postgresql_server: Server, tmp_path: Path) -> None:
    """A dump that was restored, or got back by recover.py alone, and piped into psql gives the same rows."""
    server = postgresql_server
    server.sql("CREATE DATABASE shop")
    server.sql(
        "CREATE TABLE item AS SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 2000) n", database="shop"
    )
    postgresql(machine, server, ", databases: [shop]")
    good(machine.run("config", "validate"))
    plan = good(machine.run("backup", "db", "--dry-run"))
    assert "would read 3 files of 3" in plan.out
    (result,) = good(machine.run("backup", "db", "--json")).json
    assert result["files"] == 3 and result["errors"] == [] and result["bytes"] > 60_000
    assert good(machine.run("ls", "db@latest", "--key", machine.key)).out.split() == [
        "create",
        "databases",
        "globals.sql",
    ]
    words = ["psql", f"--host={server.socket}", f"--username={server.user}", "--no-psqlrc", "--set=ON_ERROR_STOP=1"]
    environ = {**os.environ, "PGPASSWORD": PASSWORD}
    target = tmp_path / "target"
    done = [sys.executable, recover.__file__, "--repository", machine.b, "--key", machine.key, "--target", target]
    subprocess.run([*map(str, done)], check=True, capture_output=True)
    by_itself = next(target.rglob("shop.sql")).parent.parent / "databases" / "shop.sql"
    for number, dump in enumerate((restored(machine, "databases/shop.sql"), by_itself.read_bytes())):
        server.sql(f"CREATE DATABASE scratch_{number}")
        loaded = subprocess.run(
            [*words, f"--dbname=scratch_{number}"], input=dump, capture_output=True, check=False, env=environ
        )
        assert loaded.returncode == 0, loaded.stderr
        rows = server.sql("SELECT * FROM item ORDER BY id", database=f"scratch_{number}")
        assert len(rows) == 2000 and rows == server.sql("SELECT * FROM item ORDER BY id", database="shop")
        server.sql(f"DROP DATABASE scratch_{number}")
    server.sql("DROP DATABASE shop")


def test_mariadb_into_a_scratch_database(machine: Machine, mariadb_server: Server) -> None:
    """A restored dump, piped into mariadb, gives a scratch database with the same rows."""
    server = mariadb_server
    server.sql(
        "CREATE DATABASE shop",
        "CREATE TABLE shop.item (id int PRIMARY KEY, note text)",
        "INSERT INTO shop.item SELECT seq, md5(seq) FROM mysql.seq_1_to_2000",
    )
    where = f"socket: {server.socket}, user: {server.user}, password: {secret(machine)!r}, databases: [shop]"
    add_source(machine, f"{{mariadb: {{{where}}}}}")
    assert "would read 3 files of 3" in good(machine.run("backup", "db", "--dry-run")).out
    assert good(machine.run("backup", "db", "--json")).json[0]["files"] == 3
    dump = restored(machine, "databases/shop.sql")
    server.sql("CREATE DATABASE scratch")
    words = ["mariadb", "--no-defaults", f"--socket={server.socket}", "--user=root", "scratch"]
    subprocess.run(words, input=dump, check=True, capture_output=True)
    rows = server.sql("SELECT * FROM item ORDER BY id", database="scratch")
    assert len(rows) == 2000 and rows == server.sql("SELECT * FROM item ORDER BY id", database="shop")
    server.sql("DROP DATABASE scratch", "DROP DATABASE shop")


def test_sqlite_at_its_own_path(machine: Machine, tmp_path: Path) -> None:
    """A database that somebody has open is restored below the target, whole, and nothing of its copy stays behind."""
    path = machine.folder / "wiki.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE page (id INTEGER PRIMARY KEY, text)")
        database.executemany("INSERT INTO page (text) VALUES (?)", [(str(number) * 100,) for number in range(3000)])
        database.commit()
        add_source(machine, f"{{sqlite: [{path}]}}")
        good(machine.run("backup", "db", "--dry-run"))
        (first,) = good(machine.run("backup", "db", "--json")).json
        (second,) = good(machine.run("backup", "db", "--json")).json
    assert first["files"] == second["files"] == 1 and first["new_bytes"] > 500_000
    assert second["new_bytes"] == 0 and second["bytes"] == first["bytes"]
    good(machine.run("restore", "db@latest", "--target", tmp_path / "target", "--key", machine.key))
    with closing(sqlite3.connect(f"{tmp_path}/target{path}")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT count(*), max(id) FROM page").fetchone() == (3000, 3000)
    assert list((machine.state / "sqlite").iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--debug"]])
def test_a_wrong_password(machine: Machine, postgresql_server: Server, arguments: list[str]) -> None:
    """It is exit 4, nothing is committed, the other source is backed up, and the password is nowhere to be read."""
    postgresql(machine, postgresql_server, password="not-the-one-8812")
    answer = machine.run("backup", *arguments)
    assert answer.code == 4 and "password authentication failed" in answer.err + answer.out
    assert "not-the-one-8812" not in answer.err + answer.out
    assert {name.split("-")[-2] for name in objects(machine.a, "snapshots")} == {"data"}


def test_a_password_that_is_not_there(machine: Machine, postgresql_server: Server) -> None:
    """A reference that cannot be resolved is exit 30, also of a dry run, as that asks the server."""
    postgresql(machine, postgresql_server)
    (machine.folder / "password").unlink()
    assert good(machine.run("config", "validate")).code == 0
    for arguments in (["--dry-run"], []):
        answer = machine.run("backup", "db", *arguments)
        assert answer.code == 30 and "password" in answer.err
    assert not objects(machine.a, "snapshots")


def test_a_server_that_is_down(machine: Machine, tmp_path: Path) -> None:
    """It is exit 4, for MariaDB and a missing file of SQLite too, and no snapshot is made of nothing."""
    for entry in (f"{{mariadb: {{socket: {tmp_path}/s}}}}", f"{{sqlite: [{tmp_path}/gone.db]}}"):
        before = machine.config.read_text()
        add_source(machine, entry)
        answer = machine.run("backup", "db")
        assert answer.code == 4 and "hint" in answer.err and not objects(machine.a, "snapshots")
        machine.config.write_text(before)


def test_status_of_databases(machine: Machine, postgresql_server: Server, tmp_path: Path) -> None:
    """The original of a dump is live while its program is there, that of SQLite while the file is."""
    path = tmp_path / "app.db"
    sqlite3.connect(path).close()
    path.touch()
    postgresql(machine, postgresql_server, ", databases: [postgres]")
    machine.edit_config("sources:\n", f"sources:\n  wiki: {{sqlite: [{path}]}}\n")
    good(machine.run("backup"))
    path.unlink()
    seen = machine.run("status", "--json").json["sources"]
    assert {name: each["original"]["state"] for name, each in seen.items()} == {
        "data": "live",
        "db": "live",
        "wiki": "gone",
    }
    assert seen["wiki"]["original"]["gone"] == [str(path)]
    assert seen["db"]["destinations"]["a"]["state"] == "current" and "wiki" in machine.run("status").out


def test_a_plaintext_password_is_refused(machine: Machine) -> None:
    """It is an error of the config, with its place, that does not repeat it."""
    add_source(machine, "{mariadb: {user: backup, password: hunter2-hunter2}}")
    answer = machine.run("config", "validate")
    assert answer.code == 2 and "sources.db.mariadb.password: inline secret" in answer.err
    assert "hunter2" not in answer.err + answer.out


@pytest.fixture
def dumped(machine: Machine, postgresql_server: Server) -> Iterator[Machine]:
    """A host with one snapshot of a PostgreSQL database `shop` of 50,000 rows."""
    rows = "SELECT n AS id, md5(n::text) AS note FROM generate_series(1, 50000) n"
    postgresql_server.sql("CREATE DATABASE shop")
    postgresql_server.sql(f"CREATE TABLE item AS {rows}", database="shop")
    postgresql(machine, postgresql_server, ", databases: [shop]")
    good(machine.run("backup", "db"))
    yield machine
    postgresql_server.sql("DROP DATABASE shop")


def load(machine: Machine, name: str, path: str = "databases/shop.sql") -> Answer:
    """Load a dump of the newest snapshot into a new database."""
    return machine.run(
        "restore", f"db@latest:{path}" if path else "db@latest", "--load-into", name, "--key", machine.key
    )


def databases(server: Server) -> list[str]:
    """The names of all."""
    return server.sql("SELECT datname FROM pg_database ORDER BY 1")


@pytest.mark.parametrize("name", ["scratch", "Odd \"name' = \\"])
def test_a_dump_is_loaded_into_a_new_database(dumped: Machine, postgresql_server: Server, name: str) -> None:
    """`--load-into` makes the database and fills it; a second time it is refused, and nothing in it changes."""
    server, before = postgresql_server, databases(postgresql_server)
    good(load(dumped, name, ""))  # the only one
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    assert server.sql("SELECT count(*), max(note) FROM item", database=quoted) == server.sql(
        "SELECT count(*), max(note) FROM item", database="shop"
    )
    server.sql("DELETE FROM item WHERE id > 7", database=quoted)
    again = load(dumped, name)
    assert again.code == 4 and "already exists" in again.err and "not taken" in again.err
    assert server.sql("SELECT count(*) FROM item", database=quoted) == ["7"]
    server.sql('DROP DATABASE "' + name.replace('"', '""') + '"')
    assert databases(server) == before


def test_what_cannot_be_loaded_whole_is_taken_away(dumped: Machine, postgresql_server: Server) -> None:
    """Where the snapshot is damaged, or a statement fails, the new database goes again; one that was there stays."""
    server, before = postgresql_server, databases(postgresql_server)
    assert load(dumped, "scratch", "databases/none.sql").code == 10
    assert databases(server) == before
    wrong = load(dumped, "scratch", "create/shop.sql")  # it would make a database of its own name
    assert wrong.code == 2 and "databases/shop.sql" in wrong.err
    server.sql("CREATE ROLE passing", "GRANT ALL ON SCHEMA public TO passing", database="shop")
    good(dumped.run("backup", "db"))
    server.sql("DROP OWNED BY passing", "DROP ROLE passing", database="shop")
    failing = load(dumped, "scratch")
    assert failing.code == 4 and 'role "passing" does not exist' in failing.err
    assert databases(server) == before
    for copy in (dumped.a, dumped.b):
        for pack in (copy / "packs").rglob("*"):
            if pack.is_file() and pack.stat().st_size > 100_000:
                data = bytearray(pack.read_bytes())
                data[len(data) // 2] ^= 1
                pack.chmod(0o600)
                pack.write_bytes(data)
    broken = load(dumped, "scratch")
    assert broken.code == 13, broken.err
    assert databases(server) == before


def test_a_dump_that_was_cut_off_is_not_kept(
    dumped: Machine, postgresql_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To half a table psql does not object: the new database goes again all the same, and the dump is blamed."""
    before = databases(postgresql_server)
    wrapper = tmp_path / "pg_dump"
    wrapper.write_text(f'#!/bin/sh\n{shutil.which("pg_dump")} "$@" | head -c 500000\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    good(dumped.run("backup", "db"))
    answer = load(dumped, "scratch")
    assert answer.code == 4 and "cut off" in answer.err and "dropped again" in answer.err
    assert databases(postgresql_server) == before


def test_mariadb_is_loaded_likewise(machine: Machine, mariadb_server: Server) -> None:
    """`--load-into` makes a MariaDB database and fills it; one that exists is refused."""
    server, rows = mariadb_server, "SELECT seq AS id, md5(seq) AS note FROM mysql.seq_1_to_5000"
    server.sql("CREATE DATABASE shop", f"CREATE TABLE shop.item {rows}")
    add_source(machine, f"{{mariadb: {{socket: {server.socket}, user: root, databases: [shop]}}}}")
    good(machine.run("backup", "db"))
    good(load(machine, "scratch"))
    sums = [line.split()[1] for line in server.sql("CHECKSUM TABLE shop.item, scratch.item")]
    assert sums[0] == sums[1] != "0"
    assert load(machine, "scratch").code == 4
    server.sql("DROP DATABASE scratch", "DROP DATABASE shop")


def test_load_into_without_a_server(used: Machine) -> None:
    """A snapshot of files, or a lost config, has no server to load into; the pipe is hinted at."""
    answer = used.run("restore", "latest:databases/x.sql", "--load-into", "scratch", "--key", used.key)
    assert answer.code == 2 and "--stdout" in answer.err
    for more in (["--stdout"], ["--repository", used.a]):
        assert used.run("restore", "latest:/x", "--load-into", "scratch", "--key", used.key, *more).code == 2
