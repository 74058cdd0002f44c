"""A host that was set up by `opskit init`, for tests that run whole commands, in this process or another."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from opskit.cli import main
from tests.cli.running import OPSKIT, clean
from tests.operations.judging import assert_equal
from tests.repositories import noise


class Answer(NamedTuple):
    """What a command said; `data` is its standard output as bytes."""

    code: int
    data: bytes
    err: str

    @property
    def out(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.data)


def run(*arguments: object) -> Answer:
    """Run a command in this process."""
    out, err = io.BytesIO(), io.BytesIO()
    with _streams(out, err):
        code = main([str(each) for each in arguments])
        sys.stdout.flush()
        sys.stderr.flush()
    return Answer(code, out.getvalue(), err.getvalue().decode())


@contextlib.contextmanager
def _streams(out: io.BytesIO, err: io.BytesIO) -> Iterator[None]:
    texts = [io.TextIOWrapper(each, "utf-8", write_through=True) for each in (out, err)]
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        yield
    for text in texts:
        text.detach()


@dataclass(frozen=True)
class Machine:
    """A host and what it has, all below one folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "opskit.yaml"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def source(self) -> Path:
        return self.folder / "data"

    @property
    def key(self) -> Path:
        return self.folder / "key.asc"

    @property
    def a(self) -> Path:
        return self.folder / "a"

    @property
    def b(self) -> Path:
        return self.folder / "b"

    def run(self, *arguments: object) -> Answer:
        """A command with this host's config, in this process."""
        return run("--config", self.config, *arguments)

    def start(
        self, *arguments: object, environ: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """The same in a process of its own; `options` go to Popen."""
        command = [*OPSKIT, "--config", str(self.config), *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, env=clean(environ or {}), **options)

    def init(self, *arguments: object, **second: object) -> Answer:
        """Set the host up: one source, two copies (`b`, or the one given), a recovery key without a passphrase."""
        ((name, place),) = (second or {"b": self.b}).items()
        return self.run(
            "init", "--state-dir", self.state, "--source", f"data={self.source}",
            "--destination", f"a={self.a}", "--destination", f"{name}={place}",
            "--new-recipient", "Safe <safe@example.org>", "--recovery-key", self.key, "--no-passphrase", *arguments,
        )  # fmt: skip

    def edit_config(self, old: str, new: str) -> None:
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def copy_to(self, folder: Path) -> Machine:
        """The same host at another place, for a test that changes it."""
        shutil.copytree(self.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("S.*", "*.lock"))
        moved = Machine(folder)
        moved.edit_config(str(self.folder), str(folder))
        return moved


def fill(folder: Path) -> Path:
    """Data that fills more than one chunk."""
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "note.txt").write_text("a note\n")
    (folder / "large.bin").write_bytes(noise(1, 1_800_000))
    os.symlink("sub/note.txt", folder / "link")
    os.link(folder / "sub" / "note.txt", folder / "twin")
    with (folder / "sparse").open("wb") as file:
        file.seek(2_000_000)
        file.write(b"after a hole")
        file.truncate(3_000_000)
    return folder


def snapshot_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below a folder with mode, size and modification time: to show that nothing was written."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


def everything(copy: Path) -> set[str]:
    """Relative names of all files in a copy."""
    return objects(copy, "")


def objects(copy: Path, kind: str) -> set[str]:
    """Relative names of the files in one folder of a copy."""
    return {str(path.relative_to(copy)) for path in (copy / kind).rglob("*") if path.is_file()}


def assert_restores(machine: Machine, location: str, folder: Path) -> None:
    """The far copy restores the source as it is, by the config, and by its location alone."""
    for number, where in enumerate((("--from", "far"), ("--repository", location))):
        target = folder / str(number)
        answer = machine.run("restore", "latest", "--key", machine.key, "--target", target, *where)
        assert answer.code == 0, answer
        assert_equal(machine.source, target / machine.source.relative_to("/"))
