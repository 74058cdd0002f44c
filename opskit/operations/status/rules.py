"""The rules: whether what was seen of one source meets the policy, and what to do where it does not.

Invariants: facts beat labels. What lies in one place (or has one copy id) counts as one copy, has one medium, and is
offsite only if all of it is declared so and the original is elsewhere; so another copy in a place that is taken never
raises a number, and a whole copy in a place of its own never lowers one. A copy counts while it is reachable, whole
and has the newest snapshot. Every shortfall is a sentence with a command that mends it. Pure: no clock, no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from opskit.errors import CopyUnidentified, Damaged, StoreRefused
from opskit.operations.status.places import Original
from opskit.operations.status.states import CopyState, Point
from opskit.operations.verifying.coverage import enough
from opskit.repository.chains import Gap

ORIGINAL_MEDIUM = "disk"
"""What a live file system counts as: no config says on what the original lies."""
CLOCKS_APART = timedelta(minutes=5)
ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is demanded of a source; the original counts as a copy."""

    copies: int = 3
    media: int = 2
    offsite: int = 1
    max_age: timedelta = timedelta(hours=26)
    verify_every: timedelta = timedelta(days=30)
    drill_every: timedelta = timedelta(days=92)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in a sentence, and what to type."""

    text: str
    command: str

    def __str__(self) -> str:
        return f"{self.text}: {self.command}"


@dataclass(frozen=True, slots=True)
class Counts:
    """The three numbers; `shared` are sets of two or more names that count once, with the reason."""

    copies: int
    media: int
    offsite: int
    shared: tuple[tuple[tuple[str, ...], str], ...] = ()

    def meets(self, policy: Policy) -> bool:
        """Whether all three are reached."""
        return self.copies >= policy.copies and self.media >= policy.media and self.offsite >= policy.offsite


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The answer for one source. `newest` is the newest snapshot at reachable copies, `age` its age.

    `newest_verified` and `recovery_age` (the RPO) are of the newest snapshot that a verify found whole at a copy which
    can be reached: one that is gone gives nothing back.
    """

    source: str
    original: Original
    copies: Sequence[CopyState]
    counts: Counts
    policy: Policy
    newest: Point | None
    age: timedelta | None
    newest_verified: Point | None
    recovery_age: timedelta | None
    problems: Sequence[Problem]
    advice: Sequence[Problem] = ()
    """Drills that are due where none was ever made: who began to drill is held to it, who did not is told. And what
    the last good drill of a copy could not check."""

    @property
    def is_met(self) -> bool:
        """Whether copies, media and offsite copies are enough."""
        return self.counts.meets(self.policy)

    @property
    def is_ok(self) -> bool:
        """Whether there is nothing to do."""
        return self.is_met and not self.problems

    @property
    def errors(self) -> int:
        """Objects known to be damaged, missing or not to be believed, each copy counted once."""
        seen = {each.copy_id or each.destination.name: each for each in self.copies}
        return sum(_errors(each) for each in seen.values())

    @property
    def is_forged(self) -> bool:
        """Whether some copy's history went backwards or is of two minds."""
        return any(each.state in ("rolled back", "forked") for each in self.copies)


def judge(
    source: str,
    original: Original,
    copies: Sequence[CopyState],
    policy: Policy,
    now: datetime,
    gaps: Sequence[Gap] = (),
) -> SourceStatus:
    """Hold one source against the policy; `gaps` are snapshots that were removed."""
    counts = count(original, [each for each in copies if each.counts])
    reachable = [each for each in copies if each.state != "absent" and each.error is None]
    newest = max((each.newest for each in reachable if each.newest), default=None)
    verified = max((each.newest_verified for each in reachable if each.newest_verified), key=_time, default=None)
    problems = [
        *_of_original(source, original),
        *_of_snapshots(source, copies, newest, policy, now),
        *_of_gaps(gaps),
        *(problem for each in copies for problem in _of_copy(each, newest, policy, now)),
        *_of_counts(original, copies, policy),
    ]
    is_drilled = any(each.drilled or each.failed_drill for each in copies)
    drills = [problem for each in copies for problem in _of_drills(source, each, policy, now)]
    return SourceStatus(
        source,
        original,
        copies,
        counts,
        policy,
        newest,
        now - newest.time if newest else None,
        verified,
        now - verified.time if verified else None,
        [*problems, *(drills if is_drilled else ())],
        [*(() if is_drilled else drills), *(advice for each in copies for advice in _of_gaps_in_drills(each))],
    )


