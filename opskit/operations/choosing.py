"""Which snapshot a person means: an id prefix, `latest`, `SOURCE@latest`, a date, each with an optional `:PATH`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opskit.errors import SnapshotNotFound, UsageError
from opskit.repository.manifest import Snapshot

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?")
_ID = re.compile(r"[0-9a-f]{4,64}")


def split_path(text: str) -> tuple[str, str]:
    """("SNAPSHOT", "PATH" without leading and trailing slashes) of SNAPSHOT[:PATH]."""
    match = re.match(rf"((?:[a-z0-9_-]+@)?(?:{_DATE.pattern}|[^:]*))(?::(.*))?$", text, re.DOTALL)
    if match is None:
        raise UsageError(f"expected SNAPSHOT or SNAPSHOT:PATH, got {text!r}")
    return match.group(1), (match.groups()[-1] or "").strip("/")


def choose(snapshots: Sequence[Snapshot], text: str) -> Snapshot:
    """The snapshot that `text` names; dates are UTC and mean the newest at or before. Raises SnapshotNotFound."""
    source, _, what = text.rpartition("@")
    found = [each for each in snapshots if not source or each.manifest.source == source]
    if source and not found:
        raise SnapshotNotFound(f"no snapshot of a source {source!r}", hint="opskit snapshots lists them")
    if what == "latest" or _DATE.fullmatch(what):
        _require_one_chain(found, source)
        if what != "latest":
            end = _moment(what)
            found = [each for each in found if each.manifest.started <= end]
        if not found:
            when = "" if what == "latest" else f" at or before {what}"
            raise SnapshotNotFound(f"there is no snapshot{when}", hint="opskit snapshots lists them")
        return max(found, key=lambda each: (each.manifest.sequence, each.name))
    if not _ID.fullmatch(what):
        raise UsageError(f"expected an id, `latest` or a date like 2026-11-21, got {what!r}")
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
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise UsageError(f"not a date: {text}") from error
    return moment + timedelta(days=1) - timedelta(seconds=1) if len(text) == 10 else moment
