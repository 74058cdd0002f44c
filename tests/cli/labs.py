"""A host with two sources and two destinations, made once through the command line, and copies of it to break."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opskit.cli import main

ODD_NAMES = (b"latin-\xe9", b"esc-\x1b[31mred", b"two\nlines")


@dataclass(frozen=True)
class HostLab:
    """One host: `config`, `key` (the recovery-key file), destinations `a` and `b`, sources `data` and `db`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "opskit.yaml"

    @property
    def key(self) -> Path:
        return self.root / "key.asc"

    @property
    def data(self) -> bytes:
        """The folder that was backed up as `data`, as a tree path without the leading slash."""
        return bytes(_master() / "data").lstrip(b"/")

    def run(self, *arguments: str | Path) -> int:
        """Run opskit with this host's config."""
        return main(["--config", str(self.config), *map(str, arguments)])

    def objects(self, destination: str, kind: str) -> list[Path]:
        """The files of one kind ("packs", "snapshots") in a copy."""
        return sorted(path for path in (self.root / destination / kind).rglob("*") if path.is_file())


@functools.cache
def _master() -> Path:
    root = Path(tempfile.mkdtemp(prefix="ok-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    (root / "data" / "docs").mkdir(parents=True)
    (root / "db").mkdir()
    (root / "db" / "dump.sql").write_text("create table t;\n")
    (root / "data" / "docs" / "Note.TXT").write_text("a note\n")
    (root / "data" / "docs" / "unchanged").write_bytes(bytes(3000))
    (root / "data" / "link").symlink_to("docs/Note.TXT")
    for name in ODD_NAMES:
        (root / "data" / os.fsdecode(name)).write_bytes(name)
    quietly(
        root,
        *("init", "--state-dir", root / "state", "--new-recipient", "R <r@example.org>"),
        *("--recovery-key", root / "key.asc", "--no-passphrase"),
        *("--source", f"data={root / 'data'}", "--source", f"db={root / 'db'}"),
        *("--destination", f"a={root / 'a'}", "--destination", f"b={root / 'b'}"),
    )
    quietly(root, "backup", "--tag", "first")
    (root / "data" / "docs" / "second.txt").write_text("a later file\n")
    quietly(root, "backup", "data")
    return root


def quietly(root: Path, *arguments: str | Path) -> str:
    """Run opskit with the config in `root` and without output on the terminal; it must succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(["--config", str(root / "opskit.yaml"), *map(str, arguments)])
    assert code == 0, out.getvalue()
    return out.getvalue()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[HostLab]:
    """A copy of the host, which a test may damage."""
    made = HostLab(tmp_path / "lab")
    shutil.copytree(
        _master(), made.root, symlinks=True, ignore=lambda folder, names: [n for n in names if n[:2] == "S."]
    )
    made.config.write_text(made.config.read_text().replace(str(_master()), str(made.root)))
    yield made


def parsed(capsys: pytest.CaptureFixture[str]) -> Any:
    """The JSON document that a command wrote."""
    return json.loads(capsys.readouterr().out)
