"""Rekey is stopped before and after every call to the stores: whatever is left restores, and a repetition finishes.

Both copies are watched by one counter, so a point lies at either. After each stop every snapshot opens at every copy
with the old key or with the new one; the next rotation ends with what an undisturbed one ends with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest

from opskit.stores.base import Store
from tests.fakes import Crash, FaultyStore, When
from tests.rekeying import Cast, opens, rotate, verify_all
from tests.repositories import Keys, Lab, apart, memory_copy, memory_store, noise
from tests.telling import Tell

OLD, NEW = 0, 1


@dataclass(frozen=True)
class Point:
    """Where the process stops: at which call to which store, and how."""

    store: str
    call: int
    when: When
    operation: str
    name: str


@pytest.fixture(scope="module")
def cast(throwaway_keys: Keys) -> Cast:
    return Cast(throwaway_keys)


@pytest.fixture(scope="module")
def made(cast: Cast, scratch: Path) -> Lab:
    """Two copies with three runs for the old recipient, of which `b` lacks the last."""
    folder = apart(scratch, "rekey")
    (folder / "source").mkdir(parents=True)
    lab = Lab(cast.having(OLD), folder / "state", {"a": memory_store("a"), "b": memory_store("b")}).create()
    for number in range(3):
        (folder / "source" / f"file-{number}").write_bytes(noise(number, 4000))
        lab.backup(folder / "source", lab.stores if number < 2 else {"a": lab.stores["a"]})
    lab.keys = cast.having(NEW)
    return lab


def copied(lab: Lab) -> Lab:
    """The same repository, to be broken."""
    return replace(lab, stores={name: memory_copy(store) for name, store in lab.stores.items()})


def points(lab: Lab, cast: Cast) -> list[Point]:
    """Every call that a rotation makes to either store."""
    watched: dict[str, Store] = {name: FaultyStore(store) for name, store in lab.stores.items()}
    assert rotate(lab, cast.holder(OLD), watched).is_complete
    return [
        Point(name, call, when, operation, touched)
        for name, store in watched.items()
        if isinstance(store, FaultyStore)
        for call, (operation, touched) in enumerate(store.log, 1)
        for when in get_args(When)
        if when != "torn" or operation in ("put", "list")
    ]


def strike(lab: Lab, cast: Cast, point: Point) -> None:
    """Stop a rotation at a point, look, and repeat it."""
    stores: dict[str, Store] = dict(lab.stores)
    stores[point.store] = FaultyStore(stores[point.store], crash_at=point.call, when=point.when)
    with pytest.raises(Crash):
        rotate(lab, cast.holder(OLD), stores)
    for name, store in lab.stores.items():
        old, new = opens(lab, cast.reader(OLD), store), opens(lab, cast.reader(NEW), store)
        assert all(old[each] or new[each] for each in old), (point, name)
    reports = verify_all(lab)
    assert not any(each.missing for each in reports.values()), (point, reports)
    again = rotate(lab, cast.holder(OLD))
    assert again.is_complete, (point, again)
    for name, store in lab.stores.items():
        assert all(opens(lab, cast.reader(NEW), store).values()), (point, name)
        assert not any(opens(lab, cast.reader(OLD), store).values()), (point, name)
    last = rotate(lab, cast.holder(NEW))
    assert not last.made and not last.mark, (point, last)


def test_rekey_can_be_stopped_at_any_call(made: Lab, cast: Cast, tell: Tell) -> None:
    """Before, after and amid every call to either copy."""
    found = points(copied(made), cast)
    for point in found:
        strike(copied(made), cast, point)
    tell(f"rekey: {len(found)} fault points at 2 copies")
    assert len(found) > 40
