"""`opskit rotate`: plans, runs, what interrupts them, and what is told of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from opskit.cli.key_ages import key_standings
from opskit.config.load import load
from tests.cli.hosts import Machine
from tests.contracts.targets.command import PROGRAM

OLD = "the-old-password-of-january"

ENTRY = """
rotations:
  db:
    secret: gpg://{state}/secrets.gpg#db
    propagation: 1s
    command:
      apply: [{python}, -S, {program}, apply, {accepted}, {slots}, "{{old}}"]
      check: [{python}, -S, {program}, check, {accepted}, {slots}]
      disable: [{python}, -S, {program}, disable, {accepted}, {slots}]
      delete: [{python}, -S, {program}, delete, {accepted}, {slots}]
      keeps_old: {keeps_old}
    consumers:
      app:
        files: {{{folder}/app.conf: "password = {{value}}"}}
        check: [sh, -c, "grep -q '^password = ' {folder}/app.conf && test ! -e {folder}/broken"]
"""


@pytest.fixture(params=["two", "one"])
def host(machine: Machine, request: pytest.FixtureRequest) -> Machine:
    """A host with one rotation, whose target is a folder, and a consumer that reads a file."""
    program, accepted = machine.folder / "target.py", machine.folder / "accepted"
    program.write_text(PROGRAM)
    accepted.mkdir()
    (accepted / digest(OLD)).touch()
    (machine.folder / "app.conf").write_text(f"password = {OLD}")
    text = ENTRY.format(
        state=machine.state, folder=machine.folder, python=sys.executable, program=program, accepted=accepted,
        slots=request.param, keeps_old=str(request.param == "two").lower(),
    )  # fmt: skip
    machine.config.write_text(machine.config.read_text() + textwrap.dedent(text))
    set_secret(machine, OLD)
    return machine


WITH_TWO_SLOTS = pytest.mark.parametrize("host", ["two"], indirect=True)
"""Of tests for which it makes no difference."""


def set_secret(host: Machine, value: str, name: str = "secrets.gpg#db") -> None:
    process = host.start("secrets", "set", f"gpg://{host.state}/{name}", stdin=-1)
    process.communicate(value.encode(), timeout=60)
    assert process.returncode == 0


def with_a_reload_that_fails(host: Machine) -> None:
    text = host.config.read_text()
    host.config.write_text(text.replace("        check: [sh", "        reload: ['false']\n        check: [sh", 1))


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def accepted(host: Machine) -> set[str]:
    return {each.name for each in (host.folder / "accepted").iterdir()}


def current(host: Machine) -> str:
    return host.run("secrets", "get", "-n", f"gpg://{host.state}/secrets.gpg#db").out


def standing(host: Machine) -> dict[str, Any]:
    (found,) = host.run("--json", "rotate", "status").json
    assert isinstance(found, dict)
    return found


def trail(host: Machine) -> list[dict[str, Any]]:
    found = host.run("--json", "audit", "tail", "-n", "1000").json
    assert isinstance(found, list)
    return found


def test_a_rotation_from_plan_to_the_end(host: Machine) -> None:
    """The new value reaches target, store and consumer; the old one waits its time, and goes when it is retired."""
    planned = host.run("rotate", "plan")
    assert planned.code == 0, planned.err
    assert "it can begin" in planned.out and accepted(host) == {digest(OLD)}
    assert host.run("rotate", "status").code == 3, "a secret that was never rotated is due"
    ran = host.run("rotate", "run", "db")
    assert ran.code == 0, ran.err
    new = current(host)
    assert new != OLD and digest(new) in accepted(host)
    assert (host.folder / "app.conf").read_text() == f"password = {new}"
    assert standing(host)["last"]["state"] == "GRACE" and standing(host)["next_action"] == "rotate retire"
    assert host.run("rotate", "status").code == 0
    assert host.run("rotate", "retire").code == 0, "nothing but time is missing"
    assert host.run("rotate", "retire", "db", "--now").code == 0
    assert accepted(host) == {digest(new)}
    assert host.run("secrets", "get", f"gpg://{host.state}/secrets.gpg#db?stage=previous").code == 30
    assert standing(host)["last"]["state"] == "OLD_DELETED" and not standing(host)["overdue"]
    assert host.run("rotate", "resume").code == 0, "nothing is under way"


def test_undo_brings_everything_back(host: Machine) -> None:
    """In the grace period undo gives target, store and consumer the old value, and leaves nothing of the new one."""
    assert host.run("rotate", "run", "db").code == 0
    answer = host.run("rotate", "undo", "db")
    assert answer.code == 0 and "ROLLED_BACK" in answer.err
    assert current(host) == OLD and accepted(host) == {digest(OLD)}
    assert (host.folder / "app.conf").read_text() == f"password = {OLD}"
    again = host.run("rotate", "undo", "db")
    assert again.code == 2 and "over" in again.err


def test_a_consumer_that_does_not_work_sends_it_back(host: Machine) -> None:
    """A check that fails with the new value, and with the old one, stops for an operator; mended, it ends."""
    (host.folder / "broken").touch()
    stuck = host.run("rotate", "run", "db")
    assert stuck.code == 3 and "NEEDS_OPERATOR" in stuck.err
    assert (host.folder / "app.conf").read_text() == f"password = {OLD}" and digest(OLD) in accepted(host)
    assert host.run("rotate", "status").code == 3
    (host.folder / "broken").unlink()
    assert host.run("rotate", "resume", "db").code == 3, "rolled back is no success"
    assert current(host) == OLD and accepted(host) == {digest(OLD)}


def test_what_cannot_be_mended_can_be_given_up(host: Machine) -> None:
    """Only a rotation that needs an operator is given up; then all is left as it is, and another one may begin."""
    (host.folder / "broken").touch()
    assert host.run("rotate", "undo", "db", "--give-up").code == 2
    assert "NEEDS_OPERATOR" in host.run("rotate", "run", "db").err
    before = accepted(host)
    host.run("rotate", "undo", "db", "--give-up")
    assert standing(host)["last"]["state"] == "ROLLED_BACK" and "given up by hand" in standing(host)["last"]["problem"]
    assert accepted(host) == before
    assert host.run("rotate", "undo", "db", "--give-up").code == 2


@WITH_TWO_SLOTS
def test_an_emergency_does_not_wait(host: Machine) -> None:
    """With --emergency the old value is gone when the command ends."""
    assert host.run("rotate", "run", "db", "--emergency").code == 0
    assert accepted(host) == {digest(current(host))}


@WITH_TWO_SLOTS
def test_bad_requests(host: Machine) -> None:
    """Unknown names, contradictory options and rotations that are not there are told apart, and change nothing."""
    for arguments, code, words in (
        (("run", "nope"), 2, "expected one of db"),
        (("run",), 2, "expected names"),
        (("run", "db", "--due"), 2, "expected names"),
        (("resume", "db"), 2, "never begun"),
        (("undo", "db"), 2, "never rotated"),
        (("retire", "--now"), 2, "expected names"),
        (("status", "--items"), 2, "expected one name"),
    ):
        answer = host.run("rotate", *arguments)
        assert (answer.code, words in answer.err) == (code, True), (arguments, answer)
    assert accepted(host) == {digest(OLD)} and current(host) == OLD


@WITH_TWO_SLOTS
def test_a_refused_current_value_is_found_before_anything_changes(host: Machine) -> None:
    """When the store's value is not the one in use, nothing is begun."""
    set_secret(host, "somebody-changed-it-by-hand")
    answer = host.run("rotate", "run", "db")
    assert answer.code == 31 and "refused by its target: nothing was changed" in answer.err
    assert host.run("rotate", "plan", "db").code == 3
    assert accepted(host) == {digest(OLD)}


