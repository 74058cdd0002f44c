"""Every kind of target, killed at every call that a rotation makes into target and store; then resumed, or undone.

What a kill is here: the call is not made, or is made and nobody learns of it, and nothing of the process is left but
the journal on the disk, the store and the target. Afterwards the value that the store calls current is accepted by the
real target, by a login, and the other one is not.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import SecretAbsent, UsageError
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.base import RotationTarget
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.machine import Machine
from opskit.secrets.rotation.state import Fingerprints, State
from opskit.secrets.rotation.subject import Policy, Subject, Tools
from tests.contracts.targets import KINDS, Lab
from tests.contracts.test_rotation_target import lab  # noqa: F401  # the fixture: every kind, with its real server

REFERENCE = Reference("gpg", "/secrets.gpg", "x")
STRIDE = 12
"""Of so many points one is tried for each kind, each kind beginning with another; the campaign tries all."""
SLOW = {"ssh": 2, "backup-key": 4}
"""Kinds whose calls take long, of which so many times fewer points are tried."""


class Killed(BaseException):
    """Nothing may catch this."""


class Counter:
    """Counts calls, and kills at one of them."""

    def __init__(self) -> None:
        self.calls, self.at, self.is_after = 0, -1, False

    def call(self, act: Callable[[], Any]) -> Any:
        """One call; -1 kills at none."""
        number, self.calls = self.calls, self.calls + 1
        if number == self.at and not self.is_after:
            raise Killed
        result = act()
        if number == self.at:
            raise Killed
        return result


class Counted:
    """Anything, each method of which is a counted call."""

    def __init__(self, inner: Any, counter: Counter) -> None:
        self._inner, self._counter = inner, counter

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        return lambda *values, **named: self._counter.call(lambda: found(*values, **named))


class Store:
    """A secret store in memory."""

    def __init__(self, first: Secret) -> None:
        self.values = {Stage.CURRENT: first.reveal_bytes()}

    def get(self, reference: Reference, stage: Stage) -> Secret:
        if stage not in self.values:
            raise SecretAbsent(f"no {stage} value")
        return Secret(self.values[stage])

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        self.values[stage] = secret.reveal_bytes()

    def promote(self, reference: Reference) -> None:
        self.values = {Stage.CURRENT: self.values[Stage.PENDING], Stage.PREVIOUS: self.values[Stage.CURRENT]}

    def delete(self, reference: Reference, stage: Stage) -> None:
        self.values.pop(stage, None)


class History:
    """One rotation of a target after another, each of which may be killed."""

    def __init__(self, target: RotationTarget, first: Secret, folder: Path) -> None:
        self.target, self.store, self.journal = target, Store(first), Journal(folder / "journal.sqlite")
        self._ids = itertools.count()

    def machine(self, counter: Counter) -> Machine:
        subject = Subject(
            "x", REFERENCE, Counted(self.store, counter), Counted(self.target, counter), policy=Policy(propagation=5.0)
        )
        tools = Tools(time.time, time.sleep, lambda: f"rotation {next(self._ids)}")
        return Machine(subject, self.journal, Fingerprints(b"k" * 32), tools)

    def rotate(self, counter: Counter) -> None:
        machine = self.machine(counter)
        machine.advance(machine.begin())

    def kill_and_mend(self, at: int, *, is_after: bool, undo: bool) -> State:
        """A rotation that is killed at one call, and what an operator does then; gives how it ended."""
        before = self.store.values[Stage.CURRENT]
        counter = Counter()
        counter.at, counter.is_after = at, is_after
        with contextlib.suppress(Killed):
            self.rotate(counter)
        rotation = self.journal.latest("x")
        if rotation is None or (rotation.is_over and self.store.values[Stage.CURRENT] == before):
            self.rotate(Counter())  # it was killed before it began
        elif not rotation.is_over:
            machine = self.machine(Counter())
            try:
                rotation = machine.undo(rotation) if undo else machine.advance(rotation)
            except UsageError:  # too late for that
                rotation = machine.advance(rotation)
        ended = self.journal.latest("x")
        assert ended is not None and ended.is_over, ended
        return ended.state


@pytest.mark.parametrize("stride", [STRIDE, pytest.param(1, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_call_ends_with_a_value_that_works(
    lab: Lab,  # noqa: F811
    is_after: bool,
    stride: int,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    tell: Callable[[str], None],
) -> None:
    """Whatever call a rotation is killed at, resuming or undoing it leaves a current value that the target accepts."""
    history, counter = History(lab.target, lab.first, tmp_path), Counter()
    history.rotate(counter)  # how many calls there are
    kind = request.node.callspec.params["lab"]
    stride *= SLOW.get(kind, 1) if stride > 1 else 1
    offset = sorted(KINDS).index(kind) % stride
    points = range(offset, counter.calls, stride)
    for at in points:
        for undo in (False, True):
            old = Secret(history.store.values[Stage.CURRENT])
            ended = history.kill_and_mend(at, is_after=is_after, undo=undo)
            current = Secret(history.store.values[Stage.CURRENT])
            assert lab.target.verify(current), (at, undo, ended)
            assert (current.reveal_bytes() == old.reveal_bytes()) is (ended is State.ROLLED_BACK), (at, undo, ended)
            if ended is State.OLD_DELETED:
                assert not lab.target.verify(old), (at, undo)
            assert set(history.store.values) == {Stage.CURRENT}, (at, undo, ended)
    tell(f"{len(points) * 2} kills at {len(points)} of {counter.calls} calls")
