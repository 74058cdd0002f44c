"""Which packs and runs a snapshot needs: from pack numbers to the `runs` of a manifest, and back to objects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from opskit.repository import manifest as manifests
from opskit.repository import names
from opskit.repository.cache import Cache, PackRow, RunRow
from opskit.repository.manifest import MAX_INLINE_PACKS, Manifest, Run
from opskit.repository.succession import Succession


def runs_needed(
    cache: Cache, live: Mapping[int, PackRow], packs: Iterable[int], there: set[str], succession: Succession
) -> list[Run]:
    """The runs of a manifest that needs these packs, oldest first, with index objects that describe them.

    Index objects are named only where they are among the objects `there`, with the key object that opens them. What
    superseded a key object is named in its place.
    """
    rows, packs_by_run, indexes_by_run = cache.runs(), dict[int, list[str]](), dict[int, set[str]]()
    numbers = set(packs)
    for number in numbers:
        packs_by_run.setdefault(live[number].run, []).append(live[number].name)
    for name, writer in indexes_needed(cache, numbers, there, succession):
        indexes_by_run.setdefault(writer, set()).add(name)
    return [
        Run(
            rows[no].id,
            succession.digest(rows[no].key, there),
            sorted(indexes_by_run.get(no, ())),
            sorted(packs_by_run.get(no, ())),
        )
        for no in sorted(packs_by_run.keys() | indexes_by_run.keys())
    ]


def indexes_needed(
    cache: Cache, packs: Collection[int], there: Collection[str], succession: Succession
) -> dict[tuple[str, int], set[int]]:
    """Index objects, each with the run that wrote it, that describe these packs, and which of them each does.

    Those that describe most come first, and what they describe needs no other: so a merged one stands for its parts.
    """
    rows, describing = cache.runs(), dict[tuple[str, int], set[int]]()
    for number, found in cache.indexes().items():
        if number in packs:
            for each in found:
                describing.setdefault(each, set()).add(number)
    chosen, left = dict[tuple[str, int], set[int]](), set(packs)
    for (name, writer), described in sorted(describing.items(), key=lambda each: (-len(each[1]), each[0])):
        if not left.isdisjoint(described) and is_usable(name, rows.get(writer), there, succession):
            chosen[name, writer] = described
            left -= described
    return chosen


def is_usable(index: str, writer: RunRow | None, there: Collection[str], succession: Succession) -> bool:
    """Whether a manifest may name an index object: it is there, and a key object of the run that wrote it is."""
    return writer is not None and names.index(index) in there and succession.name(writer.key, there) in there


def move_to_lists(
    runs: list[Run], put: Callable[[str, bytes], None], condemned: Collection[str] = frozenset()
) -> list[Run]:
    """Keep small manifests whole; beyond MAX_INLINE_PACKS store each run's packs as shared pack lists.

    Packs of a list whose name is condemned stay in the manifest: equal bytes would come to lie under that name.
    """
    if sum(len(run.packs) for run in runs) <= MAX_INLINE_PACKS:
        return runs
    return [_with_lists(run, put, condemned) for run in runs]


def _with_lists(run: Run, put: Callable[[str, bytes], None], condemned: Collection[str]) -> Run:
    lists, inline = [], list[str]()
    for data in manifests.pack_lists(run.packs):
        digest = names.sha256(data)
        if names.packlist(digest) in condemned:
            inline += manifests.decode_list(data)
            continue
        put(names.packlist(digest), data)
        lists.append(digest)
    return Run(run.id, run.key, run.indexes, inline, lists)


def packs_of(run: Run, get: Callable[[str], bytes]) -> Iterator[str]:
    """The pack digests of a run, those inside pack lists included."""
    yield from run.packs
    for digest in run.lists:
        yield from manifests.decode_list(get(names.packlist(digest)))


def objects_of(manifest: Manifest, get: Callable[[str], bytes], key_object: Callable[[str], str]) -> Iterator[str]:
    """The names of every object a snapshot needs besides its manifest, in the order of writing.

    `key_object` gives the name of the key object that counts for a hinted one: of a copy, its `key_object`.
    """
    for run in manifest.runs:
        yield key_object(run.key)
    for run in manifest.runs:
        yield from (names.pack(digest) for digest in packs_of(run, get))
    for run in manifest.runs:
        yield from (names.index(digest) for digest in run.indexes)
    for run in manifest.runs:
        yield from (names.packlist(digest) for digest in run.lists)
