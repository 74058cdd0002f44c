"""Finding and running the programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opskit.errors import OpskitError, ProgramMissing, UsageError
from opskit.gpg import begin_check, check_programs, decrypt_symmetric
from opskit.gpg.program import OLDEST, child_environment, find_program, run
from tests.gpg.keys import RUN_KEY


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the only one in PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    find_program.cache_clear()
    yield tmp_path
    find_program.cache_clear()


def script(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_programs_of_this_machine_are_found() -> None:
    """gpg and gpgv are found, with versions that opskit accepts."""
    assert min(check_programs()) >= OLDEST


def test_a_missing_program_says_how_to_get_it(programs: Path) -> None:
    """Without gpg in PATH the error names it and the package."""
    with pytest.raises(ProgramMissing) as caught:
        check_programs()
    assert "gpg" in str(caught.value) and "apt-get install" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "answer, words",
    [
        ("gpg (GnuPG) 2.2.20", "2.2.21"),
        ("gpg (GnuPG) 1.4.23", "too old"),
        ("gpg (GnuPG/MacGPG2) 2.0.30", "too old"),
        ("something else", "expected"),
    ],
)
def test_an_old_or_strange_gpg_is_refused(programs: Path, answer: str, words: str) -> None:
    """A gpg that is too old, or not GnuPG, is refused with what was expected."""
    script(programs, "gpg", f"echo '{answer}'")
    with pytest.raises(ProgramMissing, match=words):
        check_programs()


def test_a_gpg_that_cannot_run_is_missing(programs: Path) -> None:
    """A gpg that fails to start is reported as missing, not as damage."""
    script(programs, "gpg", "exit 127")
    with pytest.raises(ProgramMissing):
        check_programs()


def test_versions_are_asked_for_ahead(programs: Path) -> None:
    """Both programs start with the first question, and the answer that is read later is theirs."""
    for name in ("gpg", "gpgv"):
        script(programs, name, f"echo asked >> {programs}/{name}.log; echo '{name} (GnuPG) 2.4.{len(name)}'")
    begin_check()
    begin_check()
    assert check_programs() == check_programs() == ((2, 4, 3), (2, 4, 4))
    assert [(programs / f"{name}.log").read_text() for name in ("gpg", "gpgv")] == ["asked\n"] * 2


def test_a_bad_answer_is_not_remembered(programs: Path) -> None:
    """A gpg that failed once is asked again, for it may have been installed meanwhile."""
    script(programs, "gpg", "exit 1")
    script(programs, "gpgv", "echo 'gpgv (GnuPG) 2.4.0'")
    begin_check()
    with pytest.raises(ProgramMissing):
        check_programs()
    script(programs, "gpg", "echo 'gpg (GnuPG) 2.4.1'")
    assert check_programs().gpg == (2, 4, 1)


def test_a_killed_gpg_is_not_damage(programs: Path) -> None:
    """A gpg killed from outside (out of memory, a person) does not make an object look damaged."""
    script(programs, "gpg", "kill -KILL $$")
    with pytest.raises(OpskitError) as caught:
        decrypt_symmetric(b"anything", RUN_KEY)
    assert type(caught.value) is OpskitError and "signal 9" in str(caught.value)


def test_lack_of_memory_is_not_damage(programs: Path) -> None:
    """A gpg that had no memory or space does not make an object look damaged."""
    script(programs, "gpg", "echo 'gpg: fatal: out of core while allocating' >&2; exit 2")
    with pytest.raises(OpskitError) as caught:
        decrypt_symmetric(b"anything", RUN_KEY)
    assert type(caught.value) is OpskitError


def test_secrets_of_the_environment_stay_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """gpg sees none of the environment's secrets, and speaks the C locale."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    environment = child_environment()
    assert "hidden" not in environment.values()
    assert environment["LC_ALL"] == "C" and "PATH" in environment


@pytest.mark.parametrize("secret", [b"two\nlines", b"zero\0byte", b"x" * 5000])
def test_a_passphrase_that_gpg_would_cut_is_refused(secret: bytes) -> None:
    """A passphrase of which gpg would use only the first line is refused, without showing it."""
    with pytest.raises(UsageError) as caught:
        run("gpg", ["--version"], secret=secret)
    assert "two" not in str(caught.value) and "xxx" not in str(caught.value)


LIMITED = """
import resource, sys
from opskit.errors import OpskitError
from opskit.gpg.program import run
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    finished = run("gpg", [], output_limit=int(sys.argv[1]))
    print(finished.code, finished.read().decode())
except OpskitError as error:
    print(error, error.hint)
"""


@pytest.mark.parametrize(
    ("script_text", "limit", "answer"),
    [
        # It looks at its limit when opskit has had the time to set it.
        ("/bin/sleep 0.2; ulimit -H -f", 1 << 40, "0 128"),
        ("/bin/sleep 0.2; ulimit -H -f", 4096, "0 8"),
        ("/bin/sleep 0.2; exec /bin/head -c 99999 /dev/zero", 4096, "-25"),
        ("exec /bin/head -c 99999 /dev/zero", 1 << 40, "gpg was ended because files may not grow beyond 65536 bytes"),
    ],
)
def test_a_limit_on_files_is_never_raised(programs: Path, script_text: str, limit: int, answer: str) -> None:
    """Under `ulimit -f` gpg runs with the lesser limit, and what it cuts off there is not called damage."""
    script(programs, "gpg", script_text)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stdout.startswith(answer), done
    assert "ulimit -f unlimited" in done.stdout or not answer.startswith("gpg")


def test_an_interrupt_ends_gpg(programs: Path) -> None:
    """A KeyboardInterrupt while gpg works ends gpg before it goes on."""
    marker = programs / "pid"
    script(programs, "gpg", f"echo $$ >{marker}; exec /bin/sleep 60")

    def interrupt() -> None:
        while not marker.exists() or not marker.read_text().endswith("\n"):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run("gpg", [])
    thread.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_importing_is_light() -> None:
    """Importing the package loads no python-gnupg and starts no process."""
    code = (
        "import subprocess, sys\n"
        "subprocess.Popen.__init__ = None\n"
        "import opskit.gpg\n"
        "assert 'gnupg' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
