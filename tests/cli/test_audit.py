"""`opskit audit`: reading and judging the log on the command line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from opskit.audit.event import operation
from opskit.errors import Forged
from tests.audit.logs import BEGIN, open_log, segment
from tests.cli.hosts import Answer, Machine, objects, run
from tests.cli.running import OPSKIT, clean, python


class Lab:
    """A host with a config and a log in its state folder."""

    def __init__(self, config: Path, folder: Path) -> None:
        self.config, self.state = config, folder / "state"

    def run(self, *arguments: object) -> Answer:
        return run("--config", self.config, "audit", *arguments)

    def targets(self, *arguments: object) -> list[str]:
        """The targets of the records that a search finds."""
        return [each["tgt"] for each in self.run("search", "--json", *arguments).json]


@pytest.fixture
def lab(config_file: Path, tmp_path: Path) -> Lab:
    """One operation of each outcome; the clock goes on a minute each time it is looked at, from 02:00 on."""
    lab = Lab(config_file, tmp_path)
    moments = iter(BEGIN.replace(minute=minute) for minute in range(60))
    with open_log(lab.state, now=lambda: next(moments)) as log:
        with operation(log, "backup", "data", run="r1"):
            pass
        with operation(log, "verify", "usb", run="r2") as event:
            event.fail(3, "2 objects damaged")
        with pytest.raises(Forged), operation(log, "restore", "data", run="r3"):
            raise Forged("signature by a stranger \x1b[31m")
        log.append("audit.search", "denied", target="log", details={"why": "Not An Operator"})
        log.append("backup", "start", target="killed\n\u202e", run="r4")
    return lab


def test_tail_shows_each_operation_once(lab: Lab) -> None:
    """Outcomes and unfinished starts, oldest first, in a line each; no control character reaches the terminal."""
    answer = lab.run("tail")
    header, *rows = [line for line in answer.out.splitlines() if not line.startswith(" ")]
    assert answer.code == 0 and header.split()[:3] == ["time", "(UTC)", "outcome"]
    assert [row[21:31].strip() for row in rows] == ["ok", "ok", "fail", "fail", "denied", "unfinished"]
    assert "verify" in rows[2] and "usb" in rows[2] and "exit 3" in rows[2]
    assert f"\n{' ' * 21}2 objects damaged\n" in answer.out, "what would not fit into 80 columns has its own line"
    assert "killed\\n\\u202e" in rows[5] and "\x1b" not in answer.out and "\u202e" not in answer.out
    assert len(lab.run("tail", "-n", 2).out.splitlines()) == 3


def test_tail_as_json(lab: Lab) -> None:
    """Whole records, and whether they are unfinished."""
    found = lab.run("tail", "--json", "-n", "2").json
    assert [(each["op"], each["out"], each["unfinished"]) for each in found] == [
        ("audit.search", "denied", False), ("backup", "start", True),
    ]  # fmt: skip
    assert lab.run("tail", "--json", "-n", "0").json == []


@pytest.mark.parametrize(
    ("arguments", "targets"),
    [
        (("--op", "backup"), ["data", "killed\n\u202e"]),
        (("--op", "audit.*"), ["", "log"]),
        (("--target", "DAT"), ["data", "data"]),
        (("--actor", "ann", "--op", "verify"), ["usb"]),
        (("--actor", "1000", "--op", "verify"), ["usb"]),
        (("--actor", "100"), []),
        (("--outcome", "fail"), ["usb", "data"]),
        (("--outcome", "start"), ["data", "usb", "data", "killed\n\u202e"]),
        (("--outcome", "unfinished"), ["killed\n\u202e"]),
        (("--run", "r2"), ["usb"]),
        (("STRANGER",), ["data"]),
        (("not an operator",), ["log"]),
        (("--since", "2026-11-22T02:13"), ["log", "killed\n\u202e"]),
        (("--since", "2026-11-22T03:13+01:00", "--until", "2026-11-22 02:14Z"), ["log"]),
        (("--until", "2026-11-21"), []),
    ],
)
def test_search(lab: Lab, arguments: tuple[str, ...], targets: list[str]) -> None:
    """Each filter keeps what it says, all of them together what fits all."""
    assert lab.targets(*arguments) == targets
    assert lab.run("search", *arguments).code == (0 if targets else 3)


def test_an_age_counts_back_from_now(lab: Lab) -> None:
    """`--since 52w` takes an age; the log of this test was written at a fixed time."""
    assert lab.targets("--until", "0s") in ([], lab.targets())
    assert lab.targets("--since", "5200w") == lab.targets()


@pytest.mark.parametrize(
    "option", [("--since", "yesterday"), ("--until", "9" * 30 + "w"), ("--outcome", "good"), ("-n", "-1")]
)
def test_wrong_values_are_usage_errors(lab: Lab, option: tuple[str, str]) -> None:
    """What cannot be understood ends with 2 and says what was expected."""
    answer = lab.run("tail" if option[0] == "-n" else "search", *option)
    assert answer.code == 2 and option[1][:20] in answer.err


def test_verify_a_good_log(lab: Lab) -> None:
    """Exit 0, the counts, the head to note elsewhere, and what is unfinished; the limits are told."""
    answer = lab.run("verify")
    assert answer.code == 0 and answer.out.startswith("ok  9 records in 1 segment")
    assert "1 operation without an outcome" in answer.out and "\u202e" not in answer.out
    assert "looks whole" in answer.err
    told = lab.run("verify", "--json").json
    assert told["ok"] and told["records"] == 9 and told["findings"] == [] and told["unfinished"][0]["run"] == "r4"
    assert f"record 9, SHA-256 {told['head']['sha256']}" in answer.out


def test_verify_a_broken_log(lab: Lab) -> None:
    """Exit 13, and each finding with file and line."""
    path = segment(lab.state)
    path.write_bytes(path.read_bytes().replace(b'"usb"', b'"usc"'))
    answer = lab.run("verify")
    assert answer.code == 13 and answer.out.startswith("BROKEN") and "0000000001.jsonl:5: expected prev" in answer.out
    told = lab.run("verify", "--json")
    assert told.code == 13 and not told.json["ok"] and told.json["findings"][0]["line"] == 5


def test_verify_a_torn_log(lab: Lab) -> None:
    """Exit 3 while no record tells of a torn end, 0 when the next operation has recorded it."""
    with segment(lab.state).open("ab") as file:
        file.write(b'{"actor":')
    answer = lab.run("verify")
    assert answer.code == 3 and answer.out.startswith("torn") and not lab.run("verify", "--json").json["ok"]
    with open_log(lab.state) as log:
        log.append("backup", "ok")
    answer = lab.run("verify")
    assert answer.code == 0 and "1 torn write recovered" in answer.out


def test_verify_a_log_that_lost_its_end(lab: Lab) -> None:
    """Exit 3 where no record is left, as after a writer was killed before the first; 13 where a lock alone is left."""
    os.truncate(segment(lab.state), 0)
    answer = lab.run("verify")
    assert answer.code == 3 and answer.out.startswith("torn") and "emptied" in answer.out
    assert not lab.run("verify", "--json").json["ok"]
    shutil.rmtree(segment(lab.state).parent)
    assert lab.run("verify").code == 13


@pytest.mark.parametrize("command", ["tail", "search", "verify"])
def test_no_log_yet(config_file: Path, tmp_path: Path, command: str) -> None:
    """Exit 10 where nothing was recorded yet, and reading makes nothing."""
    answer = Lab(config_file, tmp_path).run(command)
    assert answer.code == 10 and "no audit log yet" in answer.err
    assert not (tmp_path / "state").exists()


def test_a_copy_is_read_without_any_config(lab: Lab, tmp_path: Path) -> None:
    """A folder that was copied to a machine without opskit's config is shown, searched and judged there."""
    copy = tmp_path / "case 7"
    shutil.copytree(lab.state / "audit", copy)
    here = lab.run("verify", "--json").json
    lab.config.write_text("version: ][")
    assert lab.run("verify").code == 2
    for command in ("tail", "search", "verify"):
        answer = run("--config", lab.config, "audit", command, "--folder", copy)
        assert answer.code == 0 and answer.out, answer.err
    assert run("audit", "verify", "--folder", copy, "--json").json == here
    os.truncate(segment(lab.state).parent.parent / "lock", 0)
    path = copy / "log" / segment(lab.state).name
    path.write_bytes(path.read_bytes().replace(b'"usb"', b'"usc"'))
    assert run("audit", "verify", "--folder", copy).code == 13
    shutil.rmtree(copy / "log")
    assert run("audit", "verify", "--folder", copy).code == 13, "a lock alone is a log that was removed"


