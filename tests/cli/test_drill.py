"""`opskit drill`: what is restored from which copy, what a failure names, what stays behind, and who hears of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import StoreFull
from opskit.gpg import Keyring
from opskit.operations.drilling import checks
from opskit.operations.drilling.scratch import Scratch
from opskit.repository import names
from tests.cli.hosts import Machine, fill, objects, snapshot_of
from tests.stores.mounts import MEBIBYTE, mounted

LONG = f"{os.getpid()}99"
"""Seconds to sleep, which no other process of this machine does."""


@pytest.fixture
def three(used: Machine) -> Machine:
    """A host with two snapshots at three copies."""
    assert used.run("init", "--destination", f"c={used.folder / 'c'}").code == 0
    assert used.run("sync", "c").code == 0
    return used


def drill(machine: Machine, *arguments: object, key: object = None) -> Any:
    return machine.run("drill", "run", "--key", key or machine.key, *arguments)


def damage(copy: Path) -> str:
    """Flip a bit of a copy's largest pack; its name."""
    path = max((copy / "packs").glob("*/*"), key=lambda each: each.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    return str(path.relative_to(copy))


def assert_wiped(machine: Machine) -> None:
    """Nothing is left of any drill where drills restore."""
    assert not list((machine.state / "scratch").iterdir())


def test_each_of_three_copies_is_told_apart(three: Machine) -> None:
    """With one of three copies damaged the drill of that one fails and names it; the others pass, and count as good."""
    bad = damage(three.b)
    before = snapshot_of(three.source)
    for name, code in (("a", 0), ("b", 3), ("c", 0)):
        answer = drill(three, "--from", name, "--snapshot", "latest", "--json")
        (told,) = answer.json
        assert answer.code == code and told["destination"] == name, answer
        assert told["passed"] is (code == 0) and told["verdict"] == ("FAILED" if code else "PASSED")
        if code:
            assert bad in told["objects"] and [each["path"] for each in told["failures"]]
            assert told["elsewhere"] == {"a": "good", "c": "good"}
            assert told["files"] < told["planned_files"] == 5
        else:
            assert not told["failures"] and told["files"] == told["planned_files"] == 5
        assert_wiped(three)
    assert snapshot_of(three.source) == before
    for copy in (three.a, three.b, three.folder / "c"):
        assert len(objects(copy, "evidence")) == 3
    found = three.run("status", "--json").json["sources"]["data"]["destinations"]
    assert found["a"]["last_drilled"] and found["c"]["last_drilled"] and found["b"]["last_drilled"] is None
    assert found["b"]["failed_drill"] and found["a"]["failed_drill"] is None


def test_what_a_person_reads(three: Machine) -> None:
    """The words name choice, files, checks and verdict; a failure names the file, the good copies and what to type."""
    answer = drill(three, "data", "--from", "a", "--seed", 7)
    assert answer.code == 0 and answer.err == ""
    assert re.match(r"picked snapshot \w{8} of data \(.* UTC, by lot among 2, seed 7\) from a\n", answer.out)
    assert re.search(r"^hashes (\d+) of \1 · metadata (\d+) of \2 · counts 1 of 1 · scratch wiped$", answer.out, re.M)
    assert re.search(r"^PASSED · report \w{8} signed, kept at 3 destinations$", answer.out, re.M)
    damage(three.b)
    answer = drill(three, "data", "--from", "b")
    assert answer.code == 3 and "large.bin: lost" in answer.err and "a: good" in answer.err
    assert "opskit heal --destination b" in answer.err and "\nFAILED · report" in answer.out
    status = three.run("status")
    assert "the drill of b on" in status.out and "opskit drill run data --from b" in status.out.replace("\n", " ")


def test_the_repaired_copy_passes(three: Machine) -> None:
    """After the commands that a failed drill names, the copy passes and status has nothing against it."""
    damage(three.b)
    assert drill(three, "--from", "b", "--snapshot", "latest").code == 3
    assert three.run("heal", "--destination", "b").code == 0
    assert drill(three, "--from", "b", "--snapshot", "latest").code == 0
    found = three.run("status", "--json").json["sources"]["data"]
    assert found["destinations"]["b"]["failed_drill"] is None and not any("drill" in each for each in found["problems"])


@pytest.mark.parametrize("kind", ["keys", "index", "packs", "snapshots"])
def test_what_is_gone_from_a_copy_is_found(three: Machine, kind: str) -> None:
    """A copy that lacks what the snapshot needs fails; no other copy and no cache helps it."""
    (told,) = drill(three, "--from", "b", "--snapshot", "latest", "--json").json
    gone = sorted(objects(three.b, kind)) if kind != "snapshots" else [f"{each}" for each in objects(three.b, kind)]
    for name in gone:
        (three.b / name).unlink()
    answer = drill(three, "--from", "b", "--snapshot", told["snapshot"], "--json")
    if kind == "snapshots":
        assert answer.code == 10, "a copy that does not show the snapshot cannot be drilled for it"
    elif kind == "index":
        assert answer.code == 3 or answer.json[0]["passed"], "recovery needs no index: packs are scanned"
    else:
        assert answer.code == 3 and answer.json[0]["passed"] is False and answer.json[0]["elsewhere"]["a"] == "good"
    assert_wiped(three)


def test_a_key_that_does_not_open_it(three: Machine, tmp_path: Path) -> None:
    """A wrong key, and none at all, are exit 12 with a hint: no drill took place, so there is no evidence of any."""
    other = Machine(tmp_path / "other")
    other.source.mkdir(parents=True)
    assert other.init().code == 0
    for arguments in (["--key", other.key], []):
        answer = three.run("drill", "run", *arguments)
        assert answer.code == 12 and "hint" in answer.err, answer
    assert not objects(three.a, "evidence") and not list((three.state / "drills").glob("*.gpg"))
    assert_wiped(three)
    last = three.run("audit", "search", "--op", "drill", "--json").json
    assert [each["out"] for each in last] == ["fail", "fail"]


def test_scratch_that_is_too_small(three: Machine, tmp_path: Path) -> None:
    """A scratch without room for the snapshot is refused before anything is restored: exit 21, nothing left."""
    with mounted("tmpfs", tmp_path, size=2 * MEBIBYTE) as place:
        answer = drill(three, "--scratch", place)
        assert answer.code == 21 and "too small" in answer.err and "--sample" in answer.err
        assert not list(place.iterdir()) and not objects(three.a, "evidence")


def test_scratch_in_a_wrong_place(three: Machine) -> None:
    """Inside a source or a destination, by whatever way, no scratch is made: a backup would read it."""
    link = three.folder / "link"
    link.symlink_to(three.source / "sub")
    for place in (three.source, three.source / "new", three.a, three.a / "packs", link):
        answer = drill(three, "--scratch", place)
        assert answer.code == 2 and "lies inside" in answer.err, answer
    assert not (three.source / "new").exists() and not objects(three.a, "evidence")


def with_verify(machine: Machine, **commands: object) -> Machine:
    machine.edit_config(f"data: {{paths: [{machine.source}]}}", "data: " + json.dumps(
        {"paths": [str(machine.source)], "verify": commands}
    ))  # fmt: skip
    return machine


def test_the_sources_own_commands(three: Machine) -> None:
    """`each` runs for every file with its path, `all` in the restored folder; neither sees this environment."""
    with_verify(
        three,
        each=["/bin/sh", "-c", 'test -s "$1" -o -e "$1"', "-", "{file}"],
        all=["/bin/sh", "-c", 'test -f large.bin && test -z "$OPSKIT_CONFIG$USER" && test -n "$OPSKIT_DRILL"'],
    )
    (told,) = drill(three, "--snapshot", "latest", "--json").json
    checks = {each["name"]: (each["passed"], each["total"]) for each in told["checks"]}
    assert told["passed"] and checks["verify.each"] == (5, 5) and checks["verify.all"] == (1, 1)


def test_a_command_that_objects(three: Machine) -> None:
    """A file that the source's command refuses fails the drill and is named, with what the command said."""
    with_verify(three, each=["/bin/sh", "-c", 'case "$1" in *later) echo no good; exit 5;; esac', "-", "{file}"])
    answer = drill(three, "--snapshot", "latest", "--from", "a", "--json")
    (told,) = answer.json
    (failure,) = told["failures"]
    assert answer.code == 3 and failure["path"].endswith("/later")
    assert failure["what"] == "exit status 5: no good"
    assert told["elsewhere"] == {}, "no copy has other bytes: it is not the copy that is to blame"
    assert "later" not in str(three.run("drill", "report", "--json").json["checks"])


def test_an_interrupted_drill(three: Machine) -> None:
    """Ctrl-C ends what the drill started, with all that that started, and wipes the scratch; no evidence of it."""
    with_verify(three, all=["/bin/sh", "-c", f"sleep {LONG}1 & sleep {LONG}2"])
    with three.start("drill", "run", "--key", three.key) as process:
        pid = _wait_for(f"sleep {LONG}2", process)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert not Path(f"/proc/{pid}").exists() or _is_zombie(pid)
    assert_wiped(three)
    assert not objects(three.a, "evidence")


def test_a_drill_that_was_killed(three: Machine) -> None:
    """What a kill -9 leaves is removed by the next drill; what only looks like it is left alone."""
    with_verify(three, all=["/bin/sleep", LONG])
    with three.start("drill", "run", "--key", three.key) as process:
        pid = _wait_for(f"/bin/sleep {LONG}", process)
        process.kill()
    os.kill(pid, signal.SIGKILL)
    scratch = three.state / "scratch"
    (left,) = scratch.iterdir()
    assert (left / "restored").is_dir()
    (scratch / "opskit-drill-0123456789ab").mkdir()
    (scratch / "opskit-drill-0123456789ab" / "mine").write_text("not a drill's")
    (scratch / "opskit-drill-ba9876543210").symlink_to(three.source)
    (scratch / "opskit-drill-notes").mkdir()
    three.edit_config(f'"/bin/sleep", "{LONG}"', '"/bin/true"')
    assert drill(three).code == 0
    assert not left.exists() and (three.source / "large.bin").exists()
    kept = {each.name for each in scratch.iterdir()}
    assert kept == {"opskit-drill-0123456789ab", "opskit-drill-ba9876543210", "opskit-drill-notes"}
    entries = three.run("audit", "search", "--op", "drill", "--json").json
    assert [each["out"] for each in entries] == ["start", "ok"], "the first has no outcome: it was killed"


def _wait_for(command: str, process: subprocess.Popen[bytes]) -> int:
    """The id of a running process with this command line, which a drill has started."""
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = place.read_bytes().replace(b"\0", b" ").decode().strip()
            except OSError:
                continue
            if line == command:
                return int(place.parent.name)
        time.sleep(0.05)
    raise AssertionError(f"{command} was not started")


def _is_zombie(pid: int) -> bool:
    return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_a_database_that_was_backed_up_broken(machine: Machine) -> None:
    """A SQLite file that was corrupt when it was backed up restores byte for byte, and still fails the drill."""
    for name in ("sound.db", "broken"):
        with sqlite3.connect(machine.source / name) as database:
            database.execute("CREATE TABLE t (a)")
            database.executemany("INSERT INTO t VALUES (?)", [(f"row {n}" * 50,) for n in range(500)])
        database.close()
    data = bytearray((machine.source / "broken").read_bytes())
    data[8192:12288] = os.urandom(4096)
    (machine.source / "broken").write_bytes(data)
    assert machine.run("backup").code == 0
    (told,) = drill(machine, "--json").json
    checks = {each["name"]: (each["passed"], each["total"]) for each in told["checks"]}
    assert told["passed"] is False and checks["sqlite"] == (1, 2) and checks["hashes"][0] == checks["hashes"][1]
    (failure,) = told["failures"]
    assert failure["path"].endswith("/broken") and "SQLite" in failure["what"]


def test_evidence_by_a_stranger(three: Machine, tmp_short: Path) -> None:
    """A good drill that an unknown key signed counts for nothing, and every command that reads evidence says so."""
    assert drill(three, "--from", "a").code == 0
    name = objects(three.a, "evidence").pop()
    with Keyring(tmp_short / "g") as stranger:
        copied = subprocess.run(["gpg", "-d", three.a / name], capture_output=True, check=False).stdout
        (copy,) = (json.loads(path.read_text())["copy"] for path in [three.b / "copy.json"])
        value = json.loads(copied)
        value["drill"] |= {"copy": copy, "destination": "b"}
        payload = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        data = stranger.sign(payload, stranger.generate("stranger"))
    forged = name[: name.rindex("-") + 1] + names.sha256(data) + ".gpg"
    (three.b / forged).parent.mkdir(exist_ok=True)
    (three.b / forged).write_bytes(data)
    for command in (["status"], ["drill", "list"], ["drill", "report"], ["sync"]):
        answer = three.run(*command)
        assert answer.code == 13 and "IS NOT TO BE TRUSTED" in answer.err, command
    found = three.run("status", "--json").json["sources"]["data"]["destinations"]
    assert found["a"]["last_drilled"] and found["b"]["last_drilled"] is None
    assert not (three.a / forged).exists(), "sync passed on what nobody believes"


def test_evidence_travels(three: Machine) -> None:
    """A copy that was away gets the evidence from sync; another disk in a drilled one's place was not drilled."""
    away = three.folder / "away"
    three.b.rename(away)
    assert drill(three, "--from", "a").code == 0
    away.rename(three.b)
    assert not objects(three.b, "evidence")
    assert three.run("sync", "b").code == 0
    assert objects(three.b, "evidence") == objects(three.a, "evidence")
    about = json.loads((three.a / "copy.json").read_text())
    (three.a / "copy.json").chmod(0o600)
    (three.a / "copy.json").write_text(json.dumps(about | {"copy": "f" * 32}))
    assert three.run("status", "--json").json["sources"]["data"]["destinations"]["a"]["last_drilled"] is None


def test_what_cannot_be_drilled_keeps_nothing_waiting(three: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drills that end without evidence, for want of room, have had their turn: each copy is tried once, then again."""

    def too_small(*_: object) -> None:
        raise StoreFull("the scratch place is too small")

    with monkeypatch.context() as patched:
        patched.setattr(Scratch, "require_room", too_small)
        answers = [drill(three) for _ in range(3)]
    assert [each.code for each in answers] == [21] * 3
    tried = [each.out.rpartition(" from ")[2].strip() for each in answers]
    assert sorted(tried) == ["a", "b", "c"]
    following = [each["destination"] for each in three.run("drill", "list", "--json").json if each["next"]]
    assert following == [tried[0]] and drill(three).out.splitlines()[0].endswith(f"from {tried[0]}")


def test_by_the_recovery_kit_alone(three: Machine) -> None:
    """--stock restores with recover.py; a damaged copy fails there too, and a recover.py of somebody is not run."""
    (told,) = drill(three, "--from", "a", "--stock", "--json").json
    assert told["passed"] and told["method"] == "stock" and told["checks"][0]["name"] == "hashes"
    bad = damage(three.b)
    (told,) = drill(three, "--from", "b", "--stock", "--snapshot", "latest", "--json").json
    assert not told["passed"] and bad in told["objects"] and told["elsewhere"]["a"] == "good"
    assert any(each["what"].startswith("recover.py: PROBLEM") for each in told["failures"])
    program, trace = three.folder / "c" / "recover.py", three.folder / "it-ran"
    program.chmod(0o600)
    program.write_text(f"open({str(trace)!r}, 'w')\n")
    (told,) = drill(three, "--from", "c", "--stock", "--json").json
    assert not told["passed"] and "it was not run" not in str(trace.exists()) and not trace.exists()
    assert "not the kit's" in told["failures"][0]["what"]
    assert_wiped(three)


def test_stock_blames_no_copy_for_what_happens_here(
    three: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recover.py that is killed, or finds the scratch full, gives an error and no evidence, and leaves no key."""
    before, seen = objects(three.a, "evidence"), tmp_path / "seen"
    zstd = tmp_path / "zstd"  # what recover.py calls when the key is in memory, in the first of these that there is
    places = " ".join(f"{each}/opskit-recover-$PPID-*" for each in ("/run/user/*", "/dev/shm", "/tmp"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    zstd.write_text(f"#!/bin/sh\nls -d {places} >> {seen} 2> /dev/null\nkill -9 $PPID\n")
    zstd.chmod(0o755)
    killed = drill(three, "--from", "a", "--stock")
    assert killed.code == 1 and "killed by signal 9" in killed.err, killed
    held = [Path(line) for line in seen.read_text().splitlines()]
    assert held and not any(each.exists() for each in held)
    zstd.unlink()
    with mounted("tmpfs", tmp_path, size=MEBIBYTE) as place:
        monkeypatch.setattr(Scratch, "require_room", lambda *_: None)
        full = drill(three, "--from", "a", "--stock", "--scratch", place)
        assert full.code == 21 and "--scratch" in full.err, full
        assert not list(place.iterdir())
    assert objects(three.a, "evidence") == before


def test_by_the_recovery_kit_with_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--stock types the passphrase of a protected key where gpg asks; a wrong one is exit 12, and no evidence."""
    machine = Machine(tmp_path / "host")
    fill(machine.source)
    monkeypatch.setenv("SAFE_WORD", "a long and good one, ü")
    made = machine.run(
        "init", "--state-dir", machine.state, "--source", f"data={machine.source}", "--destination", f"a={machine.a}",
        "--new-recipient", "Safe <safe@example.org>", "--recovery-key", machine.key, "--passphrase", "env:SAFE_WORD",
    )  # fmt: skip
    assert made.code == 0, made
    assert machine.run("backup").code == 0
    (told,) = drill(machine, "--stock", "--passphrase", "env:SAFE_WORD", "--json").json
    assert told["passed"] and told["method"] == "stock"
    monkeypatch.setenv("SAFE_WORD", "another one")
    assert drill(machine, "--stock", "--passphrase", "env:SAFE_WORD").code == 12
    assert drill(machine, "--stock").code == 12
    assert len(objects(machine.a, "evidence")) == 1
    assert_wiped(machine)


def test_a_sample(three: Machine) -> None:
    """A sample restores the files that the seed says, a budget what fits; neither is called a whole drill."""
    wanted = ("--sample", "50%", "--from", "a", "--snapshot", "latest", "--json")
    runs = [[drill(three, "--seed", seed, *wanted) for _ in range(2)] for seed in range(4)]
    told = [[each.json[0] for each in twice] for twice in runs if twice[0].code == 0]
    assert told and all(one["sample"] == "50%" and 0 < one["files"] <= 5 for one, _ in told)
    assert all((one["files"], one["bytes"]) == (two["files"], two["bytes"]) for one, two in told)
    fits = [drill(three, "--budget", "100kB", "--seed", seed, "--from", "a", "--json") for seed in range(8)]
    small = [answer.json[0] for answer in fits if answer.code == 0]
    assert small and all(each["passed"] and each["bytes"] <= 100_000 and each["files"] < 5 for each in small)
    assert all("no file of this snapshot" in answer.err for answer in fits if answer.code), (
        "a large one is first by lot"
    )
    for arguments in (["--sample", "0%"], ["--sample", "5"], ["--budget", "5%"], ["--sample", "5%", "--budget", "1GB"]):
        assert drill(three, *arguments).code == 2, arguments


def test_a_sample_settles_no_failure_of_the_whole(three: Machine) -> None:
    """After a drill that failed a sample that passes proves little: status keeps the failure until all was restored."""
    damage(three.a)
    answer = drill(three, "--from", "a", "--snapshot", "latest")
    assert answer.code == 3
    assert three.run("heal", "--destination", "a").code == 0
    answer = drill(three, "--from", "a", "--snapshot", "latest", "--sample", "50%")
    assert answer.code == 0
    status = three.run("status").out
    assert "drill of a on" in " ".join(status.split()) and "(50%) !" in status
    answer = drill(three, "--from", "a", "--snapshot", "latest")
    assert answer.code == 0 and "drill of a on" not in " ".join(three.run("status").out.split())


def test_objectives(three: Machine) -> None:
    """A missed objective is exit 3 and told, though the copy restores: the drill itself passed."""
    three.config.write_text(three.config.read_text() + "\ndrills: {objective_rto: 4h, objective_rpo: 26h}\n")
    (told,) = drill(three, "--json").json
    assert told["verdict"] == "PASSED" and told["missed"] == [] and told["objective_restore"] == 4 * 3600


def test_turns(three: Machine) -> None:
    """Without a name the copies take turns, so that three drills cover three copies; list tells whose turn it is."""
    seen = [drill(three, "--json").json[0]["destination"] for _ in range(3)]
    assert sorted(seen) == ["a", "b", "c"]
    listed = three.run("drill", "list", "--json").json
    assert all(each["passed"] and each["last_good"] and not each["overdue"] for each in listed) and len(listed) == 3
    assert any(each["next"] for each in listed)
    shown = three.run("drill", "list").out
    assert re.search(r"^data +a +2 +today +passed +\w{8} ", shown, re.M)


def test_the_same_seed_is_the_same_choice(three: Machine) -> None:
    """What a report tells is enough to repeat the choice."""
    (told,) = drill(three, "--from", "a", "--json").json
    for _ in range(2):
        again = drill(three, "--from", "a", "--seed", told["seed"], "--json").json[0]
        assert again["snapshot"] == told["snapshot"]


def test_reports(three: Machine) -> None:
    """Any host can write the report from the evidence; file names are known where the drill ran alone."""
    damage(three.b)
    assert drill(three, "--from", "b", "--snapshot", "latest").code == 3
    text, page = three.run("drill", "report"), three.run("drill", "report", "--format", "html")
    assert text.code == page.code == 0 and "FAILED" in text.out and "large.bin" in text.out
    assert page.out.startswith("<!doctype html>") and "large.bin" in page.out and "<script" not in page.out
    shutil.rmtree(three.state / "drills")
    text = three.run("drill", "report")
    assert "large.bin" not in text.out and "known on host" in text.out
    (name,) = objects(three.a, "evidence")
    clear = subprocess.run(["gpg", "-d", three.a / name], capture_output=True, check=False).stdout
    assert b"large.bin" not in clear and b'"passed":false' in clear
    assert three.run("drill", "report", "ffffffff").code == 10
    assert three.run("drill", "report", "--format", "pdf").code == 2


def test_evidence_that_no_copy_took(three: Machine) -> None:
    """Evidence that got no further than this host is put to the copies by the next drill."""
    assert drill(three, "--from", "a").code == 0
    (name,) = objects(three.a, "evidence")
    for copy in (three.a, three.b, three.folder / "c"):
        (copy / name).unlink()
    assert drill(three, "--from", "b").code == 0
    for copy in (three.a, three.b, three.folder / "c"):
        assert name in objects(copy, "evidence") and len(objects(copy, "evidence")) == 2


def test_retention_keeps_what_a_drill_proved(machine: Machine) -> None:
    """The newest snapshot that a drill restored well stays, whatever the rules say, with the reason."""
    text = machine.config.read_text()
    for rule in ("last: 3", "daily: 14", "weekly: 8", "monthly: 24", "yearly: 7"):
        name, _, _ = rule.partition(":")
        text = text.replace(f"keep_{rule}", f"keep_{name}: {1 if name == 'last' else 0}")
    machine.config.write_text(text)
    for number in range(4):
        (machine.source / "changing").write_text(str(number))
        assert machine.run("backup").code == 0
    ids = [each["id"] for each in sorted(machine.run("snapshots", "--json").json, key=lambda each: each["sequence"])]
    assert drill(machine, "--snapshot", ids[1][:12]).code == 0
    assert drill(machine, "--snapshot", ids[2][:12], "--sample", "99%", "--seed", 5).code in (0, 2)
    (chain,) = machine.run("forget", "--dry-run", "--json").json["judged"]
    kept = {each["id"]: each["keep"] for each in chain["snapshots"] if each["keep"]}
    assert list(kept) == [ids[1], ids[3]] and kept[ids[1]][0].startswith("restored well in a drill on ")


def test_what_a_drill_proved_is_not_forgotten_by_name(three: Machine) -> None:
    """The last snapshot that a drill restored well is refused, unless that is asked for; another one is not."""
    newest, oldest = (each["id"] for each in sorted(three.run("snapshots", "--json").json, key=_sequence, reverse=True))
    assert drill(three, "--snapshot", oldest[:12]).code == 0
    answer = three.run("forget", "--snapshot", oldest[:12])
    assert answer.code == 2 and "the last of data that was restored well in a drill" in answer.err
    assert "--even-if-drilled" in answer.err and len(three.run("snapshots", "--json").json) == 2
    assert three.run("forget", "--even-if-drilled").code == 2, "of what?"
    assert three.run("forget", "--snapshot", oldest[:12], "--even-if-drilled").code == 0
    assert [each["id"] for each in three.run("snapshots", "--json").json] == [newest]


def _sequence(snapshot: dict[str, Any]) -> int:
    return int(snapshot["sequence"])


def test_a_backup_brings_evidence_along(three: Machine) -> None:
    """A copy that was away during a drill has its evidence after the next backup; a stranger's is not passed on."""
    away = three.folder / "away"
    three.b.rename(away)
    assert drill(three, "--from", "a").code == 0
    away.rename(three.b)
    stray = three.a / "evidence" / ("20261121T070000Z-drill-" + "0" * 64 + ".gpg")
    stray.write_bytes(b"nobody signed this")
    assert not objects(three.b, "evidence")
    assert three.run("backup").code in (0, 3)
    own = {each for each in objects(three.a, "evidence") if not each.endswith("0" * 64 + ".gpg")}
    assert own and objects(three.b, "evidence") == own


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 600", "longer than"),
        ("echo the password is hunter2hunter2; exit 5", "exit status 5"),
        ("head -c 100000000 /dev/zero | tr '\\0' x; exit 6", "exit status 6"),
        ("setsid sleep LONG3 > /dev/null 2>&1 & sleep 0.3; exit 7", "exit status 7"),
        ("rm -rf ../*; exit 8", "exit status 8"),
    ],
    ids=["hangs", "tells a secret", "talks much", "leaves a daemon", "deletes what it was given"],
)
def test_a_command_that_misbehaves(three: Machine, script: str, words: str) -> None:
    """It is a failure with its last words, cleaned; the evidence is kept, and nothing of it is left."""
    with_verify(three, all=["/bin/sh", "-c", script.replace("LONG", LONG)], timeout="1m")
    limit = timedelta(seconds=1 if "sleep 600" in script else 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opskit.log._settings.secrets", {"hunter2hunter2"})
        patch.setattr(checks, "judge_all", partial(_hurried, checks.judge_all, limit))
        (told,) = drill(three, "--from", "a", "--json").json
    assert not told["passed"] and words in str(told["failures"]), told
    assert "hunter2" not in str(told) and len(str(told["failures"])) < 5000
    assert len(objects(three.a, "evidence")) == 1
    assert_wiped(three)
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{LONG}3".encode() in _read(each)]


def _hurried(judge: Any, limit: timedelta, runner: Any, commands: Any, folder: bytes) -> Any:
    return judge(runner, replace(commands, limit=limit), folder)


def _read(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except OSError:
        return b""


def test_a_drill_host(three: Machine, tmp_path: Path) -> None:
    """A host that backs nothing up, with a key of its own gpg, drills what others stored; they believe its evidence."""
    host, own = three, Machine(tmp_path / "drills")
    (own.state / "gnupg").mkdir(parents=True, mode=0o700)
    shutil.copy(host.a / "opskit.json", own.state)
    keys = json.loads(host.run("config", "show", "--json").out)["keys"]
    _gpg("--import", "--", host.key)
    _gpg("--homedir", own.state / "gnupg", "--import", data=_gpg("--homedir", host.state / "gnupg", "--export"))
    places = {name: {"path": str(host.folder / name)} for name in ("a", "b", "c")}
    made = {"version": 1, "host": "drills", "state_dir": str(own.state), "sources": {}, "destinations": places}
    given = {"recipients": keys["recipients"], "signers": [keys["host"]], "maintainers": [keys["host"]]}
    own.config.write_text(json.dumps({**made, "keys": given}))
    own.config.chmod(0o600)
    assert own.run("drill", "run").code == 2, "before init there is no key to sign with"
    assert own.run("init").code in (0, 3)
    listed = _gpg("--homedir", own.state / "gnupg", "--with-colons", "-K").decode()
    mine = re.findall(r"^fpr:+([0-9A-F]{40}):", listed, re.MULTILINE)[0]
    own.config.write_text(json.dumps({**made, "keys": {**given, "host": mine}}))
    assert own.run("drill", "run").code == 12, "a key that is no signer's proves nothing"
    own.config.write_text(json.dumps({**made, "keys": {**given, "host": mine, "signers": [keys["host"], mine]}}))
    assert own.run("init").code in (0, 3)
    (told,) = own.run("drill", "run", "--json").json
    assert told["passed"] and told["host"] == "drills" and told["origin"] != "drills"
    assert host.run("status").code == 13, "the host does not know that signer yet"
    _gpg("--homedir", host.state / "gnupg", "--import", data=_gpg("--homedir", own.state / "gnupg", "--export", mine))
    text = host.config.read_text()
    host.config.write_text(re.sub(r"(signers:\s*(?:\[|\n\s*- ))", rf"\g<1>{mine}, ", text))
    assert mine in host.config.read_text(), text
    assert host.run("init").code in (0, 3)
    found = host.run("status", "--json").json["sources"]["data"]["destinations"]
    assert found[told["destination"]]["last_drilled"] == told["ended"]


def _gpg(*arguments: object, data: bytes | None = None) -> bytes:
    command = ["gpg", "--batch", "--quiet", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


@pytest.fixture(autouse=True)
def _no_own_keys(monkeypatch: pytest.MonkeyPatch, tmp_short: Path) -> Iterator[None]:
    """The user who runs the tests has a gpg home without any key."""
    home = tmp_short / "own"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    yield
