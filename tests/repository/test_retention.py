"""Which snapshots retention keeps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.operations.forget import JudgedChain
from opskit.repository.cache import Cache, PackRow
from opskit.repository.chains import chains_of, gaps_in
from opskit.repository.locating import move_to_lists, packs_of, runs_needed
from opskit.repository.manifest import Manifest, Run, Snapshot, decode_list, pack_lists
from opskit.repository.retention import CLOCK_TOLERANCE, PATIENCE, Judged, Rules, judge, settled
from opskit.repository.succession import Succession

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def snapshot(
    number: int, started: datetime, *, complete: bool = True, tags: tuple[str, ...] = (), missing: int = 1
) -> Snapshot:
    manifest = Manifest(
        "r", "web", "data", number, None, started, started, tags, "0" * 64, 0, (), {}, 1, 1, 1,
        0 if complete else missing, complete, "test",
    )  # fmt: skip
    digest = sha256(f"{number} {started}".encode()).hexdigest()
    return Snapshot(f"snapshots/{digest}", digest, "F" * 40, manifest)


def every(step: timedelta, count: int) -> list[Snapshot]:
    """Snapshots that end at noon, a step apart."""
    return [snapshot(number + 1, NOON - step * (count - 1 - number)) for number in range(count)]


def numbers(judged: Iterable[Judged]) -> list[int]:
    return [each.snapshot.manifest.sequence for each in judged if each.reasons]


def kept(chain: list[Snapshot], rules: Rules, **more: object) -> list[int]:
    given = {"now": NOON, "protected": {}, "zone": UTC} | more
    return numbers(judge(chain, rules, **given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (Rules(last=3), [98, 99, 100]),
        (Rules(hourly=2), [99, 100]),
        (Rules(daily=3), [84, 94, 100]),
        (Rules(weekly=2), [44, 100]),
        (Rules(monthly=1), [100]),
        (Rules(last=2, daily=2), [94, 99, 100]),
        (Rules(within=timedelta(hours=6)), [97, 98, 99, 100]),
        (Rules(), [100]),
    ],
)
def test_each_rule_keeps_the_newest_of_its_periods(rules: Rules, expected: list[int]) -> None:
    """Of snapshots made ten times a day the newest of each of the newest periods are kept, and no other."""
    chain = [snapshot(number, NOON - timedelta(minutes=144) * (100 - number)) for number in range(1, 101)]
    if rules.hourly or rules.within:
        chain = every(timedelta(hours=2), 100)
    assert kept(chain, rules) == expected


def test_periods_without_snapshots_are_not_counted() -> None:
    """A host that was off for years keeps as many periods as one that was not."""
    chain = [snapshot(1, NOON - 2000 * DAY), snapshot(2, NOON - 1000 * DAY), snapshot(3, NOON)]
    assert kept(chain, Rules(daily=3)) == kept(chain, Rules(yearly=3)) == [1, 2, 3]


def test_periods_are_those_of_the_zone() -> None:
    """What is one day in one place is two in another."""
    chain = [snapshot(1, NOON - 11 * HOUR), snapshot(2, NOON)]
    assert kept(chain, Rules(daily=2)) == [2]
    assert kept(chain, Rules(daily=2), zone=ZoneInfo("America/New_York")) == [1, 2]


def test_incomplete_ones_take_no_place() -> None:
    """A complete snapshot stands for its day though an incomplete one is newer; what is newer than all stays."""
    chain = [
        snapshot(1, NOON - DAY, complete=True), snapshot(2, NOON - DAY + HOUR, complete=False),
        snapshot(3, NOON - HOUR, complete=True), snapshot(4, NOON, complete=False),
    ]  # fmt: skip
    assert kept(chain, Rules(daily=2)) == [1, 3, 4]
    assert kept(chain, Rules(last=1)) == [3, 4]


def incomplete(numbers: Iterable[int], missing: int = 1) -> list[Snapshot]:
    """A snapshot a day, number 100 at noon, each of which lacks so many files."""
    return [snapshot(each, NOON - DAY * (100 - each), complete=False, missing=missing) for each in numbers]


def test_a_file_that_can_never_be_read_does_not_keep_everything() -> None:
    """After a month in which no snapshot lacked less, they are judged as complete ones; the last complete one stays."""
    never = incomplete(range(40, 101))
    assert kept(never, Rules(last=3)) == [98, 99, 100]
    once = [snapshot(20, NOON - 80 * DAY), *incomplete(range(21, 101))]
    assert kept(once, Rules(last=3)) == [20, 98, 99, 100]
    assert kept(once, Rules(daily=2, monthly=2))[0] == 20
    newest = judge(once, Rules(last=1), now=NOON, protected={})[-1]
    assert "no more files missing (1)" in newest.reasons[0]


def test_what_became_unreadable_lately_keeps_what_came_before() -> None:
    """Within the month nothing newer than the last complete one is dropped, nor after one file more got lost."""
    complete = [snapshot(each, NOON - DAY * (100 - each)) for each in range(41, 81)]
    assert kept([*complete, *incomplete(range(81, 101))], Rules(last=1)) == list(range(80, 101))
    worse = [*incomplete(range(30, 81)), *incomplete(range(81, 101), 2)]
    assert kept(worse, Rules(last=1)) == list(range(80, 101))
    longer = [*incomplete(range(10, 60)), *incomplete(range(60, 101), 2)]
    assert kept(longer, Rules(last=1)) == [59, 100]


def test_as_many_files_are_not_the_same_files() -> None:
    """The file that never could be read is back, and a folder is gone instead: that stands for no complete one."""
    never = [lacking_since(each, NOON - 100 * DAY) for each in incomplete(range(40, 90))]
    gone = [lacking_since(each, NOON - 10 * DAY) for each in incomplete(range(90, 101))]
    assert kept([*never, *gone], Rules(last=1)) == list(range(89, 101))
    assert kept([*never, *gone[:1], *incomplete(range(91, 101))], Rules(last=1)) == [100], "an older opskit's"
    later = [lacking_since(each, NOON - 31 * DAY) for each in incomplete(range(90, 101))]
    assert kept([*never, *later], Rules(last=2)) == [99, 100]


def test_a_chain_that_keeps_everything_is_told_of() -> None:
    """Where something else is missing every time nothing is dropped: after two months that is worth a word."""
    restless = [lacking_since(each, each.manifest.started) for each in incomplete(range(20, 101))]

    def chain(members: list[Snapshot]) -> JudgedChain:
        return JudgedChain("web", "data", judge(members, Rules(last=1), now=NOON, protected={}, zone=UTC))

    assert not chain(restless).forgotten and chain(restless).all_kept_since == restless[0].manifest.started
    assert chain([*restless[:40], *every(DAY, 1)]).all_kept_since is None
    assert chain(incomplete(range(20, 101))).all_kept_since is None and chain(restless[-50:]).all_kept_since is None


def lacking_since(each: Snapshot, since: datetime) -> Snapshot:
    return replace(each, manifest=replace(each.manifest, unreadable_since=since))


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3)), max_size=25))
def test_what_stands_for_a_complete_one(drawn: list[tuple[int, int]]) -> None:
    """Held against the words: it lacks no more than the last one older than a month, and each one since that."""
    days = sorted(drawn, key=lambda each: -each[0])
    chain = [
        snapshot(number + 1, NOON - DAY * ago, complete=not missing, missing=missing)
        for number, (ago, missing) in enumerate(days)
    ]
    expected = set()
    for number, (ago, missing) in enumerate(days):
        before = [(other, lacked) for other, lacked in days[:number] if other < ago + PATIENCE.days]
        older = [lacked for other, lacked in days[:number] if other >= ago + PATIENCE.days][-1:]
        if not missing or (older and all(missing <= lacked for lacked in [*older, *(each for _, each in before)])):
            expected.add(chain[number].id)
    assert settled(chain) == expected


def test_tags_and_protection() -> None:
    """Tagged and protected snapshots stay, with the reason."""
    chain = [snapshot(1, NOON - 3 * DAY, tags=("release",)), *every(DAY, 3)[1:]]
    assert kept(chain, Rules(last=1, tags={"release"})) == [1, 3]
    (_, second, _) = judge(chain, Rules(last=1), now=NOON, protected={chain[1].id: "held: audit"}, zone=UTC)
    assert second.reasons == ["held: audit"]


def test_a_fork_is_kept() -> None:
    """Of two snapshots with one number none is dropped, and none counts."""
    chain = [*every(HOUR, 5), snapshot(3, NOON - 30 * DAY)]
    assert kept(chain, Rules(last=2)) == [3, 3, 4, 5]


def test_the_clock_may_be_a_little_ahead() -> None:
    """A snapshot of a host whose clock is some minutes ahead is an ordinary one; a later one is not."""
    chain = [snapshot(1, NOON - HOUR), snapshot(2, NOON + CLOCK_TOLERANCE)]
    assert kept(chain, Rules(last=1)) == [2]
    assert kept([*chain, snapshot(3, NOON + CLOCK_TOLERANCE + HOUR)], Rules(last=1)) == [2, 3]


RULES = st.builds(
    Rules, last=st.integers(0, 4), hourly=st.integers(0, 4), daily=st.integers(0, 4), weekly=st.integers(0, 3),
    monthly=st.integers(0, 3), yearly=st.integers(0, 2), within=st.timedeltas(timedelta(0), 3 * DAY),
)  # fmt: skip
Drawn = list[tuple[int, bool]]
DRAWN = st.lists(st.tuples(st.integers(0, 400), st.booleans()), min_size=1, max_size=40)
"""Hours before noon, and whether complete: drawn is little, for hypothesis writes it out."""


def chain_of(drawn: Drawn) -> list[Snapshot]:
    """Snapshots whose dates fit their numbers."""
    return [
        snapshot(number + 1, NOON - hours * HOUR, complete=complete)
        for number, (hours, complete) in enumerate(sorted(drawn, reverse=True))
    ]


@given(RULES, DRAWN, st.data())
def test_no_date_pushes_good_snapshots_out(rules: Rules, drawn: Drawn, data: st.DataObject) -> None:
    """Snapshots that are appended with dates before the chain's end or in the future change nothing for the others."""
    good = chain_of(drawn)
    before = numbers(judge(good, rules, now=NOON, protected={}, zone=UTC))
    newest = good[-1].manifest.started
    bad = data.draw(st.lists(st.one_of(st.integers(-5000, -1), st.integers(500, 5000)), max_size=30))
    added = [
        snapshot(len(good) + 1 + number, (newest if hours < 0 else NOON) + hours * HOUR)
        for number, hours in enumerate(bad)
    ]
    judged = judge([*good, *added], rules, now=NOON, protected={}, zone=UTC)
    assert numbers(judged) == [*before, *(each.manifest.sequence for each in added)]


