"""`opskit backup` as a person or a timer runs it: exit codes, messages, JSON, and what is left behind."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opskit.cli.render import human_bytes
from opskit.gpg import Keyring
from opskit.gpg.program import find_program
from tests.cli.hosts import Machine, objects, run, snapshot_of
from tests.cli.running import OPSKIT, clean
from tests.gpg.keys import dated_key, private_folder
from tests.repositories import noise
from tests.stores.mounts import mounted

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def test_a_backup_says_what_it_did(machine: Machine) -> None:
    """Exit 0; the source, both copies and the snapshot's id stand in the result; nothing on stderr but hints."""
    answer = machine.run("backup")
    assert answer.code == 0
    assert "data" in answer.out and "on 2 of 2 destinations" in answer.out
    assert "warning" not in answer.err and "error" not in answer.err
    assert objects(machine.a, "packs") == objects(machine.b, "packs") != set()


def test_json_is_as_documented(machine: Machine) -> None:
    """The shape of `backup --json` is a contract, and stdout holds nothing else."""
    (result,) = machine.run("backup", "--json", "--tag", "nightly").json
    assert set(result) == {
        "source", "snapshot", "files", "bytes", "new_bytes", "stored_bytes", "seconds", "errors", "destinations",
    }  # fmt: skip
    assert (result["source"], result["files"], result["errors"]) == ("data", 4, [])
    assert result["destinations"] == {"a": "ok", "b": "ok"}
    assert len(result["snapshot"]) == 64 and isinstance(result["seconds"], float)
    assert result["bytes"] == 1_800_000 + 3_000_000 + 2 * 7


def test_quiet_and_good_is_silent(machine: Machine) -> None:
    """With --quiet a good backup says nothing."""
    answer = machine.run("backup", "--quiet")
    assert (answer.code, answer.data, answer.err) == (0, b"", "")


def test_dry_run_writes_nothing(machine: Machine) -> None:
    """--dry-run tells what would be read and leaves state and copies as they are."""
    before = snapshot_of(machine.folder)
    answer = machine.run("backup", "--dry-run")
    assert answer.code == 0 and "would read 4 files of 4" in answer.out
    assert snapshot_of(machine.folder) == before
    (plan,) = machine.run("backup", "--dry-run", "--json").json
    assert (plan["source"], plan["changed_files"], plan["problems"]) == ("data", 4, [])


def test_the_private_key_is_not_needed(machine: Machine) -> None:
    """With the recovery-key file gone from the host, backups go on."""
    machine.key.unlink()
    assert machine.run("backup").code == 0


def test_without_config(tmp_path: Path) -> None:
    """No config is exit 2, and a hint says what to do."""
    answer = run("backup")
    assert answer.code == 2 and "opskit: hint:" in answer.err
    assert run("--config", tmp_path / "none.yaml", "backup").code == 2


@pytest.mark.parametrize("arguments", [["nobody"], ["--stdin", "x"], ["--stdin", "x", "data"], ["--stdin", "x", "A B"]])
def test_usage(machine: Machine, arguments: list[str]) -> None:
    """An unknown source, or --stdin without one new source of its own, is exit 2."""
    assert machine.run("backup", *arguments).code == 2
    assert not objects(machine.a, "snapshots")


@pytest.mark.parametrize("tag", ["a\nb\x1b[31m", "nightly\n", "", "two words", "x" * 65, "ü"])
def test_a_tag_is_judged_as_in_the_config(machine: Machine, tag: str) -> None:
    """A tag that the config would refuse is exit 2, says what is expected, and is signed nowhere."""
    answer = machine.run("backup", "--tag", "good", "--tag", tag)
    assert answer.code == 2 and "--tag: expected 1 to 64 of letters, digits" in answer.err
    assert "\x1b" not in answer.err and not objects(machine.a, "snapshots")
    assert machine.run("backup", "--dry-run", "--tag", tag).code == 2