@WITH_TWO_SLOTS
def test_only_what_is_due_is_run(host: Machine) -> None:
    """`run --due` begins what is due, then leaves it alone until it is due again."""
    assert host.run("rotate", "run", "--due").code == 0
    first = current(host)
    assert first != OLD
    assert host.run("rotate", "run", "--due").code == 0
    assert current(host) == first


@WITH_TWO_SLOTS
def test_what_is_due_is_run_though_an_old_value_cannot_be_ended(host: Machine) -> None:
    """One that fails keeps no other from its turn; its name, where it stands and what can be done are told."""
    text = host.config.read_text()
    entry = text[text.index("  db:") :].replace("  db:", "  a:").replace("secrets.gpg#db", "other.gpg#a")
    host.config.write_text(text + entry.replace("app.conf", "a.conf").replace("/accepted", "/accepted-a"))
    shutil.copytree(host.folder / "accepted", host.folder / "accepted-a")
    set_secret(host, OLD, "other.gpg#a")
    assert host.run("rotate", "run", "a").code == 0
    with contextlib.closing(sqlite3.connect(host.state / "rotations" / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE rotation SET record = json_set(record, '$.waits_until', 1)")
    (host.state / "other.gpg").chmod(0o644)
    ended = host.run("rotate", "run", "--due")
    assert ended.code == 30
    assert "a has stopped: GRACE" in ended.err
    (host.state / "other.gpg").chmod(0o600)
    assert current(host) != OLD


@WITH_TWO_SLOTS
def test_an_error_says_of_which_rotation_it_is_and_what_can_be_done(host: Machine) -> None:
    """Where an error stopped a rotation, its name and state are told, and how to go on or back."""
    with_a_reload_that_fails(host)
    ended = host.run("--quiet", "rotate", "run", "db")
    is_back = "keeps_old: false" in host.config.read_text()
    # With one slot the consumer is refused already, so the old value is brought back at once.
    assert f"db has stopped: {'on the way back' if is_back else 'PROMOTED'}" in ended.err
    ended = host.run("rotate", "resume", "db")
    assert ("opskit rotate resume db, or to go back: opskit rotate undo db" in ended.err) is not is_back
    assert "opskit rotate resume db" in ended.err
    host.config.write_text(host.config.read_text().replace("reload: ['false']", "reload: ['true']"))
    assert host.run("rotate", "resume", "db").code == (3 if is_back else 0)
    assert "has stopped" not in host.run("rotate", "run", "db").err


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("{value}", "{valeu}", "a consumer's text asks for {valeu}"),
        ("/app.conf:", "/ap/app.conf:", "its folder is not there"),
        ("check: [sh, -c", "check: [shh, -c", "its check is no program that could be run: shh"),
    ],
)
@WITH_TWO_SLOTS
def test_what_could_not_be_told_to_a_consumer_is_found_before_anything_changes(
    host: Machine, before: str, after: str, told: str
) -> None:
    """A placeholder, a folder, a program that is not there: plan says so, and run changes nothing."""
    host.config.write_text(host.config.read_text().replace(before, after))
    kept = accepted(host)
    planned, ran = host.run("rotate", "plan", "db"), host.run("rotate", "run", "db")
    assert planned.code == 3
    assert ran.code != 0
    for answer in (planned, ran):
        assert told in answer.err
    assert accepted(host) == kept
    assert current(host) == OLD
    assert standing(host)["last"] is None