@given(RULES, DRAWN)
def test_keeping_is_stable(rules: Rules, drawn: Drawn) -> None:
    """The newest complete one is kept; judging what was kept drops nothing more; more is kept by greater numbers."""
    good = chain_of(drawn)
    judged = judge(good, rules, now=NOON, protected={}, zone=UTC)
    first = [each.snapshot for each in judged if each.reasons]
    complete = [each for each in good if each.manifest.complete]
    assert not complete or complete[-1] in first
    assert good[-1] in first or complete
    again = judge(first, rules, now=NOON, protected={}, zone=UTC)
    assert all(each.reasons for each in again)
    wider = Rules(rules.last + 1, rules.hourly + 1, rules.daily + 1, rules.weekly + 1, rules.monthly + 1, 9, 4 * DAY)
    assert set(numbers(judged)) <= set(numbers(judge(good, wider, now=NOON, protected={}, zone=UTC)))


def test_gaps_of_any_size() -> None:
    """A signer may give any number: a gap is found without counting through it, around those that marks tell of."""
    ((_, chain),) = chains_of([snapshot(3, NOON), snapshot(10**18, NOON)]).items()
    gaps = [(each.first, each.last) for each in gaps_in(chain, numbers={1, 5, 6, 9, 10**18 - 1})]
    assert gaps == [(2, 2), (4, 4), (7, 8), (10, 10**18 - 2)]


