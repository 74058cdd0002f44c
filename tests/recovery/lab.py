"""A real repository made by the project's own code, with its keys, and recover.py run beside it as a stranger would.

The one place of these tests that knows how a backup is made.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from opskit import encoding, gpg
from opskit.gpg import Buffer
from opskit.operations.backup import Job, Options, backup
from opskit.operations.session import Host, open_session
from opskit.repository import copy as copies
from opskit.repository import manifest as manifests
from opskit.repository import names, pack, tree
from opskit.repository.identity import Identity
from opskit.repository.manifest import Manifest, Run
from opskit.repository.recovery import kit
from opskit.repository.recovery.keyfile import KeyFile, encode
from opskit.sources.files import FileSource
from opskit.stores.local import LocalStore

WHEN = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
COMPARE = ["rsync", "-aHAXnci", "--delete", "--numeric-ids"]


class Lab:
    """A host, a recipient, and one copy of a repository below `folder`."""

    def __init__(
        self, folder: Path, keys: Path, *, passphrase: bytes | None = None, owner: str = "test", with_kit: bool = True
    ) -> None:
        self.folder, self.copy, self.key = folder, folder / "copy", folder / "recovery-key.asc"
        self.keyring = gpg.Keyring(keys)
        self.host = self.keyring.generate(f"{owner} host")
        self.recipient = self.keyring.generate(f"{owner} recipient", passphrase=passphrase)
        self.repository = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
        self.trusted = folder / "trusted.gpg"
        self.public = self.keyring.export_public([self.host])
        gpg.write_public_keyring(self.public, self.trusted)
        self.store = LocalStore(self.copy)
        self.store.create()
        about = copies.identity(self.repository, WHEN)
        copies.create(self.store, about, copy_id="c0" * 16, kit=kit() if with_kit else {}, now=WHEN)
        self.secret = self.keyring.export_secret(self.recipient, passphrase=passphrase)
        self.write_key()

    def write_key(self, signers: Iterable[str] | None = None) -> None:
        """The recovery-key file, as init writes it."""
        digest = names.sha256(kit()["recover.py"])
        known = [self.host] if signers is None else list(signers)
        self.key.write_bytes(encode(KeyFile(self.repository, digest, known, known, self.secret, self.public)))

    def close(self) -> None:
        self.keyring.close()

    def back_up(self, sources: Mapping[str, Path], *, label: str = "lab") -> list[str]:
        """One run over the sources; returns the ids of the new snapshots."""
        identity = Identity(self.keyring, self.host, [self.recipient], [self.host], self.trusted)
        session = open_session(
            Host(
                label,
                identity,
                self.folder / f"state-{label}",
                self.repository,
                lambda: datetime.now(UTC),
                time.monotonic,
            ),
            {"disk": self.store},
        )
        jobs = [Job(name, FileSource([path])) for name, path in sources.items()]
        try:
            digests = {name: names.sha256(data) for name, data in kit().items()}
            options = Options(workers=1, config='{"version": 1}', keys=self.public.decode(), kit=digests)
            results = list(backup(session, jobs, options, clock_ns=time.time_ns))
        finally:
            session.close()
        assert all(result.destinations == {"disk": "ok"} for result in results), results
        return [result.snapshot for result in results]

    def craft(
        self,
        lines: Iterable[bytes],
        contents: Sequence[bytes] = (),
        *,
        ids: Sequence[bytes] | None = None,
        signer: str = "",
        sequence: int = 1,
    ) -> str:
        """A snapshot of source "crafted" whose tree has exactly these lines, whatever they say; returns its id.

        `contents` are stored as chunks, under `ids` where those are given, true or not.
        """
        run_key, run = b"5e" * 32, "4a" * 16
        buffer = pack.PackBuffer()
        piece = b"".join(line + b"\n" for line in lines)
        true_ids = [hashlib.sha256(content).digest() for content in contents]
        for chunk_id, content in zip(ids or true_ids, contents, strict=True):
            buffer.append(chunk_id, content)
        buffer.append(hashlib.sha256(piece).digest(), piece)
        root = tree.encode_root(tree.Root([tree.TreeChunk(hashlib.sha256(piece).digest(), len(piece), None, b"first")]))
        buffer.append(hashlib.sha256(root).digest(), root)
        sealed = pack.seal(buffer, run_key)
        key = self.keyring.encrypt(encoding.encode({run: run_key.decode()}), [self.recipient])
        self.put(names.pack(sealed.name), sealed.data)
        self.put(names.key(names.sha256(key)), key)
        manifest = Manifest(
            repository=self.repository, host="lab", source="crafted", sequence=sequence, previous=None, started=WHEN,
            finished=WHEN, tags=(), tree_pack=sealed.name, tree_member=len(buffer.ids) - 1,
            runs=[Run(run, names.sha256(key), (), [sealed.name])], kit={}, files=1, entries=1, bytes=1, unreadable=0,
            complete=True, writer="test",
        )  # fmt: skip
        signed = self.keyring.sign(manifests.encode(manifest), signer or self.host)
        digest = names.sha256(signed)
        self.put(names.snapshot(WHEN, "crafted", digest), signed)
        return digest

    def put(self, name: str, data: Buffer) -> None:
        path = self.copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def recover(self, *arguments: str | Path, copy: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the recover.py of a copy: no environment, no site packages."""
        return run_recover(copy or self.copy, *arguments)

    def restore(self, target: Path, *arguments: str, copy: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The one command of RECOVER.md."""
        return self.recover("--key", self.key, "--target", target, *arguments, copy=copy)

    def damaged(self, name: str) -> Path:
        """A second copy, to be damaged."""
        return Path(shutil.copytree(self.copy, self.folder / f"copy-{name}"))


def run_recover(copy: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The recover.py that lies in `copy`, with the standard library alone; it must leave no private key behind."""
    command = [sys.executable, "-I", "-S", str(copy / "recover.py"), *map(str, arguments)]
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **streams) as process:  # type: ignore[call-overload]
        output, log = process.communicate(timeout=100)
    assert leftovers(process.pid) == []
    return subprocess.CompletedProcess(command, process.returncode, output, log)


def leftovers(process: int) -> list[Path]:
    """Folders with a private key that a recover.py has, or has left behind."""
    places = [Path("/run/user") / str(os.getuid()), Path("/dev/shm"), Path("/tmp")]
    return [path for place in places if place.is_dir() for path in place.glob(f"opskit-recover-{process}-*")]


def differences(source: Path, restored: Path) -> str:
    """What rsync, an outside judge, finds different between two folders; sockets are not looked at."""
    done = subprocess.run([*COMPARE, f"{source}/", f"{restored}/"], capture_output=True, text=True, check=True)
    return done.stdout


def blocks(path: Path) -> int:
    """Bytes really allocated."""
    return path.stat().st_blocks * 512


def below(target: Path, source: Path) -> Path:
    """Where a source path comes back."""
    return target / source.relative_to("/")