@pytest.mark.parametrize("command", ["tail", "search", "verify"])
def test_a_folder_without_a_log(tmp_path: Path, command: str) -> None:
    """Exit 10, what was expected, and nothing made: an empty folder, the segments alone, or no folder at all."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        answer = run("audit", command, "--folder", tmp_path / name, "--json")
        assert answer.code == 10 and "holds no audit log" in answer.err and "log/" in answer.json["error"]["hint"]
    assert [each.name for each in tmp_path.iterdir()] == ["empty"]


def test_a_search_that_fails_half_way_is_one_document(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found by then stays readable, and the exit code tells that it is not all."""
    with open_log(lab.state, segment_size=1) as log:
        log.append("backup", "ok")
    pread, left = os.pread, [3]

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, length, offset)

    whole, found = lab.run("search", "--json").json, []
    for number in range(9):
        left[0] = number
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail)
            answer = lab.run("search", "--json")
        assert answer.code == ("input/output" in answer.err)
        found.append(answer.json)
    assert "error" in found[0] and found[-1] == whole
    assert any(type(each) is list and each != whole and each == whole[: len(each)] for each in found)


def test_rows_fit_a_terminal_of_80_columns(lab: Lab) -> None:
    """What an everyday operation leaves is told within 80 columns."""
    assert max(map(len, lab.run("search", "--op", "backup").out.splitlines())) <= 80


