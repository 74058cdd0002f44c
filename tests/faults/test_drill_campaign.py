"""A drill that dies: before and after every call of a store, and around every step on its own machine.

Each point is a process of its own that really ends there (`os._exit`), as after a kill -9. Afterwards the next drill
finds nothing of the dead one, succeeds, and no evidence claims what was not found out; the copies are as they were,
evidence aside.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from opskit.errors import OpskitError, StoreError, StoreRefused
from opskit.gpg import verify as check_signature
from opskit.operations.drilling import checks, records, run, scratch
from opskit.operations.drilling.checks import Commands
from opskit.operations.drilling.choose import Choice, pairs
from opskit.operations.drilling.run import Means, Order, Outcome, run_drill
from opskit.operations.drilling.scratch import scratch_in
from opskit.operations.session import open_copies
from opskit.repository.evidence import Drilled, load_evidence
from opskit.sources.loading import Loader
from opskit.stores.base import Store
from opskit.stores.local import LocalStore
from opskit.stores.wrappers.readonly import ReadOnly
from tests.fakes import Fault, FaultyStore, Operation
from tests.repositories import Keys, Lab, apart, make_source
from tests.telling import Tell

NOW = datetime(2026, 11, 21, 7, tzinfo=UTC)
DIED = 57
believe = cache(check_signature)


@dataclass(frozen=True)
class Ground:
    """Three copies on disk, and what a drill of one of them takes."""

    lab: Lab
    folder: Path

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def state(self) -> Path:
        return self.folder / "drill-state"

    def copy_to(self, folder: Path) -> Ground:
        """The same three copies at another place, to be changed."""
        import shutil

        stores: dict[str, Store] = {}
        for name in self.lab.stores:
            shutil.copytree(self.folder / name, folder / name)
            stores[name] = LocalStore(folder / name)
        return Ground(Lab(self.lab.keys, self.lab.state, stores, repository=self.lab.repository), folder)

    def drill(self, stores: Mapping[str, Store] | None = None, command: str = "true") -> tuple[Outcome, Drilled]:
        """A drill of copy `a`, as the command does it: choose, restore, check, sign, put."""
        lab, stores = self.lab, self.lab.stores if stores is None else stores
        copies, _ = open_copies(stores, lab.repository)
        history = lab.history(stores)
        holders = {each.name: ["a"] for each in history.snapshots}
        ledger = self.ledger(stores)
        (pair,) = pairs(history.snapshots, holders, {"a": copies[0].id}, ledger, NOW)
        choice = Choice(pair, pair.newest, "latest", 7, 1)

        def open_alone() -> Any:
            alone, absent = open_copies({"a": ReadOnly(stores["a"])}, lab.repository)
            if not alone:
                raise absent["a"]
            return alone[0]

        keys = lab.keys
        means = Means(
            open_alone, keys.decrypt, believe_with(keys), [keys.host_key], keys.trusted, lab.boottime,
            os.environ["PATH"], _no_loader, 1,
        )  # fmt: skip
        commands = Commands(each=["true"], all=["sh", "-c", command])
        with scratch_in(self.scratch) as place:
            outcome = run_drill(Order(choice, NOW, "test", commands=commands), means, place)
        identity = keys.identity()
        drilled = records.keep(identity, self.state, lab.repository, "drills", outcome, NOW)
        records.outstanding(self.state, copies)
        return outcome, drilled

    def ledger(self, stores: Mapping[str, Store] | None = None) -> list[Drilled]:
        """What evidence at the copies says."""
        copies, _ = open_copies(self.lab.stores if stores is None else stores, self.lab.repository)
        keys = self.lab.keys
        found = load_evidence(
            copies, believe_with(keys), signers=[keys.host_key], repository=self.lab.repository
        )  # fmt: skip
        assert not found.rejected
        return found.drills()

    def picture(self) -> dict[str, str]:
        """All objects but evidence, by copy and name."""
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for name in self.lab.stores
            for path in (self.folder / name).rglob("*")
            if path.is_file() and "evidence" not in path.parts
        }


def believe_with(keys: Keys) -> Callable[[bytes], Any]:
    return lambda data: believe(data, keys.trusted)


def _no_loader() -> Loader:
    raise AssertionError("there is no dump here")


@pytest.fixture(scope="module")
def built(throwaway_keys: Keys, scratch: Path) -> Ground:
    """Three copies with one snapshot, a database of SQLite in it; nobody may change it."""
    folder = apart(scratch, "drills")
    folder.mkdir()
    source = make_source(folder / "source")
    with closing(sqlite3.connect(source / "wiki.db")) as database:
        database.execute("CREATE TABLE page (a)")
        database.commit()
    stores: dict[str, Store] = {}
    for name in "abc":
        (folder / name).mkdir()
        stores[name] = LocalStore(folder / name)
    lab = Lab(throwaway_keys, folder / "state", stores).create()
    lab.state.mkdir()
    lab.backup(source)
    return Ground(lab, folder)


@pytest.fixture
def ground(built: Ground, scratch: Path) -> Iterator[Ground]:
    """The same, of this test's own."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir=scratch))
    yield built.copy_to(folder)
    shutil.rmtree(folder, ignore_errors=True)


class DyingStore(FaultyStore):
    """A store at whose call the process ends."""

    def _fail(self, fault: Fault) -> None:
        if fault.error is not None:
            os._exit(DIED)


def _dies(act: Callable[[], object]) -> bool:
    """Run in a process of its own; whether it ended where it was told to."""
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DIED), f"the drill itself failed: {status}"
    return status == DIED


