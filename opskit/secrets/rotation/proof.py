"""What proves that a value works, that consumers have it, and that the one before is not used any more.

Nothing here changes anything but time: probes are few and far between, as many would look like an attack.
"""

from __future__ import annotations

from collections.abc import Callable

from opskit.errors import OpskitError
from opskit.secrets.reference import Secret
from opskit.secrets.rotation.base import Foreseeing, Keeper, Witness
from opskit.secrets.rotation.state import Rotation
from opskit.secrets.rotation.subject import Consumer, Subject, Tools

PROBES = 6
"""Attempts at most with one value in one step, beside those that succeed."""
_SHORTEST_PAUSE = 0.5
"""Seconds between two attempts, at least."""


class Waits(Exception):
    """The rotation cannot go on now; nothing failed. The message says for what it waits.

    `until` (epoch seconds) is set where that is nothing but time.
    """

    def __init__(self, message: str, until: float | None = None) -> None:
        super().__init__(message)
        self.until = until


class Proof:
    """Asks the target and the consumers of one subject."""

    def __init__(self, subject: Subject, tools: Tools) -> None:
        self._subject, self._tools = subject, tools

    def is_accepted(self, secret: Secret) -> bool:
        """Whether the target comes to accept a value in the time it may take. Raises TargetError."""
        return self._comes_true(lambda: self._subject.target.verify(secret), self._subject.policy.successes)

    def fault_of(self, consumer: Consumer) -> str | None:
        """Why a consumer does not work, after the time that it may take."""
        faults: list[str | None] = []

        def works() -> bool:
            faults.append(consumer.fault())
            return faults[-1] is None

        return None if self._comes_true(works, 1) else faults[-1]

    def require_consumers(self, new: Secret) -> None:
        """Each holds the new value and works with it; raises Waits where one does not."""
        for consumer in self._subject.consumers:
            if places := consumer.lacking(new):
                raise Waits(
                    f"{consumer.name} holds another value than the new one in {', '.join(places)}, expected what was "
                    "written there: see that nothing puts it back (configuration management, perhaps), then "
                    f"`opskit rotate resume {self._subject.name}` writes it again"
                )
            if (fault := consumer.fault()) is not None:
                raise Waits(f"{consumer.name} does not work: {fault}")

    def items_left(self, rotation: Rotation, old: Secret | None, new: Secret) -> int:
        """How many items are under the old value."""
        return 0 if self._subject.items is None else self._subject.items.left(rotation, old, new)

    def use_of(self, old: Secret | None, new: Secret, since: float) -> str | None:
        """What shows that the old value was used after `since` (epoch seconds), or None."""
        target = self._subject.target
        return target.in_use(old, new, since) if old is not None and isinstance(target, Witness) else None

    def foresee(self, current: Secret | None, previous: Callable[[], Secret | None]) -> None:
        """Raises what the target raises that knows already that a rotation would not come to its end."""
        if isinstance(self._subject.target, Foreseeing):
            self._subject.target.foresee(current, previous())

    def require_unneeded(self, old: Secret | None, new: Secret) -> None:
        """Raises Waits where the old value must be kept though nobody uses it. No grace begins anew for that."""
        target = self._subject.target
        if old is None or not isinstance(target, Keeper):
            return
        if (need := target.need_of(old, new)) is not None:
            raise Waits(f"the old value is kept: {need}")

    def require_time(self, since: float, span: float, what: str) -> None:
        """Raises Waits until `span` seconds after `since` (epoch seconds); without a span never, whatever the time."""
        until = since + span
        left = until - self._tools.now()
        if span > 0 and left > 0:
            raise Waits(f"{what} in {spoken(left)} at the earliest", until)

    def _comes_true(self, asked: Callable[[], bool], successes: int) -> bool:
        """Whether it is true that many times in a row. Raises what `asked` does the last time it was asked.

        Attempts are close to each other at first, and the last one is made at the end of the time that is allowed.
        """
        allowed, started, failures, in_a_row = self._subject.policy.propagation, self._tools.now(), 0, 0
        while True:
            try:
                in_a_row = in_a_row + 1 if asked() else 0
            except OpskitError:
                in_a_row = 0
                if not self._may_fail_again(started, failures):
                    raise
            if in_a_row >= successes:
                return True
            if in_a_row:  # takes no time that was meant for waiting: what is true is asked to its end
                self._tools.sleep(_SHORTEST_PAUSE)
                continue
            if not self._may_fail_again(started, failures):
                return False
            failures += 1
            passed = self._tools.now() - started
            due = allowed * (failures / (PROBES - 1)) ** 3
            self._tools.sleep(max(0.0, min(max(due - passed, _SHORTEST_PAUSE), allowed - passed)))

    def _may_fail_again(self, started: float, failures: int) -> bool:
        return failures + 1 < PROBES and self._tools.now() - started < self._subject.policy.propagation


def spoken(seconds: float) -> str:
    """A time to wait, in its two greatest units."""
    minutes = int(-(-seconds // 60))
    days, hours, minutes = minutes // 1440, minutes % 1440 // 60, minutes % 60
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
