"""Which run keys go together into which new key object. Pure.

Invariants: a key object's run keys stay together, so that one object stands in for it wholly. No object with a run key
that another one contradicts is touched: one of the two is a trick, and nothing here can tell which. What nothing signed
names never goes together with what something does. A second round over the outcome of a first changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

RUNS_A_KEY_OBJECT = 1000
"""About 80 kB."""

RunKeys = Mapping[str, str]
"""Run id → run key."""


def contradicted(opened: Mapping[str, RunKeys], vouched: Collection[str]) -> set[str]:
    """The objects that give another key to a run than some other object does.

    Where one of them is vouched for and the other is not, only the other.
    """
    found: set[str] = set()
    for group in (set(opened) & set(vouched), set(opened) - set(vouched)):
        holders: dict[str, dict[str, list[str]]] = {}
        for digest in group:
            for run, key in opened[digest].items():
                holders.setdefault(run, {}).setdefault(key, []).append(digest)
        found |= {digest for keys in holders.values() if len(keys) > 1 for each in keys.values() for digest in each}
    known = {run: key for digest in vouched if digest in opened for run, key in opened[digest].items()}
    return found | {
        digest
        for digest in set(opened) - set(vouched)
        if any(known.get(run, key) != key for run, key in opened[digest].items())
    }


def bins(runs: Mapping[str, int], most: int = RUNS_A_KEY_OBJECT) -> list[list[str]]:
    """Put objects together by their number of runs: first fit, the largest first. No two of the bins fit together."""
    made: list[tuple[int, list[str]]] = []
    for digest in sorted(runs, key=lambda each: (-runs[each], each)):
        for place, (size, members) in enumerate(made):
            if size + runs[digest] <= most:
                members.append(digest)
                made[place] = (size + runs[digest], members)
                break
        else:
            made.append((runs[digest], [digest]))
    return [members for _, members in made]


def to_make(
    opened: Mapping[str, RunKeys], current: Collection[str], vouched: Collection[str], most: int = RUNS_A_KEY_OBJECT
) -> list[list[str]]:
    """The groups of objects that become one new object each. `current` ones have the right recipients already."""
    made: list[list[str]] = []
    for group in (set(opened) & set(vouched), set(opened) - set(vouched)):
        filled = bins({digest: len(opened[digest]) for digest in group}, most)
        made += [each for each in filled if len(each) > 1 or each[0] not in current]
    return made


def merged(opened: Mapping[str, RunKeys], group: Iterable[str]) -> dict[str, str]:
    """The run keys of a group."""
    return {run: key for digest in group for run, key in opened[digest].items()}


def of_runs(opened: Mapping[str, RunKeys], groups: Iterable[Sequence[str]]) -> int:
    """How many run keys the groups have in all."""
    return sum(len(merged(opened, group)) for group in groups)
