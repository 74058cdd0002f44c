"""Targets that refuse, claim, time out or take their time."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from opskit.errors import OpskitError, TargetError, TargetRefused, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.proof import PROBES
from opskit.secrets.rotation.state import State
from opskit.secrets.rotation.subject import Policy
from tests.secrets.rotation.simulation import (
    KINDS,
    OLD,
    Fault,
    Killed,
    Made,
    World,
    killed_at,
    latest,
    require_new_everywhere,
    require_old_everywhere,
    resume,
    run,
    undo,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_that_refuses_every_new_value(made: Made, kind: str) -> None:
    """After three candidates it is believed: the old value stays, no candidate is left anywhere."""
    world, refused = made(kind), list[bytes]()
    world.refuses = lambda value: refused.append(value) or True  # type: ignore[func-returns-value]
    world.hides = lambda value: value != OLD  # a maker's values are not good for anything until applied
    rotation = run(world)
    assert rotation.state is State.ROLLED_BACK
    assert rotation.cause == "the target refuses new values: the target said no"
    assert len(refused) == len(set(refused)) == 3
    require_old_everywhere(world)


@pytest.mark.parametrize("kind", ["two-slots", "one-slot"])
def test_a_target_that_refuses_one_new_value(made: Made, kind: str) -> None:
    """Another value is tried where the first one breaks a rule of the target, and the first one is forgotten."""
    world, refused = made(kind), list[bytes]()
    world.refuses = lambda value: not refused and (refused.append(value) or True)  # type: ignore[func-returns-value]
    assert run(world).state is State.OLD_DELETED
    require_new_everywhere(world)
    assert world.stages[Stage.CURRENT] != refused[0]


@pytest.mark.parametrize("goes_back", [False, True], ids=["resume", "undo"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_another_value_is_tried(made: Made, tmp_short: Path, kind: str, goes_back: bool) -> None:
    """Wherever a run dies that was refused a value, the next one ends it."""

    def world_at(name: str) -> World:
        (tmp_short / name).mkdir()
        world, refused = World(tmp_short / name, kind), list[bytes]()
        world.refuses = lambda value: value in refused or (not refused and (refused.append(value) or True))  # type: ignore[func-returns-value]
        world.hides = lambda value: value in refused or (not refused and value != OLD)
        return world

    whole = world_at("whole")
    assert run(whole).state is State.OLD_DELETED
    for at in range(len(whole.calls)):
        for how in ("kill-before", "kill-after"):
            world = world_at(f"{at} {how}")
            world.fault = Fault(at, how)
            with contextlib.suppress(Killed):
                run(world)
            if world.latest() is None:
                continue
            with contextlib.suppress(UsageError):  # too late to undo
                if goes_back:
                    undo(world)
            rotation = latest(world) if latest(world).is_over else resume(world)
            (require_old_everywhere if rotation.state is State.ROLLED_BACK else require_new_everywhere)(world)
            assert rotation.is_over


@pytest.mark.parametrize("kind", ["two-slots", "one-slot"])
def test_a_target_that_accepts_but_does_not_apply(made: Made, kind: str) -> None:
    """What it claims is not believed: without a login by the new value nobody is given it."""
    world = made(kind)
    world.target.apply = lambda secret, current: None  # type: ignore[method-assign]
    rotation = run(world)
    assert (rotation.state, rotation.cause) == (
        State.ROLLED_BACK, "the target took the new value, and refuses it",
    )  # fmt: skip
    assert "app.deliver" not in world.calls
    require_old_everywhere(world)


@pytest.mark.parametrize("down", ["target.apply", "target.verify", "target.revoke", "target", "store", "journal"])
@pytest.mark.parametrize("kind", KINDS)
def test_something_is_down_for_a_while(made: Made, kind: str, down: str) -> None:
    """An outage of anything, after any state, stops the rotation without harm; once it is over, `resume` ends it."""
    for number, state in enumerate([State.PLANNED, State.STAGED, State.APPLIED, State.PROMOTED, State.GRACE]):
        world = made(kind)
        world.folder = world.folder / str(number)
        world.folder.mkdir()
        killed_at(world, state)
        world.broken = lambda call: call.startswith(down)
        with contextlib.suppress(OpskitError):
            resume(world)
        world.broken = lambda _call: False
        rotation = latest(world) if latest(world).is_over else resume(world)
        assert rotation.is_over
        (require_old_everywhere if rotation.is_back else require_new_everywhere)(world)


def test_neither_value_is_accepted(made: Made) -> None:
    """A target that took the old value away and did not take the new one needs an operator, and keeps both values."""
    world = made("one-slot")
    machine = world.machine()
    rotation = machine.begin()

    def lost(call: str) -> bool:
        if call == "target.apply":
            world.target.accepted.clear()
        return call == "target.apply"

    world.broken = lost
    rotation = machine.advance(rotation)
    assert rotation.shown is State.NEEDS_OPERATOR
    assert rotation.problem == "the target accepts neither the old value nor the new one; the store has both"
    assert {Stage.CURRENT, Stage.PENDING} <= set(world.stages)
    assert world.calls.count("target.apply") == 2
    world.broken = lambda _call: False
    assert resume(world).state is State.OLD_DELETED


@pytest.mark.parametrize("outcome", ["timeout-before", "timeout-after"])
def test_an_apply_of_unknown_outcome_is_probed(made: Made, outcome: str) -> None:
    """Whether it was done is asked, and it is done again only where it was not."""
    world = made("one-slot")
    plain = made("one-slot")
    plain.folder = plain.folder / "plain"
    plain.folder.mkdir()
    run(plain)
    world.fault = Fault(plain.calls.index("target.apply"), outcome)
    assert run(world).state is State.OLD_DELETED
    assert world.calls.count("target.apply") == (2 if outcome == "timeout-before" else 1)


@pytest.mark.parametrize("answer", ["refused", "no answer"])
def test_an_apply_that_comes_through_late(made: Made, answer: str) -> None:
    """A target that takes the value after we gave that up, and then takes no other: the value is found to be live."""
    world = made("one-slot")
    inner, tries = world.target.apply, list[bytes]()

    def apply(secret: Secret, current: Secret | None) -> None:
        tries.append(secret.reveal_bytes())
        if len(tries) == 1:
            inner(secret, current)
        if len(tries) == 2 and answer == "refused":
            raise TargetRefused("changed too recently")
        raise TargetError("no answer in time")

    world.target.apply = apply  # type: ignore[method-assign]
    world.hides = lambda value: value != OLD and len(tries) < 2
    assert run(world).state is State.OLD_DELETED
    require_new_everywhere(world)
    assert len(tries) == 2


def test_a_refusal_that_costs_the_old_value(made: Made) -> None:
    """Where the target does not even accept the old value any more, that comes first; no other new one is tried."""
    world, refused = made("one-slot"), list[bytes]()

    def refuses(value: bytes) -> bool:
        if value != OLD:
            refused.append(value)
            world.target.accepted.clear()
            world.target.known.clear()
        return value != OLD

    world.refuses = refuses
    assert run(world).state is State.ROLLED_BACK
    assert len(refused) == 1
    require_old_everywhere(world)


def test_a_value_that_is_accepted_already_is_not_applied(made: Made) -> None:
    """Setting even the same value once more would break what caches verifiers: it is looked at first."""
    world = made("making")
    assert run(world).state is State.OLD_DELETED
    assert "target.apply" not in world.calls


@pytest.mark.parametrize("seconds", [0.4, 3, 9, 15, 29])
def test_a_target_that_takes_its_time(made: Made, seconds: float) -> None:
    """A new value that comes to be accepted within the time of propagation is waited for."""
    world, applied = made(), list[float]()
    world.hides = lambda value: value != OLD and world.clock < _first(applied, world.clock) + seconds
    assert run(world).state is State.OLD_DELETED


def _first(times: list[float], now: float) -> float:
    if not times:
        times.append(now)
    return times[0]


@pytest.mark.parametrize("propagation", [0.0, 0.2, 5.0, 30.0, 600.0])
def test_probes_are_bounded(made: Made, propagation: float) -> None:
    """A value that is never accepted is tried a few times, over all the time that was allowed, not longer."""
    world = made()
    world.policy = Policy(propagation=propagation)
    probes = list[float]()

    def hides(value: bytes) -> bool:
        if value != OLD:
            probes.append(world.clock)
        return value != OLD

    world.hides = hides
    begun = world.clock
    assert run(world).state is State.ROLLED_BACK
    assert len(probes) <= PROBES + 1  # and one before it is applied
    assert world.clock - begun == pytest.approx(propagation)
    assert probes[-1] - begun == pytest.approx(propagation)


@pytest.mark.parametrize("propagation", [0.0, 30.0])
def test_successes_in_a_row(made: Made, propagation: float) -> None:
    """Where several logins must succeed, that many do in a row, at whatever time of propagation."""
    world, answers = made(), list[bool]()
    world.policy = Policy(propagation=propagation, successes=3)

    def hides(value: bytes) -> bool:
        if value == OLD or OLD not in world.target.accepted:
            return False
        answers.append(len(answers) == 2 and propagation > 0)  # one place of many does not know it yet
        return answers[-1]

    world.hides = hides
    begun = world.clock
    assert run(world).state is State.OLD_DELETED
    assert world.clock - begun >= 2.0  # half a second between two logins, twice for each time that it is proved
    assert answers == ([False] * 3 if propagation == 0 else [False, False, True, False, False, False])


@pytest.mark.parametrize("is_over", [True, False])
def test_probes_without_an_answer(made: Made, is_over: bool) -> None:
    """A target that does not answer is asked again, as often as one that says no; in the end nobody knows."""
    world, asked = made(), [0]

    def silent(call: str) -> bool:
        if call != "target.verify" or "target.apply" not in world.calls:
            return False
        asked[0] += 1
        return asked[0] < 3 or not is_over

    world.broken = silent
    if is_over:
        assert run(world).state is State.OLD_DELETED
        return
    with pytest.raises(TargetError):
        run(world)
    assert asked[0] == PROBES
    assert latest(world).state is State.APPLIED
    world.broken = lambda _call: False
    assert resume(world).state is State.OLD_DELETED


def test_a_value_that_flickers_is_not_proved(made: Made) -> None:
    """A target that accepts every second login never proves a value for which two in a row are asked."""
    world, count = made(), [0]
    world.policy = Policy(successes=2)

    def hides(value: bytes) -> bool:
        count[0] += value != OLD
        return value != OLD and count[0] % 2 == 1

    world.hides = hides
    assert run(world).state is State.ROLLED_BACK
    assert count[0] <= 2 * PROBES + 1