def test_the_schema_is_not_needed(lab: Lab) -> None:
    """Once the config is known to be good, neither pydantic nor YAML is loaded: a log is looked at often."""
    code = "import sys; from opskit.cli import main; [main(a.split()) for a in sys.argv[1:]]; print(*sys.modules)"
    config = f"--config {lab.config} audit"
    lines = [f"{config} tail -n 1", f"{config} search --op x", f"{config} verify --quiet"]
    home = str(lab.state.parent / "home")
    Path(home).mkdir()
    for number in range(2):
        loaded = python(code, *lines, HOME=home).stdout.split()
        assert ({"pydantic", "yaml", "rich"} & set(loaded) == set()) == (number == 1)


def test_follow(lab: Lab) -> None:
    """What happens is shown as it happens, beginnings too, until a signal ends it with 0."""
    command = [*OPSKIT, "--config", str(lab.config), "audit", "tail", "--json", "-n", "1", "--follow"]
    with subprocess.Popen(command, env=clean({}), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            seen: list[Any] = [json.loads(process.stdout.readline())]
            with open_log(lab.state) as log, operation(log, "sync", "late"):
                seen.append(json.loads(process.stdout.readline()))
            seen.append(json.loads(process.stdout.readline()))
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    assert [(each["op"], each["out"]) for each in seen] == [("backup", "start"), ("sync", "start"), ("sync", "ok")]


def last(machine: Machine, op: str) -> dict[str, Any]:
    """The last record of an operation on that machine."""
    found: list[dict[str, Any]] = machine.run("--json", "audit", "search", "--op", op).json
    return found[-1]


def test_a_bad_answer_is_recorded_as_such(machine: Machine) -> None:
    """A find that found nothing, and an init that did not reach every destination, are failures in the log too."""
    machine.run("backup")
    answer = machine.run("find", "no-such-file", "--key", machine.key)
    record = last(machine, "find")
    assert (answer.code, record["out"], record["d"]["exit"]) == (3, "fail", 3)
    assert last(machine, "init")["out"] == "ok"
    (machine.state.parent / "file").write_bytes(b"in the way")
    answer = machine.run("init", "--destination", f"c={machine.state.parent / 'file' / 'c'}")
    record = last(machine, "init")
    assert (answer.code, record["out"], record["d"]["exit"]) == (3, "fail", 3), answer.err


def test_a_restore_goes_on_without_the_log(machine: Machine, tmp_path: Path) -> None:
    """Where nothing can be recorded a restore still restores and says so once; what changes something is refused."""
    machine.run("backup")
    log = machine.state / "audit" / "log"
    shutil.rmtree(log)
    log.write_text("in the way")
    answer = machine.run("restore", "latest", "--target", tmp_path / "r", "--key", machine.key)
    assert answer.code == 0 and answer.err.count("not in the audit log") == 1
    before = objects(machine.a, "snapshots")
    assert machine.run("backup").code == 1 and objects(machine.a, "snapshots") == before
