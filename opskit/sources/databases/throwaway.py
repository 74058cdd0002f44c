"""Loads dumps into a database server that is made for it, in a jail, and gone afterwards; implements loading.Loader.

Invariants: no server that was there is connected to: the new one listens on a socket in its own folder, in namespaces
without a network, and its client programs run there too (`jail`). Its administrator has a name by lot, so that the
dump of roles can make all those of the original. What it needs of this host are the server's own programs; where they,
or the namespaces, are missing, that is a SourceError that says so, never a dump called bad.

A PostgreSQL dump goes into a server of the version of its pg_dump or newer. The server runs without durability (no
fsync), as it is thrown away: loading into a real one takes longer.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from opskit.errors import SourceError
from opskit.sources.databases.jail import NOBODY
from opskit.sources.loading import Kind, Loaded, Script

_PROGRAM = Path(__file__).with_name("jail.py")
_HEAD = 4096
_GROWTH = 3
"""Room that is asked for: what a dump holds, with indexes, and the log of writing it, beside the size of the dump."""
_LEAST_ROOM = 256 * 1024 * 1024
_FULL = re.compile(r"could not (?:extend|write)|No space left on device|Disk full|Errcode: 28|Got error 28|is full")
_SHOWN = 500
_NAME = rb'("[A-Za-z0-9_. @-]+"|[a-z_][a-z0-9_]*)'  # of others initdb makes no superuser
_GRANTOR = re.compile(rb"^GRANT .* GRANTED BY " + _NAME + rb";$", re.MULTILINE)
_SUPERUSER = re.compile(rb"^ALTER ROLE " + _NAME + rb" WITH SUPERUSER ", re.MULTILINE)
_ROLES = 16 * 1024 * 1024
"""Bytes in which roles are looked for."""
_BY_PG_DUMP = re.compile(rb"^-- Dumped by pg_dump(?:all)? version (\d+)", re.MULTILINE)
_OF_MARIADB = re.compile(rb"^-- Server version\s+(\d+)\.(\d+)", re.MULTILINE)
_TABLESPACE = re.compile(rb"^CREATE TABLESPACE .* LOCATION '((?:[^']|'')+)';$", re.MULTILINE)
_ROOT = "--auth-root-authentication-method=normal"
_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Plan(NamedTuple):
    """What the jail is told, and what each step is for: (kind of step, script, query)."""

    server: str
    job: dict[str, Any]
    about: list[tuple[str, Script, str]]


class ThrowawayServers:
    """Makes one for each call; `path` is where programs are looked for, beside the usual folders."""

    def __init__(self, path: str, redact: Callable[[str], str]) -> None:
        self._path, self._redact = f"{path}:{_FOLDERS}", redact

    def load(
        self, kind: Kind, scripts: Sequence[Script], folder: Path, load_seconds: float, query_seconds: float
    ) -> Loaded:
        """Load and ask; raises SourceError where that cannot be done, whatever the dump is worth."""
        self._require_room(scripts, folder)
        planning = _Postgresql if kind == "postgresql" else _Mariadb
        plan = planning(self._path, load_seconds, query_seconds).plan(scripts)
        root, own = folder / "root", folder / "server"
        for each in (root, own):
            each.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(own, NOBODY, NOBODY)
        plan.job.update(root=str(root), folder=str(own), path=_FOLDERS)
        try:
            answer = _run(plan.job, [each.descriptor for each in scripts], folder)
        except OSError as error:
            raise SourceError(f"no private server could be started: {(error.strerror or 'error').lower()}") from error
        if "unavailable" in answer:
            detail = self._shown(str(answer.get("detail", "")))
            raise SourceError(self._shown(str(answer["unavailable"])), hint=detail or None)
        return self._judged(plan, answer["steps"], folder)

    def _require_room(self, scripts: Sequence[Script], folder: Path) -> None:
        needed = _LEAST_ROOM + _GROWTH * sum(os.fstat(each.descriptor).st_size for each in scripts)
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        if free < needed:
            raise SourceError(f"the scratch place is too small for a database: expected {needed:,} bytes, got {free:,}")

    def _judged(self, plan: _Plan, steps: Sequence[Sequence[Any]], folder: Path) -> Loaded:
        found = Loaded(plan.server)
        for (what, script, query), (good, said, seconds) in zip(plan.about, steps, strict=True):
            if not good and _FULL.search(said):
                raise SourceError("the scratch place became full", hint=f"while {script.name} was loaded")
            if what == "query":
                found.queries, found.answered = found.queries + 1, found.answered + good
            else:
                found.seconds += seconds
            if what == "load":
                found.scripts, found.loaded = found.scripts + 1, found.loaded + good
            if not good and what != "make":
                text = f"{query}: {said}" if query else f"{plan.server}: {said}"
                found.failures.append((script.name, self._shown(text)))
        return found

    def _shown(self, text: str) -> str:
        clean = self._redact(text)
        return " ".join("".join(each if each.isprintable() else " " for each in clean).split())[:_SHOWN]


def _run(job: Mapping[str, Any], descriptors: Sequence[int], folder: Path) -> dict[str, Any]:
    """Run the jail; it is killed, with all that is in it, when this ends."""
    with tempfile.TemporaryFile(dir=folder) as told, tempfile.TemporaryFile(dir=folder) as answer:
        told.write(json.dumps(job).encode())
        told.seek(0)
        command = [sys.executable, "-I", "-S", str(_PROGRAM), str(told.fileno())]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=answer, stderr=subprocess.STDOUT, cwd=os.sep,
            pass_fds=(told.fileno(), *descriptors), start_new_session=True, env={},
        )  # fmt: skip
        try:
            status = process.wait()
        finally:
            assert process.stdin is not None
            process.stdin.close()  # the lifeline
            process.wait()
        return _answer_of(answer, status)


def _answer_of(answer: IO[bytes], status: int) -> dict[str, Any]:
    answer.seek(0)
    said = answer.read()
    try:
        found = json.loads(said.rstrip().rpartition(b"\n")[2])  # above it may stand warnings
    except ValueError:
        words = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SourceError(
            f"the jail of the database server ended with status {status}", hint=words[:_SHOWN] or None
        ) from None
    return dict(found)


def _head(script: Script) -> bytes:
    return os.pread(script.descriptor, _HEAD, 0)


def _superuser_in(scripts: Sequence[Script]) -> str | None:
    """The superuser by whom roles were granted on the server that was dumped; None where none was.

    From PostgreSQL 16 on nobody else may grant in his name, so the new server has to begin with him.
    """
    for each in scripts:
        if each.part == "server":
            said = os.pread(each.descriptor, _ROLES, 0)
            superusers = set(_SUPERUSER.findall(said))
            for name in _GRANTOR.findall(said):
                if name in superusers:
                    return str(name.decode()).strip('"')
    return None


def _version(program: str, pattern: str) -> str:
    """The first version that a program names; raises SourceError."""
    said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    found = re.search(pattern, said.stdout.decode("utf-8", "replace"))
    if found is None:
        raise SourceError(f"{program} --version: expected a version, got {said.stdout[:80]!r}")
    return found[1]


class _Steps:
    """The steps of a plan, one after the other."""

    def __init__(self, load_seconds: float, query_seconds: float) -> None:
        self.steps: list[dict[str, Any]] = []
        self.about: list[tuple[str, Script, str]] = []
        self._load_seconds, self._query_seconds = load_seconds, query_seconds

    def make(self, script: Script, argv: Sequence[str]) -> None:
        """A database for a script; where there is one already this fails, which is no harm."""
        self._add("make", script, {"argv": argv, "seconds": self._load_seconds})

    def load(self, script: Script, argv: Sequence[str], **more: Any) -> None:
        """A script by a program that reads it."""
        self._add("load", script, {"argv": argv, "source": script.descriptor, "seconds": self._load_seconds, **more})

    def ask(self, script: Script, argv: Sequence[str], query: str) -> None:
        """A query whose answer must be true."""
        self._add("query", script, {"argv": argv, "asks": True, "seconds": self._query_seconds}, query)

    def _add(self, what: str, script: Script, step: dict[str, Any], query: str = "") -> None:
        self.steps.append({**step, "argv": list(step["argv"])})
        self.about.append((what, script, query))


class _Postgresql:
    """Server, roles first, then each database made and filled, as a lost server is restored."""

    def __init__(self, path: str, load_seconds: float, query_seconds: float) -> None:
        self._path, self._steps = path, _Steps(load_seconds, query_seconds)
        self._admin = f"opskit_drill_{os.urandom(6).hex()}"

    def plan(self, scripts: Sequence[Script]) -> _Plan:
        """Raises SourceError where no server is there, or none of that version."""
        programs, version = self._programs(scripts)
        self._admin = _superuser_in(scripts) or self._admin
        data = "--pgdata=/server/data"
        make = [f"{programs}/initdb", "--no-sync", f"--username={self._admin}", "--auth=trust", "--encoding=UTF8"]
        options = {
            "listen_addresses": "", "unix_socket_directories": "/server", "fsync": "off", "full_page_writes": "off",
            "synchronous_commit": "off", "wal_level": "minimal", "max_wal_senders": "0", "autovacuum": "off",
            "max_wal_size": "1GB", "maintenance_work_mem": "128MB", "dynamic_shared_memory_type": "mmap",
            "lc_messages": "C",
        }  # fmt: skip
        self._psql = [f"{programs}/psql", "--host=/server", f"--username={self._admin}", "--no-psqlrc", "--quiet"]
        job = {
            "make": [[*make, "--locale=C.UTF-8", data]],
            "serve": [f"{programs}/postgres", "-D", "/server/data", *(f"--{key}={options[key]}" for key in options)],
            "ready": [f"{programs}/psql", *self._psql[1:], "--dbname=postgres", "--command=SELECT 1"],
            "programs": [] if programs.startswith("/usr/") else [programs.rpartition("/")[0]],
            "places": _places(scripts),
        }
        self._fill(scripts)
        return _Plan(f"PostgreSQL {version}", {**job, "steps": self._steps.steps}, self._steps.about)

    def _fill(self, scripts: Sequence[Script]) -> None:
        has_roles = any(each.part == "server" for each in scripts)
        there = ["already exists"]  # wrappers and casts stand in both dumps of a database
        forgive = there if has_roles else [*there, 'role ".*" does not exist']
        for each in sorted(scripts, key=lambda each: ("server", "create", "database").index(each.part)):
            database = each.database if each.part == "database" else "postgres"
            words = [*self._psql, f"--dbname={_dbname(database)}"]
            if each.part == "database":
                quoted = '"' + database.replace('"', '""') + '"'
                self._steps.make(each, [*self._psql, "--dbname=postgres", f"--command=CREATE DATABASE {quoted}"])
            self._steps.load(each, [*words, "--file=-"], forgive=forgive)
            for query in each.queries:
                self._steps.ask(each, [*words, "--no-align", "--tuples-only", f"--command={query}"], query)

    def _programs(self, scripts: Sequence[Script]) -> tuple[str, str]:
        """The folder of the oldest server that is new enough, and its version."""
        wanted = max((int(found[1]) for each in scripts if (found := _BY_PG_DUMP.search(_head(each)))), default=0)
        folders = [*glob.glob("/usr/lib/postgresql/*/bin"), *glob.glob("/usr/pgsql-*/bin")]
        if program := shutil.which("postgres", path=self._path):
            folders.append(os.path.dirname(os.path.realpath(program)))
        whole = [each for each in folders if all(os.access(f"{each}/{name}", os.X_OK) for name in _PG_PROGRAMS)]
        there = {each: _version(f"{each}/postgres", r"(\d+(?:\.\d+)?)") for each in dict.fromkeys(whole)}
        if not there:
            raise SourceError("initdb and postgres not found; Debian, Ubuntu: apt-get install postgresql")
        enough = [each for each in there if int(there[each].partition(".")[0]) >= wanted]
        if not enough:
            newest = max(there.values(), key=lambda each: int(each.partition(".")[0]))
            raise SourceError(f"the dump is of PostgreSQL {wanted}, and the newest server here is {newest}")
        best = min(enough, key=lambda each: int(there[each].partition(".")[0]))
        return best, there[best]


_PG_PROGRAMS = ("initdb", "postgres", "psql")


def _dbname(database: str) -> str:
    quoted = database.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{quoted}'"


def _places(scripts: Sequence[Script]) -> list[str]:
    """The folders of tablespaces that a dump of globals names."""
    found = list[str]()
    for each in scripts:
        if each.part == "server":
            text = os.pread(each.descriptor, 1024 * 1024, 0)
            found += [os.fsdecode(place.replace(b"''", b"'")) for place in _TABLESPACE.findall(text)]
    return found


class _Mariadb:
    """Each database made and filled, then users and grants, as a lost server is restored."""

    def __init__(self, path: str, load_seconds: float, query_seconds: float) -> None:
        self._path, self._steps = path, _Steps(load_seconds, query_seconds)

    def plan(self, scripts: Sequence[Script]) -> _Plan:
        """Raises SourceError where no server is there."""
        names = ("mariadb-install-db", "mariadbd", "mariadb", "mariadb-admin")
        there = {name: shutil.which(name, path=self._path) or "" for name in names}
        if absent := [name for name in names if not there[name]]:
            raise SourceError(f"{absent[0]} not found; Debian, Ubuntu: apt-get install mariadb-server")
        version = _version(there["mariadbd"], r"Ver (\d+\.\d+\.\d+)")
        self._require_version(version, scripts)
        data = ["--no-defaults", "--datadir=/server/data", "--tmpdir=/server/tmp"]
        install = [there["mariadb-install-db"], *data, "--skip-test-db", "--force", _ROOT]
        serve = [there["mariadbd"], *data, "--socket=/server/s", "--pid-file=/server/pid", "--skip-networking"]
        serve += ["--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=1G", "--event-scheduler=OFF"]
        access = ["--no-defaults", "--socket=/server/s", "--user=root"]
        self._client = [there["mariadb"], *access, "--batch", "--skip-column-names", "--default-character-set=utf8mb4"]
        job = {
            "make": [install],
            "serve": serve,
            "ready": [there["mariadb-admin"], *access, "ping"],
            "programs": [],
            "places": [],
        }
        self._fill(scripts)
        return _Plan(f"MariaDB {version}", {**job, "steps": self._steps.steps}, self._steps.about)

    def _require_version(self, version: str, scripts: Sequence[Script]) -> None:
        found = [each for script in scripts if (each := _OF_MARIADB.search(_head(script)))]
        wanted = max(((int(each[1]), int(each[2])) for each in found), default=(0, 0))
        major, minor, _ = version.split(".")
        if wanted > (int(major), int(minor)):
            raise SourceError(f"the dump is of MariaDB {wanted[0]}.{wanted[1]}, and the server here is {version}")

    def _fill(self, scripts: Sequence[Script]) -> None:
        for each in sorted(scripts, key=lambda each: ("create", "database", "server").index(each.part)):
            database = each.database if each.part == "database" else "mysql"
            words = [*self._client, "--max-allowed-packet=1G", "--", database]
            if each.part == "database":
                quoted = "`" + database.replace("`", "``") + "`"
                make = f"--execute=CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET utf8mb4"
                self._steps.make(each, [*self._client, make])
            self._steps.load(each, words)
            for query in each.queries:
                self._steps.ask(each, [*self._client, f"--execute={query}", "--", database], query)
