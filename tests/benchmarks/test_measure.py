"""What a command costs is measured over all of its processes, and over nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.measure import BenchmarkFailed, check_same, megabytes_of, run

BURN = "import time\nwhile time.process_time() < 0.3: pass"
ORPHAN = f"""
import os
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
        exec({BURN!r})
    os._exit(0)
os.wait()
"""
CHILD_OF_100_MIB = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'bytearray(100 << 20)'], check=True)"


def test_cpu_of_orphans_counts(tmp_path: Path) -> None:
    """CPU time of a process that went into the background belongs to the command that started it."""
    usage = run([sys.executable, "-c", ORPHAN], tmp_path)
    assert usage.cpu >= 0.3
    assert usage.is_whole


def test_memory_is_that_of_the_largest_process(tmp_path: Path) -> None:
    """Peak memory is the largest process's, be it only a child of the command."""
    assert 100 <= run([sys.executable, "-c", CHILD_OF_100_MIB], tmp_path).memory < 150


def test_memory_of_the_benchmark_is_not_inherited(tmp_path: Path) -> None:
    """The memory of the process that measures does not show in the figures of a small command."""
    held = bytearray(100 << 20)
    assert run(["true"], tmp_path).memory < 50
    assert len(held) == 100 << 20


def test_failed_command_gives_no_figure(tmp_path: Path) -> None:
    """A command that fails raises with its exit code and what it said."""
    with pytest.raises(BenchmarkFailed, match=r"(?s)exit 3: .*no such repository"):
        run([sys.executable, "-c", "print('no such ' + 'repository'); raise SystemExit(3)"], tmp_path)


def test_a_persons_settings_do_not_reach_the_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables by which a person sets the tools are dropped; those that the benchmark passes arrive."""
    monkeypatch.setenv("RESTIC_COMPRESSION", "max")
    look = "import os; raise SystemExit('RESTIC_COMPRESSION' in os.environ or os.environ['BORG_REPO'] != 'here')"
    run([sys.executable, "-c", look], tmp_path, {"BORG_REPO": "here"})


def test_one_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """A restored tree that differs in one byte, or lacks a file, is refused."""
    for name in ("original", "restored"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"content")
    check_same(tmp_path / "original", tmp_path / "restored")
    (tmp_path / "restored" / "file").write_bytes(b"cOntent")
    with pytest.raises(BenchmarkFailed, match="differ"):
        check_same(tmp_path / "original", tmp_path / "restored")
    (tmp_path / "restored" / "file").unlink()
    with pytest.raises(BenchmarkFailed, match="Only in"):
        check_same(tmp_path / "original", tmp_path / "restored")


def test_size_is_the_sum_of_all_files(tmp_path: Path) -> None:
    """A repository's size counts the files of every folder, in millions of bytes."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(250_000))
    (tmp_path / "file").write_bytes(bytes(250_000))
    assert megabytes_of(tmp_path) == 0.5
