"""What the tests of database servers share: a source for a server of the tests, its dumps, and programs in its way."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from opskit.sources.base import Entry, OpenFile, Problem
from opskit.sources.databases.dumps import DumpSource, Loader, Programs, Surroundings
from tests.database_servers import PASSWORD
from tests.sources.walking import content

NOW = 1_795_212_000_123_456_789


def environment() -> dict[str, str]:
    """This process's, without what clients of databases read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "MYSQL", "MARIADB"))}


def source_of(
    client: Loader,
    password: str | None = PASSWORD,
    env: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = lambda _text: None,
    run_as: str | None = None,
) -> DumpSource:
    """A source of that client's dumps."""
    secret = None if password is None else password.encode()
    around = Surroundings(
        NOW, environment() if env is None else env, None if secret is None else lambda: secret, tell=tell
    )
    return DumpSource(Programs(client, around, run_as=run_as, grace_seconds=1))


def entries_of(source: DumpSource) -> dict[str, Entry]:
    """All entries by path; any Problem fails the test."""
    found = {}
    for item in source.entries():
        assert isinstance(item, Entry), item
        found[item.path.decode()] = item
    return found


def opened(source: DumpSource, path: str) -> OpenFile:
    """A dump that has been started."""
    answer = source.open(entries_of(source)[path])
    assert not isinstance(answer, Problem)
    return answer


def dumped(source: DumpSource, path: str) -> str:
    """The whole of one dump."""
    return content(opened(source, path)).decode()


def program_in_the_way(folder: Path, name: str, script: str) -> dict[str, str]:
    """An environment in which a shell script stands before a program; "$real" in it is that program."""
    real = next(str(Path(each, name)) for each in os.environ["PATH"].split(":") if Path(each, name).exists())
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\nreal={real}\n{script}\n")
    (folder / name).chmod(0o755)
    return {**environment(), "PATH": f"{folder}:{os.environ['PATH']}"}
