"""Small files that are replaced whole."""

from __future__ import annotations

from pathlib import Path

from opskit.repository.durable import write_alone


def test_what_a_killed_writer_left_goes(tmp_path: Path) -> None:
    """It may hold what was deleted since; whatever else lies there stays."""
    path = tmp_path / "secrets.gpg"
    left, others = (
        tmp_path / "secrets.gpg.a1_b2c3d.new",
        [tmp_path / "secrets.gpg.new", tmp_path / "xsecrets.gpg.a1_b2c3d.new"],
    )
    for each in (left, *others):
        each.write_bytes(b"x")
    write_alone(path, b"new")
    assert path.read_bytes() == b"new" and sorted(tmp_path.iterdir()) == sorted([path, *others])
