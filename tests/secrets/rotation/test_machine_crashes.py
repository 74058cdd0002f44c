"""Every call of a rotation goes wrong, in every way, also twice; `advance` or `undo` ends where consumers work."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from opskit.errors import OpskitError, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.rotation.state import Rotation, State
from tests.secrets.rotation.simulation import KINDS, OLD, Fault, Killed, World, killed_at, run
from tests.telling import Tell

WAYS = ("kill-before", "kill-after", "timeout-before", "timeout-after", "refuse", "lie")
ATTEMPTS = 4
HISTORIES = 60
"""Of two faults, of each kind of target and each way to go on."""
CONSUMERS = ("app", "web")


def _world(folder: Path, kind: str) -> World:
    folder.mkdir()
    return World(folder, kind, consumers=CONSUMERS)


def _go_on(world: World, *, undo: bool) -> Rotation | None:
    """What an operator does after a mishap, once: the rotation, where that ended it."""
    machine, latest = world.machine(), world.latest()
    if latest is None:
        return run(world)
    if latest.is_over:
        return latest
    try:
        return machine.undo(latest) if undo and not latest.is_back else machine.advance(latest, tells_again=True)
    except UsageError:  # too late to undo: on
        return machine.advance(latest, tells_again=True)


def _ended(world: World, *, undo: bool) -> Rotation:
    for _ in range(ATTEMPTS):
        with contextlib.suppress(OpskitError):
            latest = _go_on(world, undo=undo)
            if latest is not None and latest.is_over:
                return latest
    raise AssertionError(f"no end after {ATTEMPTS} attempts: {world.latest()}")


def _judge(world: World, rotation: Rotation) -> None:
    """The end is one of two, and it is whole."""
    accepted, stages = world.target.accepted, world.stages
    (value,) = set(world.has.values())
    assert value in accepted, "the consumers are locked out"
    assert stages.get(Stage.CURRENT) == value
    assert accepted == {value}, "a value that nobody has is accepted"
    assert world.target.known == {value}, "a value that nobody has was left behind"
    assert Stage.PENDING not in stages
    if rotation.state is State.ROLLED_BACK:
        assert value == OLD
    else:
        assert rotation.state is State.OLD_DELETED
        assert value != OLD
        assert OLD not in stages.values()


def _struck(world: World, faults: Iterator[Fault], *, undo: bool) -> None:
    """Run into the first fault, and into each other one on the way on; then end it, and judge."""
    first = next(faults)
    world.fault = first
    told = [f"{first.how} at call {first.at}"]
    try:
        with contextlib.suppress(Killed, OpskitError):
            run(world)
        for fault in faults:
            world.fault = Fault(len(world.calls) + fault.at, fault.how)
            told.append(f"{fault.how} at call {world.fault.at}")
            with contextlib.suppress(Killed, OpskitError):
                _go_on(world, undo=undo)
        world.fault = None
        _judge(world, _ended(world, undo=undo))
    except AssertionError as error:
        error.add_note(f"{'; '.join(told)}, of {[*enumerate(world.calls)]}")
        raise
    finally:
        world.close()


def _points(folder: Path, kind: str) -> int:
    world = _world(folder, kind)
    run(world)
    return len(world.calls)


@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_goes_wrong_once(tmp_short: Path, tell: Tell, kind: str, undo: bool) -> None:
    """Whatever goes wrong wherever: afterwards one end is reached, consumers work, nothing is left behind."""
    points = _points(tmp_short / "whole", kind)
    for at, how in product(range(points), WAYS):
        _struck(_world(tmp_short / f"{at} {how}", kind), iter([Fault(at, how)]), undo=undo)
    tell(f"{points} calls of a rotation went wrong in {len(WAYS)} ways: {points * len(WAYS)} histories")


def _histories(tmp_short: Path, kind: str, undo: bool, count: int) -> None:
    points = _points(tmp_short / "whole", kind)
    chance = random.Random(f"{kind} {undo}")
    for number in range(count):
        first, second = (Fault(chance.randrange(points), chance.choice(WAYS)) for _ in range(2))
        second.at = int(chance.triangular(0, points, 0))  # what is left to do is short as often as it is long
        _struck(_world(tmp_short / str(number), kind), iter([first, second]), undo=undo)


@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_go_wrong(tmp_short: Path, tell: Tell, kind: str, undo: bool) -> None:
    """A second mishap, while the first one is being mended, does no harm either."""
    _histories(tmp_short, kind, undo, HISTORIES)
    tell(f"histories of two faults: {HISTORIES}")


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_calls_go_wrong_often(tmp_short: Path, tell: Tell, kind: str, undo: bool) -> None:
    """The same with many more histories."""
    _histories(tmp_short, kind, undo, 30 * HISTORIES)
    tell(f"histories of two faults: {30 * HISTORIES}")


def _put_back(folder: Path, kind: str, state: State) -> World:
    """A rotation that waits, one of whose consumers was put back to the old value."""
    world = _world(folder, kind)
    killed_at(world, state)
    world.has["app"] = OLD
    world.may_lock_out = state is State.OLD_DISABLED
    world.fault = None
    return world


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("undo", [False, True], ids=["resume", "undo"])
@pytest.mark.parametrize("state", [State.GRACE, State.OLD_DISABLED])
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_goes_wrong_where_a_consumer_is_told_again(
    tmp_short: Path, tell: Tell, kind: str, state: State, undo: bool, stride: int
) -> None:
    """A consumer was put back; whatever goes wrong while `resume` tells it again, the end is one where it works."""
    whole = _put_back(tmp_short / "whole", kind, state)
    before = len(whole.calls)
    _judge(whole, _ended(whole, undo=False))
    points = len(whole.calls) - before
    tried = list(product(range(points), WAYS))[KINDS.index(kind) % stride :: stride]
    for at, how in tried:
        world = _put_back(tmp_short / f"{at} {how}", kind, state)
        world.fault = Fault(len(world.calls) + at, how)
        with contextlib.suppress(Killed, OpskitError):
            _go_on(world, undo=False)
        world.fault = None
        try:
            _judge(world, _ended(world, undo=undo))
        except AssertionError as error:
            error.add_note(f"{how} at call {at} of {[*enumerate(world.calls)]}")
            raise
        finally:
            world.close()
    tell(f"{points} calls of a resume that tells again: {len(tried)} histories")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_goes_wrong(tmp_short: Path, kind: str) -> None:
    """A rotation that nothing disturbs ends with the old value gone everywhere."""
    world = _world(tmp_short / "world", kind)
    rotation = run(world)
    assert rotation.state is State.OLD_DELETED
    _judge(world, rotation)
