"""Whose turn it is in a budgeted verify: what is promised of coverage, and what the ledger never claims."""

from __future__ import annotations

import hashlib
import math
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opskit.errors import OpskitError, UsageError
from opskit.operations.verifying.budget import Budget, budget_of
from opskit.operations.verifying.coverage import coverage_of, enough
from opskit.operations.verifying.ledger import RUNS_KEPT, Entry, Ledger, Run
from opskit.operations.verifying.turn import Shares, Turn
from opskit.repository import names
from opskit.repository.verification import MAX_AGES, Coverage, coverage_in, coverage_value

REPOSITORY, COPY = "0" * 32, "c" * 32
START, DAY, MONTH = 1_700_000_000, 86400, 30 * 86400


def pack(number: int) -> str:
    return names.pack(hashlib.sha256(b"%d" % number).hexdigest())


@contextmanager
def a_ledger(path: Path | None = None) -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(path or Path(folder) / "l.sqlite", REPOSITORY)
        try:
            yield ledger
        finally:
            ledger.close()


@dataclass
class World:
    """What really lies at a copy and what was really read there, beside what the ledger says of it."""

    ledger: Ledger
    every: int = MONTH
    now: int = START
    sizes: dict[str, int] = field(default_factory=dict)
    came: dict[str, int] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    waited: dict[str, int] = field(default_factory=dict)
    """Runs since it came, of what was never read."""
    made: int = 0

    def add(self, sizes: Sequence[int]) -> None:
        for size in sizes:
            name, self.made = pack(self.made), self.made + 1
            self.sizes[name], self.came[name], self.waited[name] = size, self.now, 0

    def delete(self, which: Sequence[int]) -> None:
        for number in which:
            if self.sizes:
                self.drop(sorted(self.sizes)[number % len(self.sizes)])

    def drop(self, name: str) -> None:
        for each in (self.sizes, self.came, self.read, self.waited):
            each.pop(name, None)

    def run(self, budget: str, after: int = DAY, *, stop: int | None = None) -> Coverage:
        """A run of verify; with `stop` it is killed after so many objects."""
        self.now += after
        turn = Turn(self.ledger, COPY, self.sizes, self.now, self.every, budget_of(budget))
        wanted = turn.names if stop is None else turn.names[:stop]
        for name in wanted:
            turn.note(name, is_good=True)
            self.read[name] = self.now
            self.waited.pop(name, None)
        for name in self.waited:
            self.waited[name] += 1
        self.now += 60
        return turn.coverage()

    def require_true(self, coverage: Coverage) -> None:
        """Nothing is claimed that did not happen."""
        for digest, entry in self.ledger.entries(COPY, self.now).items():
            name = names.pack(digest.hex())
            assert entry.read <= self.read.get(name, 0)
        if coverage.since is not None:
            since = coverage.since.timestamp()
            assert all(self.came[each] >= since or self.read.get(each, 0) >= since for each in self.sizes)


steps = st.lists(
    st.tuples(
        st.lists(st.integers(0, 50), max_size=6),
        st.lists(st.integers(0, 1000), max_size=4),
        st.integers(1, 40 * DAY),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=30), steps, st.sampled_from([7, 10, 25, 33.3, 50, 100]))
def test_a_share_reads_everything_in_so_many_runs(
    begin: list[int], changes: list[tuple[list[int], list[int], int]], percent: float
) -> None:
    """With B % a run everything is read within ceil(100/B) runs of its coming, whatever comes, goes and when."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add(begin)
        for sizes, gone, after in changes:
            world.add(sizes)
            world.delete(gone)
            world.require_true(world.run(f"{percent}%", after))
            assert max(world.waited.values(), default=0) < math.ceil(100 / percent)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=20), steps, st.sampled_from(["10%", "40kB", "100%", "30m"]), st.data())
def test_killed_runs_claim_nothing_they_did_not_read(
    begin: list[int], changes: list[tuple[list[int], list[int], int]], budget: str, data: st.DataObject
) -> None:
    """Runs that are killed anywhere, clocks that jump back and packs that come again never make a claim untrue."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add(begin)
        for sizes, gone, after in changes:
            world.add(sizes)
            world.delete(gone)
            world.require_true(world.run(budget, after, stop=data.draw(st.none() | st.integers(0, 9))))


