"""What commands that change something leave in the audit log: a start before the act, one outcome after it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opskit.gpg import Keyring
from opskit.operations.lock import exclusive
from opskit.repository import names
from tests.cli.hosts import Machine, objects, snapshot_of
from tests.stores.mounts import mounted

Prepare = Callable[[Machine], object]


def nothing(_: Machine) -> None:
    """The host as it is."""


def take_b_away(machine: Machine) -> None:
    """Destination b is not there."""
    machine.b.rename(machine.b.with_name("away"))


def take_both_away(machine: Machine) -> None:
    """No destination is there."""
    for copy in (machine.a, machine.b):
        copy.rename(copy.with_name(f"{copy.name}-away"))


def exchange_the_kit(machine: Machine) -> None:
    """Another recover.py than the known one."""
    (machine.b / "recover.py").chmod(0o600)
    (machine.b / "recover.py").write_text("print('send me your key')\n")


def lose_a_pack(machine: Machine) -> None:
    """An object that no copy has any more."""
    pack = min(objects(machine.a, "packs"))
    for copy in (machine.a, machine.b):
        (copy / pack).unlink()


def hold(machine: Machine) -> None:
    """A snapshot that is held already."""
    assert machine.run("hold", "latest").code == 0


COMMANDS: dict[str, tuple[str, ...]] = {
    "init": ("init", "--source", "more=/etc/hostname"),
    "backup": ("backup",),
    "sync": ("sync",),
    "heal": ("heal",),
    "hold": ("hold", "latest"),
    "release": ("hold", "latest", "--release"),
}
CASES: list[tuple[str, Prepare, int]] = [
    *((op, hold if op == "release" else nothing, 0) for op in COMMANDS),
    ("init", take_b_away, 3),
    ("backup", take_b_away, 3),
    ("backup", take_both_away, 20),
    ("sync", take_b_away, 3),
    ("sync", take_both_away, 20),
    ("heal", take_b_away, 3),
    ("heal", lose_a_pack, 3),
    ("heal", exchange_the_kit, 13),
    ("hold", take_b_away, 3),
    ("release", nothing, 10),
]


def trail(machine: Machine, op: str) -> list[dict[str, Any]]:
    """The records of an operation, oldest first: starts, and what a search shows without being asked for them."""
    asked = ("audit", "search", "--op", op, "--json")
    found = [*machine.run(*asked).json, *machine.run(*asked, "--outcome", "start").json]
    return [each for _, each in sorted({each["seq"]: each for each in found}.items())]


@pytest.mark.parametrize(
    ("op", "prepare", "code"), CASES, ids=lambda each: each.__name__ if callable(each) else str(each)
)
def test_a_start_and_one_outcome(used: Machine, op: str, prepare: Prepare, code: int) -> None:
    """Whatever changes something writes a start and one outcome of the same run, which tells the exit code if not 0."""
    prepare(used)
    before = len(trail(used, op))
    answer = used.run(*COMMANDS[op])
    assert answer.code == code, answer.err
    start, end = trail(used, op)[before:]
    assert start["out"] == "start" and start["run"] == end["run"] and not start["unfinished"]
    assert (end["out"], end["d"].get("exit")) == (("fail", code) if code else ("ok", None))
    assert code == 0 or end["d"]["message"]


@pytest.mark.parametrize("op", ["init", "backup", "sync", "heal", "hold"])
def test_a_refusal_is_an_outcome(used: Machine, op: str) -> None:
    """Where another run holds the lock, the attempt is in the log: a start and a failure with 11, at once."""
    before = len(trail(used, op)), snapshot_of(used.a)
    with exclusive(used.state / "lock"):
        answer = used.run(*COMMANDS[op])
    assert answer.code == 11, answer.err
    start, end = trail(used, op)[before[0] :]
    assert (start["out"], end["out"], end["d"]["exit"], end["run"]) == ("start", "fail", 11, start["run"])
    assert end["d"]["error"] == "RepositoryLocked" and snapshot_of(used.a) == before[1]


class FullDisk:
    """The audit log's file system, which has no space left when the given append of a command comes."""

    def __init__(self, patch: pytest.MonkeyPatch, log: Path, nth: int) -> None:
        self._write, self._log, self._left = os.write, str(log), nth
        patch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(self._log):
            self._left -= 1
            if self._left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data)


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("op", [*COMMANDS, "verify", "restore"])
def test_one_document_whatever_cannot_be_recorded(
    used: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, op: str, nth: int
) -> None:
    """With --json stdout is one document, whether start or outcome fails; after the act it has the result as well."""
    if op == "release":
        hold(used)
    commands = {"verify": ("verify",), "restore": ("restore", "latest", "--target", tmp_path / "r", "--key", used.key)}
    with monkeypatch.context() as patch:
        FullDisk(patch, used.state / "audit" / "log", nth)
        answer = used.run(*(commands | COMMANDS)[op], "--json")
    assert answer.err.count("no space left") == 1 and "Traceback" not in answer.err
    if op in commands:
        assert answer.code == 0 and "error" not in answer.json
        return
    assert answer.code == 1 and answer.json["error"]["exit_code"] == 1
    has_result = nth == 2 and op != "init"  # init tells when it is recorded, so that nothing was told then
    assert ("result" in answer.json) == has_result
    if has_result:
        assert answer.json["result"] and trail(used, op)[-1]["unfinished"]


