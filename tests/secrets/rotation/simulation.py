"""A world in memory for the rotation machine: store, target, consumer, each call of which can be made to go wrong.

Calls are numbered. At one of them a `Fault` strikes: the process dies before or after the act, the act times out
(done or not), it is refused, it lies (says that it did what it did not do). The journal is the real one, on the disk;
its writes are calls too. After every call the world checks what must hold at every moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit.errors import OpskitError, SecretAbsent, SecretStoreError, TargetError, TargetRefused
from opskit.secrets.base import Stage
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.machine import Machine
from opskit.secrets.rotation.state import Fingerprints, Rotation
from opskit.secrets.rotation.subject import Policy, Subject, Tools
from tests.secrets.rotation.memory import MemoryTarget

OLD = b"the old value"
REFERENCE = Reference("gpg", "/secrets.gpg", "db")


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


@dataclass
class Fault:
    """What goes wrong at call number `at`."""

    at: int
    how: str
    """kill-before, kill-after, timeout-before, timeout-after, refuse, lie."""


class World:
    """Everything outside the machine. `first=None`: the store is empty."""

    def __init__(self, folder: Path, *, keeps_old: bool, first: bytes | None = OLD) -> None:
        self.folder, self.keeps_old = folder, keeps_old
        self.target = MemoryTarget(first, keeps_old=keeps_old)
        self.stages: dict[Stage, bytes] = {} if first is None else {Stage.CURRENT: first}
        self.consumer_has: bytes | None = first
        self.calls: list[str] = []
        self.fault: Fault | None = None
        self.is_dead = False
        self.broken: Callable[[str], bool] = lambda _call: False
        """Calls that always fail, by name: a server that is down."""
        self.consumer_fault: Callable[[], str | None] = lambda: None
        self.clock = 1_000_000.0

    def machine(self, **policy: float) -> Machine:
        """A new process: nothing is remembered but what is on the disk."""
        self.is_dead = False
        subject = Subject(
            "db",
            REFERENCE,
            _Store(self),
            _Target(self),
            [_Consumer(self)],
            policy=Policy(**policy),  # type: ignore[arg-type]
        )
        ids = iter(range(1000))
        tools = Tools(lambda: self.clock, self._sleep, lambda: f"rotation-{self.clock:.0f}-{next(ids)}")
        return Machine(subject, self.journal(), Fingerprints(b"k" * 32), tools)

    def journal(self) -> Journal:
        """The one on the disk."""
        journal = Journal(self.folder / "journal.sqlite")
        for name in ("keep", "note", "reach", "mark", "list_parts"):
            setattr(journal, name, self._counted(f"journal.{name}", getattr(journal, name)))
        return journal

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
        """I1: of all that the target accepts, some value is in the store. I2: with two slots the consumer works."""
        accepted = self.target.accepted
        assert not accepted or accepted & set(self.stages.values()), "what the target accepts is lost"
        if self.keeps_old and self.consumer_has is not None:
            assert self.consumer_has in accepted, "the consumer is locked out"

    def _sleep(self, seconds: float) -> None:
        self.clock += seconds

    def _counted(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *values: self.call(name, lambda: act(*values))


def _error_of(name: str) -> OpskitError:
    if name.startswith("store"):
        return SecretStoreError("the store does not answer")
    if name.startswith("journal"):
        return OpskitError("no space left on device")
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
        self.world.call("target.apply", lambda: self.inner.apply(secret, current), lambda: None)

    def verify(self, secret: Secret) -> bool:
        return self.world.call("target.verify", lambda: self.inner.verify(secret))

    def revoke(self, secret: Secret, kept: Secret, *, final: bool) -> None:
        self.world.call("target.revoke", lambda: self.inner.revoke(secret, kept, final=final))


@dataclass
class _Consumer:
    world: World
    name: str = field(default="app")

    def deliver(self, secret: Secret) -> None:
        self.world.call("consumer.deliver", lambda: setattr(self.world, "consumer_has", secret.reveal_bytes()))

    def holds(self, secret: Secret) -> bool:
        return self.world.call("consumer.holds", lambda: self.world.consumer_has == secret.reveal_bytes())

    def fault(self) -> str | None:
        return self.world.call("consumer.fault", lambda: self.world.consumer_fault() or self._fault())

    def _fault(self) -> str | None:
        return None if self.world.consumer_has in self.world.target.accepted else "login refused"


def calls_of(make: Callable[[], World], run: Callable[[World], object]) -> Iterator[int]:
    """The numbers of the calls that a run makes where nothing goes wrong."""
    world = make()
    run(world)
    yield from range(len(world.calls))
