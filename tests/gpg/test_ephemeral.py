"""Key rings in memory that hold a private key for a moment."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from opskit.errors import Damaged, OpskitError
from opskit.gpg import ephemeral_keyring, folders, remove_stale_keyrings
from opskit.gpg.agent import stop_agent
from tests.gpg.keys import Owner, agents_of

TEXT = b"text"

pytestmark = pytest.mark.skipif(
    not any(folders.usable(base) and folders.is_in_memory(base) for base in folders.candidates()),
    reason="no writable tmpfs on this machine",
)


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory for the key rings of a test: in the usual ones others make theirs, and sweep at any time."""
    usual = next(each for each in folders.candidates() if folders.usable(each) and folders.is_in_memory(each))
    with TemporaryDirectory(prefix="ok-", dir=usual) as made:
        monkeypatch.setattr(folders, "candidates", lambda: [Path(made)])
        yield Path(made)


@pytest.fixture(scope="module")
def secret(recipient: Owner) -> bytes:
    return recipient.keyring.export_secret(recipient.fingerprint)


def test_it_opens_and_leaves_nothing(recipient: Owner, secret: bytes) -> None:
    """Inside the block the key opens messages from a private folder in memory; after it folder and agent are gone."""
    message = recipient.keyring.encrypt(TEXT, [recipient.fingerprint])
    with ephemeral_keyring(secret) as keyring:
        home = keyring.home
        assert home is not None
        assert stat.S_IMODE(home.stat().st_mode) == 0o700 and folders.is_in_memory(home)
        assert keyring.decrypt(message).payload == TEXT
        assert agents_of(home)
    assert not home.exists() and not agents_of(home)


def test_it_leaves_nothing_after_an_error(secret: bytes, base: Path) -> None:
    """An exception inside the block, or a file that is no key, leaves no folder and no agent."""
    with pytest.raises(KeyboardInterrupt), ephemeral_keyring(secret) as keyring:
        raise KeyboardInterrupt
    assert keyring.home is not None and keyring.home.parent == base and not agents_of(keyring.home)
    with pytest.raises(Damaged), ephemeral_keyring(b"no key"):
        pass
    assert not list(base.iterdir())


def test_a_killed_run_is_cleaned_up_by_the_next(secret: bytes, base: Path) -> None:
    """After kill -9 the next start removes the folder with its agent, and leaves living ones alone."""
    code = (
        "import pathlib, sys, time\nfrom opskit.gpg import ephemeral_keyring, folders\n"
        "folders.candidates = lambda: [pathlib.Path(sys.argv[1])]\n"
        "with ephemeral_keyring(sys.stdin.buffer.read()) as keyring:\n"
        "    print(keyring.home, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(base)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(secret)
        process.stdin.close()
        home = Path(process.stdout.readline().decode().strip())
        with ephemeral_keyring(secret) as living:
            assert home.exists(), "a living run was swept away"
            assert agents_of(home)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert home.exists()
            remove_stale_keyrings()
            assert not home.exists() and not agents_of(home)
            assert living.home is not None and living.home.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_disk_is_refused(secret: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but a disk is writable a private key is refused with a hint."""
    if folders.is_in_memory(tmp_path):
        pytest.skip("the temporary folder of this machine is in memory")
    monkeypatch.setattr(folders, "candidates", lambda: [tmp_path])
    with pytest.raises(OpskitError) as caught, ephemeral_keyring(secret):
        pass
    assert "tmpfs" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_is_told_from_memory() -> None:
    """The kernel's mount table tells a file system in memory from one on a disk, and an absent path from both."""
    assert folders.is_in_memory(Path("/dev/shm")) == (_file_system("/dev/shm") in ("tmpfs", "ramfs"))
    assert not folders.is_in_memory(Path("/proc"))
    assert not folders.is_in_memory(Path("/nonexistent"))


def test_a_sweep_takes_only_what_nobody_holds(tmp_path: Path) -> None:
    """A sweep removes given-up folders, and neither held ones, nor links, nor folders of other names."""
    held, descriptor = folders.make_folder(tmp_path)
    left = tmp_path / "opskit-gpg-left"
    left.mkdir()
    (left / "file").write_text("x")
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "opskit-gpg-link").symlink_to(other)
    folders.sweep(tmp_path, stop_agent)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([held.name, "opskit-gpg-link", "other"])
    folders.remove_folder(held, descriptor)
    assert not held.exists()


def test_a_sweep_goes_on_where_another_took_a_folder_meanwhile(tmp_path: Path) -> None:
    """One that is gone when its turn comes ends nothing: the others are removed all the same."""
    for number in range(4):
        (tmp_path / f"opskit-gpg-{number}").mkdir(mode=0o700)
    with os.scandir(tmp_path) as entries:
        in_order = [Path(entry.path) for entry in entries]

    def take_the_second(path: Path) -> None:
        if in_order[1].exists() and path == in_order[0]:
            in_order[1].rmdir()

    folders.sweep(tmp_path, take_the_second)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("step", ["open", "flock"])
def test_a_sweep_amid_the_making_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A folder that another's sweep takes away before it is held is made anew."""
    owner = {"open": os, "flock": fcntl}[step]
    begun = getattr(owner, step)

    def late(what: object, *arguments: int) -> object:
        monkeypatch.undo()
        folders.sweep(tmp_path, stop_agent)
        assert not list(tmp_path.iterdir())
        return begun(what, *arguments)

    monkeypatch.setattr(owner, step, late)
    path, descriptor = folders.make_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    folders.sweep(tmp_path, stop_agent)
    assert path.is_dir()
    folders.remove_folder(path, descriptor)


def _file_system(path: str) -> str:
    return subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, check=True).stdout.decode().strip()
