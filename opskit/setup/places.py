"""What the file system says about the places that `opskit init` was given: what is missing, what is not mounted.

It looks and writes nothing. What the config alone shows is the business of `config.dangers`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from opskit.config.model import Config, LocalDestination, PathsSource
from opskit.errors import UsageError
from opskit.gpg.folders import is_in_memory

ROOT = Path("/")
_MEDIA = ("mnt", "media", "run/media")
"""Where disks that come and go are mounted, by the Filesystem Hierarchy Standard and by desktops."""


def require_new_file(recovery_key: Path) -> None:
    """Raise UsageError unless a recovery-key file can come to this path: nothing is there yet, but its folder is.

    A missing folder is never made: it may be that of a stick that is not mounted, and a private key would come to lie
    on the disk of the host that it must not be on.
    """
    if os.path.lexists(recovery_key):
        raise UsageError(
            f"the recovery-key file {recovery_key} exists; it is never overwritten",
            hint="name another file, or move it away",
        )
    folder = recovery_key.parent
    if not folder.is_dir():
        what = "is not a folder" if os.path.lexists(folder) else "is not there"
        raise UsageError(
            f"the recovery-key file {recovery_key}: {folder} {what}",
            hint="mount the stick that it goes to, or make the folder yourself: init does not, as a private key would "
            "come to lie on this host's disk",
        )


def absent_sources(config: Config) -> Iterator[str]:
    """A sentence for each path of a source that is not there now."""
    for name, source in config.sources.items():
        for path in source.paths if isinstance(source, PathsSource) else ():
            if _is_absent(path):
                yield f"sources.{name}.paths: {path} is not there: while it is not, a backup of {name} fails"


def folders_to_make(config: Config) -> dict[str, Path]:
    """The topmost missing folder above each destination that has one: it would be made with the repository."""
    found = {}
    for name, destination in config.destinations.items():
        if isinstance(destination, LocalDestination):
            missing = [each for each in destination.path.parents if _is_absent(each)]
            if missing:
                found[name] = missing[-1]
    return found


def misplaced(config: Config, created: Collection[str], made: Mapping[str, Path], root: Path = ROOT) -> Iterator[str]:
    """A sentence for each new repository that looks as if its disk had not been mounted, and lies on that of `root`.

    `created` are the destinations that have a new one, `made` what `folders_to_make` said before.
    """
    for name in created:
        destination = config.destinations[name]
        if not isinstance(destination, LocalDestination):
            continue
        path, new = destination.path, made.get(name)
        if new is not None and _are_on_one_device(path, root):
            yield (
                f"{name}: {new} was not there: it was made, on the disk of {root}. If a disk should be mounted there: "
                f"remove {path}, mount the disk, then opskit init --destination {name}={path}"
            )
        elif new is None and is_unmounted(path, root):
            yield (
                f"{name}: {path} lies on the disk of {root}: nothing is mounted there. If a disk should be: "
                f"remove {path}, mount the disk, then opskit init --destination {name}={path}"
            )


def is_unmounted(path: Path, root: Path = ROOT) -> bool:
    """Whether a path lies where disks get mounted, and yet on the file system that holds the mount points."""
    return any(
        path.is_relative_to(root / media) and _are_on_one_device(path, (root / media).parent) for media in _MEDIA
    )


def is_on_own_disk(path: Path, root: Path = ROOT) -> bool:
    """Whether a file lies on the file system of `root`, and that is not in memory."""
    return _are_on_one_device(path, root) and not is_in_memory(path)


def _are_on_one_device(one: Path, other: Path) -> bool:
    try:
        return os.stat(one).st_dev == os.stat(other).st_dev
    except OSError:
        return False


def _is_absent(path: Path) -> bool:
    """Whether there is surely nothing: what may not be looked at may be there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False
