"""Where originals and copies really are, whatever the config calls them.

Invariant: two things in one place get the same text. A place is what can fail as a whole: a device for local folders
(st_dev, so btrfs subvolumes of one disk and partitions of one disk look like several), endpoint and bucket for object
storage, the server for a folder at one, whatever the account and path; where that server is this very machine, the
device of the folder. It deliberately knows no config: whatever has the attributes will do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from opskit.repository import names


@dataclass(frozen=True, slots=True)
class Original:
    """What is backed up. `places` are all devices it lies on, `gone` the paths (or the program) that are not there."""

    places: frozenset[str] = frozenset()
    gone: tuple[str, ...] = ()
    is_program: bool = False
    """What is gone is the program that reads the original; of the original itself that says nothing."""

    @property
    def is_live(self) -> bool:
        """Whether all of it is still there."""
        return not self.gone


def place_of(destination: object, copy_id: str = "") -> str:
    """Where a destination of the config is: "device 8:1" by st_dev, "s3 endpoint/bucket", "server HOST" and so on.

    "" where nothing is seen. `copy_id` is that of the copy there, as far as it could be opened.

    Of AWS every endpoint is one: there a bucket's name is the bucket's alone.
    """
    bucket = getattr(destination, "s3", None)
    if bucket is None:
        return _server_of(destination, copy_id) or device_of(Path(getattr(destination, "path", "")))
    from urllib.parse import urlsplit  # here: hosts without buckets need not load it

    address = urlsplit(getattr(bucket, "endpoint", None) or "//amazonaws.com")
    host = address.netloc.lower()
    return f"s3 {'amazonaws.com' if host.endswith('.amazonaws.com') else host}/{bucket.bucket}"


def _server_of(destination: object, copy_id: str) -> str:
    """What of a server fails as a whole; "" for a destination that is at none."""
    kind = getattr(destination, "kind", "")
    there = getattr(destination, kind, None)
    if kind == "webdav":
        from urllib.parse import urlsplit  # here: hosts without servers need not load it

        return f"server {urlsplit(getattr(there, 'url', '')).hostname or ''}"
    if kind == "azure":
        return f"azure {getattr(there, 'address', '').partition('://')[2]}"
    if kind == "gcs":
        return f"gcs {getattr(there, 'address', '').partition('://')[2]}/{getattr(there, 'bucket', '')}"
    if kind != "sftp":
        return ""
    return _own_device(Path(getattr(there, "path", "")), copy_id) or f"server {getattr(there, 'host', '').lower()}"


def _own_device(path: Path, copy_id: str) -> str:
    """The device of a server's folder that is seen here too, by the same path and with the same copy in it; else "".

    By its name nobody can tell that a server is this machine: "localhost" may be a tunnel to another.
    """
    with suppress(OSError):
        if copy_id and path.is_absolute() and copy_id.encode() in (path / names.COPY).read_bytes():
            return device_of(path)
    return ""


def device_of(path: Path) -> str:
    """The device a path lies on; "" when the path is not there."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return ""
    return f"device {os.major(device)}:{os.minor(device)}"


def original_files(paths: Sequence[Path]) -> Original:
    """The original of a source of files and folders."""
    seen = {path: device_of(path) for path in paths}
    # A symlink that leads nowhere is there, and is backed up as such.
    gone = tuple(str(path) for path, device in seen.items() if not device and not os.path.lexists(path))
    return Original(frozenset(filter(None, seen.values())), gone)


def original_command(argv: Sequence[str]) -> Original:
    """The original behind a source command: what it reads cannot be seen, only whether the program is there."""
    return Original(gone=() if shutil.which(argv[0]) else (argv[0],), is_program=True)
