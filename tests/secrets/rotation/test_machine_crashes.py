"""Every call of a rotation goes wrong once, in every way; afterwards `advance` or `undo` ends where consumers work."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from opskit.errors import OpskitError, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.rotation.state import Rotation, State
from tests.secrets.rotation.simulation import OLD, Fault, Killed, World

WAYS = ("kill-before", "kill-after", "timeout-before", "timeout-after", "refuse", "lie")
ATTEMPTS = 4


def _run(world: World) -> Rotation:
    machine = world.machine()
    return machine.advance(machine.begin())


def _resumed(world: World, *, undo: bool) -> Rotation:
    """What an operator does after a mishap: the same command again, until it ends."""
    for _ in range(ATTEMPTS):
        machine, latest = world.machine(), world.latest()
        try:
            if latest is None or latest.is_over:
                return latest or machine.advance(machine.begin())
            latest = machine.undo(latest) if undo and not latest.is_back else machine.advance(latest)
        except UsageError:
            undo = False  # too late to undo: on
            continue
        except OpskitError:
            continue
        if latest.is_over:
            return latest
    raise AssertionError(f"no end after {ATTEMPTS} attempts: {latest}")


def _judge(world: World, rotation: Rotation) -> None:
    """The end is one of two, and it is whole."""
    accepted, stages = world.target.accepted, world.stages
    assert world.consumer_has in accepted, "the consumer is locked out"
    assert stages.get(Stage.CURRENT) == world.consumer_has
    assert accepted == {world.consumer_has}, "a value that nobody has is accepted"
    assert world.target.known == {world.consumer_has}, "a value that nobody has was left behind"
    assert Stage.PENDING not in stages
    if rotation.state is State.ROLLED_BACK:
        assert world.consumer_has == OLD
    else:
        assert rotation.state is State.OLD_DELETED
        assert world.consumer_has != OLD
        assert OLD not in stages.values()


def _count(folder: Path, *, keeps_old: bool) -> int:
    world = World(folder, keeps_old=keeps_old)
    _run(world)
    return len(world.calls)


@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
@pytest.mark.parametrize("keeps_old", [True, False], ids=["two-slots", "one-slot"])
@pytest.mark.parametrize("how", WAYS)
def test_every_call_goes_wrong_once(tmp_path: Path, how: str, keeps_old: bool, undo: bool) -> None:
    """Whatever goes wrong wherever: afterwards one end is reached, consumers work, nothing is left behind."""
    (tmp_path / "whole").mkdir()
    points = _count(tmp_path / "whole", keeps_old=keeps_old)
    for at in range(points):
        folder = tmp_path / str(at)
        folder.mkdir()
        world = World(folder, keeps_old=keeps_old)
        world.fault = Fault(at, how)
        with contextlib.suppress(Killed, OpskitError):
            _run(world)
        world.fault = None
        try:
            _judge(world, _resumed(world, undo=undo))
        except AssertionError as error:
            error.add_note(f"{how} at call {at} of {points}: {world.calls[at]}; then {world.calls[at + 1 :]}")
            raise
    print(f"{how}: {points} points")  # noqa: T201  # shown with -rP


def test_nothing_goes_wrong(tmp_path: Path) -> None:
    """A rotation that nothing disturbs ends with the old value gone everywhere."""
    world = World(tmp_path, keeps_old=True)
    rotation = _run(world)
    assert rotation.state is State.OLD_DELETED
    _judge(world, rotation)
