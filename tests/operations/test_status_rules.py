"""The rules of status: facts beat labels, a shortfall always has a reason, and good copies never harm."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import NotMounted, RepositoryNotFound
from opskit.operations.status.places import Original
from opskit.operations.status.rules import Counts, Policy, SourceStatus, count, judge, length
from opskit.operations.status.states import CopyState, Destination, Point
from opskit.repository.evidence import Drill, Drilled
from opskit.repository.verification import Coverage, Verification

NOW = datetime(2026, 11, 21, 7, tzinfo=UTC)
NEWEST = Point(7, NOW - timedelta(hours=5), "7" * 64)
OLDER = Point(6, NOW - timedelta(days=2), "6" * 64)
VERIFIED = Verification(NOW - timedelta(days=1), 10, 1000)
LAX = Policy(copies=1, media=1, offsite=0)


def good(name: str, place: str = "", medium: str = "disk", *, offsite: bool = False, copy_id: str = "") -> CopyState:
    """A copy with nothing to object to, in a place and with an id of its own unless told."""
    return CopyState(
        Destination(name, medium, offsite, place or f"place of {name}"),
        "current",
        copy_id or f"id of {name}",
        snapshots=2,
        oldest=OLDER.time,
        newest=NEWEST,
        holds_newest=True,
        verified=VERIFIED,
        newest_verified=NEWEST,
    )


def bad(copy: CopyState, state: str) -> CopyState:
    """The same copy in one of the other states, with the facts that go with it."""
    lost = replace(copy, holds_newest=False, newest=OLDER, snapshots=1, lacks=(NEWEST,))
    nothing = replace(lost, newest=None, snapshots=0, oldest=None)
    made = {
        "behind": replace(lost, state="behind"),
        "behind on old ones": replace(copy, state="behind", lacks=(OLDER,)),
        "empty": replace(nothing, state="empty", lacks=(OLDER, NEWEST)),
        "no repository": replace(nothing, state="empty", error=RepositoryNotFound("none there")),
        "absent": replace(lost, state="absent", snapshots=0, oldest=None, lacks=(), error=NotMounted("not mounted")),
        "rolled back": replace(lost, state="rolled back", lost=NEWEST),
        "forked": replace(copy, state="forked"),
        "damaged": replace(copy, state="damaged", objects_missing=2),
        "damaged when read": replace(copy, state="damaged", verified=replace(VERIFIED, damaged=1)),
    }  # fmt: skip
    return made[state]


BAD = ("behind", "behind on old ones", "empty", "no repository", "absent", "rolled back", "forked", "damaged",
       "damaged when read")  # fmt: skip
PLACES = ("device 8:1", "device 8:17", "s3 example.org/one")

originals = st.builds(
    Original, st.frozensets(st.sampled_from(PLACES), max_size=2), st.sampled_from([(), (), ("/srv/data",)])
)
declared = st.tuples(
    st.sampled_from([*PLACES, ""]),
    st.sampled_from(["disk", "usb", "object-storage"]),
    st.booleans(),
    st.sampled_from(["", "", "one id", "another id"]),
    st.sampled_from(["current", "current", *BAD]),
)
policies = st.builds(Policy, st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))


@st.composite
def copies(draw: st.DrawFn) -> list[CopyState]:
    """Copies in all states, some of which share a place or an id."""
    found = []
    for number, (place, medium, offsite, copy_id, state) in enumerate(draw(st.lists(declared, max_size=5))):
        copy = good(f"copy{number}", place, medium, offsite=offsite, copy_id=copy_id)
        found.append(copy if state == "current" else bad(copy, state))
    return found


def judged(original: Original, found: list[CopyState], policy: Policy = LAX) -> SourceStatus:
    return judge("data", original, found, policy, NOW)


def numbers(counts: Counts) -> tuple[int, int, int]:
    return counts.copies, counts.media, counts.offsite


@given(originals, copies(), declared)
def test_a_copy_in_a_place_that_is_taken_never_raises_a_number(
    original: Original, found: list[CopyState], new: tuple[str, str, bool, str, str]
) -> None:
    """Whatever its labels say, one more copy beside the original or another copy counts for nothing."""
    taken = {*(original.places if original.is_live else ()), *(each.destination.place for each in found if each.counts)}
    before = numbers(judged(original, found).counts)
    for place in taken:
        more = [*found, good("more", place, new[1], offsite=new[2], copy_id=new[3])]
        assert all(b <= a for a, b in zip(before, numbers(judged(original, more).counts), strict=True))


@given(originals, copies(), st.booleans())
def test_a_copy_id_counts_once(original: Original, found: list[CopyState], offsite: bool) -> None:
    """Two destinations with one copy id are one copy, though they seem to lie apart."""
    before = numbers(judged(original, found).counts)
    for each in found:
        if each.counts and each.copy_id:
            twin = good("twin", "a place of its own", "tape", offsite=offsite, copy_id=each.copy_id)
            after = numbers(judged(original, [*found, twin]).counts)
            assert all(b <= a for a, b in zip(before, after, strict=True))


@given(originals, copies(), policies, st.integers(0, 5), st.booleans())
def test_what_is_met_stays_met_when_a_good_copy_is_added(
    original: Original, found: list[CopyState], policy: Policy, position: int, offsite: bool
) -> None:
    """A whole copy in a place of its own adds one copy, lowers no number, and brings no new problem."""
    before = judged(original, found, policy)
    more = [*found[:position], good("more", offsite=offsite, medium="tape"), *found[position:]]
    after = judged(original, more, policy)
    assert after.counts.copies == before.counts.copies + 1
    assert all(a <= b for a, b in zip(numbers(before.counts), numbers(after.counts), strict=True))
    assert after.is_met >= before.is_met and after.is_ok >= before.is_ok


@given(originals, copies())
def test_copies_are_the_sets_that_hang_together(original: Original, found: list[CopyState]) -> None:
    """The number of copies is that of the components of the graph whose edges are common places and ids."""
    nodes = [{*original.places}] if original.is_live else []
    nodes += [{each.destination.place, f"id {each.copy_id}"} for each in found if each.counts]
    component = list(range(len(nodes)))
    for _ in nodes:
        for a in range(len(nodes)):
            for b in range(len(nodes)):
                if nodes[a] & nodes[b]:
                    component[a] = component[b] = min(component[a], component[b])
    assert judged(original, found).counts.copies == len(set(component))


@given(originals, copies(), policies)
def test_what_is_not_met_has_a_problem_and_a_command(
    original: Original, found: list[CopyState], policy: Policy
) -> None:
    """No verdict without a reason and something to do; and what has no problem is met."""
    status = judged(original, found, policy)
    assert status.is_met or status.problems
    assert status.is_ok == (not status.problems)
    assert all(each.text and "opskit " in each.command for each in status.problems)


@given(originals, copies(), st.sampled_from(BAD))
def test_a_bad_copy_is_named_and_its_command_too(original: Original, found: list[CopyState], state: str) -> None:
    """Each state but "current" is a problem that names the destination in its sentence and in its command."""
    problems = judged(original, [*found, bad(good("the-bad-one"), state)]).problems
    told = [each for each in problems if each.text.startswith("the-bad-one ")]
    assert told and all("the-bad-one" in each.command for each in told)


@pytest.mark.parametrize("state", [each for each in BAD if each != "behind on old ones"])
def test_a_bad_copy_does_not_count(state: str) -> None:
    """What is not there, not whole or not up to date is no copy to rely on."""
    assert numbers(judged(Original(), [bad(good("a", medium="usb", offsite=True), state)]).counts) == (1, 1, 0)


def test_three_two_one() -> None:
    """The original, a local copy and one elsewhere on another medium are 3-2-1, and nothing is to be done."""
    status = judged(Original(frozenset({"d1"})), [good("a"), good("b", medium="usb", offsite=True)], Policy())
    assert status.is_ok and numbers(status.counts) == (3, 2, 1)
    assert (status.age, status.recovery_age) == (timedelta(hours=5), timedelta(hours=5))


def test_offsite_beside_the_original_is_not_offsite() -> None:
    """A copy that is declared offsite and lies on the device of the original is neither offsite nor a copy."""
    counts = count(Original(frozenset({"d1"})), [good("a", "d1", "usb", offsite=True)])
    assert numbers(counts) == (1, 1, 0) and counts.shared == ((("original", "a"), "d1"),)


def test_the_shared_place_is_the_reason_that_is_told() -> None:
    """Where labels promise what places do not give, the problem says which of them are one."""
    found = [good("a", "device 8:1"), good("b", "device 8:1", "usb", offsite=True)]
    (problem,) = judged(Original(), found, Policy()).problems
    assert "a and b are in one place (device 8:1) and count once" in problem.text
    assert problem.text.startswith("with these destinations there are at most 2 of 3 copies, 1 of 2 media, 0 of 1")


@pytest.mark.parametrize(("seconds", "is_old"), [(0, False), (1, True)])
def test_the_newest_snapshot_may_be_as_old_as_the_policy_says(seconds: int, is_old: bool) -> None:
    """max_age is kept to the second, and judged by the newest snapshot that is reachable."""
    point = replace(NEWEST, time=NOW - timedelta(hours=26, seconds=seconds))
    absent = replace(bad(good("b"), "absent"), newest=NEWEST)
    status = judged(Original(), [replace(good("a"), newest=point), absent])
    assert ["old" in each.text for each in status.problems] == ([True] if is_old else []) + [False]
    assert status.age == timedelta(hours=26, seconds=seconds)


def drill(days: int, *, passed: bool = True) -> Drilled:
    """A drill that ended so many days ago."""
    made = Drill(
        "tokens", "web1", "a", "id of a", "5" * 64, OLDER.time, "latest", 1, 1, "opskit", "", passed,
        1, 1, 1, 1, 1, 1, 1, None, None, [], {}, "opskit",
    )  # fmt: skip
    return Drilled("evidence/x", "e" * 64, "web1", NOW - timedelta(days=days), made)


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        (drill(91), drill(91), []),
        (drill(93), drill(91), ["a was last drilled 93 d ago"]),
        (drill(91), None, ["b was last drilled never"]),
    ],
)
def test_who_drills_is_held_to_it(a: Drilled, b: Drilled | None, told: list[str]) -> None:
    """From the first drill of a source on, every overdue copy of it is a problem with the command to type."""
    copies = [
        replace(good(name), oldest=NOW - timedelta(days=300), drilled=each) for name, each in (("a", a), ("b", b))
    ]
    found = judged(Original(), copies)
    assert [each.text.partition(",")[0] for each in found.problems] == told and not found.advice
    assert all(each.command.startswith("opskit drill run data --from ") for each in found.problems)


def test_who_never_drilled_is_told() -> None:
    """Where no copy of a source was ever drilled the command is told and nothing is red; a young copy is left alone."""
    old, young = replace(good("a"), oldest=NOW - timedelta(days=93)), good("b")
    found = judged(Original(), [old, young])
    assert [each.command for each in found.advice] == ["opskit drill run data --from a"]
    assert not found.problems and found.is_ok


def test_a_failed_drill_is_a_problem() -> None:
    """A copy whose latest drill failed is a problem however new the drill before it."""
    copy = replace(good("a"), drilled=drill(2), failed_drill=drill(1, passed=False))
    (problem,) = judged(Original(), [copy]).problems
    assert "the drill of a on 20 Nov 2026 failed" in problem.text and "opskit drill report eeeeeeee" in problem.command


@pytest.mark.parametrize(("verified", "told"), [(29, None), (31, "31 d ago"), (None, "never")])
def test_each_copy_is_verified_in_time(verified: int | None, told: str | None) -> None:
    """A copy that was not read back within verify_every is a problem; a copy that is younger than that is not."""
    memory = None if verified is None else Verification(NOW - timedelta(days=verified), 1, 1)
    old = replace(good("a"), verified=memory, oldest=NOW - timedelta(days=300))
    texts = [each.text for each in judged(Original(), [old]).problems]
    assert len(texts) == (told is not None) and all(str(told) in text for text in texts)
    assert not judged(Original(), [replace(good("a"), verified=None)]).problems


@pytest.mark.parametrize(
    ("since", "lap", "told", "command"),
    [
        (10, None, None, None),
        (10, 30, None, None),
        (10, 60, "reading a back takes 60 d at the pace so far", "--budget 20%"),
        (31, 60, "31 d ago (75 % of it within 30 d", "opskit verify --destination a"),
        (None, 20, "never (75 % of it", "opskit verify --destination a"),
    ],
)
def test_a_part_each_night_has_to_be_enough(
    since: int | None, lap: int | None, told: str | None, command: str | None
) -> None:
    """With a budget the copy counts as verified since all of it was read; a pace that is too slow is told at once."""
    start = None if since is None else NOW - timedelta(days=since)
    today = int(NOW.timestamp()) // 86400
    seconds = None if lap is None else lap * 86400
    coverage = Coverage(start, start, 400, ((today - 40, 100), (today - 2, 300)), 0, seconds, "10%")
    memory = Verification(NOW, 1, 1, since=start, coverage=coverage)
    old = replace(good("a"), verified=memory, oldest=NOW - timedelta(days=300))
    problems = judged(Original(), [old]).problems
    if told is None or command is None:
        assert not problems
    else:
        assert told.replace("30 d", str(LAX.verify_every)) in problems[0].text and command in problems[0].command


def test_the_recovery_point_is_the_newest_verified_one() -> None:
    """RPO goes by what was read back, not by what is there; where nothing was, there is none."""
    behind = replace(good("a"), newest_verified=OLDER)
    assert judged(Original(), [behind, replace(good("b"), newest_verified=None)]).recovery_age == timedelta(days=2)
    assert judged(Original(), [replace(good("b"), newest_verified=None)]).recovery_age is None


def test_the_recovery_point_is_none_of_an_absent_copy() -> None:
    """What was verified at a copy that is gone gives nothing back, so it is no recovery point."""
    away = replace(bad(good("b"), "absent"), newest_verified=NEWEST)
    found = judged(Original(), [replace(good("a"), newest_verified=OLDER), away])
    assert found.newest_verified == OLDER
    assert judged(Original(), [away]).recovery_age is None


def test_a_snapshot_from_the_future_has_no_age() -> None:
    """A clock that is wrong must not make stale backups look fresh."""
    (problem,) = judged(Original(), [replace(good("a"), newest=replace(NEWEST, time=NOW + timedelta(days=1)))]).problems
    assert "from now" in problem.text and "clock" in problem.command


def test_unread_files_and_strange_manifests_are_problems() -> None:
    """A soft failure is never silent."""
    found = replace(good("a"), newest=replace(NEWEST, unreadable=3), untrusted=1)
    texts = [each.text for each in judged(Original(), [found]).problems]
    assert len(texts) == 2 and texts[0].startswith("3 files") and "a holds 1 manifest" in texts[1]
    (one,) = judged(Original(), [replace(good("a"), newest=replace(NEWEST, unreadable=1))]).problems
    assert one.text == "1 file is not in the newest snapshot, for it could not be read"


def test_a_lost_original_is_a_copy_less() -> None:
    """What is gone counts no more, and the first thing to type brings it back."""
    status = judged(Original(gone=("/srv/data",)), [good("a")], Policy(copies=2, media=1, offsite=0))
    assert status.counts.copies == 1 and not status.is_met
    assert "opskit restore data@latest" in status.problems[0].command


def test_without_any_snapshot_there_is_one_thing_to_do() -> None:
    """A host that was set up and never backed up is told once, not once for each copy."""
    empty = [replace(bad(good(name), "empty"), lacks=(), verified=None) for name in ("a", "b")]
    assert [each.command for each in judged(Original(), empty).problems] == ["opskit backup data"]


@given(st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_lengths_are_short_and_never_too_long(span: timedelta) -> None:
    """A length is read back as at most what it was, and less than a unit below it."""
    units = {"min": 60, "h": 3600, "d": 86400}
    words = length(span).split()
    seconds = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert seconds <= span.total_seconds() < seconds + units[words[-1]]


def test_what_was_read_back_in_the_future_is_told() -> None:
    """A reading that a wrong clock dated years ahead would never become old: it counts for nothing, and is told."""
    ahead = replace(VERIFIED, ended=NOW + timedelta(days=1500))
    (problem,) = judge("s", Original(), [replace(good("a"), verified=ahead)], LAX, NOW).problems
    assert "still to come" in problem.text and "opskit verify --destination a" in problem.command
    near = replace(VERIFIED, ended=NOW + timedelta(minutes=1))
    assert not judge("s", Original(), [replace(good("a"), verified=near)], LAX, NOW).problems


def test_a_program_that_is_not_installed_is_no_lost_original() -> None:
    """Where pg_dump is missing nobody is told to restore the database: the program is to be installed."""
    original = Original(gone=("pg_dump",), is_program=True)
    (problem,) = judge("s", original, [good("a")], LAX, NOW).problems
    assert "pg_dump is not found" in problem.text and "restore" not in problem.command
    (problem,) = judge("s", Original(gone=("/srv/a",)), [good("a")], LAX, NOW).problems
    assert "opskit restore" in problem.command
