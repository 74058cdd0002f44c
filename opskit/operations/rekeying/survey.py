"""The key objects of all copies: to whom each is encrypted, and who vouches for it. No private key is used.

Anybody who can write at a copy can put a key object there: it is encrypted, not signed. What makes one count is a
signed manifest, an index object of this host, or a believed mark, that names it by its hash. Others may be of a run
that is under way, or that was killed; or somebody's trick.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from opskit.errors import Damaged, OpskitError
from opskit.gpg import recipients_of
from opskit.repository import names
from opskit.repository.copy import Copy, get_from
from opskit.repository.manifest import Snapshot
from opskit.repository.marks import Marks
from opskit.repository.threads import end


@dataclass(frozen=True, slots=True)
class KeyObject:
    """One key object: its digest and bytes, and the key ids it is encrypted to.

    `is_vouched`: something signed names it.
    """

    digest: str
    data: bytes = field(repr=False)
    key_ids: tuple[str, ...]
    is_vouched: bool


@dataclass(slots=True)
class Survey:
    """What the copies at hand hold. `done` are superseded, and something that stands in for each is at hand, whole.

    `unread` are needed, and no copy at hand has them whole, or they are no messages to public keys.
    """

    objects: dict[str, KeyObject] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    unread: dict[str, OpskitError] = field(default_factory=dict)


def survey(
    copies: Sequence[Copy],
    snapshots: Iterable[Snapshot],
    marks: Marks,
    *,
    more: Collection[str] = (),
    workers: int = 2,
    progress: Callable[[int], None] = lambda size: None,
) -> Survey:
    """Read every key object once, from the first copy that has it whole.

    `more` are digests that this host vouches for beside manifests and marks.
    """
    vouched = {run.key for each in snapshots for run in each.manifest.runs} | set(more)
    vouched |= {new for each in marks.superseding() for new in each.mark.supersedes}
    digests = sorted(
        {
            digest
            for copy in copies
            for name in copy.objects
            if name.startswith("keys/") and (digest := names.digest_in(name))
        }
    )
    found = Survey()
    for digest, read in zip(digests, _read(copies, digests, workers), strict=True):
        try:
            if isinstance(read, OpskitError):
                raise read
            found.objects[digest] = KeyObject(digest, read, recipients_of(read), digest in vouched)
            progress(len(read))
        except Damaged as error:
            if digest in vouched:  # else nobody needs it: a killed run tore it, or somebody left it there
                found.unread[digest] = error
        except OpskitError as error:
            found.unread[digest] = error
    for digest in [*found.objects, *found.unread]:
        if any(end in found.objects for end in marks.succession.ends(digest)):
            found.done.add(digest)
    for digest in found.done:
        found.objects.pop(digest, None)
        found.unread.pop(digest, None)
    return found


def _read(copies: Sequence[Copy], digests: Sequence[str], workers: int) -> list[bytes | OpskitError]:
    threads = ThreadPoolExecutor(workers, thread_name_prefix="keys")
    tasks = [threads.submit(_get, copies, names.key(digest)) for digest in digests]
    try:
        read = [task.result() for task in tasks]
    except BaseException as error:
        end(threads, tasks, error)
        raise
    end(threads, (), None)
    return read


def _get(copies: Sequence[Copy], name: str) -> bytes | OpskitError:
    try:
        return get_from(copies, name)
    except OpskitError as error:
        return error