def _judge(ground: Ground, before: dict[str, str], *, was_kept: bool | None) -> None:
    """Nothing claims success that was not kept; the next drill leaves nothing of the dead one, and passes."""
    claims = ground.ledger()
    if was_kept is not None:
        assert len(claims) <= was_kept, "evidence of a drill that did not end"
    assert ground.picture() == before
    outcome, drilled = ground.drill()
    assert outcome.drill.passed and not outcome.failures
    assert drilled in ground.ledger() and all(each.drill.passed for each in ground.ledger())
    assert not list(ground.scratch.iterdir()) and ground.picture() == before


def _calls(ground: Ground, name: str) -> list[tuple[Operation, str]]:
    """What a whole drill asks of one copy."""
    store = FaultyStore(ground.lab.stores[name])
    ground.drill({**ground.lab.stores, name: store})
    return store.log


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_drill_that_dies_at_a_call_of_a_store(built: Ground, scratch: Path, name: str, tell: Tell) -> None:
    """Before and after every call, reads included, at the copy that is drilled and at another."""
    calls = _calls(built.copy_to(_new(scratch)), name)
    for number, (operation, _) in enumerate(calls, 1):
        for when in ("before", "after"):
            ground = built.copy_to(_new(scratch))
            before = ground.picture()
            dying = DyingStore(ground.lab.stores[name], crash_at=number, when=when)  # type: ignore[arg-type]
            assert _dies(lambda ground=ground, dying=dying: ground.drill({**ground.lab.stores, name: dying})), number
            _judge(ground, before, was_kept=operation == "put" or None if number == len(calls) else operation == "put")
    points = 2 * len(calls)
    tell(f"drill: {points} fault points at copy {name}")
    assert points >= {"a": 30, "b": 14}[name], f"only {points} points"


def _new(scratch: Path) -> Path:
    import tempfile

    return Path(tempfile.mkdtemp(dir=scratch))


STEPS: list[tuple[Any, str, bool]] = [
    (scratch, "sweep", False),
    (run, "load_snapshot", False),
    (run, "restore", False),
    (run, "compare", False),
    (run, "judge_dumps", False),
    (checks, "judge_each", False),
    (checks, "judge_all", False),
    (checks, "judge_databases", False),
    (scratch, "_wipe", False),
    (records, "write_durably", True),
    (records, "put_to_all", True),
]
"""Steps on the machine itself, and whether the drill had ended by then."""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("module", "step", "is_kept"), STEPS, ids=[step for _, step, _ in STEPS])
def test_a_drill_that_dies_at_a_step(ground: Ground, module: Any, step: str, is_kept: bool, when: str) -> None:
    """Before and after each step of restoring, checking, wiping, signing and putting."""
    before = ground.picture()

    def drill() -> None:
        act = getattr(module, step)

        def dying(*arguments: Any, **more: Any) -> None:
            if when == "after":
                act(*arguments, **more)
            os._exit(DIED)

        setattr(module, step, dying)
        ground.drill()

    assert _dies(drill)
    _judge(ground, before, was_kept=is_kept)


@pytest.mark.parametrize("operation", ["get", "list"])
def test_a_copy_that_vanishes(ground: Ground, operation: Operation) -> None:
    """A copy that goes away in the middle is no pass: it fails, or is an error, and names itself; the next passes."""
    before, outcomes = ground.picture(), []
    for number in range(1, 40):
        store = _Vanishing(ground.lab.stores["a"], number, operation)
        try:
            outcome, _ = ground.drill({**ground.lab.stores, "a": store})
        except OpskitError as error:
            outcomes.append(type(error).__name__)
            continue
        if not store.is_gone:
            break
        outcomes.append("failed")
        assert not outcome.drill.passed and outcome.failures
    assert outcomes and not list(ground.scratch.iterdir())
    assert ground.drill()[0].drill.passed and ground.picture() == before


class _Vanishing:
    """A store that answers nothing any more from one call on, writes aside, which come after the drill."""

    def __init__(self, inner: Store, last: int, operation: Operation) -> None:
        self.inner, self.location = inner, inner.location
        self._left, self._operation, self.is_gone = last, operation, False

    def _count(self, operation: Operation) -> None:
        self._left -= operation == self._operation
        if self._left <= 0:
            self.is_gone = True
            raise StoreError(f"{self.location}: it went away")

    def get(self, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
        self._count("get")
        return self.inner.get(name, offset=offset, length=length)

    def list(self, prefix: str = "") -> Any:
        self._count("list")
        return self.inner.list(prefix)

    def put(self, name: str, data: Any, *, replace: bool = False) -> None:
        self.inner.put(name, data, replace=replace)

    def delete(self, name: str) -> None:
        self.inner.delete(name)


def test_one_copy_refuses_the_evidence(ground: Ground) -> None:
    """The others have it, the drill counts, and nothing is put twice."""
    plan = {number: Fault("before", StoreRefused("no")) for number in range(1, 100)}
    store = _RefusingPuts(ground.lab.stores["b"], plan)
    _, drilled = ground.drill({**ground.lab.stores, "b": store})
    names = {name: [info.name for info in each.list("evidence")] for name, each in ground.lab.stores.items()}
    assert names == {"a": [drilled.name], "b": [], "c": [drilled.name]}


class _RefusingPuts(FaultyStore):
    """A store that refuses writes alone."""

    def _next(self, operation: Operation, name: str) -> Fault:
        return super()._next(operation, name) if operation == "put" else Fault()
