"""Two hosts back up, forget, prune, sync and rotate keys by turns and into each other's runs, for weeks.

After every step each snapshot that a run reported and no mark forgets is whole at some copy, and no copy shows one that
lacks anything there, or whose run keys no recipient, present or retired, gets out of the key objects there. The clock
is simulated; keys, packs, marks and caches are real.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from opskit import encoding
from opskit.errors import NoKey, StoreError
from opskit.operations import retiring, sparse, storing
from opskit.operations.backup import Job, Options, backup
from opskit.operations.forget import forget_mark, judge_chains, remember_mark
from opskit.operations.marking import publish
from opskit.operations.pruning import Limits, prune
from opskit.operations.pruning.prune import Look
from opskit.operations.rekeying.rekey import Holder
from opskit.operations.session import open_copies
from opskit.operations.sync import sync
from opskit.repository.copy import Copy
from opskit.repository.history import load_history
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import Marks, load_marks
from opskit.repository.retention import Rules
from opskit.sources.base import Entry, Problem
from opskit.sources.files import FileSource
from opskit.stores.base import Store
from opskit.stores.memory import MemoryStore
from tests.rekeying import Cast, rotate
from tests.repositories import LONG_AGO, REPOSITORY, SOURCE, Keys, Lab, noise

GRACE = timedelta(days=2)
HOSTS = ("web", "db")
COPIES = ("a", "b")


class Interrupted(FileSource):
    """A source during whose reading something else happens."""

    def __init__(self, root: Path, meanwhile: Callable[[], None]) -> None:
        super().__init__([root])
        self._meanwhile = meanwhile

    def entries(self) -> Iterator[Entry | Problem]:
        yield from super().entries()
        self._meanwhile()


@dataclass
class World:
    """The hosts, the copies they share, what was acknowledged, and which copy is away."""

    keys: Keys
    folder: Path
    away: str = ""
    stores: dict[str, Store] = field(default_factory=dict)
    labs: dict[str, Lab] = field(default_factory=dict)
    acknowledged: dict[str, Snapshot] = field(default_factory=dict)
    everyone: Keys = field(init=False)
    opened: dict[str, set[str]] = field(default_factory=dict)
    """The runs in each key object that was looked into."""

    def __post_init__(self) -> None:
        self.everyone = self.keys
        for name in COPIES:
            self.stores[name] = MemoryStore(lambda: self.labs["web"].now().timestamp(), location=name)
        for host in HOSTS:
            (self.folder / host).mkdir()
            self.labs[host] = Lab(self.keys, self.folder / f"state-{host}", self.stores, label=host)
        self.labs["web"].create()

    def wait(self, minutes: int) -> None:
        """Let time pass for everybody, in the midst of runs too."""
        for lab in self.labs.values():
            lab.minutes += minutes

    def reachable(self) -> dict[str, Store]:
        return {name: store for name, store in self.stores.items() if name != self.away}

    def at_hand(self) -> list[Copy]:
        return open_copies(self.reachable(), REPOSITORY)[0]

    def marks(self, copies: list[Copy]) -> Marks:
        return load_marks(
            copies, self.keys.believe,
            maintainers=[self.keys.host_key], repository=REPOSITORY, agreed=self.keys.identity().agreed,
        )  # fmt: skip

    def look(self) -> Look:
        copies = self.at_hand()
        history = load_history(
            copies, self.keys.believe,
            signers=[self.keys.host_key], repository=REPOSITORY,
        )  # fmt: skip
        return Look(copies, history, self.marks(copies))

    def back_up(self, host: str, content: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """One run; it may be refused, but what it reports is acknowledged."""
        root = self.folder / host
        lab = self.labs[host]
        (root / "file").write_bytes(noise(content, 2000))
        (root / f"file-{content}").write_bytes(noise(lab.minutes, 4000))
        try:
            with lab.session(self.reachable()) as session:
                job = Job(SOURCE, Interrupted(root, meanwhile))
                options = Options(workers=1, config="{}", keys="none")
                (result,) = backup(session, [job], options, clock_ns=lambda: time.time_ns() + LONG_AGO)
        except StoreError as error:
            assert "condemned" in str(error) or "needs" in str(error), error
            return
        (snapshot,) = (each for each in self.look().history.snapshots if each.id == result.snapshot)
        self.acknowledged[snapshot.id] = snapshot

    def forget(self, host: str, rules: Rules) -> None:
        look = self.look()
        now = self.labs[host].now()
        for chain in judge_chains(look.copies, look.history.snapshots, look.marks, rules, now=now):
            if chain.forgotten:
                publish(self.keys.identity(), look.copies, forget_mark(REPOSITORY, host, now, chain.forgotten, "test"))

    def take_back(self, host: str) -> None:
        look = self.look()
        forgotten = look.marks.forgotten()
        found = [each for each in look.history.snapshots if each.id in forgotten]
        if found:
            mark = remember_mark(REPOSITORY, host, self.labs[host].now(), look.marks, found[-1:])
            publish(self.keys.identity(), look.copies, mark)

    def prune(self, host: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        calls = 0

        def boottime() -> float:
            nonlocal calls
            calls += 1
            if calls == 2:  # after the look, before the first deletion
                meanwhile()
            return self.labs[host].boottime()

        prune(
            self.look, self.keys.identity(), Limits(GRACE),
            repository=REPOSITORY, host=host, now=self.labs[host].now, boottime=boottime,
        )  # fmt: skip

    def rotate(self, host: str, numbers: Sequence[int], meanwhile: Callable[[], None] = lambda: None) -> None:
        """From now on these recipients count for both hosts; one of the two has all private keys, and rekeys."""
        cast = Cast(self.everyone)
        self.keys = cast.having(*numbers)
        for lab in self.labs.values():
            lab.keys = self.keys
        one, other = cast.holder(0), cast.holder(1)

        def decrypt(data: bytes) -> bytes:
            meanwhile()
            try:
                return one.decrypt(data)
            except NoKey:
                return other.decrypt(data)

        both = Holder(one.key_ids | other.key_ids, decrypt, [*one.consents, *other.consents])
        assert rotate(self.labs[host], both, self.reachable()).is_complete

    def sync(self) -> None:
        look = self.look()
        for copy in look.copies:
            sync(
                copy, look.copies, look.history.snapshots, before=[each.name for each in look.marks.marks],
                forgotten=look.marks.forgotten(), condemned=look.marks.condemned_by().keys(), workers=1,
            )  # fmt: skip

    def check(self) -> None:
        """Nothing that was acknowledged is lost, nothing that is shown is broken."""
        copies, _ = open_copies(self.stores, REPOSITORY)
        forgotten = self.marks(copies).forgotten()
        for snapshot in self.acknowledged.values():
            holders = [copy for copy in copies if snapshot.name in copy.objects]
            for copy in holders:
                needed = set(snapshot.manifest.object_names(copy.key_object))
                assert needed <= copy.objects.keys(), f"{snapshot.name} lacks something at {copy.destination}"
                runs = {run.id for run in snapshot.manifest.runs}
                assert runs <= self._runs_at(copy), f"{snapshot.name} opens by no key at {copy.destination}"
            assert holders or snapshot.id in forgotten, f"{snapshot.name} is gone"

    def _runs_at(self, copy: Copy) -> set[str]:
        found: set[str] = set()
        for name in (each for each in copy.objects if each.startswith("keys/")):
            if name not in self.opened:
                self.opened[name] = set(encoding.decode_object(self._open(copy.get(name)), what=name))
            found |= self.opened[name]
        return found

    def _open(self, data: bytes) -> bytes:
        first, second = self.everyone.recipients
        try:
            return first.decrypt(data).payload
        except NoKey:
            return second.decrypt(data).payload


@pytest.fixture
def machine(throwaway_keys: Keys, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> type[RuleBasedStateMachine]:
    """The rules, on keys made once. Packs are gathered, and sparse ones left, index objects merged, again and again."""
    monkeypatch.setattr(retiring, "MANY_TINY_PACKS", 4)
    monkeypatch.setattr(sparse, "SPARSE", 0.7)
    monkeypatch.setattr(sparse, "TOLERATED", 0)
    monkeypatch.setattr(sparse, "GROWTH", 0)
    monkeypatch.setattr(storing, "MANY_SMALL_INDEXES", 1)

    class Retention(RuleBasedStateMachine):
        hosts = Bundle("hosts")

        def __init__(self) -> None:
            super().__init__()
            self.folder = Path(tempfile.mkdtemp(prefix="world-", dir=scratch))
            self.world = World(throwaway_keys, self.folder)

        def teardown(self) -> None:
            shutil.rmtree(self.folder)

        @initialize()
        def begin(self) -> None:
            for host in HOSTS:
                self.world.back_up(host, 0)

        @rule(host=st.sampled_from(HOSTS), content=st.integers(0, 3))
        def back_up(self, host: str, content: int) -> None:
            self.world.wait(1)
            self.world.back_up(host, content)

        @rule(host=st.sampled_from(HOSTS), content=st.integers(0, 3), hours=st.integers(0, 80), order=st.booleans())
        def back_up_while_the_other_prunes(self, host: str, content: int, hours: int, order: bool) -> None:
            other = HOSTS[host == HOSTS[0]]

            def meanwhile() -> None:
                if order:
                    self.world.forget(other, Rules(last=1))
                    self.world.prune(other)
                self.world.wait(hours * 60)
                self.world.prune(other)

            self.world.wait(1)
            self.world.back_up(host, content, meanwhile)

        @rule(host=st.sampled_from(HOSTS), keep=st.integers(1, 3))
        def forget(self, host: str, keep: int) -> None:
            self.world.forget(host, Rules(last=keep))

        @rule(host=st.sampled_from(HOSTS))
        def take_back(self, host: str) -> None:
            self.world.take_back(host)

        @rule(host=st.sampled_from(HOSTS))
        def prune(self, host: str) -> None:
            self.world.prune(host)

        @rule(host=st.sampled_from(HOSTS), content=st.integers(0, 3))
        def prune_while_the_other_backs_up(self, host: str, content: int) -> None:
            self.world.wait(1)
            self.world.prune(host, lambda: self.world.back_up(HOSTS[host == HOSTS[0]], content))

        @rule(hours=st.integers(1, 100))
        def wait(self, hours: int) -> None:
            self.world.wait(hours * 60)

        @rule(name=st.sampled_from(["", *COPIES]))
        def take_away(self, name: str) -> None:
            self.world.away = name

        @rule(host=st.sampled_from(HOSTS), numbers=st.sampled_from([(0,), (1,), (0, 1)]))
        def rotate(self, host: str, numbers: tuple[int, ...]) -> None:
            self.world.rotate(host, numbers)

        @rule(host=st.sampled_from(HOSTS), numbers=st.sampled_from([(0,), (1,)]), content=st.integers(0, 3))
        def back_up_while_the_other_rotates(self, host: str, numbers: tuple[int, ...], content: int) -> None:
            self.world.wait(1)
            self.world.back_up(host, content, lambda: self.world.rotate(HOSTS[host == HOSTS[0]], numbers))

        @rule(host=st.sampled_from(HOSTS), numbers=st.sampled_from([(0,), (1,)]), content=st.integers(0, 3))
        def rotate_while_the_other_acts(self, host: str, numbers: tuple[int, ...], content: int) -> None:
            other, once = HOSTS[host == HOSTS[0]], [True]

            def meanwhile() -> None:
                if once and once.pop():
                    self.world.back_up(other, content)
                    self.world.prune(other)

            self.world.wait(1)
            self.world.rotate(host, numbers, meanwhile)

        @rule()
        def sync(self) -> None:
            self.world.sync()

        @invariant()
        def nothing_is_lost(self) -> None:
            self.world.check()

    return Retention


def test_no_acknowledged_snapshot_is_lost(machine: type[RuleBasedStateMachine]) -> None:
    """Whatever the order of backups, marks, prunes and absences: a bounded number of histories."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=4, stateful_step_count=25, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip


@pytest.mark.campaign
def test_no_acknowledged_snapshot_is_lost_in_many_histories(machine: type[RuleBasedStateMachine]) -> None:
    """The same, long."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
