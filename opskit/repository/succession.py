"""Which key objects stand in for others: what believed supersede marks say, put together.

A run key that was encrypted anew lies in another key object than the one that manifests and index objects hint at. A
mark says so; here is the one place that follows it. Whoever asks where the key of a run is takes `digest`, so a
snapshot is whole where its packs are and the hinted object, or any that came after it.

Invariants: an object has the same run keys as each one that supersedes it (whoever made the mark has opened both), so
any of them is as good. Two hosts may each have superseded one object: then there are two ends, either will do. What
leads back to itself is never followed, so nothing is taken for superseded by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from opskit.repository import names


class Succession:
    """What supersedes what; digests of key objects.

    `is_shown` tells whether any copy at hand lists an object, by its name.
    """

    def __init__(self, is_shown: Callable[[str], bool] = lambda name: False) -> None:
        self._next: dict[str, set[str]] = {}
        self._made: set[str] = set()
        self._heirs: dict[str, tuple[str, ...]] = {}
        self._is_shown = is_shown

    def add(self, supersedes: Mapping[str, Iterable[str]]) -> bool:
        """Take in what one mark says: new object → old ones. False, and nothing is taken in, where that is a circle."""
        for new, olds in supersedes.items():
            if not set(olds).isdisjoint((new, *self._after(new, supersedes))):
                return False
        for new, olds in supersedes.items():
            for old in olds:
                self._next.setdefault(old, set()).add(new)
        self._made.update(supersedes)
        self._heirs.clear()
        return True

    def is_superseded(self, digest: str) -> bool:
        """Whether another object stands in for this one."""
        return digest in self._next

    def is_original(self, digest: str) -> bool:
        """Whether no mark tells of it: whose it is says for whom the host writes that made its run."""
        return digest not in self._next and digest not in self._made

    def heirs(self, digest: str) -> tuple[str, ...]:
        """All objects that stand in for this one, those first that nothing supersedes; () where none does."""
        if digest not in self._next:
            return ()
        if digest not in self._heirs:
            after = self._after(digest)
            self._heirs[digest] = tuple(sorted(after, key=lambda each: (each in self._next, each)))
        return self._heirs[digest]

    def ends(self, digest: str) -> list[str]:
        """Those of the heirs that nothing supersedes."""
        return [each for each in self.heirs(digest) if each not in self._next]

    def all_ends(self) -> list[str]:
        """Every object that supersedes one and is not superseded itself."""
        return sorted({end for old in self._next for end in self.ends(old)})

    def digest(self, hinted: str, there: Container[str]) -> str:
        """The key object that counts among the objects `there`: the latest that is, for a hinted one.

        Where none is, the one to bring: the latest that any copy shows.
        """
        heirs = self.heirs(hinted)
        if not heirs:
            return hinted
        candidates = (*heirs, hinted)
        here = (each for each in candidates if names.key(each) in there)
        shown = (each for each in candidates if self._is_shown(names.key(each)))
        return next(here, None) or next(shown, candidates[0])

    def name(self, hinted: str, there: Container[str]) -> str:
        """The name of that object."""
        return names.key(self.digest(hinted, there))

    def _after(self, digest: str, more: Mapping[str, Iterable[str]] | None = None) -> set[str]:
        """Everything that comes after an object, also by what `more` would add."""
        added: dict[str, set[str]] = {}
        for new, olds in (more or {}).items():
            for old in olds:
                added.setdefault(old, set()).add(new)
        found: set[str] = set()
        pending = [digest]
        while pending:
            each = pending.pop()
            following = self._next.get(each, set()) | added.get(each, set())
            pending += following - found
            found |= following
        return found