def count(original: Original, copies: Sequence[CopyState]) -> Counts:
    """Count the original, if it is live, and these copies, by where they really are."""
    groups: list[_Group] = [_Group([ORIGINAL], {*original.places}, ORIGINAL_MEDIUM, False)] if original.is_live else []
    for each in copies:
        destination = each.destination
        marks = {mark for mark in (destination.place, destination.seen_at) if mark}
        marks |= {f"copy {each.copy_id}"} if each.copy_id else set()
        groups = _with(groups, _Group([destination.name], marks, destination.medium, destination.offsite))
    shared = tuple((tuple(each.names), each.why) for each in groups if len(each.names) > 1)
    return Counts(len(groups), len({each.medium for each in groups}), sum(each.offsite for each in groups), shared)


@dataclass(slots=True)
class _Group:
    """What counts as one: `marks` are the places and copy ids by which more is found to belong to it."""

    names: list[str]
    marks: set[str]
    medium: str
    offsite: bool
    why: str = ""


def _with(groups: Sequence[_Group], new: _Group) -> list[_Group]:
    """The groups with one more member, which joins those it shares a mark with."""
    touched = [each for each in groups if each.marks & new.marks]
    if not touched:
        return [*groups, new]
    common = sorted(new.marks & set[str]().union(*(each.marks for each in touched)))
    first = touched[0]
    merged = _Group(
        [name for each in (*touched, new) for name in each.names],
        new.marks.union(*(each.marks for each in touched)),
        first.medium,
        all(each.offsite for each in (*touched, new)),
        # The place, where there is one: "device …" is plainer than a copy id.
        next((each for each in (*common, first.why) if each and not each.startswith("copy ")), "one copy id"),
    )
    return [merged if each is first else each for each in groups if each is first or each not in touched]


def _errors(copy: CopyState) -> int:
    verified = copy.verified
    remembered = verified.damaged + verified.missing + verified.untrusted if verified else 0
    return max(remembered, copy.objects_missing + copy.untrusted)


def _time(point: Point) -> datetime:
    return point.time


def _of_original(source: str, original: Original) -> Iterator[Problem]:
    if not original.is_live and original.is_program:
        text = f"{original.gone[0]} is not found, which reads the original: whether that is there cannot be seen"
        yield Problem(text, f"install it, or have PATH lead to it, then opskit backup {source}")
    elif not original.is_live:
        gone = ", ".join(original.gone[:3]) + (" and more" if len(original.gone) > 3 else "")
        yield Problem(f"the original is not there: {gone}", f"opskit restore {source}@latest --target DIR")


def _of_snapshots(
    source: str, copies: Sequence[CopyState], newest: Point | None, policy: Policy, now: datetime
) -> Iterator[Problem]:
    if newest is None:
        if any(each.state != "absent" and each.error is None for each in copies):
            yield Problem("no reachable copy has a snapshot", f"opskit backup {source}")
        return
    age = now - newest.time
    if age > policy.max_age:
        demanded = f"the policy wants one every {policy.max_age}"
        yield Problem(f"the newest snapshot is {length(age)} old, {demanded}", f"opskit backup {source}")
    if age < -CLOCKS_APART:
        text = f"the newest snapshot is dated {length(-age)} from now, so its age cannot be judged"
        yield Problem(text, f"set the clock of this host, then opskit backup {source}")
    if newest.unreadable:
        many = newest.unreadable > 1
        text = f"{newest.unreadable:,} {'files are' if many else 'file is'} not in the newest snapshot, for "
        text += f"{'they' if many else 'it'} could not be read"
        yield Problem(text, f"opskit backup {source} names them")


def _of_gaps(gaps: Sequence[Gap]) -> Iterator[Problem]:
    for gap in gaps:
        text = f"snapshot {gap} is at no copy, though number {gap.last + 1} is: removed, and no mark forgets it"
        yield Problem(text, "find out who could delete there, opskit verify")


