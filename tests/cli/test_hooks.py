"""Hooks of the config around `opskit backup`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from opskit.config.syntax import read
from tests.cli.hosts import Machine


def with_hooks(machine: Machine, where: str, **hooks: str) -> None:
    """Give the config hooks that run Python, of the run or of the source `data`."""
    config = dict(read(machine.config.read_text()).value)
    found = {name: [sys.executable, "-c", f"import os, sys\n{text}"] for name, text in hooks.items()}
    if where == "run":
        config["hooks"] = found
    else:
        config["sources"]["data"]["hooks"] = found
    machine.config.write_text(json.dumps(config))


def noting(machine: Machine) -> str:
    """What a hook does that notes which it is."""
    told = "os.environ['OPSKIT_HOOK'] + os.environ.get('OPSKIT_SOURCE', '') + ' '"
    return f"open({str(machine.folder / 'notes')!r}, 'a').write({told})"


@pytest.mark.parametrize("where", ["run", "source"])
def test_hooks_run_around(machine: Machine, where: str) -> None:
    """before and after, of the run and of the source; a dry run calls none."""
    note, notes = noting(machine), machine.folder / "notes"
    with_hooks(machine, where, before=note, after=note, on_error=note)
    assert machine.run("backup", "--dry-run").code == 0 and not notes.exists()
    answer = machine.run("backup")
    assert answer.code == 0, answer
    name = "" if where == "run" else "data"
    assert notes.read_text() == f"before{name} after{name} "


@pytest.mark.parametrize(
    ("where", "before", "code"), [("run", 75, 75), ("source", 75, 75), ("run", 1, 4), ("source", 1, 4)]
)
def test_before_decides(machine: Machine, where: str, before: int, code: int) -> None:
    """75 skips, exit 75; another status fails, exit 4; no snapshot is made, and the audit log has it."""
    with_hooks(machine, where, before=f"print('not now'); sys.exit({before})")
    answer = machine.run("backup")
    assert answer.code == code and "not now" in answer.err, answer
    assert machine.run("snapshots", "--json").json == []
    assert "backup" in machine.run("audit", "tail").out


def test_a_skip_hides_no_failure(machine: Machine, tmp_path: Path) -> None:
    """With one source skipped and another that is gone the run ends with 4."""
    assert machine.run("init", "--source", f"gone={tmp_path / 'gone'}").code == 0
    with_hooks(machine, "source", before="sys.exit(75)")
    assert machine.run("backup").code == 4


def test_a_run_with_a_source_that_failed_has_failed(machine: Machine, tmp_path: Path) -> None:
    """on_error of the run hears of it, and after that it failed; a source that was skipped is no failure."""
    told, notes = "os.environ.get('OPSKIT_OUTCOME', '') + os.environ.get('OPSKIT_ERROR', '')", machine.folder / "notes"
    note = f"open({str(notes)!r}, 'a').write(os.environ['OPSKIT_HOOK'] + ' ' + {told} + '; ')"
    assert machine.run("init", "--source", f"gone={tmp_path / 'gone'}").code == 0
    with_hooks(machine, "run", on_error=note, after=note)
    assert machine.run("backup").code == 4
    first, second, _ = notes.read_text().split("; ")
    assert first.startswith("on_error gone: expected") and second == "after failed"
    notes.unlink()
    with_hooks(machine, "source", before="sys.exit(75)")
    assert machine.run("backup", "data").code == 75
    assert notes.read_text() == "after ok; "


def test_after_that_fails_is_told(machine: Machine) -> None:
    """The snapshot is there, the exit code is 3."""
    with_hooks(machine, "run", after="sys.exit(9)")
    answer = machine.run("backup")
    assert answer.code == 3 and "the after hook" in answer.err and "status 9" in answer.err
    assert len(machine.run("snapshots", "--json").json) == 1
