"""Real keys in real home folders, made once a session, and a second gpg where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
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


def folder_of_gpg(version: str, environ: Mapping[str, str]) -> Path:
    """Where the programs of a GnuPG 2.4 or 2.2 lie: in $OPSKIT_GPG24 or $OPSKIT_GPG22, else the system's; or skips."""
    name = f"OPSKIT_GPG{version.replace('.', '')}"
    seen = "none"
    for path in (environ.get(name), environ["PATH"]):
        found = shutil.which("gpg", path=path) if path else None
        if found is not None:
            seen = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.split()[2]
            if seen.startswith(f"{version}."):
                return Path(found).parent
    pytest.skip(f"gpg {version} not found (the system's is {seen}): set {name} to the folder of its programs")


@pytest.fixture
def gpg24(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Switches opskit between a gpg 2.4 and a 2.2: one is as a rule the system's, the other must be named."""
    usual, new, old = os.environ["PATH"], folder_of_gpg("2.4", os.environ), folder_of_gpg("2.2", os.environ)

    def switch(is_new: bool) -> None:
        monkeypatch.setenv("PATH", f"{new if is_new else old}:{usual}")
        find_program.cache_clear()

    yield switch
    switch(False)