def test_a_pack_of_another_size_is_not_what_was_read() -> None:
    """What was cut, grew or was replaced since it was read counts as never read, and is read whatever the budget."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add([1000] * 20)
        world.run("100%")
        world.sizes[pack(7)] = 999
        turn = Turn(ledger, COPY, world.sizes, world.now + DAY, MONTH, budget_of("5%"))
        assert pack(7) in turn.names and pack(7) in turn.unread()
        assert turn.known_bad == 0, "nothing was known as damaged"
        assert turn.coverage().never == 999
        later = Turn(ledger, COPY, world.sizes, world.now + 2 * DAY, MONTH, budget_of("5%"))
        assert pack(7) in later.names, "a run that was killed did not read it"
        later.note(pack(7), is_good=True)
        assert later.coverage().never == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 40), st.lists(st.integers(0, 8), min_size=60, max_size=60), st.sampled_from([5, 10, 20]))
def test_damage_is_found_within_the_period(packs: int, growth: list[int], percent: int) -> None:
    """However much is new each day: with daily runs whose share is enough, nothing stays unread beyond verify_every."""
    with a_ledger() as ledger:
        world = World(ledger, every=(math.ceil(100 / percent) + 3) * DAY)
        world.add([10] * packs)
        for new in growth:
            world.add([10] * new)
            coverage = world.run(f"{percent}%", DAY - 60)
            oldest = min(world.read.get(each, world.came[each]) for each in world.sizes)
            assert world.now - oldest <= world.every
        assert coverage.since is not None and world.now - coverage.since.timestamp() <= world.every + DAY


def test_deletion_does_not_put_off_what_was_promised() -> None:
    """Where each run is followed by the deletion of all that it read, the share is of what once lay there."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add([10] * 100)
        for _ in range(10):
            world.run("10%")
            for name in list(world.read):
                world.drop(name)
        assert not world.sizes


def test_new_packs_go_first_while_nothing_is_late() -> None:
    """What came since the last run is read before what was read before, so a new snapshot is verified soon."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add([10] * 20)
        world.run("100%")
        world.add([10])
        world.run("5%")
        assert not world.waited


def test_a_size_is_not_exceeded_and_always_gets_on() -> None:
    """A size is the most that is read, but one pack is read though it be larger."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add([400, 400, 400])
        world.run("1kB")
        assert len(world.read) == 2
        world.add([5000])
        for _ in range(3):
            world.run("1kB")
        assert not world.waited


def test_a_killed_run_keeps_what_it_read(tmp_path: Path) -> None:
    """The next run goes on where one ended that was killed, but for a few packs."""
    with a_ledger(tmp_path / "l") as ledger:
        world = World(ledger)
        world.add([10] * 100)
        turn = Turn(ledger, COPY, world.sizes, START, MONTH, budget_of("100%"))
        for name in turn.names[:50]:
            turn.note(name, is_good=True)
        del turn  # killed: nothing is flushed
    with a_ledger(tmp_path / "l") as ledger:
        known = ledger.entries(COPY, START)
        assert 42 < sum(entry.read > 0 for entry in known.values()) <= 50
        assert len(set(Turn(ledger, COPY, world.sizes, START + 9, MONTH, budget_of("50%")).names)) == 50


