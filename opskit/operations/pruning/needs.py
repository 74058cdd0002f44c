"""What snapshots need, for those who may delete the rest.

Invariant: whoever cannot find out raises. A manifest or mark that is there and cannot be believed, a pack list that no
copy has whole, a copy that cannot be listed: each of them may stand for data that somebody needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache, partial
from itertools import islice

from opskit.errors import Damaged, Forged, StoreError
from opskit.operations.forget import is_whole
from opskit.repository import names
from opskit.repository.believing import Rejected
from opskit.repository.chains import chains_of
from opskit.repository.consent import UNKNOWN_HERE
from opskit.repository.copy import Copy, get_from
from opskit.repository.history import History
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import SUPERSEDE, Marks
from opskit.repository.succession import Succession

_LISTS_REMEMBERED = 512
"""Pack lists are shared by many snapshots; each takes about 33 kB."""


def require_believed(history: History, marks: Marks) -> None:
    """Raise Forged where a manifest or mark is at some copy and no copy has it in a way that can be believed."""
    settled = {*history.holders, *(each.name for each in marks.marks)}
    doubtful = [each for each in (*history.rejected, *marks.rejected) if each[1] not in settled]
    if doubtful:
        raise Forged(_told(doubtful), hint=_way_out(doubtful[0]))


def _told(doubtful: Sequence[Rejected]) -> str:
    destination, name, reason = doubtful[0]
    more = f", and {len(doubtful) - 1} more" if len(doubtful) > 1 else ""
    return f"nothing is deleted while {name} at {destination or 'a copy'} cannot be believed ({reason}){more}"


def _way_out(doubtful: Rejected) -> str:
    """What to do about an object that cannot be believed; in full in docs/operations.md."""
    _, name, reason = doubtful
    role = "keys.maintainers" if name.startswith("marks/") else "keys.signers"
    first = "opskit heal brings it from a copy that has it whole; rotten everywhere"
    if names.kind_of_mark(name) == SUPERSEDE and isinstance(reason, Forged):
        first = f"{reason.hint or UNKNOWN_HERE}; a stranger's"
    elif isinstance(reason, Forged):
        first = f"if a host of yours made it, name that host's key in {role}; a stranger's"
    return (
        f"{first}, move it to quarantine/ at every copy that has it (operations.md: 'prune stops at an object that "
        "nobody can believe'); opskit verify names them all"
    )


def last_at(copy: Copy, copies: Sequence[Copy], snapshots: Iterable[Snapshot], forgotten: Collection[str]) -> set[str]:
    """The names of forgotten snapshots that a copy keeps, since it would be left without a good one of their source.

    Of each chain the newest complete one that is whole there, unless one that is not forgotten is; and the same of
    whole ones, complete or not: a source of which one file can never be read has no others. Marks may come to a copy
    long before the snapshots that made the older ones superfluous, and two hosts may each forget what the other meant
    to keep.
    """

    def is_good(snapshot: Snapshot) -> bool:
        return is_whole(copy, snapshot, get)

    get = lru_cache(maxsize=_LISTS_REMEMBERED)(partial(get_from, copies))
    found: set[str] = set()
    for chain in chains_of(each for each in snapshots if each.name in copy.objects).values():
        newest_first = [each for _, twins in sorted(chain.items(), reverse=True) for each in twins]
        for candidates in (newest_first, [each for each in newest_first if each.manifest.complete]):
            if not any(is_good(each) for each in candidates if each.id not in forgotten):
                going = (each.name for each in candidates if each.id in forgotten and is_good(each))
                found.update(islice(going, 1))
    return found


def needed_by(
    copies: Sequence[Copy], snapshots: Iterable[Snapshot], succession: Succession, *, lenient: bool = False
) -> set[str]:
    """The names of everything that these snapshots need, their manifests included; raises StoreError, Damaged.

    Of a key object that was superseded all that came after it too: which of them a copy can do without is another
    question. With `lenient` a pack list that no copy at hand has whole is taken for an empty one.
    """
    lists: dict[str, bytes] = {}

    def get(name: str) -> bytes:
        if name not in lists:
            try:
                lists[name] = get_from(copies, name)
            except (StoreError, Damaged):
                if not lenient:
                    raise
                lists[name] = b""
        return lists[name]

    needed: set[str] = set()
    for snapshot in snapshots:
        needed.add(snapshot.name)
        needed.update(objects_of(snapshot.manifest, get, names.key))
        needed.update(names.key(heir) for run in snapshot.manifest.runs for heir in succession.heirs(run.key))
    return needed
