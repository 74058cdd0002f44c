"""Commands around a run: when they run, what they are told, and what becomes of their failures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from opskit.errors import Skipped, SourceError
from opskit.hooks import Hooks
from opskit.log import redact, register_secret


def script(path: Path, text: str) -> list[str]:
    """A program that runs this Python."""
    path.write_text("import json, os, sys, time\n" + text)
    return [sys.executable, str(path)]


def noting(folder: Path, name: str, status: int = 0, say: str = "") -> list[str]:
    """A hook that notes what it was told, in order, says something and ends with a status."""
    return script(
        folder / f"{name}.py",
        f"told = {{key: value for key, value in os.environ.items() if key.startswith('OPSKIT_')}}\n"
        f"open({str(folder / 'notes')!r}, 'a').write(json.dumps(told) + '\\n')\nprint({say!r})\nsys.exit({status})\n",
    )


def notes(folder: Path) -> list[dict[str, str]]:
    path = folder / "notes"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_order_and_what_they_are_told(tmp_path: Path) -> None:
    """before, then what it is for, then after; each is told what it is, and what the caller says."""
    hooks = Hooks(noting(tmp_path, "b"), noting(tmp_path, "a"), noting(tmp_path, "e"), env={})
    with hooks.around({"OPSKIT_SOURCE": "data"}) as problems:
        assert [each["OPSKIT_HOOK"] for each in notes(tmp_path)] == ["before"]
    assert notes(tmp_path) == [
        {"OPSKIT_HOOK": "before", "OPSKIT_SOURCE": "data"},
        {"OPSKIT_HOOK": "after", "OPSKIT_SOURCE": "data", "OPSKIT_OUTCOME": "ok"},
    ]
    assert problems == []


def test_a_failure_is_told_with_its_reason(tmp_path: Path) -> None:
    """on_error, then after; the reason holds no secret, and the failure stays what it was."""
    register_secret("hunter2-hunter2")
    hooks = Hooks((), noting(tmp_path, "a"), noting(tmp_path, "e"), env={}, redact=redact)
    with pytest.raises(SourceError), hooks.around({}):
        raise SourceError("cannot log in with hunter2-hunter2")
    first, second = notes(tmp_path)
    assert first["OPSKIT_HOOK"] == "on_error" and first["OPSKIT_ERROR"].startswith("cannot log in with ")
    assert "hunter2" not in str(first) and second["OPSKIT_OUTCOME"] == "failed"


def test_before_may_skip_or_fail(tmp_path: Path) -> None:
    """75 is a skip that no other hook hears of; another status fails with what was said, and only on_error runs."""
    skip = Hooks(noting(tmp_path, "b", 75, "on battery"), noting(tmp_path, "a"), noting(tmp_path, "e"), env={})
    with pytest.raises(Skipped, match="asks to skip this: on battery"), skip.around({}):
        raise AssertionError("it must not run")
    assert len(notes(tmp_path)) == 1
    fail = Hooks(noting(tmp_path, "b", 3, "no snapshot"), noting(tmp_path, "a"), noting(tmp_path, "e"), env={})
    with pytest.raises(SourceError, match="ended with status 3: no snapshot"), fail.around({}):
        raise AssertionError("it must not run")
    assert [each["OPSKIT_HOOK"] for each in notes(tmp_path)] == ["before", "before", "on_error"]


def test_failures_beside_it_undo_nothing(tmp_path: Path) -> None:
    """after and on_error that fail are told; a status of 75 means nothing of them."""
    hooks = Hooks((), noting(tmp_path, "a", 75), (), env={})
    with hooks.around({}) as problems:
        pass
    assert problems == [f"the after hook {sys.executable} ended with status 75"]
    missing = Hooks((), ["/nonexistent/program"], (), env={})
    with missing.around({}) as problems:
        pass
    assert "cannot be started: no such file" in problems[0]


def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    """The time is up for all that it started; the message says so, and arguments are not in it."""
    slow = script(
        tmp_path / "slow.py",
        "import subprocess\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\ntime.sleep(60)\n",
    )
    hooks = Hooks([*slow, "--password=geheim"], timeout=1.0)
    with pytest.raises(SourceError, match="did not end within 1 s, and was killed") as raised, hooks.around({}):
        raise AssertionError("it must not run")
    assert "geheim" not in str(raised.value)
    child = Path("/proc") / (tmp_path / "pid").read_text() / "stat"
    for _ in range(100):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        raise AssertionError("a child outlived the hook")


def test_what_floods_the_output_costs_no_memory(tmp_path: Path) -> None:
    """Only the end of what a program says is read, without control characters."""
    flood = script(tmp_path / "flood.py", "print('x' * 5_000_000)\nprint('\\x1b[31mred')\nsys.exit(1)\n")
    with pytest.raises(SourceError) as raised, Hooks(flood).around({}):
        raise AssertionError("it must not run")
    assert str(raised.value).endswith("[31mred") and "\x1b" not in str(raised.value) and len(str(raised.value)) < 3000