def test_damage_never_enters_and_is_read_first_from_then_on() -> None:
    """A damaged pack is not noted as read, and every later run reads it, whatever the budget, until it is good."""
    with a_ledger() as ledger:
        sizes = {pack(number): 10 for number in range(50)}
        first = Turn(ledger, COPY, sizes, START, MONTH, budget_of("100%"))
        for name in first.names:
            first.note(name, is_good=name != pack(7))
        assert first.coverage().since is None and pack(7) in first.unread()
        for number in range(1, 4):
            turn = Turn(ledger, COPY, sizes, START + number, MONTH, budget_of("1kB"))
            assert turn.names[0] == pack(7) and turn.must > 1
            turn.note(pack(7), is_good=number == 2)
            turn.flush()
            if number == 2:
                break
        after = Turn(ledger, COPY, sizes, START + 9, MONTH, budget_of("2%"))
        assert pack(7) not in after.names and not after.unread()


def test_another_copy_is_another_ledger() -> None:
    """Disks that are swapped at one place share nothing: what was read of one was not read of the other."""
    with a_ledger() as ledger:
        sizes = {pack(number): 10 for number in range(5)}
        turn = Turn(ledger, COPY, sizes, START, MONTH, None)
        for name in turn.names:
            turn.note(name, is_good=True)
        assert turn.coverage().since is not None
        other = Turn(ledger, "d" * 32, sizes, START + 1, MONTH, budget_of("10%"))
        assert other.coverage().since is None and len(other.unread()) == 5


