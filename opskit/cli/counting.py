"""What a first backup has to read, counted by a process of its own so that the reader does not share its interpreter.

Run as `python -m opskit.cli.counting CONFIG SOURCE`: walks the source with its exclusions, at the lowest priority, and
writes the bytes of its files to stdout. The answer is an estimate for a progress line and nothing else: whatever goes
wrong here only means that there is none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


class Counting:
    """Counts a source in the background and hands the bytes to `tell`, from another thread, if it gets that far.

    Raises OSError where no process can be started.
    """

    def __init__(self, config: Path, source: str, tell: Callable[[int], None]) -> None:
        self._tell = tell
        # -P: a folder named opskit in the working folder is not our program
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "opskit.cli.counting", str(config), source],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._wait, name="counting", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        output, _ = self._process.communicate()
        with suppress(ValueError):
            self._tell(int(output))

    def end(self) -> None:
        """Stop counting."""
        self._process.kill()
        self._thread.join()


def count(config: Path, source: str) -> int:
    """The bytes of all files of a source; raises ConfigError, SourceError, UsageError."""
    from opskit import wiring
    from opskit.config import kept
    from opskit.config.load import load
    from opskit.sources.base import Entry

    known = load(config, keep=kept.folder(os.environ, Path(os.path.expanduser("~"))))
    entries = wiring.source_of(source, known).entries()
    return sum(each.stat.st_size for each in entries if isinstance(each, Entry) and each.kind == "file")


if __name__ == "__main__":
    os.nice(19)
    sys.stdout.write(f"{count(Path(sys.argv[1]), sys.argv[2])}\n")
