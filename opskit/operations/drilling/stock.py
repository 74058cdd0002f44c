"""Restores with the recovery kit that lies in the copy, and nothing of opskit: recover.py, gpg and zstd.

Invariants: recover.py lies on storage that nobody trusts, so it is read once, its SHA-256 is held against sums known
from elsewhere (this program's own kit, the signed manifest, the recovery-key file), and those very bytes are run, by a
Python without site packages and without variables of this process. Only copies in folders: the kit reads no bucket.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from opskit.errors import Forged, NoKey
from opskit.operations.drilling.checks import Failure
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.manifest import Snapshot

_SAID = 400
_GRACE_SECONDS = 10.0
"""Between asking recover.py to end, so that it removes the private key from memory, and killing it."""
_NO_KEY = 12


@dataclass(frozen=True, slots=True)
class Stock:
    """What a restore without opskit takes: the copy's folder, the key file, and the sums that recover.py may have."""

    repository: Path
    key: Path
    known: Collection[str]


def recover(stock: Stock, copy: Copy, snapshot: Snapshot, target: Path, scratch: Path, path: str) -> list[Failure]:
    """Restore a snapshot into `target`; what went wrong in recover.py's own words. Raises Forged, StoreError, NoKey."""
    program = copy.store.get(names.RECOVER_PROGRAM)
    known = {*stock.known, snapshot.manifest.kit.get(names.RECOVER_PROGRAM, "")}
    if names.sha256(program) not in known:
        raise Forged(
            f"{copy.destination}: {names.RECOVER_PROGRAM} is not the kit's: its SHA-256 is {names.sha256(program)}",
            hint=f"it was not run; opskit heal --destination {copy.destination} puts the right one there",
        )
    own = scratch / names.RECOVER_PROGRAM
    own.write_bytes(program)
    command = [
        *(sys.executable, "-I", str(own), "--repository", str(stock.repository), "--key", str(stock.key)),
        *("--target", str(target), "--snapshot", snapshot.id),
    ]
    environment = {"PATH": path, "HOME": str(scratch), "LANG": "C.UTF-8"}
    with tempfile.TemporaryFile(dir=scratch) as said:
        status = _run(command, environment, said.fileno())
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    if status == _NO_KEY:
        raise NoKey("; ".join(lines)[-_SAID:] or "recover.py: no key opens this backup")
    problems = [(b"", f"recover.py: {line[:_SAID]}") for line in lines if line.startswith("PROBLEM")]
    if status and not problems:
        problems = [(b"", f"recover.py ended with status {status}: {'; '.join(lines)[-_SAID:]}")]
    return problems


def _run(command: list[str], environment: dict[str, str], said: int) -> int:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=os.sep,
        start_new_session=True,  # Ctrl-C is ours to answer: it must end before the scratch goes
    )
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
