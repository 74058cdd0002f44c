"""Consumers that do not work with what they were given, or cannot be told."""

from __future__ import annotations

import pytest

from opskit.errors import TargetError
from opskit.secrets.base import Stage
from opskit.secrets.rotation.state import State
from tests.secrets.rotation.simulation import (
    KINDS,
    OLD,
    Made,
    latest,
    require_old_everywhere,
    resume,
    run,
    undo,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_that_fails_with_the_new_value(made: Made, kind: str) -> None:
    """It gets the old value back, and so do all; the new one is gone everywhere."""
    world = made(kind, consumers=("first", "app", "last"))
    world.consumer_fault = lambda name: "cannot parse it" if name == "app" and world.has[name] != OLD else None
    rotation = run(world)
    assert rotation.state is State.ROLLED_BACK
    assert rotation.cause == "app does not work with the value that it was given: cannot parse it"
    # With two slots the last one never got the bad value; with one it had to get some value that is accepted at once.
    assert world.calls.count("last.deliver") == (2 if kind == "one-slot" else 1)
    require_old_everywhere(world)


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_that_fails_with_both_values(made: Made, kind: str) -> None:
    """An operator is needed; the others work meanwhile; once it is mended, `resume` ends it with the old value."""
    world = made(kind, consumers=("first", "app", "last"))
    world.consumer_fault = lambda name: "disk full" if name == "app" else None
    rotation = run(world)
    assert (rotation.shown, rotation.is_back) == (State.NEEDS_OPERATOR, True)
    assert rotation.problem == "app does not work with the value that it was given: disk full"
    assert world.has["first"] == world.has["last"] == OLD == world.stages[Stage.CURRENT]
    assert resume(world).shown is State.NEEDS_OPERATOR
    world.consumer_fault = lambda _name: None
    rotation = resume(world)
    assert rotation.shown is State.ROLLED_BACK
    require_old_everywhere(world)


@pytest.mark.parametrize("kind", ["two-slots", "making"])
def test_a_consumer_that_was_mended_with_the_wrong_value(made: Made, kind: str) -> None:
    """On the way back the new value goes only once every consumer holds the old one, whatever was written before."""
    world = made(kind)
    world.consumer_fault = lambda _name: "disk full"
    run(world)
    world.has["app"] = world.stages[Stage.PREVIOUS]  # the new one, by hand, as it did not work with the old one
    world.consumer_fault = lambda _name: None
    assert resume(world).state is State.ROLLED_BACK
    require_old_everywhere(world)


@pytest.mark.parametrize("kind", KINDS)
def test_a_consumer_that_cannot_be_told(made: Made, kind: str) -> None:
    """With one slot, and on the way back, one that cannot be told does not keep the others waiting."""
    world = made(kind, consumers=("app", "last"))
    world.broken = lambda call: call == "app.deliver"
    with pytest.raises(TargetError, match="no answer"):
        run(world)
    assert latest(world).state is State.PROMOTED
    assert world.has["last"] in world.target.accepted
    with pytest.raises(TargetError, match="no answer"):
        undo(world)
    assert world.has["last"] == OLD
    assert world.stages[Stage.CURRENT] == OLD
    world.broken = lambda _call: False
    assert resume(world).state is State.ROLLED_BACK
    require_old_everywhere(world)


def test_a_consumer_is_not_told_twice(made: Made) -> None:
    """What has the value already is not written and reloaded again because another one could not be told."""
    world = made(consumers=("app", "last"))
    world.broken = lambda call: call == "last.deliver"
    with pytest.raises(TargetError):
        run(world)
    world.broken = lambda _call: False
    assert resume(world).state is State.OLD_DELETED
    assert world.calls.count("app.deliver") == 1


def test_a_consumer_that_does_not_keep_what_it_is_given(made: Made) -> None:
    """What was delivered is looked at: a write that was lost is no delivery."""
    world = made()

    class Forgetful(dict[str, bytes | None]):
        def __setitem__(self, name: str, value: bytes | None) -> None:
            del name, value

    world.has = Forgetful(world.has)
    with pytest.raises(TargetError, match="app does not hold what was just written to it"):
        run(world)
    assert OLD in world.target.accepted


def test_a_consumer_that_takes_its_time(made: Made) -> None:
    """A service that needs a while to start is asked again before it is given up."""
    world, asked = made(), [0]

    def slow(_name: str) -> str | None:
        asked[0] += 1
        return "starting" if asked[0] < 4 else None

    world.consumer_fault = slow
    assert run(world).state is State.OLD_DELETED
