"""`opskit mount` with a real FUSE file system: fidelity, damage, ends of all kinds, refusals."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opskit.access import read_key_file
from opskit.gpg import ephemeral_keyring, folders
from tests.cli.hosts import Machine
from tests.cli.running import OPSKIT, clean, opskit
from tests.operations.judging import differences
from tests.repositories import make_source, noise


def _why_not() -> str | None:
    """Why nothing can be mounted here; None where it can."""
    try:
        import mfusepy  # noqa: F401

        os.close(os.open("/dev/fuse", os.O_RDWR))
        if os.geteuid() == 0:  # a container may have the device and still not be let
            if ctypes.CDLL(None, use_errno=True).unshare(0) != 0:
                return "unshare"
            status = Path("/proc/self/status").read_text()
            if not int(status.partition("CapEff:")[2].split()[0], 16) >> 21 & 1:
                return "no CAP_SYS_ADMIN"
        elif not shutil.which("fusermount3"):
            return "no fusermount3"
    except (ImportError, OSError, AttributeError) as error:
        return str(error)
    return None


WHY_NOT = _why_not()
needs_fuse = pytest.mark.skipif(WHY_NOT is not None, reason=f"FUSE cannot be used here: {WHY_NOT}")


@contextmanager
def mounted(machine: Machine, *arguments: object, expected: int = 0) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    """A mount in a process of its own, until the end of the block; its messages are in `stderr` afterwards."""
    point = machine.folder / "mnt"
    point.mkdir(exist_ok=True)
    with (machine.folder / "mount.err").open("wb") as messages:
        process = machine.start("mount", point, *arguments, "--key", machine.key, stderr=messages)
    try:
        for _ in range(600):
            if os.path.ismount(point) or process.poll() is not None:
                break
            time.sleep(0.05)
        assert os.path.ismount(point), said(machine)
        yield point, process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == expected, said(machine)
        assert not os.path.ismount(point)
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True)


def said(machine: Machine) -> str:
    return (machine.folder / "mount.err").read_text()


def inside(point: Path, machine: Machine) -> Path:
    return point / str(machine.source).lstrip("/")


@pytest.fixture
def various(machine: Machine) -> Machine:
    """A host that backed up one of nearly everything, as far as this user may make it."""
    shutil.rmtree(machine.source)
    machine.source.mkdir()
    make_source(machine.source)
    with contextlib.suppress(OSError):
        os.setxattr(machine.source / "empty", "user.origin", b"golden\0")
        subprocess.run(["setfacl", "-m", "u:1234:rwx", str(machine.source / "docs")], check=False)
    if os.geteuid() == 0:
        os.mknod(machine.source / "device", 0o600 | 0o020000, os.makedev(1, 5))
        os.chown(machine.source / "same.bin", 1234, 4321)
        (machine.source / "setuid").write_bytes(b"#!/bin/sh\n")
        (machine.source / "setuid").chmod(0o4755)
    assert machine.run("backup").code == 0
    return machine


@needs_fuse
def test_a_mounted_snapshot_is_the_source(various: Machine) -> None:
    """rsync, with contents, owners, times, links, ACLs and attributes, finds no difference in a mounted snapshot."""
    with mounted(various, "latest") as (point, _):
        assert differences(various.source, inside(point, various)) == ""
        twin = inside(point, various) / "docs" / "hard"
        assert twin.stat().st_nlink == 2 and twin.samefile(inside(point, various) / "same.bin")
        assert inside(point, various).joinpath("sparse").stat().st_blocks * 512 < 700_000
        options = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {point} " in line)
        assert {"ro", "nosuid", "nodev"} <= set(options.split()[3].split(",")) and " fuse.opskit " in options
        for change in (
            lambda: (point / "new").touch(),
            lambda: (inside(point, various) / "empty").unlink(),
            lambda: (inside(point, various) / "empty").write_text("x"),
        ):
            with pytest.raises(OSError) as failure:
                change()
            assert failure.value.errno == errno.EROFS


@needs_fuse
def test_all_snapshots_are_folders(used: Machine) -> None:
    """Without a snapshot, each source is a folder of snapshots, and `latest` is the newest of them."""
    ids = [each["id"][:8] for each in used.run("snapshots", "--json").json]
    with mounted(used) as (point, _):
        assert os.listdir(point) == ["data"]
        shown = sorted(os.listdir(point / "data"))
        assert shown[-1] == "latest" and {each[-8:] for each in shown[:-1]} == set(ids)
        # the data of this fixture was backed up at another place
        (newest,) = (point / "data" / "latest").rglob("later")
        assert newest.read_text() == "second\n"
        older = {each for each in shown[:-1]} - {os.readlink(point / "data" / "latest")}
        assert not list((point / "data" / older.pop()).rglob("later"))
        (large,) = (point / "data" / "latest").rglob("large.bin")
        assert large.read_bytes() == noise(1, 1_800_000)


@needs_fuse
def test_a_folder_of_ten_thousand(machine: Machine) -> None:
    """A large folder is listed whole, each name once, by one who reads on and by one who starts again."""
    for number in range(10_000):
        (machine.source / f"{number:05}").touch()
    assert machine.run("backup").code == 0
    with mounted(machine, f"latest:{machine.source}") as (point, _):
        assert sorted(os.listdir(point)) == sorted(os.listdir(machine.source))
        descriptor = os.open(point, os.O_RDONLY)
        with os.scandir(descriptor) as entries:
            first = [next(entries).name for _ in range(2_000)]
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert sorted(os.listdir(descriptor)) == sorted(os.listdir(machine.source)) and len(set(first)) == 2_000
        os.close(descriptor)


@needs_fuse
def test_damage_is_an_error_of_its_files_alone(machine: Machine) -> None:
    """Files of a damaged pack give I/O errors, named on stderr, and exit 3; all others are as they were."""
    assert machine.run("backup", "--json").code == 0
    before = {path.name for path in (machine.a / "packs").rglob("*") if path.is_file()}
    (machine.source / "hurt").write_bytes(noise(7, 50_000))
    assert machine.run("backup").code == 0
    after = [path for path in (machine.a / "packs").rglob("*") if path.is_file() and path.name not in before]
    data = max(after, key=lambda path: path.stat().st_size)
    data.chmod(0o600)
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with mounted(machine, "latest", "--from", "a", expected=3) as (point, _):
        for _ in range(2):
            with pytest.raises(OSError) as failure:
                (inside(point, machine) / "hurt").read_bytes()
            assert failure.value.errno == errno.EIO
        assert (inside(point, machine) / "large.bin").read_bytes() == noise(1, 1_800_000)
    (warning,) = (line for line in said(machine).splitlines() if "warning" in line)
    assert data.name[:16] in warning and "hurt" in warning
    with mounted(machine, "latest") as (point, _):
        assert (inside(point, machine) / "hurt").read_bytes() == noise(7, 50_000)


def rings(machine: Machine) -> set[Path]:
    """Folders in memory that hold this host's recovery key; others at work on this machine have theirs."""
    grips = grips_of(read_key_file(machine.key).secret)
    keys = [path for base in folders.candidates() for path in base.glob("opskit-gpg-*/private-keys-v1.d/*.key")]
    return {path.parent.parent for path in keys if path.name in grips}


