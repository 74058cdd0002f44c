"""What earlier releases stored restores, and is cut as they cut it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from opskit.cli import main
from opskit.repository import pack
from opskit.repository.chunker import Chunker
from tests.golden.build import HERE, RECIPES, content_of, cuts_of, described
from tests.recovery.lab import run_recover

RECOVER = HERE.parent.parent / "opskit" / "repository" / "recovery"
VECTORS: dict[str, Any] = json.loads((HERE / "vectors.json").read_text())
EXPECTED: dict[str, Any] = json.loads((HERE / "repository-v1.json").read_text())


@pytest.mark.parametrize("recipe", RECIPES)
def test_chunk_borders(recipe: str) -> None:
    """Content is cut where format 1 has always cut it; elsewhere, nothing would deduplicate any more."""
    content = content_of(recipe)
    assert cuts_of(content) == VECTORS["chunks"][recipe]
    assert sum(length for length, _ in VECTORS["chunks"][recipe]) == len(content)


def test_borders_do_not_depend_on_how_it_is_read() -> None:
    """A source that gives few bytes at a time is cut alike."""
    recipe = "noise 12000000"
    stream = io.BytesIO(content_of(recipe))
    cuts = [
        [len(chunk), hashlib.sha256(chunk).hexdigest()]
        for chunk in Chunker().chunks(lambda view: stream.readinto(view[: min(len(view), 77_777)]))
    ]
    assert cuts == VECTORS["chunks"][recipe]


def test_member_header() -> None:
    """A member's 512 bytes of header are those of format 1."""
    wanted = VECTORS["header"]
    assert pack.header(bytes.fromhex(wanted["id"]), wanted["length"]).hex() == wanted["bytes"]


def test_tar_lists_a_pack(tmp_path: Path) -> None:
    """The tar program lists and unpacks what a pack buffer makes."""
    buffer = pack.PackBuffer()
    for content in (b"", b"one", b"x" * 512, b"y" * 100_000):
        buffer.append(hashlib.sha256(content).digest(), content)
    subprocess.run(["tar", "x", "-C", str(tmp_path)], input=bytes(buffer.tar()), check=True)
    assert {path.name for path in tmp_path.iterdir()} == {chunk_id.hex() for chunk_id in buffer.ids}
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in tmp_path.iterdir())


def keeps_xattrs(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.probe", b"")
    except OSError:
        return False
    os.removexattr(folder, "user.probe")
    return True


def judge(restored: Path) -> None:
    """Compare a restored golden tree with what is written down; owners depend on who restores."""
    assert described(restored) == EXPECTED["entries"]
    if keeps_xattrs(restored):
        assert os.getxattr(restored / "letter.txt", "user.origin") == b"golden\x00"
    assert os.path.samefile(restored / "letter.txt", restored / "folder" / "hard link")


def test_recover_py_restores_the_golden_repository(tmp_path: Path) -> None:
    """recover.py restores the golden repository entry by entry, from its files and its key alone."""
    arguments = ["--repository", HERE / "repository-v1", "--key", HERE / "repository-v1.key.asc"]
    done = run_recover(RECOVER, *arguments, "--target", tmp_path / "target")
    assert done.returncode == (0 if keeps_xattrs(tmp_path) else 3), done.stderr
    judge(tmp_path / "target" / EXPECTED["source"])


def test_opskit_restores_the_golden_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`opskit restore` brings the golden repository back from its files and its key alone."""
    opened = ["--repository", str(HERE / "repository-v1"), "--key", str(HERE / "repository-v1.key.asc")]
    code = main(["restore", "latest", *opened, "--target", str(tmp_path / "target"), "--json"])
    assert code == (0 if keeps_xattrs(tmp_path) else 3), capsys.readouterr().err
    judge(tmp_path / "target" / EXPECTED["source"])
    assert main(["verify", *opened]) == 3, "the recovery kit, which changes with releases, is not kept in this copy"


def test_the_golden_repository_has_what_it_should() -> None:
    """It stays small, and keeps the entries for which it was made."""
    entries = EXPECTED["entries"]
    assert sum(path.stat().st_size for path in (HERE / "repository-v1").rglob("*") if path.is_file()) < 200_000
    assert entries["sparse"]["sparse"] and entries["letter.txt"]["links"] == 2 and entries["empty"]["size"] == 0
    assert any(name.startswith(":") for name in entries) and "target" in entries["folder/symbolic link"]
    assert len(cuts_of(content_of(f"ledger {entries['large']['size']}"))) > 2
