"""Restores with the recovery kit that lies in the copy, and nothing of opskit: recover.py, gpg and zstd.

Invariants: recover.py lies on storage that nobody trusts, so it is read once, its SHA-256 is held against sums known
from elsewhere (this program's own kit, the signed manifest, the recovery-key file), and those very bytes are run, by a
Python without site packages and without variables of this process. The kit reads folders: of a copy in a bucket what
the snapshot needs is first copied into the scratch, object by object as it lies there, right or wrong, as somebody
would who has nothing but the bucket's own tools; recover.py is what judges it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from opskit.errors import Forged, NoKey, ObjectNotFound, ObjectUnreadable, OpskitError, StoreFull
from opskit.operations.drilling.checks import Failure
from opskit.operations.drilling.scratch import translated
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.locating import objects_of
from opskit.repository.manifest import Snapshot
from opskit.repository.threads import end

_SAID = 400
_GRACE_SECONDS = 10.0
"""Between asking recover.py to end, so that it removes the private key from memory, and killing it."""
_LOOK_SECONDS = 0.01
_NO_KEY, _FULL = 12, 21


@dataclass(frozen=True, slots=True)
class Stock:
    """What a restore without opskit takes: the copy's folder, the key file, and the sums that recover.py may have.

    `repository` is None for a copy that lies in no folder. The passphrase is typed at a terminal, as a person would.
    """

    repository: Path | None
    key: Path
    known: Collection[str]
    passphrase: bytes | None = None


def download_size(stock: Stock, copy: Copy, snapshot: Snapshot) -> int:
    """Bytes that are copied into the scratch before recover.py begins; raises StoreError, Damaged."""
    return sum(copy.objects[name] for name in _wanted(copy, snapshot)) if stock.repository is None else 0


def recover(
    stock: Stock, copy: Copy, snapshot: Snapshot, target: Path, scratch: Path, path: str, workers: int = 1
) -> list[Failure]:
    """Restore a snapshot into `target`; what went wrong in recover.py's own words.

    Raises Forged, StoreError, NoKey, StoreFull, and OpskitError where recover.py was killed.
    """
    program = copy.store.get(names.RECOVER_PROGRAM)
    known = {*stock.known, snapshot.manifest.kit.get(names.RECOVER_PROGRAM, "")}
    if names.sha256(program) not in known:
        raise Forged(
            f"{copy.destination}: {names.RECOVER_PROGRAM} is not the kit's: its SHA-256 is {names.sha256(program)}",
            hint=f"it was not run; opskit heal --destination {copy.destination} puts the right one there",
        )
    repository = stock.repository or _downloaded(copy, snapshot, scratch / "copy", workers)
    own = scratch / names.RECOVER_PROGRAM
    own.write_bytes(program)
    command = [
        *(sys.executable, "-I", str(own), "--repository", str(repository), "--key", str(stock.key)),
        *("--target", str(target), "--snapshot", snapshot.id),
    ]
    environment = {"PATH": path, "HOME": str(scratch), "LANG": "C.UTF-8"}
    with tempfile.TemporaryFile(dir=scratch) as said:
        status = _run(command, environment, said.fileno(), stock.passphrase)
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").splitlines()
    _judge(status, lines, scratch)
    problems = [(b"", f"recover.py: {line[:_SAID]}") for line in lines if line.startswith("PROBLEM")]
    if status and not problems:
        problems = [(b"", f"recover.py ended with status {status}: {'; '.join(lines)[-_SAID:]}")]
    return problems


def _judge(status: int, lines: list[str], scratch: Path) -> None:
    """Raise what says nothing of the copy: NoKey, StoreFull, OpskitError."""
    said = "; ".join(lines)[-_SAID:]
    if status == _NO_KEY:
        raise NoKey(said or "recover.py: no key opens this backup")
    if status == _FULL:
        raise StoreFull(
            f"the scratch place {scratch.parent} became full: {said}",
            hint="name a larger one by --scratch DIR or drills.scratch",
        )
    if status < 0:
        raise OpskitError(
            f"recover.py was killed by signal {-status}", hint="where memory ran out (dmesg), drill on another host"
        )


def _wanted(copy: Copy, snapshot: Snapshot) -> list[str]:
    """What recover.py reads of a copy, as far as it is there."""
    found = [names.REPOSITORY, names.COPY, snapshot.name, *objects_of(snapshot.manifest, copy.get, copy.key_object)]
    return [name for name in dict.fromkeys(found) if name in copy.objects]


def _downloaded(copy: Copy, snapshot: Snapshot, folder: Path, workers: int) -> Path:
    """A folder with what the snapshot needs; what the store cannot give is left out. Raises StoreError for a store
    that is away."""

    def fetch(name: str) -> None:
        with contextlib.suppress(ObjectNotFound, ObjectUnreadable):
            data, place = copy.store.get(name), folder / name
            with translated(folder):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)

    threads = ThreadPoolExecutor(workers, thread_name_prefix="download")
    tasks = [threads.submit(fetch, name) for name in _wanted(copy, snapshot)]
    try:
        for task in tasks:
            task.result()
    except BaseException as error:
        end(threads, tasks, error)
        raise
    end(threads, tasks, None)
    return folder


def _run(command: list[str], environment: dict[str, str], said: int, passphrase: bytes | None) -> int:
    with ExitStack() as opened:
        typist = None if passphrase is None else opened.enter_context(Typist(passphrase))
        process = subprocess.Popen(
            [*(typist.command if typist else ()), *command],
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
        finally:
            _forget_key(process.pid)


def _forget_key(pid: int) -> None:
    """Remove the folder with the private key that recover.py leaves where it is killed, and end the agent in it."""
    for place in (f"/run/user/{os.getuid()}", "/dev/shm", tempfile.gettempdir()):
        for left in Path(place).glob(f"opskit-recover-{pid}-*"):
            found = os.lstat(left)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                subprocess.run(["gpgconf", "--homedir", str(left), "--kill", "gpg-agent"], check=False)
                shutil.rmtree(left, ignore_errors=True)


class Typist:
    """A terminal of its own for a command, at which somebody types the passphrase whenever gpg asks for it."""

    def __init__(self, passphrase: bytes) -> None:
        self._passphrase = passphrase
        self._ours, self._theirs = os.openpty()
        # The first terminal that the leader of a session opens is its own.
        code = "import os, sys; os.open(sys.argv[1], os.O_RDWR); os.execv(sys.argv[2], sys.argv[2:])"
        self.command = [sys.executable, "-I", "-S", "-c", code, os.ttyname(self._theirs)]
        self._thread = threading.Thread(target=self._type, name="typist", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._theirs)  # the last one that has it open: then reading ends
        self._thread.join(_GRACE_SECONDS)
        os.close(self._ours)

    def _type(self) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while data := os.read(self._ours, 4096):
                seen += data
                if b"passphrase:" in seen.lower() and self._is_listened_to():
                    seen = b""
                    os.write(self._ours, self._passphrase + b"\n")

    def _is_listened_to(self) -> bool:
        """Wait until what is typed shows no more: gpg asks first, then drops what was typed until it listens."""
        for _ in range(int(_GRACE_SECONDS / _LOOK_SECONDS)):
            if not termios.tcgetattr(self._ours)[3] & termios.ECHO:
                return True
            time.sleep(_LOOK_SECONDS)
        return False
