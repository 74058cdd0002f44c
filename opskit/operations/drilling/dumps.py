"""Dumps of databases among what was restored: found, loaded into a server made for it, and asked the config's queries.

Invariants: dumps are known by where a database source puts them and by how they begin, so a host that only drills
needs no server's config; others are named by `verify.dumps`. Files are opened step by step below the scratch, never
through a symbolic link. That dumps could not be loaded here (no server program) is no fault of the copy: it is told as
"not loaded", and is never a pass. Dumps of pg_dump and mariadb-dump must end as these end them, and what lies where a
database source puts dumps must be one. The loader knows how a server is made; this module knows none.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from opskit.errors import SourceError
from opskit.operations.drilling.checks import Failure
from opskit.repository.evidence import Check
from opskit.sources.base import printable
from opskit.sources.loading import HEAD, TAIL, Kind, Loaded, Loader, Script, cut_off

_LAYOUT = {b"databases", b"create", b"globals.sql"}
_MYSQL = b"-- MySQL dump"
_BEGINNINGS: dict[Kind, bytes] = {"postgresql": b"-- PostgreSQL database", "mariadb": b"-- MariaDB dump"}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
NOT_LOADED = "not loaded"
"""How the note of a check begins that could not be made."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What the config says of dumps: files that are some, by path; queries by database or path; limits."""

    dumps: Mapping[str, Kind] = field(default_factory=dict)
    queries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    load_limit: timedelta = timedelta(hours=6)
    query_limit: timedelta = timedelta(minutes=10)


@dataclass(slots=True)
class Judged:
    """What came of it; `gap` says for people here why dumps were not loaded. `seconds` were spent on loading."""

    checks: list[Check] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    gap: str = ""


@dataclass(frozen=True, slots=True)
class _Found:
    path: bytes
    kind: Kind | None
    script: Script


def judge_dumps(
    loader: Callable[[], Loader], questions: Questions, restored: Path, wrong: set[bytes], folder: Path
) -> Judged:
    """Load every dump that was restored right, and ask; no check where there is neither a dump nor a question."""
    judged, total, found = Judged(), Loaded(""), list[_Found]()
    with ExitStack() as opened:
        try:
            found += [each for each in _dumps_in(restored, questions, opened) if each.path not in wrong]
            judged = _of_absent(questions, found)
            if not found:
                return _of_mysql(judged, restored)
            bad = {each.path: why for each in found if (why := _why_bad(each))}
            judged.failures += bad.items()
            total.scripts = len(bad)
            for kind in dict.fromkeys(each.kind for each in found if each.path not in bad and each.kind):
                scripts = [each.script for each in found if each.kind == kind and each.path not in bad]
                seconds = questions.load_limit.total_seconds(), questions.query_limit.total_seconds()
                own = folder / kind
                own.mkdir(mode=0o700, exist_ok=True)
                _add(total, loader().load(kind, scripts, own, *seconds))
        except SourceError as error:
            if any(each.script.queries for each in found) and not judged.checks:
                judged.checks.append(Check("queries", 0, 0, "not asked: no dump was loaded"))
            judged.checks.insert(0, Check("dumps", 0, 0, f"{NOT_LOADED}: {error}"[:300]))
            judged.gap = f"dumps of databases were not loaded: {error}" + (f" ({error.hint})" if error.hint else "")
            return judged
    return _with(judged, total, {each.script.name: each.path for each in found})


def _of_mysql(judged: Judged, restored: Path) -> Judged:
    """Its own dumps do not load into MariaDB for certain, and no server of it is made."""
    with ExitStack() as opened:
        files = [_opened(restored, path, opened) for path, _ in _paths_in(restored)]
        heads = [os.pread(each, HEAD, 0) for each in files if each is not None]
    if any(_MYSQL in head for head in heads):
        judged.checks.insert(0, Check("dumps", 0, 0, f"{NOT_LOADED}: a drill has no server of MySQL"))
        judged.gap = "dumps of databases were not loaded: a drill has no server of MySQL"
    return judged


def _with(judged: Judged, total: Loaded, paths: Mapping[str, bytes]) -> Judged:
    judged.seconds = total.seconds
    judged.failures += [(paths[name], what) for name, what in total.failures]
    note = f"into {total.server}, made for it" if total.server else ""
    checks = [Check("dumps", total.loaded, total.scripts, note)]
    asked = sum(each.total for each in judged.checks) + total.queries
    if asked:
        checks.append(Check("queries", total.answered, asked))
    judged.checks = checks
    return judged