@WITH_TWO_SLOTS
def test_values_that_a_rotation_needs_are_not_set_or_deleted_by_hand(host: Machine) -> None:
    """While the old value can come back, `secrets set` and `delete` refuse: they would push it out of the store."""
    reference = f"gpg://{host.state}/secrets.gpg#db"
    assert host.run("rotate", "run", "db").code == 0
    made = current(host)
    process = host.start("secrets", "set", reference, stdin=-1)
    _, err = process.communicate(b"made-by-hand", timeout=60)
    assert process.returncode == 2
    assert b"is being rotated (db: GRACE)" in err
    assert b"opskit rotate undo db" in err
    assert host.run("secrets", "delete", f"{reference}?stage=previous").code == 2
    assert current(host) == made
    host.run("rotate", "undo", "db")
    assert current(host) == OLD
    assert host.run("secrets", "set", "--generate", reference).code == 0


@WITH_TWO_SLOTS
def test_a_rotation_whose_entry_was_renamed_is_not_forgotten(host: Machine) -> None:
    """Status tells of it with exit 3, the same secret is not rotated by another name, and by its own it goes on."""
    assert host.run("rotate", "run", "db").code == 0
    text = host.config.read_text()
    host.config.write_text(text.replace("  db:", "  database:"))
    told = host.run("rotate", "status")
    assert told.code == 3
    assert "db is under way (GRACE), and not in the config" in told.err
    refused = host.run("rotate", "run", "database")
    assert refused.code == 2
    assert "is being rotated under the name db: GRACE" in refused.err
    host.config.write_text(text)
    assert host.run("rotate", "retire", "db", "--now").code == 0