def test_the_source_is_gone(machine: Machine) -> None:
    """An absent source path is exit 4, and no snapshot is made."""
    shutil.rmtree(machine.source)
    answer = machine.run("backup")
    assert answer.code == 4 and str(machine.source) in answer.err
    assert not objects(machine.a, "snapshots")


def test_one_destination_is_absent(machine: Machine) -> None:
    """One copy away: exit 3, the other has the snapshot, the absent one is behind and was not made anew."""
    machine.b.rename(machine.folder / "drawer")
    answer = machine.run("backup", "--json")
    assert answer.code == 3 and answer.json[0]["destinations"] == {"a": "ok", "b": "behind"}
    assert not machine.b.exists()
    (machine.folder / "drawer").rename(machine.b)
    again = machine.run("backup", "--json")
    assert again.code == 0 and again.json[0]["destinations"] == {"a": "ok", "b": "ok"}
    assert len(objects(machine.b, "snapshots")) == 2


def test_every_destination_is_absent(machine: Machine) -> None:
    """No copy in reach: 20, committed nowhere, nothing made."""
    for each in (machine.a, machine.b):
        shutil.rmtree(each)
    assert machine.run("backup").code in (10, 20)
    assert not machine.a.exists() and not machine.b.exists()


def test_an_empty_mount_point(machine: Machine) -> None:
    """A destination whose folder is there and empty holds no repository; a backup never makes one."""
    for each in (machine.a, machine.b):
        shutil.rmtree(each)
        each.mkdir()
    assert machine.run("backup").code == 10
    assert not any(machine.a.iterdir())


def test_not_mounted(machine: Machine) -> None:
    """must_be_mounted on a folder that is no mount: 23 where it is the only one, and nothing is written there."""
    shutil.rmtree(machine.b)
    machine.edit_config(f"path: {machine.b}", f"path: {machine.b}, must_be_mounted: true")
    machine.b.mkdir()
    assert machine.run("backup").code == 3
    assert not any(machine.b.iterdir())
    machine.edit_config(f"path: {machine.a}", f"path: {machine.a}, must_be_mounted: true")
    answer = machine.run("backup")
    assert answer.code == 23 and "not mounted" in answer.err