@pytest.mark.parametrize(
    ("kind", "harm", "mend", "words"),
    [
        ("tmpfs", "head -c 100000 /dev/zero >> {0}", "mount -o remount,size=1m {1}", "no space left"),
        ("ext4", "chattr +i {0}", "chattr -i {0}", "not permitted"),
    ],
)
def test_a_log_that_cannot_be_written_any_more(
    machine: Machine, tmp_path: Path, kind: str, harm: str, mend: str, words: str
) -> None:
    """Full or read only since the start was written: the backup is made, one document tells both, and it goes on."""
    with mounted(kind, tmp_path, size=64 * 1024 if kind == "tmpfs" else None) as place:
        shutil.move(machine.state / "audit", place / "audit")
        (machine.state / "audit").symlink_to(place / "audit")
        names = machine.state / "audit" / "log" / "0000000001.jsonl", place
        script = machine.folder / "harm.sh"
        script.write_text(f"#!/bin/sh\necho some\n{harm.format(*names)} 2>/dev/null\ntrue\n")
        script.chmod(0o700)
        machine.edit_config("sources:\n", f"sources:\n  harm: {{command: [{script}], filename: harm}}\n")
        answer = machine.run("backup", "harm", "--json")
        subprocess.run(mend.format(*names).split(), check=True)
        assert answer.code == 1 and words in answer.err and "Traceback" not in answer.err
        assert words in answer.json["error"]["message"]
        assert set(answer.json["result"][0]["destinations"].values()) == {"ok"}
        assert machine.run("backup", "data").code == 0 and machine.run("audit", "verify").code == 0
        assert [each["unfinished"] for each in trail(machine, "backup")] == [True, False, False]


@pytest.mark.parametrize("op", COMMANDS)
def test_nothing_is_done_without_a_start(used: Machine, op: str) -> None:
    """Where the start cannot be written the command ends before it acts: config and copies stay as they were."""
    if op == "release":
        hold(used)
    (used.source / "new").write_text("new")
    (used.b / min(objects(used.b, "packs"))).unlink()  # something to do for sync and heal
    log = used.state / "audit" / "log"
    shutil.rmtree(log)
    log.write_text("in the way")
    before = used.config.read_bytes(), snapshot_of(used.a), snapshot_of(used.b)
    answer = used.run(*COMMANDS[op])
    assert answer.code == 1 and "audit" in answer.err
    assert (used.config.read_bytes(), snapshot_of(used.a), snapshot_of(used.b)) == before


@pytest.mark.parametrize(
    "arguments", [("sync", "--dry-run"), ("heal", "--dry-run"), ("backup", "--dry-run"), ("hold",)]
)
def test_what_changes_nothing_leaves_no_record(used: Machine, arguments: tuple[str, ...]) -> None:
    """A plan and a list are no operations."""
    before = len(trail(used, "*"))
    assert used.run(*arguments).code == 0
    assert len(trail(used, "*")) == before