@functools.cache
def grips_of(secret: bytes) -> frozenset[str]:
    """The names of a key's files in a ring; found once, for a ring that is made sweeps away those of the dead."""
    with ephemeral_keyring(secret) as keyring:
        assert keyring.home is not None
        return frozenset(path.name for path in (keyring.home / "private-keys-v1.d").iterdir())


@needs_fuse
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "umount", "busy"])
def test_every_end_is_clean(used: Machine, how: str) -> None:
    """However it ends, in use or not: exit 0, nothing mounted, no private key left, its end in the audit log."""
    with mounted(used) as (point, process):
        assert os.listdir(point) == ["data"]
        if how == "umount":
            subprocess.run(["umount", str(point)], check=True)
        elif how == "busy":
            holder = subprocess.Popen(["sleep", "60"], cwd=point / "data")
            process.send_signal(signal.SIGINT)
        else:
            process.send_signal(signal.Signals[how])
        assert process.wait(30) == 0, said(used)
    if how == "busy":
        holder.kill()
        holder.wait()
    assert not rings(used)
    last = json.loads(used.run("audit", "tail", "--json").out)[-1]
    assert "mount" in json.dumps(last)


@needs_fuse
def test_the_key_goes_before_one_snapshot_is_shown(used: Machine) -> None:
    """Who mounts one snapshot has no private key in memory while it is there, and reads all the same."""
    with mounted(used, "latest") as (point, _):
        assert not rings(used)
        assert [each.read_text() for each in point.rglob("later")] == ["second\n"]


