"""Reading objects of one copy back, one after another, each compared with its name.

Invariants: an object that cannot be read does not hide the others; only a few are under way at any time, so memory is
bounded by `workers` objects, and nothing is begun any more once the time is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Literal, NamedTuple

from opskit.errors import NotMounted, ObjectNotFound, ObjectUnreadable, StoreError
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.threads import end
from opskit.stores.base import LARGEST_OBJECT, checksum_of

Kit = Mapping[str, frozenset[str]]
Finding = Literal["intact", "damaged", "gone", "foreign"]

_FAILURES_IN_A_ROW = 10
"""After so many objects the store is not asked for the others."""
_AHEAD = 4
"""Objects that wait for each worker: when the time is over they are still read."""
_ASKERS = 16


class Read(NamedTuple):
    """An object that was read, its size, and what its bytes are."""

    name: str
    size: int
    finding: Finding


def readings(
    copy: Copy,
    wanted: Sequence[str],
    kit: Kit,
    *,
    workers: int,
    must: int = 0,
    is_over: Callable[[], bool] = lambda: False,
) -> Generator[Read, None, None]:
    """Read each object once, in this order; close the iterator when done.

    Once `is_over` nothing is begun but the first `must`. At the end raises StoreError where the store did not give some
    of them, which says nothing of them; after several in a row it is not asked for the others.
    """
    threads = ThreadPoolExecutor(workers, thread_name_prefix="verify")
    failures: list[StoreError] = []
    in_a_row = 0
    coming = (name for number, name in enumerate(wanted) if number < must or not is_over())
    under_way: deque[tuple[str, Future[tuple[int, Finding | StoreError]]]] = deque()
    try:
        while in_a_row < _FAILURES_IN_A_ROW:
            for name in islice(coming, _AHEAD * workers - len(under_way)):
                under_way.append((name, threads.submit(_check, copy, name, kit)))
            if not under_way:
                break
            name, future = under_way.popleft()
            size, finding = future.result()
            if isinstance(finding, StoreError):
                failures.append(finding)
                in_a_row += 1
            else:
                in_a_row = 0
                yield Read(name, size, finding)
    except BaseException as error:
        end(threads, [future for _, future in under_way], error)
        raise
    end(threads, (), None)
    if failures:
        raise failures[0]


def _check(copy: Copy, name: str, kit: Kit) -> tuple[int, Finding | StoreError]:
    """Size and state of an object, or why it could not be read; what the medium has lost is damaged."""
    digest, expected = names.digest_in(name), kit.get(name)
    if digest is None and name not in names.FIXED and copy.objects[name] > LARGEST_OBJECT:
        return 0, "intact"  # not ours: somebody keeps films there
    try:
        data = copy.store.get(name)
    except ObjectNotFound:
        return 0, "gone"
    except NotMounted:
        raise
    except ObjectUnreadable:
        return 0, "damaged"
    except StoreError as error:
        return 0, error
    if digest is None and expected is None:
        return len(data), "intact"  # not ours, or nothing says what it should be
    actual = names.sha256(data)
    if expected is not None and actual not in expected:
        return len(data), "foreign"
    return len(data), "intact" if digest in (None, actual) else "damaged"


def vouched_for(copy: Copy, wanted: Sequence[str]) -> Iterator[str]:
    """Those of the objects for which the store itself keeps the SHA-256 that their names promise; nothing is read.

    A store that keeps none, or does not answer, vouches for nothing. Raises NotMounted.
    """
    ask = checksum_of(copy.store)
    if ask is None:
        return
    threads = ThreadPoolExecutor(_ASKERS, thread_name_prefix="ask")
    under_way: deque[tuple[str, Future[str | None]]] = deque()
    coming, in_a_row = iter(wanted), 0
    try:
        while in_a_row < _FAILURES_IN_A_ROW:
            for name in islice(coming, _AHEAD * _ASKERS - len(under_way)):
                under_way.append((name, threads.submit(ask, name)))
            if not under_way:
                break
            name, future = under_way.popleft()
            try:
                found = future.result()
            except NotMounted:
                raise
            except StoreError:  # whoever reads the object will say why
                in_a_row += 1
                continue
            in_a_row = 0
            if found is not None and found == names.digest_in(name):
                yield name
    except BaseException as error:
        end(threads, [future for _, future in under_way], error)
        raise
    end(threads, (), None)