def powerless(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command as a user whom file modes concern: root without the capability to pass over them."""
    command = [*OPSKIT, "--config", str(machine.config), *arguments]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, env=clean({}), capture_output=True, check=False, timeout=60)


def close(copy: Path) -> None:
    """Take away the right to write."""
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def test_a_file_nobody_may_read(machine: Machine) -> None:
    """An unreadable file is exit 3, named, in the tree without content, and makes the snapshot incomplete."""
    (machine.source / "shut").write_text("x")
    (machine.source / "shut").chmod(0)
    done = powerless(machine, "backup")
    assert done.returncode == 3 and b"shut" in done.stderr, done
    (listed,) = machine.run("snapshots", "--json").json
    assert listed["complete"] is False
    target = machine.folder / "r"
    restored = machine.run("restore", "latest", "--target", target, "--key", machine.key, "--json")
    assert restored.code == 3 and len(restored.json["errors"]) == 1 and "shut" in restored.json["errors"][0]
    assert "incomplete" in restored.err
    place = target / str(machine.source)[1:]
    assert (place / "twin").read_text() == "a note\n" and not (place / "shut").exists()


def test_a_destination_that_may_not_be_written(machine: Machine) -> None:
    """One copy of two read-only to this user: 3, and the other has the snapshot; both: 22."""
    close(machine.b)
    done = powerless(machine, "backup")
    assert done.returncode == 3, done
    assert objects(machine.a, "snapshots") and not objects(machine.b, "snapshots")
    close(machine.a)
    (machine.source / "new").write_text("x")
    assert powerless(machine, "backup").returncode == 22


@needs_root
def test_a_full_destination(machine: Machine) -> None:
    """The only destination is full: 21, and it holds no snapshot."""
    with mounted("tmpfs", machine.folder, size=1024 * 1024) as place:
        machine.edit_config(str(machine.a), str(place / "copy"))
        machine.edit_config(str(machine.b), str(place / "absent"))
        shutil.copytree(machine.a, place / "copy")
        assert machine.run("backup").code == 21
        assert not objects(place / "copy", "snapshots")


@needs_root
def test_a_full_destination_among_two(machine: Machine) -> None:
    """One of two is full: 3, with the advice to free space there, and its reason is told for one source only."""
    (machine.folder / "more").mkdir()
    (machine.folder / "more" / "file").write_bytes(noise(9, 100_000))
    machine.edit_config("sources:\n", f"sources:\n  more: {{paths: [{machine.folder / 'more'}]}}\n")
    with mounted("tmpfs", machine.folder, size=1024 * 1024) as place:
        machine.edit_config(str(machine.b), str(place / "copy"))
        shutil.copytree(machine.b, place / "copy")
        answer = machine.run("backup", "data", "more")
    assert answer.code == 3 and "free space at b" in answer.err and "as above" in answer.out
    assert not re.search("[0-9a-f]{64}", answer.out + answer.err)


def test_what_was_put_is_counted_where_it_was_put(machine: Machine) -> None:
    """A destination that is caught up shows the bytes it was given, beside one that was given a manifest only."""
    machine.b.rename(machine.folder / "drawer")
    assert machine.run("backup").code == 3
    (machine.folder / "drawer").rename(machine.b)
    before = sum(path.stat().st_size for path in machine.b.rglob("*") if path.is_file())
    answer = machine.run("backup")
    grown = sum(path.stat().st_size for path in machine.b.rglob("*") if path.is_file()) - before
    assert grown > 1_000_000 and re.search(rf"b +ok +{re.escape(human_bytes(grown))} new", answer.out), answer.out
    assert re.search(r"a +ok +[0-9]+ B new", answer.out), answer.out


def test_a_rejected_manifest_is_told_once_a_copy(used: Machine, tmp_short: Path) -> None:
    """A manifest by a stranger is one warning, which names the destination, however many sources are backed up."""
    (used.folder / "more").mkdir()
    used.edit_config("sources:\n", f"sources:\n  more: {{paths: [{used.folder / 'more'}]}}\n")
    with Keyring(tmp_short / "g") as stranger:
        data = stranger.sign(b"{}", stranger.generate("stranger"))
    name = f"snapshots/20261121T020000Z-data-{hashlib.sha256(data).hexdigest()}.gpg"
    (used.b / name).write_bytes(data)
    answer = used.run("backup", "data", "more")
    assert answer.code == 3 and answer.err.count(name) == 1 and f"warning: b: {name}: signed by" in answer.err


@contextmanager
def held(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def test_two_at_once(machine: Machine) -> None:
    """A second backup while one runs is exit 11, at once; afterwards it works."""
    with held(machine.state / "lock"):
        answer = machine.run("backup")
    assert answer.code == 11 and "hint" in answer.err
    assert machine.run("backup").code == 0


def expired_key(folder: Path, machine: Machine) -> str:
    """An expired recipient that the host knows."""
    home = private_folder(folder / "old")
    with Keyring(home) as old, Keyring(machine.state / "gnupg") as host:
        fingerprint = dated_key(home, "old", "20200101", "1d")
        host.import_keys(old.export_public([fingerprint]))
    return fingerprint


def test_recipients_that_expired(machine: Machine, tmp_short: Path) -> None:
    """One expired recipient among valid ones: exit 3, named, stored; only expired ones: 12 and nothing stored."""
    expired = expired_key(tmp_short, machine)
    lists = r'recipients: \["?([0-9A-F]{40})"?\]'
    text = machine.config.read_text()
    machine.config.write_text(re.sub(lists, rf'recipients: ["\1", "{expired}"]', text))
    answer = machine.run("backup")
    assert answer.code == 3 and expired in answer.err and "expired" in answer.err
    machine.config.write_text(re.sub(lists, f'recipients: ["{expired}"]', text))
    (machine.source / "new").write_text("x")
    packs = objects(machine.a, "packs")
    answer = machine.run("backup")
    assert answer.code == 12 and "expired" in answer.err
    assert objects(machine.a, "packs") == packs


def test_without_gpg(machine: Machine, tmp_path: Path) -> None:
    """gpg not on the PATH is exit 2, with the name of the program."""
    (tmp_path / "bin").mkdir()
    process = machine.start("backup", environ={"PATH": str(tmp_path / "bin")})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and b"gpg" in err and b"Traceback" not in err


def test_a_gpg_that_is_too_old(machine: Machine, tmp_path: Path) -> None:
    """A gpg of long ago is refused with its version, before anything is stored."""
    (tmp_path / "bin").mkdir()
    for name in ("gpg", "gpgv"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho '{name} (GnuPG) 2.0.22'\n")
        (tmp_path / "bin" / name).chmod(0o755)
    process = machine.start("backup", environ={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and b"2.0.22" in err, err
    assert not objects(machine.a, "packs")
    find_program.cache_clear()


def test_a_command_source(machine: Machine) -> None:
    """A failing command is exit 4 and commits nothing; a good one is a snapshot."""
    script = machine.folder / "dump.sh"
    script.write_text("#!/bin/sh\necho half a dump\nexit 1\n")
    script.chmod(0o700)
    machine.edit_config("sources:\n", f"sources:\n  db:\n    command: [{script}]\n    filename: dump.sql\n")
    answer = machine.run("backup", "db")
    assert answer.code == 4 and not objects(machine.a, "snapshots")
    script.write_text("#!/bin/sh\necho a whole dump\n")
    assert machine.run("backup", "db").code == 0
    shown = machine.run("restore", "latest:dump.sql", "--stdout", "--key", machine.key)
    assert (shown.code, shown.data) == (0, b"a whole dump\n")


def test_standard_input(machine: Machine) -> None:
    """`dump | opskit backup --stdin FILE SOURCE` keeps the stream as that file."""
    process = machine.start("backup", "--stdin", "dump", "db", stdin=subprocess.PIPE)
    _, err = process.communicate(noise(5, 700_000), timeout=60)
    assert process.returncode == 0, err
    assert machine.run("restore", "db@latest:dump", "--stdout", "--key", machine.key).data == noise(5, 700_000)


def test_interrupted(machine: Machine) -> None:
    """Ctrl-C while the source is read: exit 130, no snapshot; the next run stores nothing twice."""
    (machine.source / "a-huge").write_bytes(noise(9, 70_000_000))
    process = machine.start("backup", "--debug")
    while not objects(machine.a, "packs"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == b"opskit: error: interrupted; everything stored so far will be reused"
    assert not objects(machine.a, "snapshots")
    stored = {name for name in objects(machine.a, "packs") if not Path(name).name.startswith(".")}
    assert stored
    assert machine.run("backup", "--quiet").code == 0
    assert stored <= objects(machine.a, "packs")
    size = sum((machine.a / name).stat().st_size for name in objects(machine.a, "packs"))
    assert size < 74_000_000, "what was stored before the interruption was stored again"
    target = machine.folder / "r"
    assert machine.run("restore", "latest", "--target", target, "--key", machine.key).code == 0
    assert (target / str(machine.source)[1:] / "a-huge").read_bytes() == noise(9, 70_000_000)


def test_idle_priority(machine: Machine) -> None:
    """performance.background lowers CPU and I/O priority of the process and of what it starts."""
    machine.edit_config("sources:\n", "performance:\n  background: true\nsources:\n")
    script = machine.folder / "nice.sh"
    script.write_text("#!/bin/sh\nnice\nionice\n")
    script.chmod(0o700)
    machine.edit_config("sources:\n", f"sources:\n  nice:\n    command: [{script}]\n    filename: nice\n")
    process = machine.start("backup", "nice")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert machine.run("restore", "latest:nice", "--stdout", "--key", machine.key).out.split()[:2] == ["19", "idle"]


def test_an_odd_name_cannot_steer_the_terminal(machine: Machine) -> None:
    """A file name with escape sequences reaches a terminal escaped."""
    name = "\x1b[31mred"
    (machine.source / name).write_text("x")
    (machine.source / name).chmod(0)
    done = powerless(machine, "backup")
    assert done.returncode == 3 and b"\x1b" not in done.stderr + done.stdout and b"red" in done.stderr


def test_one_source_of_two_is_gone(machine: Machine) -> None:
    """Exit 4 names the source that is gone; the other one is backed up all the same, whichever comes first."""
    for name in ("before", "zz-after"):
        machine.edit_config("sources:\n", f"sources:\n  {name}: {{paths: [{machine.folder / 'gone'}]}}\n")
    answer = machine.run("backup")
    assert answer.code == 4 and str(machine.folder / "gone") in answer.err
    assert [each["source"] for each in machine.run("snapshots", "--json").json] == ["data"]


def test_a_source_that_became_a_link(machine: Machine) -> None:
    """A source path that is a symbolic link now is told: exit 3, the link alone is stored."""
    machine.source.rename(machine.folder / "moved")
    machine.source.symlink_to(machine.folder / "moved")
    answer = machine.run("backup", "--json")
    assert answer.code == 3 and "link" in answer.json[0]["errors"][0]


def test_backup_tells_of_objects_that_were_gone(machine: Machine) -> None:
    """A pack that a copy has lost is put back from the other, and that is told: the medium loses data. 3, then 0."""
    assert machine.run("backup").code == 0
    lost = sorted(objects(machine.b, "packs"))[0]
    (machine.b / lost).unlink()
    answer = machine.run("backup")
    assert answer.code == 3 and f"b: 1 objects that older snapshots need were gone there, {lost}" in answer.err, answer
    assert (machine.b / lost).read_bytes() == (machine.a / lost).read_bytes()
    assert machine.run("backup").code == 0 and machine.run("verify").code == 0


def test_backup_tells_of_older_snapshots_that_nothing_completes(machine: Machine) -> None:
    """Where an older snapshot is broken at every copy none of them is current: the new snapshot is made, and 3."""
    (machine.source / "passing").write_bytes(os.urandom(3000))
    assert machine.run("backup").code == 0
    first = objects(machine.a, "packs")
    (machine.source / "passing").unlink()
    (machine.source / "lasting").write_bytes(os.urandom(3000))
    assert machine.run("backup").code == 0
    largest = max(first, key=lambda name: (machine.a / name).stat().st_size)
    for copy in (machine.a, machine.b):
        (copy / largest).unlink()
    answer = machine.run("backup", "--json")
    assert answer.code == 3 and answer.json[0]["destinations"] == {"a": "behind", "b": "behind"}
    answer = machine.run("backup")
    assert "older snapshots are not whole there" in answer.out and "opskit verify names what is lost" in answer.err


def test_every_destination_that_fails_is_named(machine: Machine) -> None:
    """Where nothing can be written anywhere the error has a line for each destination, and no raw log line."""
    assert machine.run("backup").code == 0
    (machine.source / "more").write_bytes(os.urandom(3000))
    for copy in (machine.a, machine.b):
        shutil.rmtree(copy / "packs")
        (copy / "packs").write_text("in the way")
        shutil.rmtree(copy / ".tmp", ignore_errors=True)
    answer = machine.run("backup")
    assert answer.code in (20, 22) and "copy failed" not in answer.err
    assert "error: a: " in answer.err and "b: " in answer.err.partition("a: ")[2], answer
