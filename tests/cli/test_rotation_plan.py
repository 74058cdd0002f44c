"""What is said of a rotation is true of its target: with one slot nothing is left to be switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.cli.rotation_plan import keeps_old, spoken, steps_of
from opskit.config.load import load, parse
from opskit.config.rotating import Rotation as Entry
from opskit.secrets.rotation.machine import SWITCH_ON
from opskit.secrets.rotation.state import Rotation, State
from opskit.secrets.rotation.steps import AGAIN
from tests.cli.hosts import Machine
from tests.cli.test_rotate import host  # noqa: F401  # the fixture

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.yaml"
CONFIG = """\
version: 1
sources: {data: {paths: [/srv]}}
destinations: {disk: {path: /backup}}
keys: {recipients: [AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA]}
rotations:
  db:
    secret: gpg:///s.gpg#db
    propagation: 45s
    grace: 2h
    observe: 3h
    command: {apply: [a], check: [c]%s}
    consumers: {%s}
"""
ROTATION = Rotation("1", "db", "gpg:///s.gpg#db", 5.0, old_print="a")


def test_only_consumers_are_told_again() -> None:
    """Switching the old value on again, which ends in the same word, is told as what it is."""
    assert spoken(entry(), ROTATION, SWITCH_ON) == SWITCH_ON
    assert spoken(entry(), ROTATION, f"consumer app{AGAIN}").startswith("app does not hold the new value any more")


def entry(more: str = "", consumers: str = "app: {reload: [r]}, web: {reload: [r]}") -> Entry:
    return parse(CONFIG % (more, consumers), "opskit.yaml", Path("/etc")).rotations["db"]


def test_with_one_slot_the_end_of_the_old_value_is_told_where_it_is() -> None:
    """It is refused from apply on; who is hit, and for how long at most, stands there; nothing is switched off."""
    assert steps_of(entry()) == [
        "make a new value, keep it as pending in gpg:///s.gpg#db, read it back",
        "make the target (command) accept it instead of the old one, log in with it, make it current",
        "from then on the old value is refused: app, web will be, until told of the new one; the target may take 45s "
        "to accept that",
        "tell app: reload by r",
        "tell web: reload by r",
        "after 2h: see that all work with the new value; nothing is left to be switched off",
        "after 3h more: delete the old value from gpg:///s.gpg#db",
    ]
    assert "whoever uses it will be" in steps_of(entry(consumers=""))[2]


def test_programs_that_are_called_for_a_replaced_value_are_named() -> None:
    """With one slot too disable and delete are called, and the plan does not hide it."""
    *_, disabled, deleted = steps_of(entry(", disable: [off]"))
    assert disabled.endswith("switched off; call off for the old one")
    assert deleted.endswith("#db, call off for it")
    *_, disabled, deleted = steps_of(entry(", delete: [drop]"))
    assert disabled.endswith("switched off")
    assert deleted.endswith("#db, call drop for it")


def test_with_two_slots_the_old_value_is_switched_off_after_its_time() -> None:
    """As it was said before: it stays accepted, is switched off, and is deleted."""
    told = steps_of(entry(", keeps_old: true, disable: [off]"))
    assert told[1] == "make the target (command) accept it, log in with it, make it current"
    assert told[-2:] == [
        "after 2h, where nothing uses it any more: switch the old value off",
        "after 3h more: delete the old value",
    ]


def test_a_certificate_is_not_said_to_be_refused() -> None:
    """The server of a TLS key shows another one; the old one is valid until its own end."""
    told = "\n".join(steps_of(load(EXAMPLE).rotations["web-certificate"]))
    assert "the old one is valid until its own end" in told
    assert "refused" not in told
    assert "switch the old value off" not in told


@pytest.mark.parametrize("slots", [", keeps_old: true, disable: [off]", ""])
def test_steps_are_spoken_of_as_they_are(slots: str) -> None:
    """While it runs, what is made of the old value is what the target can do."""
    told = {state: spoken(entry(slots), ROTATION, state) for state in State}
    assert ("switch the old value off" in told.values()) is keeps_old(entry(slots))
    assert ("instead of the old one" in told[State.APPLIED]) is not keeps_old(entry(slots))
    assert spoken(entry(slots), ROTATION, "consumer app") == "consumer app"


def test_no_output_speaks_of_switching_off_what_was_replaced(host: Machine) -> None:  # noqa: F811
    """Plan, run, status and retire, in text and JSON: only with two slots anything is switched off."""
    has_two = "keeps_old: true" in host.config.read_text()
    said = ""
    for arguments in (("plan",), ("run", "db"), ("status",), ("retire",), ("retire", "db", "--now")):
        for form in ((), ("--json",)) if arguments[-1] in ("plan", "status", "retire") else ((),):
            answer = host.run("rotate", *arguments, *form)
            assert answer.code == 0 or arguments == ("status",), answer
            said += answer.out + answer.err
    assert "whether all work without the old value is looked at in " in said or has_two
    for words in ("switched off in", "switch the old value off"):
        assert (words in said) is has_two, words