def test_a_reading_command_tells_its_exit_code(used: Machine) -> None:
    """Verify of a copy that is not whole ends with 3, a restore of what is not there with 10; so says the log."""
    lose_a_pack(used)
    assert used.run("verify").code == 3
    assert [(each["out"], each["d"].get("exit")) for each in trail(used, "verify")] == [("start", None), ("fail", 3)]
    assert used.run("restore", "nothing@latest", "--dry-run", "--key", used.key).code == 10
    assert [each["out"] for each in trail(used, "restore")[-2:]] == ["start", "fail"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_an_outcome(machine: Machine, number: signal.Signals) -> None:
    """Ctrl-C while a source's command sleeps: the start is in the log already, the outcome is a failure with 130."""
    script, begun = machine.folder / "slow.sh", machine.folder / "begun"
    script.write_text(f"#!/bin/sh\necho some\n: > {begun}\nexec sleep 600\n")
    script.chmod(0o700)
    machine.edit_config("sources:\n", f"sources:\n  slow: {{command: [{script}], filename: slow}}\n")
    process = machine.start("backup", "slow", start_new_session=True)
    try:
        _wait_for(begun, process)
        (start,) = trail(machine, "backup")
        assert start["out"] == "start" and start["unfinished"] and start["tgt"] == "slow"
        os.killpg(process.pid, number)  # as a terminal does: to all that run in the foreground
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    start, end = trail(machine, "backup")
    assert (end["out"], end["d"]["exit"], end["run"]) == ("fail", 130, start["run"]) and not start["unfinished"]
    assert machine.run("audit", "verify").code == 0


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("harm", ["rm -rf {0}; : > {0}", "chmod 0 {0}; mv {0} {0}.old"])
def test_an_interruption_stays_one_where_its_record_fails(machine: Machine, harm: str, as_json: bool) -> None:
    """Ctrl-C ends with 130 and in words although the log is gone by then; stdout has one document or nothing."""
    script, begun = machine.folder / "slow.sh", machine.folder / "begun"
    script.write_text(
        f"#!/bin/sh\necho some\n{harm.format(machine.state / 'audit' / 'log')}\n: > {begun}\nexec sleep 600\n"
    )
    script.chmod(0o700)
    machine.edit_config("sources:\n", f"sources:\n  slow: {{command: [{script}], filename: slow}}\n")
    process = machine.start("backup", "slow", *(["--json"] if as_json else []), start_new_session=True)
    try:
        _wait_for(begun, process)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert b"Traceback" not in err and b"interrupted" in err
    assert b"not in the audit log" in err or harm.startswith("chmod")  # there a new log can be begun
    assert not out if not as_json else json.loads(out)["error"]["exit_code"] == 130


def _wait_for(path: Path, process: Any) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


@pytest.mark.parametrize(("is_signed", "codes"), [(False, (3, 3)), (True, (3, 13))])
def test_a_manifest_that_is_not_believed_is_noted(
    used: Machine, tmp_short: Path, is_signed: bool, codes: tuple[int, int]
) -> None:
    """Backup and sync name junk, or a stranger's manifest, at its destination and with the reason, in their outcome."""
    data = b"junk"
    if is_signed:
        with Keyring(tmp_short / "g") as stranger:
            data = stranger.sign(b"{}", stranger.generate("stranger"))
    digest = names.sha256(data) if is_signed else "0" * 64
    (used.a / "snapshots" / f"20261121T020000Z-data-{digest}.gpg").write_bytes(data)
    for op, code in zip(("backup", "sync"), codes, strict=True):
        assert used.run(op).code == code
        end = trail(used, op)[-1]
        assert (end["out"], end["d"]["exit"]) == ("fail", code)
        (noted,) = end["d"]["rejected"]
        assert noted["destination"] == "a" and digest in noted["object"] and noted["reason"]
        assert "rolled_back" not in end["d"]


def test_a_host_that_is_rebuilt_says_so(used: Machine, tmp_path: Path) -> None:
    """`init --from` begins the new host's log: a start, and an outcome that is good."""
    new = Machine(tmp_path / "new")
    new.folder.mkdir()
    arguments = ("--from", used.a, "--key", used.key, "--state-dir", new.state, "--recovery-key", new.key)
    assert new.run("init", *arguments).code == 0
    assert [each["out"] for each in trail(new, "init.rebuild")] == ["start", "ok"]
