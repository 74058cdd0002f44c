"""What every test may use: how hard hypothesis tries, and short folders for gpg."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from tests.database_servers import Server
    from tests.repositories import Keys

# No deadline anywhere: a busy machine must not turn a correct property into a failure.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("dev", max_examples=30, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("ci", max_examples=60, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.register_profile("campaign", max_examples=2000, deadline=None, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers of `-n auto`: few, and none for a choice of tests, which ends sooner without.

    One more than there are processors: every tenth second a test waits for a server, or for a second to pass.
    """
    is_choice = config.args_source is not config.ArgsSource.TESTPATHS or config.option.keyword
    return 0 if is_choice else min(len(os.sched_getaffinity(0)) + 1, 4)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Have a line shown at the end of the run, from a worker too: how many points a campaign struck."""
    return lambda text: record_property("told", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests told."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "told":
                terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {text}")


@pytest.fixture(scope="session", autouse=True)
def _away_from_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds, or touches, what this machine has of opskit: its config, its caches, its users' gpg."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.delenv("XDG_CACHE_HOME", raising=False)
        patch.delenv("OPSKIT_CONFIG", raising=False)
        patch.setattr("opskit.config.load.SYSTEM_CONFIG", folder / "etc" / "opskit.yaml")
        yield


@pytest.fixture(scope="session")
def throwaway_keys() -> Iterator[Keys]:
    """One host key and two recipients, made once a session; nobody may change these homes."""
    from tests.repositories import make_keys  # tests of single parts need not load the operations

    with _short_folder() as folder:
        yield make_keys(folder)


@pytest.fixture
def tmp_short() -> Iterator[Path]:
    """A private folder with a short path, in memory where possible, for GNUPGHOMEs.

    gpg-agent listens on a socket inside its home; beyond about 108 bytes of path it says only "no agent running".
    Every agent started below the folder is stopped before the folder goes.
    """
    with _short_folder() as folder:
        yield folder


@contextmanager
def _short_folder() -> Iterator[Path]:
    memory = Path("/dev/shm")
    parent = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path("/tmp")
    folder = Path(tempfile.mkdtemp(prefix="ok-", dir=parent))
    try:
        yield folder
    finally:
        _stop_agents(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _stop_agents(folder: Path) -> None:
    """Stop the agents of every gpg home at or below `folder`, and only those."""
    if shutil.which("gpgconf") is None:
        return
    traces = ("private-keys-v1.d", "pubring.kbx", "S.gpg-agent", "gpg-agent.conf")
    for home in (folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())):
        if any((home / trace).exists() for trace in traces):
            for act in (["--kill", "all"], ["--remove-socketdir"]):
                subprocess.run(["gpgconf", "--homedir", str(home), *act], capture_output=True, check=False, timeout=20)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A real PostgreSQL, empty but for what earlier tests made: each makes databases of its own."""
    from tests.database_servers import postgresql

    with postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A real MariaDB, likewise."""
    from tests.database_servers import mariadb

    with mariadb() as server:
        yield server
