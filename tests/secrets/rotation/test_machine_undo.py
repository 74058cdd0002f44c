"""The way back, from each state, and where there is none any more."""

from __future__ import annotations

import contextlib

import pytest

from opskit.errors import SecretStoreError, TargetError, TargetRefused, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.state import State
from opskit.secrets.rotation.subject import Policy
from tests.secrets.rotation.simulation import (
    KINDS,
    OLD,
    Fault,
    Killed,
    Made,
    killed_at,
    latest,
    require_new_everywhere,
    require_old_everywhere,
    resume,
    run,
    undo,
)

BACK = [
    State.PLANNED, State.STAGED, State.APPLIED, State.TESTED, State.PROMOTED, State.MIGRATING, State.GRACE,
    State.OLD_DISABLED,
]  # fmt: skip


@pytest.mark.parametrize("state", BACK)
@pytest.mark.parametrize("kind", KINDS)
def test_undo_at_each_state(made: Made, kind: str, state: State) -> None:
    """From wherever a rotation stands, undo makes everything as it was."""
    world = made(kind, consumers=("app", "web"))
    killed_at(world, state)
    rotation = undo(world)
    assert (rotation.state, rotation.cause, rotation.is_back) == (State.ROLLED_BACK, None, True)
    require_old_everywhere(world)
    with pytest.raises(UsageError, match="the rotation of db is over: ROLLED_BACK"):
        undo(world)
    assert run(world).state is State.OLD_DELETED


def test_undo_where_the_store_lost_the_old_value(made: Made) -> None:
    """There is nothing to go back to: that is said, and the way forward stays open."""
    world = made()
    killed_at(world, State.GRACE)
    del world.stages[Stage.PREVIOUS]
    with pytest.raises(UsageError, match="has lost the old value: there is nothing to go back to"):
        undo(world)
    rotation = world.latest()
    assert rotation is not None and rotation.state is State.GRACE and not rotation.is_back
    assert world.stages[Stage.CURRENT] == world.has["app"] != OLD


def test_an_undo_whose_end_was_not_noted(made: Made) -> None:
    """Where all is back but the record of that, no further value is made."""
    world = made()
    killed_at(world, State.TESTED)

    def dies(_call: str) -> bool:
        if world.target.known == {OLD} == set(world.stages.values()):
            world.is_dead = True
            raise Killed
        return False

    world.broken = dies
    with contextlib.suppress(Killed):
        undo(world)
    world.broken = lambda _call: False
    assert resume(world).state is State.ROLLED_BACK
    assert world.calls.count("target.create") == 1


def test_undo_before_anything_was_made(made: Made) -> None:
    """Where no new value was asked for, none is made in order to be thrown away."""
    world = made()
    killed_at(world, State.PLANNED)
    assert undo(world).state is State.ROLLED_BACK
    assert "target.create" not in world.calls


def test_undo_where_the_target_makes_no_value(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that refuses to make a new value has made none: that does not hold the way back."""
    world = made()

    def refuses(_current: object, _since: float) -> Secret:
        raise TargetRefused("the target makes none")

    monkeypatch.setattr(world.target, "create", refuses)
    with pytest.raises(TargetRefused):
        run(world)
    assert undo(world).state is State.ROLLED_BACK
    require_old_everywhere(world)


def test_undo_leaves_what_is_not_its_own(made: Made) -> None:
    """A value that was the previous one before the rotation stays that."""
    world = made()
    world.stages[Stage.PREVIOUS] = b"set by hand last year"
    killed_at(world, State.TESTED)
    assert undo(world).state is State.ROLLED_BACK
    assert world.stages == {Stage.CURRENT: OLD, Stage.PREVIOUS: b"set by hand last year"}


def test_undo_of_a_first_value(made: Made) -> None:
    """Before the target heard of it a first value is simply forgotten."""
    world = made(first=None)
    killed_at(world, State.STAGED)
    assert undo(world).state is State.ROLLED_BACK
    assert not world.stages


def test_an_undo_that_was_killed(made: Made) -> None:
    """What was waited for is forgotten when an undo begins: it is resumed, and waits for no time."""
    world = made()
    world.policy = Policy(grace=60.0)
    assert run(world).waits_until is not None
    world.fault = Fault(len(world.calls) + 5, "kill-before")
    with contextlib.suppress(Killed):
        undo(world)
    assert (latest(world).is_back, latest(world).waits_until, latest(world).problem) == (True, None, None)
    assert resume(world).state is State.ROLLED_BACK


def test_undo_of_an_end(made: Made) -> None:
    """What is over is not undone, and what was rotated is not begun again by resume."""
    world = made()
    run(world)
    with pytest.raises(UsageError, match="the rotation of db is over: OLD_DELETED"):
        undo(world)
    assert resume(world).state is State.OLD_DELETED
    require_new_everywhere(world)


def test_undo_once_deletion_began(made: Made) -> None:
    """A value that may be half deleted is not gone back to."""
    world = made()
    killed_at(world, State.OLD_DISABLED)
    world.broken = lambda call: call == "target.revoke"
    with pytest.raises(TargetError):
        resume(world)
    world.broken = lambda _call: False
    with pytest.raises(UsageError, match="is being deleted already"):
        undo(world)
    assert resume(world).state is State.OLD_DELETED


def test_undo_where_the_target_refuses_the_old_value(made: Made) -> None:
    """A target that does not take the old value back needs an operator; consumers keep the new one until then."""
    world = made("one-slot")
    killed_at(world, State.GRACE)
    world.hides = lambda value: value == OLD
    rotation = undo(world)
    assert rotation.shown is State.NEEDS_OPERATOR
    assert rotation.problem == "the target does not accept the old value any more; the store has both values"
    assert world.stages[Stage.CURRENT] == world.has["app"] != OLD
    world.hides = lambda _value: False
    assert resume(world).state is State.ROLLED_BACK
    require_old_everywhere(world)


def test_a_store_that_cannot_promote_with_one_slot(made: Made) -> None:
    """Where consumers read a value that is refused, and the store cannot take the new one, the old one is put back."""
    world = made("one-slot")
    world.broken = lambda call: call == "store.promote"
    rotation = run(world)
    assert rotation.state is State.ROLLED_BACK
    assert "the store did not make the new value current" in str(rotation.cause)
    require_old_everywhere(world)


def test_a_store_whose_answer_was_lost(made: Made) -> None:
    """A promotion that was done, and seemed to fail, is looked at before anything is taken back."""
    world = made("one-slot")
    killed_at(world, State.TESTED)

    def promoted(call: str) -> bool:
        if call == "store.promote":
            world.stages[Stage.PREVIOUS] = world.stages.pop(Stage.CURRENT)
            world.stages[Stage.CURRENT] = world.stages.pop(Stage.PENDING)
        return call == "store.promote"

    world.broken = promoted
    assert resume(world).state is State.OLD_DELETED


def test_a_store_that_cannot_promote_with_two_slots(made: Made) -> None:
    """Both values are accepted: nothing is urgent, and `resume` goes on once the store does."""
    world = made()
    world.broken = lambda call: call == "store.promote"
    with pytest.raises(SecretStoreError):
        run(world)
    world.broken = lambda _call: False
    assert resume(world).state is State.OLD_DELETED