def _add(total: Loaded, more: Loaded) -> None:
    total.server = " and ".join(each for each in (total.server, more.server) if each)
    total.seconds += more.seconds
    total.scripts, total.loaded = total.scripts + more.scripts, total.loaded + more.loaded
    total.queries, total.answered = total.queries + more.queries, total.answered + more.answered
    total.failures += more.failures


def _of_absent(questions: Questions, found: Sequence[_Found]) -> Judged:
    """Questions about what is not there are answered: it is not there."""
    there = {each.script.database for each in found} | {os.fsdecode(each.path) for each in found}
    absent = {name: asked for name, asked in questions.queries.items() if _plain(name) not in there}
    judged = Judged(failures=[(b"", f"verify.queries: no dump of {name!r} was restored") for name in absent])
    judged.failures += [
        (os.fsencode(_plain(name)), "verify.dumps: it was not restored")
        for name in questions.dumps
        if _plain(name) not in there
    ]
    asked = sum(map(len, absent.values()))
    if asked:
        judged.checks.append(Check("queries", 0, asked))
    return judged


def _dumps_in(restored: Path, questions: Questions, opened: ExitStack) -> Iterator[_Found]:
    is_source = {b"databases", b"create"} <= set(os.listdir(os.fsencode(restored)))
    for path, database in _paths_in(restored):
        descriptor = _opened(restored, path, opened)
        head = b"" if descriptor is None else os.pread(descriptor, HEAD, 0)
        kind = _kind_of(head)
        # Where a source of databases put it, it is a dump whatever became of it.
        if descriptor is not None and (kind is not None or (is_source and _MYSQL not in head)):
            part = {b"globals.sql": "server", b"create": "create"}.get(path.partition(b"/")[0], "database")
            queries = questions.queries.get(database, ()) if part == "database" else ()
            yield _Found(path, kind, Script(printable(path), descriptor, part, database, queries))  # type: ignore[arg-type]
    for number, (name, kind) in enumerate(sorted(questions.dumps.items())):
        path = os.fsencode(_plain(name))
        descriptor = _opened(restored, path, opened)
        if descriptor is not None:  # that one is not there is told elsewhere
            database, queries = f"opskit_drill_{number}", questions.queries.get(name, ())
            yield _Found(path, kind, Script(printable(path), descriptor, "database", database, queries))


def _plain(name: str) -> str:
    """A path as the tree has it."""
    return name.strip("/")


def _paths_in(restored: Path) -> Iterator[tuple[bytes, str]]:
    """Dumps where a source of databases puts them, with the name of the database."""
    root = os.fsencode(restored)
    if not set(os.listdir(root)) <= _LAYOUT:
        return
    for folder in (b"create", b"databases"):
        place = root + b"/" + folder
        if not os.path.isdir(place) or os.path.islink(place):
            continue
        for name in sorted(os.listdir(place)):
            if name.endswith(b".sql"):
                database = os.fsdecode(name[:-4]).replace("%2F", "/").replace("%25", "%")
                yield folder + b"/" + name, database
    if os.path.lexists(root + b"/globals.sql"):
        yield b"globals.sql", ""


def _opened(restored: Path, path: bytes, opened: ExitStack) -> int | None:
    """A descriptor of a regular file; None where there is none. Raises SourceError for one that cannot be read."""
    *folders, name = path.split(b"/")
    with ExitStack() as above:
        try:
            descriptor = os.open(restored, _FOLDER)
            above.callback(os.close, descriptor)
            for each in folders:
                descriptor = os.open(each, _FOLDER, dir_fd=descriptor)
                above.callback(os.close, descriptor)
            file = os.open(name, _FILE, dir_fd=descriptor)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                return None
            raise SourceError(f"a dump cannot be read: {(error.strerror or 'error').lower()}") from error
    opened.callback(os.close, file)
    return file if stat.S_ISREG(os.fstat(file).st_mode) else None


def _kind_of(head: bytes) -> Kind | None:
    return next((kind for kind, beginning in _BEGINNINGS.items() if beginning in head), None)


def _why_bad(found: _Found) -> str:
    """Why a dump need not be loaded to know that it is not good; "" where nothing says so."""
    descriptor = found.script.descriptor
    size = os.fstat(descriptor).st_size
    why = cut_off(os.pread(descriptor, HEAD, 0), os.pread(descriptor, TAIL, max(size - TAIL, 0)))
    if not why and found.kind is None:
        return "it begins like no dump of a database: look at what makes it"
    return why