def test_an_index_that_nothing_opens_is_not_named(tmp_path: Path) -> None:
    """A manifest names an index object only where the key object of the run that wrote it is there, too."""
    cache = Cache(tmp_path / "cache", "r")
    packed, described = cache.add_run("1" * 32, "a" * 64), cache.add_run("2" * 32, "b" * 64)
    row = PackRow(1, "c" * 64, packed, 9, 9)
    cache.add_pack(row, [])
    cache.add_index("d" * 64, described, [1])
    there = {f"index/{'d' * 64}.gpg", f"keys/{'a' * 64}.asc"}
    assert [each.id for each in runs_needed(cache, {1: row}, [1], there, Succession())] == ["1" * 32]
    there.add(f"keys/{'b' * 64}.asc")
    assert [each.indexes for each in runs_needed(cache, {1: row}, [1], there, Succession())] == [[], ["d" * 64]]
    cache.close()


def test_a_condemned_pack_list_is_not_named() -> None:
    """Equal bytes would come to lie under a name that may be deleted at any moment: its packs stay in the manifest."""
    packs = sorted(sha256(str(number).encode()).hexdigest() for number in range(2000))
    condemned, *others = (sha256(data).hexdigest() for data in pack_lists(packs))
    stored: dict[str, bytes] = {}
    (run,) = move_to_lists([Run("1" * 32, "a" * 64, [], packs)], stored.__setitem__, {f"packlists/{condemned}"})
    assert list(run.lists) == others and set(stored) == {f"packlists/{each}" for each in others}
    assert sorted(packs_of(run, stored.__getitem__)) == packs and len(run.packs) > 0
    assert not set(run.packs) & {each for data in stored.values() for each in decode_list(data)}