def _of_copy(copy: CopyState, newest: Point | None, policy: Policy, now: datetime) -> Iterator[Problem]:
    yield from _of_state(copy, newest)
    name = copy.destination.name
    if copy.copy_id is None and copy.snapshots:
        text = f"{name}: copy.json is gone, so whether an older state was put back cannot be seen"
        yield Problem(text, f"opskit heal --destination {name}")
    if copy.untrusted:
        text = f"{name} holds {_some(copy.untrusted, 'manifest')} that cannot be believed"
        yield Problem(text, f"opskit verify --destination {name}")
    if copy.destination.wants_lock and not copy.destination.is_locked and copy.snapshots:
        text = f"{name} locks nothing that could be seen, though the config asks for object_lock_days"
        if copy.destination.lock_held is False:
            text = (
                f"{name} has no lock that holds: when opskit init tried, the bucket took none, or deleted all the same"
            )
        yield Problem(text, "opskit init tells what the bucket can, then opskit backup")
    yield from _of_verifying(copy, policy, now)


def _of_verifying(copy: CopyState, policy: Policy, now: datetime) -> Iterator[Problem]:
    """What was not read back in time, or will not be at this pace."""
    name, verified, every = copy.destination.name, copy.verified, policy.verify_every
    known, coverage = (verified.known_since, verified.coverage) if verified else (None, None)
    if known is not None and known - now > CLOCKS_APART:
        text = f"{name} was last read back on {known:%d %b %Y}, which is still to come: a clock was wrong, so who knows"
        yield Problem(text, f"see that this host's clock is right, then opskit verify --destination {name}")
        return
    since = known or copy.oldest
    if since is not None and now - since > every:
        when = f"{length(now - known)} ago" if known else "never"
        part = f" ({coverage.percent(now, every)} % of it within {every})" if coverage else ""
        text = f"{name} was last read back {when}{part}, the policy wants it every {every}"
        yield Problem(text, f"opskit verify --destination {name}")
    elif coverage is not None and (budget := enough(coverage, every)) is not None:
        lap = length(timedelta(seconds=coverage.lap or 0))
        text = f"reading {name} back takes {lap} at the pace so far, the policy wants it every {every}"
        yield Problem(text, f"opskit verify --destination {name}{f' --budget {budget}' if budget else ''}")


def is_drill_due(copy: CopyState, every: timedelta, now: datetime) -> bool:
    """Whether a copy was not drilled well for too long; one that never was has that time from its oldest snapshot on.

    So a new copy is not red on its first day, and none stays undrilled for good.
    """
    since = copy.drilled.ended if copy.drilled else copy.oldest
    return since is not None and now - since > every


def _of_drills(source: str, copy: CopyState, policy: Policy, now: datetime) -> Iterator[Problem]:
    name = copy.destination.name
    drill, failed = f"opskit drill run {source} --from {name}", copy.failed_drill
    if failed is not None:
        why = (
            "what was backed up is not good" if failed.drill.is_content_at_fault else "it did not restore as it should"
        )
        text = f"the drill of {name} on {failed.ended:%d %b %Y} failed: {why}"
        yield Problem(text, f"opskit drill report {failed.id[:8]}, then {drill}")
    elif is_drill_due(copy, policy.drill_every, now):
        when = f"{length(now - copy.drilled.ended)} ago" if copy.drilled else "never"
        yield Problem(f"{name} was last drilled {when}, the policy wants it every {policy.drill_every}", drill)


def _of_gaps_in_drills(copy: CopyState) -> Iterator[Problem]:
    for check in copy.drilled.drill.checks if copy.drilled else ():
        if check.name == "dumps" and not check.total:
            text = f"the last drill of {copy.destination.name} did not load the dumps of databases: {check.note}"
            yield Problem(text, f"opskit drill report {copy.drilled.id[:8] if copy.drilled else ''}")


