"""What a restore has done and could not do, kept by several threads at once."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from opskit.errors import StoreRefused
from opskit.operations.restoring.pieces import Want
from opskit.operations.restoring.place import FULL, full


@dataclass(slots=True)
class Restored:
    """What was restored; `problems` are (path, message) of entries that are not as they were, sizes in bytes."""

    files: int = 0
    entries: int = 0
    total_bytes: int = 0
    skipped: int = 0
    planned_files: int = 0
    planned_bytes: int = 0
    problems: list[tuple[bytes, str]] = field(default_factory=list)

    def complain(self, path: bytes, message: str) -> None:
        """Note that an entry is not as it was."""
        self.problems.append((path, message))


class Ledger:
    """Counts what is restored in `result`, and remembers which files cannot be whole."""

    def __init__(self, result: Restored) -> None:
        self.result = result
        self._lock = threading.Lock()
        self._broken: set[int] = set()
        self._written: Counter[int] = Counter()
        self._absent: set[bytes] = set()

    def count(self, files: int, size: int) -> None:
        """Add files that are finished, and bytes that are in place (written, holes, or shared by hard links)."""
        with self._lock:
            self.result.files += files
            self.result.total_bytes += size

    def count_part(self, file: int, size: int) -> None:
        """Add bytes of a file that comes in parts; they count no more once it is given up."""
        with self._lock:
            if file not in self._broken:
                self._written[file] += size
                self.result.total_bytes += size

    def complain(self, path: bytes, messages: Iterable[str]) -> None:
        """Note what of an entry is not as it was."""
        with self._lock:
            for message in messages:
                self.result.complain(path, message)

    def fail(self, path: bytes, error: Exception) -> None:
        """Note that an entry is not there; raises StoreFull or StoreRefused where no other could be either."""
        message = str(error)
        if isinstance(error, OSError):
            message = error.strerror or message
            if error.errno in FULL:
                raise full(error) from error
            if error.errno == errno.EROFS:
                raise StoreRefused(f"the target cannot be written: {message}", hint="make it writable") from error
        with self._lock:
            self._absent.add(path)
            self.result.complain(path, message)

    def is_absent(self, path: bytes) -> bool:
        """Whether an entry failed."""
        return path in self._absent

    def give_up(self, file: int) -> bool:
        """Note that a file cannot be whole; whether that is news."""
        with self._lock:
            is_news = file not in self._broken
            self._broken.add(file)
            self.result.total_bytes -= self._written.pop(file, 0)
            return is_news

    def is_broken(self, file: int) -> bool:
        """Whether a file cannot be whole."""
        return file in self._broken

    def lose(self, want: Want, message: str) -> bool:
        """Note, once, that a file's content is lost; whether that is news."""
        is_news = self.give_up(want.file)
        if is_news:
            with self._lock:
                self._absent.add(want.node.path)
                self.result.complain(want.node.path, f"lost: {message}")
        return is_news
