"""Looks at processes from outside while they run: their arguments, their environments, the files in some folders.

What is too quick for it the recorder notes from inside; this sees programs that are started by other programs, and
what opskit would do past Python.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_PAUSE = 0.015


class Watch(threading.Thread):
    """Between `with` and its end: what all processes showed that began meanwhile, and what lay in `folders`."""

    def __init__(self, *folders: Path) -> None:
        super().__init__()
        self.argv: set[bytes] = set()
        self.environ: set[bytes] = set()
        """Single variables."""
        self.files: dict[Path, set[bytes]] = {}
        self._folders, self._over, self._stamps = folders, threading.Event(), dict[Path, tuple[int, int]]()
        self._before = set(os.listdir("/proc"))

    def run(self) -> None:
        while not self._over.wait(_PAUSE):
            for each in os.listdir("/proc"):
                if each.isdigit() and each not in self._before:
                    self.argv.add(_content(f"/proc/{each}/cmdline"))
                    self.environ.update(_content(f"/proc/{each}/environ").split(b"\0"))
            for folder in self._folders:
                self._look_into(folder)

    def _look_into(self, folder: Path) -> None:
        """Files that are new or have changed."""
        for place, _, names in os.walk(folder):
            for path in (Path(place, name) for name in names):
                try:
                    status = path.lstat()
                except OSError:
                    continue
                stamp = status.st_mtime_ns, status.st_size
                if self._stamps.get(path) != stamp and path.is_file() and not path.is_symlink():
                    self._stamps[path] = stamp
                    self.files.setdefault(path, set()).add(_content(str(path)))

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it is gone, or no longer there to be asked
        return b""
