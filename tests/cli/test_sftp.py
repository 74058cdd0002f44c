"""Whole commands with a destination at an SFTP server, beside one on a disk."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import pytest

from opskit.operations.status.places import device_of
from tests.cli.hosts import Machine, fill, objects
from tests.cli.running import python
from tests.operations.judging import assert_equal
from tests.stores import sftp_server

pytestmark = pytest.mark.skipif(sftp_server.missing() is not None, reason=str(sftp_server.missing()))


def place(server: sftp_server.Server | None = None) -> tuple[str, Path]:
    """A place of its own at a server as it is typed, and its folder."""
    there = server or sftp_server.running()
    name = uuid.uuid4().hex
    return f"{there.url(name)}?identity_file={there.key}&known_hosts={there.known_hosts}", there.folder / name


def host(folder: Path, location: str) -> Machine:
    """A host that backs up to a disk and to a server."""
    machine = Machine(folder / "host")
    fill(machine.source)
    answer = machine.init(far=location)
    assert answer.code == 0, answer
    return machine


def restored(machine: Machine, folder: Path, *arguments: object) -> None:
    """Restore the newest snapshot into `folder` and compare it with the source."""
    answer = machine.run("restore", "latest", "--target", folder, "--key", machine.key, *arguments)
    assert answer.code == 0, answer
    assert_equal(machine.source, folder / machine.source.relative_to("/"))


def test_the_whole_way(tmp_path: Path) -> None:
    """What was backed up to disk and server is verified, healed and pruned at both, and restored from either."""
    location, folder = place()
    machine = host(tmp_path, location)
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0
    assert objects(folder, "packs") == objects(machine.a, "packs") != set()
    restored(machine, tmp_path / "one", "--from", "far")
    pack = next((folder / "packs").rglob("*/*"))
    pack.write_bytes(b"rot")
    assert machine.run("verify", "--destination", "far").code == 3
    assert machine.run("heal", "--destination", "far").code == 0
    assert machine.run("verify").code == 0
    (machine.source / "more").write_bytes(os.urandom(10_000))
    assert machine.run("backup").code == 0
    answer = machine.run("prune", "--dry-run")
    assert answer.code == 0, answer
    status = machine.run("--json", "status").json
    far = status["sources"]["data"]["destinations"]["far"]
    assert far["state"] == "current" and far["observed"] == device_of(folder), "this machine, whatever the config says"


def test_one_server_by_two_names_is_one_place(tmp_path: Path) -> None:
    """Copies whose servers show one key, and one file system behind it, count once, whatever they are called."""
    with sftp_server.sshd() as own:
        server = own.server
        known = server.known_hosts.read_text()
        server.known_hosts.write_text(known + known.replace("127.0.0.1", "localhost"))
        # Beginning in the folder of the account: by such a path nobody sees that the server is this machine.
        folder = os.path.relpath(server.folder, Path("~").expanduser())
        keys = f"?identity_file={server.key}&known_hosts={server.known_hosts}"
        one, two = (f"sftp://{name}:{server.port}/~/{folder}/{name}{keys}" for name in ("127.0.0.1", "localhost"))
        machine = host(tmp_path, one)
        assert machine.run("init", "--destination", f"too={two}").code == 0
        assert machine.run("backup").code == 0
        found = machine.run("--json", "status").json["sources"]["data"]
        observed = [found["destinations"][name]["observed"] for name in ("far", "too")]
        assert observed == ["server 127.0.0.1", "server localhost"] and found["copies"] == 2
        assert "far and too are in one place (server with the key SHA256:" in " ".join(
            machine.run("status").out.split()
        )


def test_a_location_is_enough(tmp_path: Path) -> None:
    """A repository at a server is restored, verified, and a lost host rebuilt from it, by its location and the key."""
    location, _ = place()
    machine = host(tmp_path, location)
    assert machine.run("backup").code == 0
    lost = Machine(tmp_path / "other")
    for arguments in (
        ("verify", "--repository", location, "--key", machine.key),
        ("snapshots", "--repository", location, "--key", machine.key),
        ("restore", "latest", "--repository", location, "--key", machine.key, "--target", tmp_path / "back"),
    ):
        answer = lost.run(*arguments)
        assert answer.code == 0, answer
    assert_equal(machine.source, tmp_path / "back" / machine.source.relative_to("/"))
    answer = lost.run(
        "init", "--from", location, "--key", machine.key, "--state-dir", lost.state, "--no-recovery-key"
    )  # fmt: skip
    assert answer.code == 0, answer
    assert "sftp" in lost.config.read_text() and "identity_file" in lost.config.read_text()


def test_a_server_that_is_away_leaves_its_copy_behind(tmp_path: Path) -> None:
    """A backup goes on without the server and says so; when it is back, sync gives it what it lacks."""
    with sftp_server.sshd() as sshd:
        location, folder = place(sshd.server)
        machine = host(tmp_path, location)
        assert machine.run("backup").code == 0
        sshd.stop()
        (machine.source / "more").write_bytes(os.urandom(10_000))
        answer = machine.run("--json", "backup")
        assert answer.code == 3 and answer.json[0]["destinations"] == {"a": "ok", "far": "behind"}, answer
        assert "cannot be reached" in machine.run("sync").err
        sshd.start()
        assert machine.run("sync").code == 0
        assert objects(folder, "snapshots") == objects(machine.a, "snapshots")


def test_a_server_that_dies_amid_a_backup_costs_nothing(tmp_path: Path) -> None:
    """The connections are cut while packs are sent: it takes up again, says nothing of how, and all is whole."""
    with sftp_server.sshd() as sshd:
        location, folder = place(sshd.server)
        machine = host(tmp_path, location)
        for number in range(6):
            (machine.source / f"large-{number}").write_bytes(os.urandom(9_000_000))
        with machine.start("backup") as child:
            while not list((folder / ".tmp").glob("*")):
                assert child.poll() is None
            sshd.signal(signal.SIGKILL)
            said = child.communicate(timeout=60)
            assert child.returncode == 0, said
        assert "Traceback" not in f"{said}" and "socket.send" not in f"{said}", said
        assert machine.run("verify").code == 0


def test_init_says_how_to_let_a_server_be_known(tmp_path: Path) -> None:
    """A server that nobody knows yet is told with what to do about it, for that is the first thing that happens."""
    location, _ = place()
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    answer = machine.run(
        "init", "--state-dir", machine.state, "--source", f"data={machine.source}",
        "--destination", f"a={machine.a}", "--destination", f"far={location}&known_hosts={tmp_path / 'none'}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", machine.key, "--no-passphrase",
    )  # fmt: skip
    assert answer.code != 0 and "hint: far:" in answer.err and "known_hosts" in answer.err, answer


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    """An address that holds a password is an error of usage, whatever command got it, and nothing shows it."""
    machine = Machine(tmp_path / "host")
    address = "sftp://me:hunter2@127.0.0.1/backups"
    for arguments in (
        (
            "init",
            "--source",
            "x=/etc",
            "--destination",
            f"far={address}",
            "--new-recipient",
            "A",
            "--recovery-key",
            "k",
        ),
        ("verify", "--repository", address),
    ):
        answer = machine.run(*arguments)
        assert answer.code == 2 and "password in it" in answer.err and "hunter2" not in f"{answer}", answer


def test_only_hosts_that_use_a_server_load_its_library() -> None:
    """Importing the command line and the wiring loads no asyncssh, and its absence is an error that names the extra."""
    found = python(
        "import sys, opskit.cli, opskit.wiring as w\n"
        "assert 'asyncssh' not in sys.modules and 'opskit.stores.sftp' not in sys.modules\n"
        "sys.modules['asyncssh'] = None\n"
        "try: list(w.store_at('x', 'sftp://h/p').list())\n"
        "except Exception as error: print(error, error.hint, error.exit_code)\n"
    )
    assert "asyncssh" in found.stdout and "pip install 'opskit[sftp]' 2" in found.stdout, found


def test_sync_to_a_server_that_takes_nothing_says_what_to_do(tmp_path: Path) -> None:
    """Where the server refuses to write, sync ends with what to look at there, and no line of a log between."""
    location, folder = place()
    machine = host(tmp_path, location)
    for each in (folder / "packs", folder / ".tmp"):  # root may write anywhere, but not a folder where a file is
        assert not each.is_dir() or not any(each.iterdir())
        if each.is_dir():
            each.rmdir()
        each.write_bytes(b"")
    machine.run("backup")
    answer = machine.run("sync", "far")
    assert answer.code != 0 and "hint: far:" in answer.err and "then: opskit sync far" in answer.err, answer
    assert "object not copied" not in answer.err
