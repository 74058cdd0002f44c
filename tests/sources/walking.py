"""What the tests of sources share: run a walk and split what it says; be another user for a moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opskit.sources.base import Entry, OpenFile, Problem, Source
from opskit.sources.files import FileSource

IS_ROOT = os.geteuid() == 0
NOBODY = 65534

needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root: devices, mounts, capabilities")


def needs_program(name: str) -> pytest.MarkDecorator:
    """Skip by name where a program is absent."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"needs the program {name}")


def walk(source: Source) -> tuple[list[Entry], list[Problem]]:
    """All entries which are no parents, and all problems."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for item in source.entries():
        if isinstance(item, Problem):
            problems.append(item)
        elif not item.is_parent:
            entries.append(item)
    return entries, problems


def names(root: Path, **options: Any) -> list[str]:
    """Paths below `root` as the walk gives them, relative to it; fails the test on any problem."""
    entries, problems = walk(FileSource([root], **options))
    assert problems == []
    top = len(os.fsencode(root))
    return [os.fsdecode(entry.path[top:]) for entry in entries[1:]]


def entry_of(source: Source, path: Path) -> Entry:
    """The entry of one path."""
    wanted = os.fsencode(path).lstrip(b"/")
    return next(item for item in source.entries() if isinstance(item, Entry) and item.path == wanted)


def content(opened: OpenFile | Problem, block: int = 65536) -> bytes:
    """Everything that can be read; closes it."""
    assert not isinstance(opened, Problem), opened
    buffer = memoryview(bytearray(block))
    parts = []
    try:
        while count := opened.readinto(buffer):
            parts.append(bytes(buffer[:count]))
    finally:
        opened.close()
    return b"".join(parts)


def make(root: Path, *paths: str) -> Path:
    """Create files (content: their own path) and, where a path ends in "/", folders."""
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(path)
    return root


def open_descriptors() -> set[str]:
    """The descriptors this process holds."""
    return set(os.listdir("/proc/self/fd"))


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """A folder of, and the effective id of, a user whom permissions stop: root reads everything."""
    folder = Path(tempfile.mkdtemp(prefix="opskit-user-"))
    try:
        if not IS_ROOT:
            yield folder
            return
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            os.seteuid(0)
    finally:
        subprocess.run(["chmod", "-R", "u+rwx", str(folder)], check=False)
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a tree of any depth."""
    subprocess.run(["rm", "-rf", str(folder)], check=True)
