"""The example that is shown to people runs, and ends as it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STORY = Path(__file__).resolve().parent.parent.parent / "examples" / "token-rotation" / "story.py"


def told(folder: Path, tokens: int) -> str:
    """What the example says; it must end with 0."""
    argv = [sys.executable, str(STORY), str(folder), str(tokens)]
    environ = {**os.environ, "PYTHONPATH": str(STORY.parent.parent.parent)}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_tokens_are_moved_once_although_the_run_is_killed_twice(tmp_short: Path) -> None:
    """A move that fails at random and two SIGKILLs: every token under the new address, none moved twice."""
    said = told(tmp_short / "story", 60)
    assert said.count("--- killed after") == 2
    assert "60 tokens, 1 owner, moves of each: [1]" in said
    assert "the old secret is gone" in said


@pytest.mark.campaign
def test_the_same_with_500_tokens(tmp_short: Path) -> None:
    """As the source documents have it."""
    assert "500 tokens, 1 owner, moves of each: [1]" in told(tmp_short / "story", 500)
