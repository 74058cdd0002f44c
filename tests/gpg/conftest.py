"""Real keys in real home folders, made once a session, and a second gpg where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opskit.gpg import Keyring
from opskit.gpg.program import find_program
from tests.gpg.keys import Owner, make_owner


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """The key of a host that backs up."""
    owner = make_owner(tmp_path_factory.mktemp("host") / "home", "host")
    yield owner
    owner.keyring.close()


@pytest.fixture(scope="session")
def recipient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """A recovery key, of which a host has the public half only."""
    owner = make_owner(tmp_path_factory.mktemp("recipient") / "home", "recipient")
    yield owner
    owner.keyring.close()


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    """A home folder of this test's own, still empty."""
    with Keyring(tmp_path / "home") as made:
        made.create()
        yield made


@pytest.fixture
def gpg24(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Switches opskit between the gpg of this machine and a gpg 2.4 in the folder $OPSKIT_GPG24."""
    folder = os.environ.get("OPSKIT_GPG24")
    found = shutil.which("gpg", path=folder) if folder else None
    if found is None or b" 2.4" not in subprocess.run([found, "--version"], capture_output=True).stdout[:30]:
        pytest.skip("gpg 2.4 not found: set OPSKIT_GPG24 to the folder of its programs")
    usual = os.environ["PATH"]

    def switch(new: bool) -> None:
        monkeypatch.setenv("PATH", f"{folder}:{usual}" if new else usual)
        find_program.cache_clear()

    yield switch
    switch(False)
