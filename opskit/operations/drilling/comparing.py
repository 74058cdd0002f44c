"""Holds a restored folder against what was taken down of the tree, in several processes at once.

Each process is a bare Python with `reread.py`, for a thread more would mostly wait for another; they read their share
from a file, so that nobody has to feed them, and what they find comes in a file too, so that nobody blocks. A process
that ends otherwise than it should makes the check an error, never a pass.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from opskit.errors import OpskitError
from opskit.operations.drilling.expected import Expected

_PROGRAM = Path(__file__).with_name("reread.py")


@dataclass(slots=True)
class Compared:
    """What was found: entries looked at, bytes hashed, what differs, and which files are SQLite databases.

    `contents` and `metadata` are (path, what is wrong).
    """

    entries: int = 0
    hashed: int = 0
    contents: list[tuple[bytes, str]] = field(default_factory=list)
    metadata: list[tuple[bytes, str]] = field(default_factory=list)
    databases: list[bytes] = field(default_factory=list)

    @property
    def wrong(self) -> set[bytes]:
        """The paths of what is not there, or is something else."""
        return {path for path, _ in self.contents}


def compare(expected: Expected, restored: Path, scratch: Path) -> Compared:
    """Look at everything that was taken down; raises OpskitError where a process fails."""
    running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    try:
        for share in expected.shares():
            answer: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed below, when it was read)
            command = [sys.executable, "-I", "-S", str(_PROGRAM), os.fspath(restored), str(int(os.geteuid() == 0))]
            # A session of its own: Ctrl-C is this process's to answer.
            running.append(
                (subprocess.Popen(command, stdin=share, stdout=answer, start_new_session=True), answer),
            )
        return _gathered(running)
    finally:
        for process, answer in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            answer.close()


def _gathered(running: list[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> Compared:
    found = Compared()
    for process, answer in running:
        status = process.wait()
        if status != 0:
            raise OpskitError(f"a process that compares files ended with status {status}, expected 0")
        answer.seek(0)
        entries, size, contents, metadata, databases = marshal.load(answer)
        found.entries += entries
        found.hashed += size
        found.contents += contents
        found.metadata += metadata
        found.databases += databases
    for each in (found.contents, found.metadata):
        each.sort()
    found.databases.sort()
    return found
