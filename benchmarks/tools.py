"""The tools that are compared, each driven as its manual tells a person to.

All encrypt, deduplicate and compress with zstd at their default or level 3, on one local folder. A tool whose program
is absent is named and left out. The passphrases are fixed: these repositories hold nothing and do not outlive the run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from benchmarks.measure import BenchmarkFailed, Usage, run

PASSPHRASE = "benchmark"


class Tool(Protocol):
    """A tool with a fresh repository of its own for one corpus."""

    name: ClassVar[str]
    repository: Path

    def backup(self) -> Usage:
        """Take a snapshot of the corpus."""

    def restore(self, target: Path) -> Usage:
        """Restore the newest snapshot: /srv/a becomes target/srv/a."""

    def restore_one(self, file: Path, target: Path) -> Usage:
        """Restore one file of the newest snapshot to the same place below `target`."""


@dataclass(frozen=True)
class Program:
    """A tool's executable as it was found on this machine."""

    name: str
    path: str
    version: str


class Opskit:
    """opskit with one destination (`location`, else a folder) and a recovery key without passphrase."""

    name: ClassVar[str] = "opskit"

    def __init__(self, program: str, home: Path, source: Path, location: str | None = None) -> None:
        self.repository = home / "repository"
        self._home, self._key = home, home / "recovery-key.asc"
        self._program: list[str | Path] = [program, "--config", home / "opskit.yaml", "--quiet"]
        options = ["--source", f"data={source}", "--destination", f"disk={location or self.repository}"]
        options += ["--new-recipient", "Benchmark <benchmark@example.org>", "--no-passphrase"]
        run([*self._program, "init", "--state-dir", home / "state", "--recovery-key", self._key, *options], home)

    def backup(self) -> Usage:
        return run([*self._program, "backup"], self._home)

    def restore(self, target: Path) -> Usage:
        return self._restore("latest", target)

    def restore_one(self, file: Path, target: Path) -> Usage:
        return self._restore(f"latest:{file}", target)

    def _restore(self, what: str, target: Path) -> Usage:
        return run([*self._program, "restore", what, "--target", target, "--key", self._key], self._home)


class Restic:
    """restic with repository format 2, which compresses, at `location` or in a folder."""

    name: ClassVar[str] = "restic"

    def __init__(self, program: str, home: Path, source: Path, location: str | None = None) -> None:
        self.repository = home / "repository"
        self._program, self._home, self._source = program, home, source
        self._settings = {
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_REPOSITORY": location or str(self.repository),
            "RESTIC_CACHE_DIR": str(home / "cache"),
        }
        self._run("init", "--repository-version", "2")

    def backup(self) -> Usage:
        return self._run("backup", self._source)

    def restore(self, target: Path) -> Usage:
        return self._run("restore", "latest", "--target", target)

    def restore_one(self, file: Path, target: Path) -> Usage:
        return self._run("restore", "latest", "--target", target, "--include", file)

    def _run(self, command: str, *arguments: str | Path) -> Usage:
        return run([self._program, command, "--quiet", *arguments], self._home, self._settings)


class Borg:
    """BorgBackup 1 with its key in the repository, authenticated by BLAKE2, and zstd instead of its default lz4."""

    name: ClassVar[str] = "borg"

    def __init__(self, program: str, home: Path, source: Path) -> None:
        self.repository = home / "repository"
        self._program, self._home, self._source, self._archives = program, home, source, 0
        self._settings = {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_REPO": str(self.repository),
            "BORG_BASE_DIR": str(home / "base"),
        }
        self._run("init", "--encryption", "repokey-blake2")

    def backup(self) -> Usage:
        self._archives += 1
        return self._run("create", "--compression", "zstd,3", f"::{self._archives}", self._source)

    def restore(self, target: Path) -> Usage:
        target.mkdir(parents=True)
        return self._run("extract", f"::{self._archives}", folder=target)

    def restore_one(self, file: Path, target: Path) -> Usage:
        target.mkdir(parents=True)
        return self._run("extract", f"::{self._archives}", str(file).lstrip("/"), folder=target)

    def _run(self, command: str, *arguments: str | Path, folder: Path | None = None) -> Usage:
        return run([self._program, command, *arguments], self._home, self._settings, folder)


PEERS = ("restic", "borg")
EXPECTED = {"restic": (0, 19), "borg": (1, 4)}
"""The versions that opskit's figures are stated against."""


def make(program: Program, home: Path, source: Path) -> Tool:
    """A tool with a new repository below `home`, ready for its first backup of `source`."""
    home.mkdir(parents=True)
    match program.name:
        case "opskit":
            return Opskit(program.path, home, source)
        case "restic":
            return Restic(program.path, home, source)
        case "borg":
            return Borg(program.path, home, source)
    raise BenchmarkFailed(f"expected opskit, {' or '.join(PEERS)}, got {program.name}")


def find_opskit(path: str | None) -> Program:
    """opskit at `path`, else the one beside this interpreter, else on PATH; raises BenchmarkFailed if there is none."""
    beside = Path(sys.executable).with_name("opskit")
    found = shutil.which(path or (str(beside) if beside.exists() else "opskit"))
    if found is None:
        raise BenchmarkFailed(f"opskit is not at {path or beside}; say --opskit PATH")
    return Program("opskit", str(Path(found).absolute()), version_of(found, "--version"))


def find_peer(name: str, path: str) -> tuple[Program | None, str | None]:
    """A peer's program or None, and what the reader of the table has to know about it or None."""
    found = shutil.which(path)
    if found is None:
        return None, f"{name} is left out: no program `{path}`; say --{name} PATH"
    version = version_of(found, "version" if name == "restic" else "--version")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    expected = ".".join(map(str, EXPECTED[name]))
    if name == "borg" and numbers >= (2,):
        return None, f"borg is left out: {version} has other commands than borg 1"
    program = Program(name, str(Path(found).absolute()), version)
    if numbers < EXPECTED[name]:
        return (
            program,
            f"{name} {version} is older than {expected}, the version that opskit's figures are stated against",
        )
    return program, None


def version_of(program: str, argument: str) -> str:
    """The version number in the first line that `program` prints for `argument`."""
    told = subprocess.run([program, argument], capture_output=True, text=True, check=False).stdout
    match = re.search(r"\d+(\.\d+)+\S*", told)
    return match.group() if match else "of unknown version"
