"""Walking the folders of a local store: objects with size and time, sorted, and nothing else.

Fast where it matters (160,000 packs): one stat an object, relative to its open folder, and one sort a folder.
An error is raised, never passed over; only what vanished between being seen and being looked at is left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from operator import itemgetter

from opskit.stores.base import ObjectInfo, check_name
from opskit.stores.local.descriptors import closing

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
"""How every folder below the root is opened: a symlink there is an error."""

_DEEPEST = 5


def scan_folder(above: int, leaf: str, path: str, depth: int) -> Iterator[ObjectInfo]:
    """Objects of the folder `leaf` in the open folder `above`; `path` ends with "/" and `depth` counts its parts."""
    try:
        folder = os.open(leaf, FOLDER, dir_fd=above)
    except FileNotFoundError:
        return  # removed since it was seen: nothing in it is an object any more
    with closing(folder):
        yield from scan(folder, path, depth)


def scan(folder: int, path: str, depth: int) -> Iterator[ObjectInfo]:
    """Objects below an open folder; a folder sorts as its name with "/", which is where its objects belong."""
    found: list[tuple[str, os.DirEntry[str]]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_part(entry.name):
                key = f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
                found.append((key, entry))
    found.sort(key=itemgetter(0))
    for key, entry in found:
        if key.endswith("/"):
            if depth < _DEEPEST:
                yield from scan_folder(folder, entry.name, path + key, depth + 1)
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode):
            yield ObjectInfo(path + key, status.st_size, status.st_mtime)


def _is_part(leaf: str) -> bool:
    try:
        check_name(leaf)
    except ValueError:
        return False
    return True