@needs_fuse
def test_after_a_kill(used: Machine) -> None:
    """What a killed mount leaves is named with the way out of it; after that all is as before, and its key is gone."""
    point = used.folder / "mnt"
    assert not rings(used)
    with pytest.raises(AssertionError), mounted(used) as (_, process):
        (ring,) = rings(used)
        held = os.open(ring, os.O_RDONLY)
        process.kill()
        process.wait()
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)  # else other tests that start opskit now would clear it away
        with pytest.raises(OSError) as failure:
            os.listdir(point)
        assert failure.value.errno == errno.ENOTCONN
        refused = used.run("mount", point, "--key", used.key)
        assert refused.code == 2 and f"fusermount3 -u {point}" in refused.err
    assert rings(used), "else this shows nothing"
    os.close(held)
    with mounted(used) as (_, _process):
        assert os.listdir(point) == ["data"]
        assert len(rings(used)) == 1
    assert not rings(used)


@needs_fuse
def test_a_place_in_use(used: Machine) -> None:
    """A folder with something in it, a file, nothing, a mount, a destination: each is refused in its own words."""
    empty, full, file = used.folder / "empty", used.folder / "full", used.folder / "file"
    for folder in (empty, full):
        folder.mkdir()
    (full / "x").touch()
    file.touch()
    inner = used.a / "inner"
    inner.mkdir()
    for place, word in (
        (full, "not empty"),
        (file, "expected a folder"),
        (empty / "no", "mkdir"),
        (inner, "destination"),
    ):
        refused = used.run("mount", place, "latest", "--key", used.key)
        assert refused.code == 2 and word in refused.err, refused
    with mounted(used) as (point, _):
        refused = used.run("mount", point, "--key", used.key)
        assert refused.code == 2 and "already" in refused.err


@needs_fuse
def test_a_repository_without_a_config(used: Machine) -> None:
    """A copy and the recovery-key file are enough."""
    point = used.folder / "mnt"
    point.mkdir()
    command = [*OPSKIT, "mount", str(point), "latest", "--repository", str(used.b), "--key", str(used.key)]
    process = subprocess.Popen(command, env=clean({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            if os.path.ismount(point):
                break
            time.sleep(0.05)
        assert [each.read_text() for each in point.rglob("later")] == ["second\n"]
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.communicate()


def test_without_the_extra(used: Machine) -> None:
    """Without mfusepy the command says what to install, and everything else works."""
    code = "import sys; sys.modules['mfusepy'] = None; from opskit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--config", str(used.config)]
    done = subprocess.run([*command, "mount", str(used.folder)], env=clean({}), capture_output=True, check=False)
    assert done.returncode == 2 and b"opskit[mount]" in done.stderr, done
    assert subprocess.run([*command, "snapshots"], env=clean({}), capture_output=True, check=False).returncode == 0


def test_a_key_that_does_not_fit(used: Machine, tmp_path: Path) -> None:
    """Nothing is mounted with a key that opens nothing: exit 12 at once."""
    if WHY_NOT is not None:
        pytest.skip(f"FUSE cannot be used here: {WHY_NOT}")
    (tmp_path / "mnt").mkdir()
    done = opskit("--config", str(used.config), "mount", str(tmp_path / "mnt"), HOME=str(tmp_path))
    assert done.returncode == 12 and not os.path.ismount(tmp_path / "mnt"), done
