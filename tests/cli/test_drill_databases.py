"""Drills of databases: dumps loaded into a server that is made for them, asked, timed, reported, and thrown away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from opskit.sources.databases import throwaway
from tests.cli.hosts import Answer, Machine, objects
from tests.cli.test_databases import add_source, good, secret
from tests.cli.test_drill import with_verify
from tests.database_servers import Server
from tests.sources.test_throwaway import LONG, family, has_ended, needs_jail, processes, until
from tests.stores.mounts import MEBIBYTE, mounted


@pytest.fixture(scope="module")
def shop(postgresql_server: Server) -> Iterator[Server]:
    """A server with a database `shop`."""
    needs_jail("postgres")
    postgresql_server.sql("CREATE DATABASE shop")
    rows = "SELECT n AS id FROM generate_series(1, 500) n"
    postgresql_server.sql(f"CREATE TABLE customers AS {rows}", database="shop")
    yield postgresql_server
    postgresql_server.sql("DROP DATABASE shop")


@pytest.fixture
def dumped(machine: Machine, shop: Server) -> Machine:
    """A host with a snapshot of it."""
    where = f"host: {shop.socket}, user: {shop.user}, password: {secret(machine)!r}, databases: [shop]"
    ask = "verify: {queries: {shop: ['select count(*) > 0 from customers']}}"
    add_source(machine, f"{{postgresql: {{{where}}}, {ask}}}")
    good(machine.run("backup", "db"))
    return machine


def drill(machine: Machine, *arguments: object) -> Answer:
    return machine.run("drill", "run", "db", "--key", machine.key, *arguments)


def test_dumps_are_loaded_and_asked(dumped: Machine, shop: Server) -> None:
    """All three dumps load, the query is answered, the time is part of the RTO, and no server is touched or left."""
    before = shop.sql("SELECT datname FROM pg_database ORDER BY 1")
    (told,) = good(drill(dumped, "--json")).json
    checks = {each["name"]: (each["passed"], each["total"]) for each in told["checks"]}
    assert checks["dumps"] == (3, 3) and checks["queries"] == (1, 1)
    assert 0 < told["load_ms"] <= told["restore_ms"]
    assert shop.sql("SELECT datname FROM pg_database ORDER BY 1") == before
    assert not list((dumped.state / "scratch").iterdir())
    page = good(dumped.run("drill", "report", "--format", "html")).out
    assert "Dumps of databases were loaded" in page and "for loading dumps" in page
    assert "customers" not in page, "the query is in no evidence"


def test_an_answer_that_is_wrong(dumped: Machine) -> None:
    """A dump that loads and lacks what should be in it fails the drill, and so does a database that is not there."""
    dumped.edit_config("count(*) > 0 from", "count(*) > 500 from")
    answer = drill(dumped, "--json")
    (told,) = answer.json
    assert answer.code == 3 and not told["passed"]
    (failure,) = told["failures"]
    assert failure["path"] == "/databases/shop.sql" or failure["path"] == "databases/shop.sql"
    assert "count(*) > 500" in failure["what"]
    dumped.edit_config("queries: {shop:", "queries: {shoop:")
    (told,) = drill(dumped, "--json").json
    assert not told["passed"] and "no dump of 'shoop'" in told["failures"][0]["what"]


def test_without_a_server_it_is_not_checked(dumped: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server program: the drill passes for what it checked, and drill, report and status say what it did not."""
    monkeypatch.setattr(throwaway, "_PG_PROGRAMS", ("no-such-initdb",))
    answer = drill(dumped)
    assert answer.code == 0 and "install postgresql" in answer.err
    assert "dumps not loaded" in answer.out
    page = good(dumped.run("drill", "report")).out
    assert "not made" in page and "initdb and postgres not found" in page
    assert "did not load the dumps of databases" in dumped.run("status").out