def _of_state(copy: CopyState, newest: Point | None) -> Iterator[Problem]:
    """The problem that a state is; the gravest first, for a copy has one state."""
    name = copy.destination.name
    sync, verify = f"opskit sync {name}", f"opskit verify --destination {name}"
    if copy.state == "absent":
        is_there = isinstance(copy.error, Damaged | CopyUnidentified | StoreRefused)  # and something is wrong with it
        hint = copy.error.hint if copy.error is not None and is_there else None
        yield Problem(f"{name} is absent, {_reason(copy)}", hint or f"when it is back, {sync}")
    elif copy.state == "empty" and copy.error is not None:
        yield Problem(f"{name} holds no repository; is the right disk there?", f"opskit init, then {sync}")
    elif copy.state == "empty" and (copy.lacks or newest is not None):
        yield Problem(f"{name} has no snapshot of this source", sync)
    elif copy.state == "behind":
        what = "the newest among them" if not copy.holds_newest else "the newest not among them"
        yield Problem(f"{name} lacks {_some(len(copy.lacks), 'snapshot')}, {what}", sync)
    elif copy.state == "rolled back" and copy.lost is not None:
        lost = f"snapshot {copy.lost.id[:8]} of {copy.lost.time:%d %b %Y %H:%M}"
        yield Problem(
            f"{name} once held {lost} and has lost it: an older state was put back, or it was deleted", verify
        )
    elif copy.state == "forked":
        yield Problem(f"{name} holds two histories with one number: a cloned host, or a stolen key", verify)
    elif copy.state == "damaged":
        yield Problem(f"{name} {_damage(copy)}", _mending(copy))


def _reason(copy: CopyState) -> str:
    reason = str(copy.error or "").removeprefix(f"{copy.destination.name}: ")
    last = f"; its last known snapshot is of {copy.newest.time:%d %b %Y %H:%M}" if copy.newest else ""
    return f"{reason}{last}"


def _damage(copy: CopyState) -> str:
    told = [f"lacks {_some(copy.objects_missing, 'object')} that its snapshots need"] if copy.objects_missing else []
    if copy.objects_lost:
        told[0] += f", {copy.objects_lost:,} of them at no reachable copy"
    verified = copy.verified
    if verified is not None and not verified.is_good:
        kinds = (("damaged", verified.damaged), ("missing", verified.missing), ("untrusted", verified.untrusted))
        found = ", ".join(f"{number:,} {kind}" for kind, number in kinds if number)
        told.append(f"had {found} when it was last read back")
    return " and ".join(told)


def _mending(copy: CopyState) -> str:
    name = copy.destination.name
    heal = f"opskit heal --destination {name}, then opskit verify --destination {name}"
    if not copy.objects_lost:
        return heal
    return f"bring in a destination that is away, then {heal}; opskit backup stores anew what the source still has"


def _of_counts(original: Original, copies: Sequence[CopyState], policy: Policy) -> Iterator[Problem]:
    """What stays short even when everything declared is there and current: the cause lies in the config."""
    possible = count(original if original.is_live else Original(), copies)
    if possible.meets(policy):
        return
    short, wanted = list[str](), list[str]()
    if possible.copies < policy.copies:
        short.append(f"{possible.copies} of {_some(policy.copies, 'copy', 'copies')}")
        wanted.append("another place")
    if possible.media < policy.media:
        short.append(f"{possible.media} of {policy.media} media")
        wanted.append("another medium")
    if possible.offsite < policy.offsite:
        short.append(f"{possible.offsite} of {policy.offsite} offsite")
        wanted.append("offsite: true")
    causes = "".join(
        f"; {', '.join(names[:-1])} and {names[-1]} are in one place ({why}) and count once"
        for names, why in possible.shared
    )
    command = f"add a destination ({', '.join(wanted)}) to the config, then opskit init"
    yield Problem(f"with these destinations there are at most {', '.join(short)}{causes}", command)


def _some(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def length(span: timedelta) -> str:
    """A length of time in its largest unit or two: 40 min, 5 h 12 min, 3 d 4 h, 40 d."""
    minutes = max(int(span.total_seconds()) // 60, 0)
    if minutes < 60:
        return f"{minutes} min"
    hours, days = minutes // 60, minutes // 1440
    if hours < 48:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if days < 10 and hours % 24 else f"{days} d"
