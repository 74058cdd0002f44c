"""A host on which commands run as processes, each watched, and all that they left behind searched for secrets.

What may hold one on purpose is named: `private` paths, variables that are `given`, the output of a command that shows.
Everything else that opskit wrote, said or started must not.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.cli.hosts import Answer, Machine
from tests.cli.running import clean
from tests.cli.sentinels.forms import Sentinels
from tests.cli.sentinels.watching import Watch

RECORDER = Path(__file__).with_name("recorder")
KEY_RINGS = "/dev/shm/opskit-gpg-*"
"""Key rings in memory, of mode 0700: private keys lie there on purpose, for as long as gpg needs them."""
_SECONDS = 60


class Trace(NamedTuple):
    """Some bytes, and where they were found: `place` is one word for what kind of place that is."""

    place: str
    where: str
    data: bytes


@dataclass
class Stage:
    """A host, the secrets of its story, and what became visible of that."""

    machine: Machine
    secrets: Sentinels = field(default_factory=Sentinels)
    environ: dict[str, str] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    """Names of variables that hold a secret because a test, or the config, says so."""
    private: list[Path] = field(default_factory=list)
    """Files and folders that hold secrets in the clear on purpose."""
    logs: list[Callable[[], bytes]] = field(default_factory=list)
    """What servers have logged."""
    traces: set[Trace] = field(default_factory=set)
    package: Path | None = None
    """The folder of another program that counts as opskit."""

    def __post_init__(self) -> None:
        for folder in (self.temporary, self.record):
            folder.mkdir()

    @property
    def temporary(self) -> Path:
        """TMPDIR."""
        return self.machine.folder / "tmp"

    @property
    def record(self) -> Path:
        return self.machine.folder / "record"

    def keep(self, name: str, value: bytes, mode: int = 0o600) -> str:
        """A file with a secret in it, which is one from now on; gives a reference to it."""
        path = self.machine.folder / name
        path.touch(0o600)
        path.write_bytes(value)
        path.chmod(mode)
        self.secrets.add(name, value)
        self.private.append(path)
        return f"file://{path}"

    def run(self, *arguments: object, stdin: bytes = b"", shows: bool = False, **environ: str) -> Answer:
        """A command as a process; one that `shows` may write secrets to stdout."""
        path = f"{RECORDER}:{self.package or clean({})['PYTHONPATH']}"
        given = {
            **self.environ, **environ, "PYTHONPATH": path, "TMPDIR": str(self.temporary),
            "SENTINEL_RECORD": str(self.record),
        }  # fmt: skip
        command = [sys.executable, "-m", "opskit", "--config", str(self.machine.config), *map(str, arguments)]
        with Watch(self.temporary) as watch:
            done = subprocess.run(
                command, input=stdin, env=clean(given), capture_output=True, check=False, timeout=_SECONDS
            )
        said = " ".join(map(str, arguments))
        self._note("stdout", said, b"" if shows else done.stdout)
        self._note("stderr", said, done.stderr)
        for sample in watch.argv:
            self._note("argv", "a process", sample)
        for sample in watch.environ:
            self._note_variable("a process", sample)
        for file, contents in watch.files.items():
            for content in contents:
                self._note_file(file, content)
        return Answer(done.returncode, done.stdout, done.stderr.decode("utf-8", "surrogateescape"))

    @contextmanager
    def journal_held(self) -> Iterator[None]:
        """Keep reading the journal as it is, so that all that is ever written ahead to it stays, to be searched."""
        path = self.machine.state / "rotations" / "journal.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as journal:
            journal.execute("BEGIN")
            journal.execute("SELECT count(*) FROM rotation").fetchone()
            yield

    def recorded(self, kind: str) -> Iterator[tuple[str, list[bytes]]]:
        """What opskit noted of itself: "argv", "environ", "file" or "written"."""
        for path in sorted(self.record.iterdir()):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                if entry["kind"] == kind:
                    yield entry["what"], [base64.b64decode(each) for each in entry["data"]]

    def collect(self) -> set[Trace]:
        """Everything that is to be searched, also what lies there only now."""
        for program, words in self.recorded("argv"):
            self._note("argv", program, b"\0".join(words))
        for program, variables in self.recorded("environ"):
            for each in variables:
                self._note_variable(program, each)
        for path, contents in self.recorded("file"):
            self._note_file(Path(path), contents[0])
        written = {Path(path) for path, _ in self.recorded("written")}
        for path in {*self.machine.folder.rglob("*"), *written}:
            with suppress(FileNotFoundError, PermissionError):
                if path.is_file() and self.record not in path.parents:
                    self._note_file(path, path.read_bytes())
        for number, log in enumerate(self.logs):
            self._note("log", f"server {number}", log())
        return self.traces

    def leaks(self) -> list[str]:
        """Where which secret stands, and in what form; none are expected."""
        traces = self.collect()
        if not self.secrets.found_in(b"\0\0".join(trace.data for trace in traces)):
            return []
        found = set()
        for trace in traces:
            found |= {f"{trace.place} ({trace.where[-120:]}): {each}" for each in self.secrets.found_in(trace.data)}
        return sorted(found)

    def strays(self) -> list[str]:
        """Files that are left in TMPDIR, and those that opskit opened for writing where nothing is searched."""
        written = {path for path, _ in self.recorded("written") if path.startswith("/")}
        kept = (f"{self.machine.folder}/", "/dev/null")
        elsewhere = {path for path in written if not path.startswith(kept) and "__pycache__" not in path}
        elsewhere -= {path for path in elsewhere if Path(path).match(f"{KEY_RINGS}/*") and not Path(path).exists()}
        return sorted(elsewhere.union(map(str, self.temporary.rglob("*"))))

    def places_of(self, text: bytes) -> set[str]:
        """In which kinds of places something stands: to see that they were looked at."""
        return {trace.place for trace in self.collect() if text in trace.data}

    def _note(self, place: str, where: str, data: bytes) -> None:
        if data:
            self.traces.add(Trace(place, where, data))

    def _note_variable(self, where: str, variable: bytes) -> None:
        name = variable.partition(b"=")[0].decode(errors="replace")
        if name not in self.given:
            self._note("environ", where, variable)

    def _note_file(self, path: Path, data: bytes) -> None:
        if any(path == each or each in path.parents or _is_beside(path, each) for each in self.private):
            return
        if path.match(f"{KEY_RINGS}/*") or path.match(f"{KEY_RINGS}/*/*"):
            return
        places = {"audit": self.machine.state / "audit", "journal": self.machine.state / "rotations"}
        places |= {"state": self.machine.state, "temporary": self.temporary}
        place = next((name for name, folder in places.items() if folder in path.parents), "file")
        self._note(place, str(path), data)


def _is_beside(path: Path, file: Path) -> bool:
    """Whether it is how a new version of that file is called until it is renamed."""
    return path.parent == file.parent and path.name.startswith(f"{file.name}.")