def test_a_plain_file_that_is_a_dump(machine: Machine) -> None:
    """A dump among files is loaded where the config says what it is; one that is damaged in itself fails the drill."""
    needs_jail("postgres")
    for name, text in (("good.sql", "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n"), ("cut.sql", "CREATE TAB")):
        (machine.source / name).write_text(text)
    paths = {name: str(machine.source / name) for name in ("good.sql", "cut.sql", "gone.sql")}
    asked = {"queries": {paths["good.sql"]: ["select count(*) from t"]}}
    with_verify(machine, dumps={paths["good.sql"]: "postgresql"}, **asked)
    good(machine.run("backup"))
    (told,) = machine.run("drill", "run", "--key", machine.key, "--json").json
    checks = {each["name"]: (each["passed"], each["total"]) for each in told["checks"]}
    assert told["passed"] and checks["dumps"] == (1, 1) and checks["queries"] == (1, 1), told
    more = "".join(f'"{paths[name]}": "postgresql", ' for name in ("cut.sql", "gone.sql"))
    machine.edit_config('"dumps": {', '"dumps": {' + more)
    (told,) = machine.run("drill", "run", "--key", machine.key, "--json").json
    wrong = {Path(each["path"]).name: each["what"] for each in told["failures"]}
    assert set(wrong) == {"cut.sql", "gone.sql"} and "was not restored" in wrong["gone.sql"], told


def test_a_dump_that_was_cut_off(machine: Machine) -> None:
    """A dump whose end is missing, or all of it, fails the drill, though no server would object to what is left."""
    needs_jail("postgres")
    postgresql = "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE t (a int);\nCOPY t (a) FROM stdin;\n1\n2\n"
    mariadb = "-- MariaDB dump 10.19  Distrib 10.11\n--\nCREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n"
    whole = f"{postgresql}\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
    texts = {"cut.sql": postgresql, "mariadb.sql": mariadb, "empty.sql": "", "whole.sql": whole}
    for name, text in texts.items():
        (machine.source / name).write_text(text)
    kinds = {name: "mariadb" if name == "mariadb.sql" else "postgresql" for name in texts}
    with_verify(machine, dumps={str(machine.source / name): kind for name, kind in kinds.items()})
    good(machine.run("backup"))
    answer = machine.run("drill", "run", "--key", machine.key, "--json")
    (told,) = answer.json
    wrong = {Path(each["path"]).name: each["what"] for each in told["failures"]}
    assert answer.code == 3 and set(wrong) == {"cut.sql", "mariadb.sql", "empty.sql"}, told
    assert "cut off" in wrong["cut.sql"] and "empty" in wrong["empty.sql"]
    checks = {each["name"]: (each["passed"], each["total"]) for each in told["checks"]}
    assert checks["dumps"] == (1, 4)
    assert "mend what writes" in machine.run("drill", "run", "--key", machine.key).err
    for form in ("md", "html"):
        page = good(machine.run("drill", "report", "--format", form)).out
        assert "copies are not at fault" in page and "then opskit heal" not in page
    assert "failed: what was backed up" in " ".join(machine.run("status").out.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_drill_that_ends_while_it_loads(machine: Machine, number: signal.Signals) -> None:
    """Server and client go with it, whatever ends it; there is no evidence, and the next drill begins clean."""
    needs_jail("postgres")
    dump = machine.source / "slow.sql"
    dump.write_text(f"SELECT pg_sleep({LONG}5);\n")
    with_verify(machine, dumps={str(dump): "postgresql"})
    good(machine.run("backup"))
    with machine.start("drill", "run", "--key", machine.key) as process:
        until(lambda: family(process, "postgres: ", "opskit_drill_0", "SELECT"), process)
        started = family(process)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == (-9 if number is signal.SIGKILL else 130)
    until(lambda: not processes(str(machine.folder)) and all(map(has_ended, started)))
    assert not objects(machine.a, "evidence")
    dump.write_text("SELECT 1;\n")
    good(machine.run("backup"))
    (told,) = good(machine.run("drill", "run", "--key", machine.key, "--snapshot", "latest", "--json")).json
    assert told["passed"] and not list((machine.state / "scratch").iterdir())


def test_a_scratch_that_becomes_full(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dump that finds no room in the scratch is no fault of the copy: it was not loaded, and that is said."""
    needs_jail("postgres")
    monkeypatch.setattr(throwaway, "_LEAST_ROOM", 0)
    dump = machine.source / "grows.sql"
    dump.write_text("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 200000);\n")
    with_verify(machine, dumps={str(dump): "postgresql"})
    good(machine.run("backup"))
    with mounted("tmpfs", tmp_path, size=110 * MEBIBYTE) as place:
        answer = machine.run("drill", "run", "--key", machine.key, "--scratch", place, "--json")
        assert not list(place.iterdir())
    (told,) = answer.json
    assert answer.code == 0 and told["passed"], answer
    (check,) = [each for each in told["checks"] if each["name"] == "dumps"]
    assert check["total"] == 0 and check["note"] == "not loaded: the scratch place became full"
