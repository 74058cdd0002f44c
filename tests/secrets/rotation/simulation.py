"""A world in memory for the rotation machine: store, target, consumers, each call of which can be made to go wrong.

Calls are numbered. At some of them a `Fault` strikes: the process dies before or after the act, the act times out
(done or not), it is refused, it lies (says that it did what it did not do). The journal is the real one, on the disk;
its writes are calls too. After every call the world checks what must hold at every moment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, StateFull, TargetError, TargetRefused
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.machine import Machine
from opskit.secrets.rotation.state import Fingerprints, Rotation, State
from opskit.secrets.rotation.subject import Items, Policy, Subject, Tools
from tests.secrets.rotation.memory import MakingTarget, MemoryTarget

OLD = b"the old value"
APP = ("app",)
Made = Callable[..., "World"]
"""The fixture `made`: makes a world of a kind, two-slots by default."""
KINDS = ("two-slots", "one-slot", "making")
REFERENCE = Reference("gpg", "/secrets.gpg", "db")


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class Fault:
    """What goes wrong at call number `at`."""

    at: int
    how: str
    """kill-before, kill-after, timeout-before, timeout-after, refuse, lie."""


WORLDS: list[World] = []
"""All that were made in a test: its end closes them."""


class World:
    """Everything outside the machine. `first=None`: the store is empty. `kind`: two-slots, one-slot, making."""

    def __init__(self, folder: Path, kind: str, *, first: bytes | None = OLD, consumers: tuple[str, ...] = APP) -> None:
        self.folder, self.keeps_old = folder, kind != "one-slot"
        make = MakingTarget if kind == "making" else MemoryTarget
        self.target = make(first, keeps_old=self.keeps_old)
        self.stages: dict[Stage, bytes] = {} if first is None else {Stage.CURRENT: first}
        self.has: dict[str, bytes | None] = dict.fromkeys(consumers, first)
        self.items: Items | None = None
        self.policy = Policy()
        self.calls: list[str] = []
        self.fault: Fault | None = None
        self._journals: list[Journal] = []
        WORLDS.append(self)
        self.is_dead = False
        self.may_lock_out = False
        """Whether consumers may be locked out for a while, as the scenario is about that."""
        self.clock = 1_000_000.0
        # What may be out of order for longer than one call
        self.broken: Callable[[str], bool] = lambda _call: False
        """Calls that always fail, by name: a server that is down."""
        self.refuses: Callable[[bytes], bool] = lambda _value: False
        """Values that the target does not take."""
        self.hides: Callable[[bytes], bool] = lambda _value: False
        """Values that the target accepts, but not yet or not everywhere."""
        self.consumer_fault: Callable[[str], str | None] = lambda _name: None
        self.evidence: Callable[[float], str | None] | None = None
        """What a Witness tells of the old value; None for a target that is none."""
        self.need: Callable[[], str | None] | None = None
        """What a Keeper tells of the old value; None for a target that is none."""
        self.foresees: Callable[[Secret | None, Secret | None], None] | None = None
        """What a Foreseeing target does with the current and the previous value; None for one that foresees nothing."""
        self.may_delete: Callable[[Secret], str | None] = lambda _old: None

    def machine(self) -> Machine:
        """A new process: nothing is remembered but what is on the disk."""
        self.is_dead = False
        target = self._target()
        consumers = [_Consumer(self, name) for name in self.has]
        subject = Subject(
            "db", REFERENCE, _Store(self), target, consumers, self.items, self.policy,
            lambda old: self.may_delete(old),
        )  # fmt: skip
        ids = iter(range(1000))
        tools = Tools(lambda: self.clock, self._sleep, lambda: f"rotation-{self.clock:.0f}-{next(ids)}")
        return Machine(subject, self.journal(), Fingerprints(b"k" * 32), tools)

    def _target(self) -> _Target:
        if self.evidence is not None:
            return _WitnessTarget(self)
        if self.need is not None:
            return _KeepingTarget(self)
        return _Target(self) if self.foresees is None else _ForeseeingTarget(self)

    def journal(self) -> Journal:
        """The one on the disk."""
        journal = Journal(self.folder / "journal.sqlite")
        self._journals.append(journal)
        for name in ("keep", "note", "reach", "mark", "list_parts"):
            setattr(journal, name, self._counted(f"journal.{name}", getattr(journal, name)))
        return journal

    def close(self) -> None:
        """Let go of every journal: a thousand worlds would else hold more files than a process may."""
        while self._journals:
            self._journals.pop().close()

    def latest(self) -> Rotation | None:
        journal = Journal(self.folder / "journal.sqlite")
        try:
            return journal.latest("db")
        finally:
            journal.close()

    def call(self, name: str, act: Callable[[], Any], instead: Callable[[], Any] | None = None) -> Any:
        """One call of the machine into the world."""
        if self.is_dead:
            raise Killed  # `finally` blocks of a dead process reach nothing
        number = len(self.calls)
        self.calls.append(name)
        fault = self.fault if self.fault is not None and self.fault.at == number else None
        if fault is None and self.broken(name):
            fault = Fault(number, "timeout-before")
        try:
            return self._struck(name, act, instead, fault) if fault else act()
        finally:
            self.check()

    def _struck(self, name: str, act: Callable[[], Any], instead: Callable[[], Any] | None, fault: Fault) -> Any:
        if fault.how == "kill-before":
            self._die()
        if fault.how == "refuse" and name in ("target.apply", "target.revoke", "target.create"):
            raise TargetRefused("the target said no")
        if fault.how == "timeout-before":
            raise _error_of(name)
        if fault.how == "lie" and instead is not None:
            return instead()
        result = act()
        if fault.how == "timeout-after":
            raise _error_of(name)
        if fault.how == "kill-after":
            self._die()
        return result

    def _die(self) -> None:
        self.is_dead = True
        raise Killed

    def check(self) -> None:
        """I1: of all that the target accepts, some value is in the store. I2: with two slots what is read works."""
        accepted = self.target.accepted
        assert not accepted or accepted & set(self.stages.values()), "what the target accepts is lost"
        if self.keeps_old and not self.may_lock_out:
            for name, value in {"the store": self.stages.get(Stage.CURRENT), **self.has}.items():
                assert not value or value in accepted, f"{name} has a value that is refused"

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.clock += seconds

    def _counted(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values: self.call(name, lambda: act(*values))


def _error_of(name: str) -> OpskitError:
    if name.startswith("store"):
        return SecretStoreError("the store does not answer")
    if name.startswith("journal"):
        return StateFull("the disk with the state folder is full")
    return TargetError("no answer in time")


@dataclass
class _Store:
    world: World

    def get(self, reference: Reference, stage: Stage) -> Secret:
        return self.world.call("store.get", lambda: self._get(stage))

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        stages = self.world.stages
        self.world.call("store.set", lambda: stages.__setitem__(stage, secret.reveal_bytes()), lambda: None)

    def promote(self, reference: Reference) -> None:
        self.world.call("store.promote", self._promote, lambda: None)

    def delete(self, reference: Reference, stage: Stage) -> None:
        self.world.call("store.delete", lambda: self.world.stages.pop(stage, None))

    def _get(self, stage: Stage) -> Secret:
        if stage not in self.world.stages:
            raise SecretAbsent("nothing there")
        return Secret(self.world.stages[stage])

    def _promote(self) -> None:
        stages = self.world.stages
        if Stage.PENDING not in stages:
            raise SecretAbsent("nothing pending")
        new = stages.pop(Stage.PENDING)
        if Stage.CURRENT in stages:
            stages[Stage.PREVIOUS] = stages[Stage.CURRENT]
        stages[Stage.CURRENT] = new


class _Target:
    def __init__(self, world: World) -> None:
        self.world, self.inner, self.keeps_old = world, world.target, world.keeps_old

    def create(self, current: Secret | None, since: float) -> Secret:
        return self.world.call("target.create", lambda: self.inner.create(current, since))

    def apply(self, secret: Secret, current: Secret | None) -> None:
        self.world.call("target.apply", lambda: self._apply(secret, current), lambda: None)

    def verify(self, secret: Secret) -> bool:
        return self.world.call("target.verify", lambda: self._verify(secret))

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        self.world.call("target.revoke", lambda: self.inner.revoke(secret, kept, final=final))

    def _apply(self, secret: Secret, current: Secret | None) -> None:
        if self.world.refuses(secret.reveal_bytes()):
            raise TargetRefused("the target said no")
        self.inner.apply(secret, current)

    def _verify(self, secret: Secret) -> bool:
        return self.inner.verify(secret) and not self.world.hides(secret.reveal_bytes())


class _WitnessTarget(_Target):
    def in_use(self, secret: Secret, kept: Secret, since: float) -> str | None:
        assert secret.reveal_bytes() == OLD != kept.reveal_bytes()
        assert self.world.evidence is not None
        return self.world.evidence(since)


class _KeepingTarget(_Target):
    def need_of(self, secret: Secret, kept: Secret) -> str | None:
        assert secret.reveal_bytes() == OLD != kept.reveal_bytes()
        assert self.world.need is not None
        return self.world.call("target.need_of", self.world.need)


class _ForeseeingTarget(_Target):
    def foresee(self, current: Secret | None, previous: Secret | None) -> None:
        assert self.world.foresees is not None
        self.world.foresees(current, previous)


@dataclass
class _Consumer:
    world: World
    name: str

    def deliver(self, secret: Secret) -> None:
        self._call("deliver", lambda: self.world.has.__setitem__(self.name, secret.reveal_bytes()))

    def lacking(self, secret: Secret) -> list[str]:
        return self._call(
            "lacking", lambda: [] if self.world.has[self.name] == secret.reveal_bytes() else [f"/etc/{self.name}"]
        )

    def fault(self) -> str | None:
        return self._call("fault", lambda: self.world.consumer_fault(self.name) or self._fault())

    def _fault(self) -> str | None:
        return None if self.world.has[self.name] in self.world.target.accepted else "login refused"

    def _call(self, name: str, act: Callable[[], Any]) -> Any:
        return self.world.call(f"{self.name}.{name}", act)


def run(world: World) -> Rotation:
    """Begin a rotation, and go on as far as it gets."""
    machine = world.machine()
    return machine.advance(machine.begin())


def latest(world: World) -> Rotation:
    """The rotation that the journal has."""
    latest = world.latest()
    assert latest is not None
    return latest


def resume(world: World) -> Rotation:
    """What `opskit rotate resume` does, in a new process."""
    return world.machine().advance(latest(world), tells_again=True)


def retire(world: World) -> Rotation:
    """What `opskit rotate retire` does, in a new process."""
    return world.machine().advance(latest(world))


def undo(world: World) -> Rotation:
    """What `opskit rotate undo` does, in a new process."""
    return world.machine().undo(latest(world))


def killed_at(world: World, reached: State) -> None:
    """Run, and die when a state was noted as reached."""
    machine = world.machine()
    rotation = machine.begin()

    def dies(_call: str) -> bool:
        if latest(world).state is reached:
            world.is_dead = True
            raise Killed
        return False

    world.broken = dies
    with contextlib.suppress(Killed):
        machine.advance(rotation)
    world.broken = lambda _call: False
    assert latest(world).state is reached


class Step(NamedTuple):
    """What the journal tells of a step."""

    step: str
    phase: str
    at: float
    note: str | None


def steps(world: World) -> list[Step]:
    """All that the journal tells of the rotation."""
    journal = Journal(world.folder / "journal.sqlite")
    try:
        return [Step(*each) for each in journal.steps(latest(world))]
    finally:
        journal.close()


def require_old_everywhere(world: World) -> None:
    """All is as it was before the rotation."""
    assert set(world.has.values()) == {OLD} == world.target.accepted == world.target.known
    assert world.stages[Stage.CURRENT] == OLD
    assert set(world.stages.values()) == {OLD}


def require_new_everywhere(world: World) -> None:
    """The new value is everywhere, and no other one."""
    (value,) = set(world.has.values())
    assert value != OLD
    assert world.target.accepted == {value} == world.target.known == set(world.stages.values())