LIES = {
    "a later time": "UPDATE packs SET read = read + 5",
    "another copy": "UPDATE packs SET copy = 'd' || substr(copy, 2)",
    "another pack": "UPDATE packs SET digest = X'00' || substr(digest, 2)",
    "no damage": "UPDATE packs SET bad = 1 - bad",
    "other types": "UPDATE packs SET read = 'soon', seen = ''",
    "another sum": "UPDATE packs SET check_sum = X'00'",
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lying_row_claims_nothing(tmp_path: Path, lie: str) -> None:
    """A row that was changed in any way counts as if it were not there."""
    path, sizes = tmp_path / "l", {pack(number): 10 for number in range(5)}
    with a_ledger(path) as ledger:
        turn = Turn(ledger, COPY, sizes, START, MONTH, None)
        for name in turn.names:
            turn.note(name, is_good=True)
        turn.flush()
    db = sqlite3.connect(path)
    try:
        with db:
            db.execute(lie)
    finally:
        db.close()
    with a_ledger(path) as ledger:
        for copy in (COPY, "d" + COPY[1:]):
            assert not ledger.entries(copy, START + 1)


def test_a_row_from_the_future_claims_nothing() -> None:
    """What was noted while the clock was ahead counts as never read, and so does the run."""
    with a_ledger() as ledger:
        sizes = {pack(1): 10}
        turn = Turn(ledger, COPY, sizes, START + MONTH, MONTH, None)
        turn.note(pack(1), is_good=True)
        turn.flush()
        later = Turn(ledger, COPY, sizes, START, MONTH, budget_of("10%"))
        assert later.coverage().since is None and later.unread() == {pack(1)}


@pytest.mark.parametrize("content", [b"rubbish" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_torn_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is moved away and told of; then all counts as never read."""
    path = tmp_path / "verified" / "l.sqlite"
    path.parent.mkdir()
    path.write_bytes(content)
    with a_ledger(path) as ledger:
        assert ledger.lost and "never read back" in ledger.lost
        assert not ledger.entries(COPY, START)
    assert path.with_suffix(".damaged").read_bytes() == content


def test_pages_that_were_lost_are_seen(tmp_path: Path) -> None:
    """A file of which a power cut kept some pages only is set aside, or its rows claim nothing that was not noted."""
    path, sizes = tmp_path / "l.sqlite", {pack(number): 10 for number in range(3000)}
    with a_ledger(path) as ledger:
        turn = Turn(ledger, COPY, sizes, START, MONTH, None)
        for name in turn.names[:1500]:
            turn.note(name, is_good=True)
        turn.flush()
        noted = {digest for digest, entry in ledger.entries(COPY, START).items() if entry.read}
    whole = path.read_bytes()
    for page in range(0, len(whole) // 4096, 7):
        torn = bytearray(whole)
        torn[page * 4096 : (page + 1) * 4096] = bytes(4096)
        path.write_bytes(torn)
        with a_ledger(path) as ledger:
            found = ledger.entries(COPY, START)
            assert ledger.lost or found
            assert {digest for digest, entry in found.items() if entry.read} <= noted


def test_a_ledger_of_another_repository_is_set_aside(tmp_path: Path) -> None:
    """What was read of another repository says nothing of this one."""
    Ledger(tmp_path / "l", "1" * 32).close()
    with a_ledger(tmp_path / "l") as ledger:
        assert ledger.lost


def test_what_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    """A folder in place of the file is neither set aside nor taken for an empty ledger."""
    (tmp_path / "l").mkdir()
    with pytest.raises(OpskitError, match="cannot be used"):
        Ledger(tmp_path / "l", REPOSITORY)


def test_the_ledger_does_not_grow_with_what_is_gone() -> None:
    """Packs that are listed no more are forgotten, and of runs only the newest are kept."""
    with a_ledger() as ledger:
        for number in range(RUNS_KEPT + 5):
            ledger.begin(COPY, Run(START + number, 1, 1), [(b"x" * 32, Entry(0))], [])
        assert len(ledger.runs(COPY, START + MONTH)) == RUNS_KEPT
        Turn(ledger, COPY, {pack(1): 1}, START + MONTH, MONTH, None).flush()
        assert len(ledger.entries(COPY, START + MONTH)) == 1


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 400), st.integers(0, 400)), max_size=300))
def test_a_summary_is_small_and_never_claims_more(rows: list[tuple[int, int, int]]) -> None:
    """However many days it spans, a summary has a bounded length, keeps the bytes, and comes back from JSON as is."""
    packs = [(size, Entry(seen * DAY, read * DAY)) for size, seen, read in rows]
    found = coverage_of(packs, 401 * DAY)
    assert len(found.ages) <= MAX_AGES and sum(size for _, size in found.ages) == found.total
    now = datetime.fromtimestamp(401 * DAY, UTC)
    for days in (1, 30, 399):
        true = sum(size for size, entry in packs if entry.read >= (401 - days) * DAY and entry.read)
        assert found.within(now, timedelta(days=days)) <= true
    assert coverage_in(coverage_value(found)) == found


def test_a_pace_that_is_too_slow_says_what_would_do() -> None:
    """Where the runs so far will not read all within the period, the budget that would is told."""
    with a_ledger() as ledger:
        world = World(ledger)
        world.add([10] * 100)
        for _ in range(4):
            coverage = world.run("10%", 5 * DAY - 60)
        assert coverage.lap == 50 * DAY
        assert enough(coverage, timedelta(days=30)) == "17%"
        assert enough(coverage, timedelta(days=50)) is None


def test_time_is_divided_fairly() -> None:
    """Each copy gets an equal part of what is left; what one does not need is the others'."""
    now = [0.0]
    shares = Shares(90, 3, lambda: now[0])
    first = shares.next()
    now[0] = 10  # the first had little to do
    assert not first()
    second = shares.next()
    now[0] = 49.9
    assert not second()
    now[0] = 50
    assert second()
    third = shares.next()
    now[0] = 89.9
    assert not third()
    now[0] = 90
    assert third() and not Shares(None, 1, lambda: 1e9).next()()


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("10%", Budget("10%", percent=10)),
        (" 2.5% ", Budget("2.5%", percent=2.5)),
        ("30m", Budget("30m", seconds=1800)),
        ("50GB", Budget("50GB", bytes=50 * 10**9)),
        ("1.5 TB", Budget("1.5TB", bytes=1500 * 10**9)),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    """A share, a time and a size."""
    assert budget_of(text) == budget


@pytest.mark.parametrize("text", ["", "10", "0%", "101%", "-5%", "0m", "5 minutes", "0GB", "50G", "1e9B", "٣%"])
def test_other_budgets_are_refused(text: str) -> None:
    """Anything else is an error that shows how one looks."""
    with pytest.raises(UsageError, match="10%, 30m or 50GB"):
        budget_of(text)
