"""How a rotation begins, what it does where the store is not as it should be, and what it tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.errors import SecretStoreError, TargetError, TargetRefused, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.rotation.state import State
from tests.secrets.rotation.simulation import (
    KINDS,
    OLD,
    Fault,
    Made,
    killed_at,
    latest,
    require_new_everywhere,
    resume,
    run,
    undo,
)

STRANGE = b"a value of somebody else"


def test_the_first_value_ever(made: Made) -> None:
    """Where the store is empty a value is made, applied, tested and given to consumers; nothing old is looked for."""
    world = made(first=None)
    assert run(world).state is State.OLD_DELETED
    require_new_everywhere(world)


def test_an_empty_value_is_none(made: Made) -> None:
    """A place that was made and never filled is neither a value to go back to nor one of somebody else."""
    world = made(first=None)
    world.stages.update({Stage.CURRENT: b"", Stage.PENDING: b""})
    assert run(world).state is State.OLD_DELETED
    assert latest(world).old_print is None


def test_the_first_value_is_refused(made: Made) -> None:
    """Where there is no value to go back to a refusal ends in nothing: no value is kept, and one can begin anew."""
    world = made(first=None)
    world.refuses = lambda _value: True
    rotation = run(world)
    assert rotation.state is State.ROLLED_BACK
    assert not world.stages
    world.refuses = lambda _value: False
    assert run(world).state is State.OLD_DELETED


def test_the_first_value_does_not_work(made: Made) -> None:
    """A first value that the target accepted is not given up by itself: an operator decides; `resume` ends it."""
    world = made(first=None)
    world.consumer_fault = lambda _name: "cannot parse it"
    rotation = run(world)
    assert rotation.shown is State.NEEDS_OPERATOR
    assert "there is no value before to go back to" in str(rotation.problem)
    with pytest.raises(UsageError, match="had no value before"):
        undo(world)
    world.consumer_fault = lambda _name: None
    assert resume(world).state is State.OLD_DELETED


@pytest.mark.parametrize("kind", ["two-slots", "one-slot"])
def test_a_current_value_that_is_refused(made: Made, kind: str) -> None:
    """Nothing begins where the current value is not accepted, unless it is to be recovered: then it is given up."""
    world = made(kind)
    world.may_lock_out = True
    world.target.accepted.clear()
    world.target.known.clear()
    with pytest.raises(TargetRefused, match="refused by its target: nothing was changed"):
        run(world)
    assert world.latest() is None
    assert world.calls == ["store.get", "store.get", "target.verify"]
    machine = world.machine()
    assert machine.advance(machine.begin(recover=True)).state is State.OLD_DELETED
    assert world.has["app"] in world.target.accepted
    assert world.stages[Stage.CURRENT] == world.has["app"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_rotation_after_another(made: Made, kind: str) -> None:
    """Each one begins with what the one before has left, and leaves nothing of that."""
    world = made(kind)
    for _ in range(3):
        assert run(world).state is State.OLD_DELETED
        require_new_everywhere(world)
        world.clock += 60


def test_recover_keeps_a_value_that_is_accepted(made: Made) -> None:
    """To recover what works is a rotation like any other: with a value to go back to."""
    world = made()
    assert world.machine().begin(recover=True).old_print is not None


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_pending_value_of_somebody_else(made: Made, when: str) -> None:
    """A value that is pending, and not of this rotation, is neither used nor deleted: nothing begins or goes on."""
    world = made()
    if when == "while":
        world.broken = lambda call: call == "target.create"
        with pytest.raises(TargetError):
            run(world)
        world.broken = lambda _call: False
    world.stages[Stage.PENDING] = STRANGE
    for _ in range(2):
        with pytest.raises(UsageError, match="has a pending value that is of no rotation"):
            run(world) if when == "before" else resume(world)
    assert world.stages[Stage.PENDING] == STRANGE
    assert world.target.accepted == {OLD}
    if when == "while":
        assert undo(world).state is State.ROLLED_BACK
        assert world.stages[Stage.PENDING] == STRANGE


def test_the_current_value_was_set_by_somebody_else(made: Made) -> None:
    """A value that became current while a rotation was under way is not overwritten by it."""
    world = made()
    killed_at(world, State.TESTED)
    world.may_lock_out = True  # whether that value is accepted is not ours to know
    world.stages[Stage.PREVIOUS], world.stages[Stage.CURRENT] = OLD, STRANGE
    rotation = resume(world)
    assert rotation.shown is State.NEEDS_OPERATOR
    assert "another value became current" in str(rotation.problem)
    assert world.stages[Stage.CURRENT] == STRANGE


def test_one_rotation_at_a_time(made: Made) -> None:
    """Where one is under way a second one does not begin."""
    world = made()
    killed_at(world, State.APPLIED)
    with pytest.raises(UsageError, match="a rotation of db is under way: APPLIED"):
        world.machine().begin()


def test_a_store_that_loses_a_write(made: Made) -> None:
    """The target hears of no value that the store did not keep."""
    world = made()
    plain = made()
    plain.folder = plain.folder / "plain"
    plain.folder.mkdir()
    run(plain)
    world.fault = Fault(plain.calls.index("store.set"), "lie")
    with pytest.raises(SecretStoreError, match="did not keep its pending value"):
        run(world)
    assert "target.apply" not in world.calls
    assert resume(world).state is State.OLD_DELETED


@pytest.mark.parametrize("lost", ["new", "old"])
def test_a_store_that_lost_a_value(made: Made, lost: str) -> None:
    """A value that is gone from the store needs an operator; the other one stays accepted."""
    world = made()
    killed_at(world, State.GRACE)
    del world.stages[Stage.CURRENT if lost == "new" else Stage.PREVIOUS]
    rotation = resume(world)
    assert rotation.shown is State.NEEDS_OPERATOR
    assert f"has lost its {lost} value" in str(rotation.problem)
    assert len(world.target.accepted) == 2


def test_a_store_that_lost_the_old_value_before_it_was_deleted(made: Made) -> None:
    """An old value that cannot be named to the target any more is not claimed to be deleted."""
    world = made()
    killed_at(world, State.OLD_DISABLED)
    del world.stages[Stage.PREVIOUS]
    assert resume(world).shown is State.NEEDS_OPERATOR
    assert OLD in world.target.known


def test_the_journal_tells_the_story_without_a_value(made: Made, tmp_short: Path) -> None:
    """Every step has an intent before its outcome; no file of the journal holds a value."""
    world = made()
    run(world)
    journal = world.journal()
    phases = [(step, phase) for step, phase, _, _ in journal.steps(latest(world))]
    for state in (State.STAGED, State.APPLIED, State.TESTED, State.PROMOTED, State.OLD_DISABLED, State.OLD_DELETED):
        assert phases.index((state, "intent")) < phases.index((state, "done"))
    values = [OLD, world.stages[Stage.CURRENT]]
    for path in tmp_short.iterdir():
        assert not [each for each in values if each in path.read_bytes()]
    journal.close()


def test_a_failure_is_noted(made: Made) -> None:
    """What failed, and why, stands in the journal; the next success takes it out of the record."""
    world = made()
    world.broken = lambda call: call == "target.revoke"
    with pytest.raises(TargetError):
        run(world)
    assert latest(world).problem == "no answer in time"
    journal = world.journal()
    steps = [(step, phase, note) for step, phase, _, note in journal.steps(latest(world))]
    assert (State.OLD_DISABLED, "failed", "no answer in time") in steps
    journal.close()
    world.broken = lambda _call: False
    assert resume(world).problem is None