@WITH_TWO_SLOTS
@pytest.mark.parametrize("lost", ["fingerprints.key", "journal.sqlite"])
def test_what_rotations_need_to_go_on_is_not_made_anew(host: Machine, lost: str) -> None:
    """Without the key or the journal nothing is judged or changed; with it back the rotation goes on."""
    assert host.run("rotate", "run", "db").code == 0
    path = host.state / "rotations" / lost
    kept = path.read_bytes()
    path.unlink()
    for verb in ("resume", "undo", "run"):
        refused = host.run("rotate", verb, "db")
        assert refused.code == 1
        assert f"{lost} is gone" in refused.err
    path.write_bytes(kept)
    path.chmod(0o600)
    assert host.run("rotate", "retire", "db", "--now").code == 0


@WITH_TWO_SLOTS
def test_retiring_leaves_alone_what_has_not_come_so_far(host: Machine) -> None:
    """A timer's `rotate retire` does not go on with a rotation that has stopped before its old value's turn."""
    with_a_reload_that_fails(host)
    assert host.run("rotate", "run", "db").code != 0
    before = standing(host)
    assert before["next_action"] == "rotate resume"
    assert host.run("rotate", "retire").code == 0
    refused = host.run("rotate", "retire", "db", "--now")
    assert refused.code == 2
    assert "opskit rotate resume db" in refused.err
    assert standing(host)["last"] == before["last"]


@WITH_TWO_SLOTS
def test_two_at_once_exclude_one_another(host: Machine) -> None:
    """While a run is at work, another is refused with exit 11."""
    gate = host.folder / "gate"
    host.edit_config("    consumers:\n", f'    may_delete: [sh, -c, "touch {gate}; sleep 60"]\n    consumers:\n')
    process = host.start("rotate", "run", "db", "--emergency")
    try:
        wait_for(gate)
        assert host.run("rotate", "resume", "db").code == 11
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    # The program that the killed run had started keeps the lock for as long as it runs.
    assert host.run("rotate", "resume", "db").code == 11


def wait_for(path: Path) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.02)


def test_the_audit_log_tells_the_story(host: Machine) -> None:
    """Each step of a rotation is in the audit log, in order."""
    assert host.run("rotate", "run", "db", "--emergency").code == 0
    steps = [each["tgt"] for each in trail(host) if each["op"] == "rotate.step" and each["out"] == "ok"]
    told = [each.removeprefix("db ") for each in steps]
    wanted = ["PLANNED", "STAGED", "APPLIED", "TESTED", "PROMOTED", "consumer app", "OLD_DISABLED", "OLD_DELETED"]
    assert told == wanted
    assert host.run("audit", "verify").code == 0


def test_the_keys_of_the_backups_have_an_age_too(machine: Machine) -> None:
    """With keys.rotate_every recipients and host are listed; one that is too old is exit 3 and names its command."""
    machine.edit_config("keys:\n", "keys:\n  rotate_every: 30d\n")
    answer = machine.run("rotate", "status")
    assert answer.code == 0 and answer.out.count("recipient ") == 1 and answer.out.count("host key ") == 1
    later = time.time() + 31 * 86400
    found = key_standings(load(machine.config), later)
    assert [each.is_overdue for each in found] == [True, True]
    assert [each.next_action.split()[1] for each in found if each.next_action] == ["rotate", "rotate-host"]
    assert key_standings(load(machine.config), later - 2 * 86400)[0].next_action is None


@WITH_TWO_SLOTS
def test_status_knows_of_a_run_at_work(host: Machine) -> None:
    """While a run is at work its rotation is not reported as stopped."""
    gate = host.folder / "gate"
    host.edit_config("    consumers:\n", f'    may_delete: [sh, -c, "touch {gate}; sleep 60"]\n    consumers:\n')
    process = host.start("rotate", "run", "db", "--emergency")
    try:
        wait_for(gate)
        answer = host.run("rotate", "status")
        assert answer.code == 0 and "at work" in answer.out, answer
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()
    host.edit_config("sleep 60", "true")
    assert host.run("rotate", "status").code == 3
    assert host.run("rotate", "retire", "db", "--now").code == 0


@WITH_TWO_SLOTS
def test_a_link_that_somebody_else_made_is_not_followed(host: Machine) -> None:
    """A consumer's file that is a link of another user is refused: who made it would choose what is written over."""
    if os.geteuid() != 0:
        pytest.skip("only root can make links of somebody else")
    file, prey = host.folder / "app.conf", host.folder / "prey"
    prey.write_text(file.read_text())
    file.unlink()
    file.symlink_to(prey)
    os.chown(file, 65534, 65534, follow_symlinks=False)
    answer = host.run("rotate", "run", "db")
    assert answer.code != 0 and "symbolic link of uid 65534" in answer.err
    assert prey.read_text() == f"password = {OLD}"
    assert host.run("rotate", "status").code == 3 or current(host) == OLD


