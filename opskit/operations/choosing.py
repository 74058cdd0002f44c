"""Which snapshot a person means: an id prefix, `latest`, `SOURCE@latest`, a date, each with an optional `:PATH`.

A date is a day, a minute or a second, in UTC unless it names an offset, and reaches to its own end: every time that
opskit prints of a snapshot names that snapshot. It deliberately guesses nothing: a text that could be a time as well as
a path is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime

from opskit.errors import SnapshotNotFound, UsageError
from opskit.repository.manifest import Snapshot

# Two digits before a slash or another digit begin a path: 2026-11-21T02:30:10/file.
_DATE = re.compile(
    r"""
    (?P<day> \d{4}-\d{2}-\d{2} )
    (?:
        [T\ ] (?P<minute> \d{2}:\d{2} )
        (?P<second> :\d{2} (?![\d/]) (?: \.\d+ )? )?
        (?: \ ? (?: UTC | Z | (?P<offset> [+-]\d{2} (?: :?\d{2} (?![\d/]) )? ) ) )?
    )?
    """,
    re.ASCII | re.VERBOSE,
)
_NAMED = re.compile(rf"(?:[a-z0-9_-]+@)?(?:{_DATE.pattern}|[^:]*)", re.ASCII | re.VERBOSE)
_ID = re.compile(r"[0-9a-f]{4,64}")


def split_path(text: str) -> tuple[str, str]:
    """("SNAPSHOT", "PATH" without leading and trailing slashes) of SNAPSHOT[:PATH]. Raises UsageError."""
    match = _NAMED.match(text)
    assert match is not None  # it may be empty
    what, rest = match.group(), text[match.end() :]
    if rest and not rest.startswith(":"):
        raise UsageError(
            f"expected nothing or :PATH after the date {what}, got {rest!r}",
            hint="times are like 05:24, 05:24:49Z or 05:24+02:00; a path that looks like one begins with a slash",
        )
    return what, rest[1:].strip("/")


def choose(snapshots: Sequence[Snapshot], text: str, forgotten: Collection[str] = ()) -> Snapshot:
    """The snapshot that `text` names; a date means the newest at or before its end. Raises SnapshotNotFound.

    One whose id is among the `forgotten` is found by its id alone.
    """
    source, _, what = text.rpartition("@")
    found = [each for each in snapshots if not source or each.manifest.source == source]
    if source and not found:
        raise SnapshotNotFound(f"no snapshot of a source {source!r}", hint="opskit snapshots lists them")
    if what == "latest" or _DATE.fullmatch(what):
        found = [each for each in found if each.id not in forgotten]
        _require_one_chain(found, source)
        if what != "latest":
            end = _moment(what)
            found = [each for each in found if each.manifest.started <= end]
        if not found:
            when = "" if what == "latest" else f" at or before {what}"
            raise SnapshotNotFound(f"there is no snapshot{when}", hint="opskit snapshots lists them")
        return max(found, key=lambda each: (each.manifest.sequence, each.name))
    if not _ID.fullmatch(what):
        raise UsageError(
            f"expected an id, `latest` or a date like 2026-11-21 or 2026-11-21T05:24:49Z, got {what!r}",
            hint="opskit snapshots lists them",
        )
    matching = [each for each in found if each.id.startswith(what)]
    if len(matching) != 1:
        count = "no snapshot" if not matching else f"{len(matching)} snapshots"
        raise SnapshotNotFound(f"{count} with an id that begins {what}", hint="opskit snapshots lists them")
    return matching[0]


def _require_one_chain(found: Sequence[Snapshot], source: str) -> None:
    chains = sorted({(each.manifest.source, each.manifest.host) for each in found})
    if len({name for name, _ in chains}) > 1:
        names = ", ".join(dict.fromkeys(name for name, _ in chains))
        raise UsageError(f"there are several sources: {names}", hint=f"say {chains[0][0]}@latest, for example")
    if len(chains) > 1:
        hosts = ", ".join(host for _, host in chains)
        raise UsageError(
            f"several hosts back up a source {source or chains[0][0]}: {hosts}",
            hint="name the snapshot by its id, from opskit snapshots",
        )


def _moment(text: str) -> datetime:
    """The last second of a date; snapshots count in seconds. Raises UsageError for a date that no calendar has."""
    match = _DATE.fullmatch(text)
    assert match is not None
    day, minute, second, offset = match.group("day", "minute", "second", "offset")
    try:
        return datetime.fromisoformat(f"{day}T{minute or '23:59'}{second or ':59'}{offset or '+00:00'}")
    except ValueError as error:
        raise UsageError(
            f"not a date: {text}",
            hint="expected one like 2026-11-21 or 2026-11-21T05:24:49Z; opskit snapshots lists what there is",
        ) from error
