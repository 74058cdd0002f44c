"""One run at a time, by a lock that ends with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opskit.errors import OpskitError, RepositoryLocked
from opskit.operations.lock import exclusive
from tests.cli.running import clean

HOLDING = (
    "import sys; from pathlib import Path; from opskit.operations.lock import exclusive\n"
    "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
)


def test_it_excludes_and_ends(tmp_path: Path) -> None:
    """While it is held a second run is refused at once, with the holder's number; afterwards it is free."""
    path = tmp_path / "state" / "lock"
    with exclusive(path), pytest.raises(RepositoryLocked, match=str(os.getpid())), exclusive(path):
        pytest.fail("two runs at once")
    with exclusive(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_an_exception_ends_it(tmp_path: Path) -> None:
    """A run that fails leaves the lock free."""
    with pytest.raises(ValueError), exclusive(tmp_path / "lock"):
        raise ValueError
    with exclusive(tmp_path / "lock"):
        pass


def test_no_crash_survives(tmp_path: Path) -> None:
    """kill -9 of the holder frees the lock, whatever its file still says."""
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)], env=clean({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(RepositoryLocked, match=str(process.pid)), exclusive(path):
            pytest.fail("two runs at once")
        process.send_signal(signal.SIGKILL)
    assert path.read_text().strip() == str(process.pid)
    with exclusive(path):
        assert path.read_text().strip() == str(os.getpid())


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    """A program started during a run, which outlives it, does not hold the lock."""
    with exclusive(tmp_path / "lock"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with exclusive(tmp_path / "lock"):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in the lock's place is refused, and its target untouched."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OpskitError), exclusive(tmp_path / "lock"):
        pytest.fail("followed")
    assert (tmp_path / "precious").read_text() == "precious"
