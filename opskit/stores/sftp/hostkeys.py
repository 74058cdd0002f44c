"""Whose keys are believed to be a server's: what known_hosts files say, and nothing else.

Invariant: a server is never believed because it was not known before. No file and no entry means: nobody is believed.
It deliberately never writes to known_hosts and never asks anybody: a backup runs unattended.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.errors import StoreRefused
from opskit.stores.sftp.place import SftpPlace

if TYPE_CHECKING:
    from asyncssh import SSHKnownHosts


def files_of(place: SftpPlace) -> list[Path]:
    """The files that are asked about a server, as far as they are there."""
    if place.known_hosts is not None:
        return [place.known_hosts]
    candidates = (
        Path("~/.ssh/known_hosts").expanduser(),
        Path("~/.ssh/known_hosts2").expanduser(),
        Path("/etc/ssh/ssh_known_hosts"),
        Path("/etc/ssh/ssh_known_hosts2"),
    )
    return [each for each in candidates if each.exists()]


def believed(place: SftpPlace) -> SSHKnownHosts:
    """What the files say; raises StoreRefused where one cannot be read or understood."""
    import asyncssh

    found = asyncssh.import_known_hosts("")
    for path in files_of(place):
        try:
            found.load(path.read_text("utf-8", "surrogateescape"))
        except (OSError, ValueError) as error:
            raise StoreRefused(
                f"{place.location}: cannot read {path}, which says whose key the server has: {error}",
                hint="correct that file, or name another with known_hosts: at this destination",
            ) from error
    return found


def refusal(place: SftpPlace, known: SSHKnownHosts, shown: Sequence[str]) -> StoreRefused:
    """The error for a server whose key is not believed; `shown` are the fingerprints it showed."""
    keys = known.match(place.host, "", place.port)[0]
    got = ", ".join(shown) or "one that could not be read"
    files = ", ".join(map(str, files_of(place))) or "no known_hosts file"
    if keys:
        expected = ", ".join(sorted(f"{each.get_algorithm()} {each.get_fingerprint()}" for each in keys))
        return StoreRefused(
            f"{place.location}: the server's host key is not the known one: expected {expected}, got {got} ({files})",
            hint="somebody may stand between here and the server: ask whoever runs it whether its key was changed; "
            f"only then: ssh-keygen -R '{place.server}', and add the new key",
        )
    port = f"-p {place.port} " if "[" in place.server else ""
    return StoreRefused(
        f"{place.location}: the server's host key is not known: expected a key for {place.server} in known_hosts, "
        f"got {got} ({files}); to look at it: ssh-keyscan {port}{place.host} | ssh-keygen -lf -",
        hint="compare it with what the provider publishes, and only then add the line of ssh-keyscan to known_hosts: "
        "opskit never does",
    )
