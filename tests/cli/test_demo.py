"""`opskit demo`: the whole story, told by real commands."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.hosts import fill, run, snapshot_of
from tests.cli.running import opskit


def test_the_story_on_given_data(tmp_path: Path) -> None:
    """On PATH it ends with damage found and a restore proved equal; PATH and the temporary folder stay as they were."""
    data = fill(tmp_path / "data")
    (tmp_path / "tmp").mkdir()
    before = snapshot_of(data)
    done = opskit("demo", str(data), TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "damaged" in done.stdout + done.stderr and "PROVED: 4 files restored, equal" in done.stdout
    red, green = done.stdout.index("3-2-1 NOT MET: 3 of 3 copies"), done.stdout.index("3-2-1 met: 4 of 3 copies")
    assert red < green and "(simulated)" in done.stdout, "without the copy that is elsewhere the policy is not met"
    assert snapshot_of(data) == before
    assert not list((tmp_path / "tmp").iterdir())


def test_the_story_for_machines(tmp_path: Path) -> None:
    """With --json the outcome is the one document on stdout; the story goes to stderr."""
    done = opskit("demo", str(fill(tmp_path / "data")), "--json")
    assert json.loads(done.stdout) == {"proved": True, "files": 4}
    assert "$ opskit heal" in done.stderr and "3-2-1 met" in done.stderr


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    """An absent PATH is exit 4."""
    assert run("demo", tmp_path / "absent").code == 4