def with_others(host: Machine, *names: str) -> None:
    """Rotations as `db` is, each with a secret, a target and a consumer of its own."""
    text = host.config.read_text()
    entry = text[text.index("  db:") :]
    for name in names:
        more = entry.replace("  db:", f"  {name}:").replace("secrets.gpg#db", f"{name}.gpg#{name}")
        text += more.replace("app.conf", f"{name}.conf").replace("/accepted", f"/accepted-{name}")
        shutil.copytree(host.folder / "accepted", host.folder / f"accepted-{name}")
        (host.folder / f"{name}.conf").write_text(f"password = {OLD}")
        set_secret(host, OLD, f"{name}.gpg#{name}")
    host.config.write_text(text)


def broken(host: Machine, name: str) -> None:
    """The target of that rotation accepts nothing any more."""
    for each in (host.folder / f"accepted-{name}").iterdir():
        each.unlink()


@WITH_TWO_SLOTS
def test_json_tells_of_each_though_one_fails(host: Machine) -> None:
    """An error of one is in its place; those before and after it are there as well; the exit code is the error's."""
    with_others(host, "first", "second", "third")
    broken(host, "second")
    answer = host.run("rotate", "run", "first", "second", "third", "--json")
    assert answer.code == 31
    first, second, third = answer.json
    assert [each["name"] for each in answer.json] == ["first", "second", "third"]
    for each in (first, third):
        assert (each["outcome"], each["state"], each["error"]) == ("done", "GRACE", None)
    assert (second["outcome"], second["error"]["exit_code"]) == ("failed", 31)
    assert "refused by its target: nothing was changed" in second["error"]["message"]
    assert "opskit secrets set" in second["error"]["hint"]
    assert "state" not in second, "it was never begun"
    assert "opskit: error: second: the current value" in answer.err
    assert "1 of 3 could not be done: second" in answer.err


@WITH_TWO_SLOTS
def test_a_failed_one_says_how_far_it_came(host: Machine) -> None:
    """Where an error stopped a rotation on its way, its entry has both: the error, and where it stands."""
    with_others(host, "other")
    with_a_reload_that_fails(host)
    answer = host.run("rotate", "run", "db", "other", "--json")
    assert answer.code == 31
    assert [(each["outcome"], each["state"], each["undone"]) for each in answer.json] == [
        ("failed", "PROMOTED", "keeps_old: false" in host.config.read_text()),
        ("done", "GRACE", False),
    ]
    again = host.run("rotate", "resume", "--json")
    assert [(each["name"], each["outcome"]) for each in again.json] == [("db", "failed"), ("other", "done")]
    assert again.code == 31


@WITH_TWO_SLOTS
def test_text_tells_of_those_that_went_through_and_of_every_error(host: Machine) -> None:
    """Each is told in its turn: success before failure, and of two failures both, with names and hints."""
    with_others(host, "first", "second", "third")
    broken(host, "second")
    broken(host, "third")
    answer = host.run("rotate", "run", "first", "second", "third")
    assert answer.code == 31
    told = [
        answer.err.index(words)
        for words in ("first: GRACE", "error: second: the current", "error: third: the current", "2 of 3 could")
    ]
    assert told == sorted(told)
    assert answer.err.count("hint: set the value that is in use") == 2


@WITH_TWO_SLOTS
def test_an_interrupted_run_tells_what_was_done_and_what_was_not_tried(host: Machine) -> None:
    """With --json Ctrl-C ends with the error, and beside it what became of each that was named."""
    with_others(host, "first", "second")
    gate = host.folder / "gate"
    text = host.config.read_text()
    at = text.index("  first:")
    text = text[:at] + text[at:].replace(
        "    consumers:\n", f'    may_delete: [sh, -c, "touch {gate}; sleep 60"]\n    consumers:\n', 1
    )
    host.config.write_text(text)
    process = host.start("rotate", "run", "db", "first", "second", "--emergency", "--json")
    wait_for(gate)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    told = json.loads(out)
    assert process.returncode == told["error"]["exit_code"] == 130
    outcomes = [(each["name"], each["outcome"]) for each in told["result"]]
    assert outcomes == [("db", "done"), ("first", "interrupted"), ("second", "not tried")]
