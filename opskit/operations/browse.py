"""Look into snapshots: the entries of a folder, and those whose names match patterns.

Invariant: what is yielded comes from the verified tree alone, in tree order; nothing is written and no
content is read. Whose private key opens the tree is the reader's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import translate

from opskit.errors import SnapshotNotFound
from opskit.repository.manifest import Snapshot
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Node
from opskit.sources.base import printable


def entries(reader: SnapshotReader, path: bytes, *, recursive: bool = False) -> Iterator[Node]:
    """What is directly in a folder ("" for the top), or with `recursive` all below it; of a file the file itself.

    Raises SnapshotNotFound when the snapshot has no such path.
    """
    prefix = path + b"/" if path else b""
    found = not path
    for node in reader.nodes(reader.root(), path):
        found = True
        if node.path == path:
            if node.type != "dir":
                yield node
        elif recursive or b"/" not in node.path[len(prefix) :]:
            yield node
    if not found:
        raise SnapshotNotFound(
            f"the snapshot has no {printable(path)}",
            hint="opskit find shows where a name is; opskit ls goes down by folder",
        )


def matcher(patterns: Sequence[bytes], *, ignore_case: bool = False) -> Callable[[bytes], bool]:
    """Whether a tree path fits one of some shell patterns, by its last name or as a whole ("/srv/*.conf").

    `*` goes over "/" as in find -path; a pattern without a leading "/" may match the whole path without it too.
    """
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    # As text of one character a byte: fnmatch's translation, on names that need not be UTF-8.
    compiled = [re.compile(translate(pattern.decode("latin-1")).encode("latin-1"), flags) for pattern in patterns]

    def matches(path: bytes) -> bool:
        forms = (path.rpartition(b"/")[2], b"/" + path, path)
        return any(each.match(form) for each in compiled for form in forms)

    return matches


def newest_of_each(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    """The snapshot with the highest sequence number of each host and source; `snapshots` are in sequence order."""
    return list({(each.manifest.source, each.manifest.host): each for each in snapshots}.values())
