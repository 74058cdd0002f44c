"""What a restore would do to files that are there is foreseen, for every type of entry, and nothing is written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from opskit.operations.outcome import Result
from opskit.operations.restore import RestoreOptions
from opskit.operations.restoring.preview import preview
from opskit.sources.files import FileSource
from tests.operations.judging import differences, found, restored, run
from tests.repositories import Lab, change_source, make_source, restored_below


def effects(lab: Lab, result: Result, target: Path) -> dict[str, str]:
    """What would become of each entry, by the last part of its name; the unchanged and skipped ones left out."""
    reader = lab.reader(found(lab, result))
    told = preview(reader, target, b"", lambda _: True, always=False, owner_by_name=False)
    named = {os.fsdecode(node.path).rpartition("/")[2]: effect for node, effect, _ in told}
    return {name: effect for name, effect in named.items() if effect not in ("unchanged", "skipped")}


def test_every_type_of_entry(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Just restored, nothing would change; each thing that differs is foreseen, then mended by the restore."""
    make_source(source)
    os.setxattr(source / "empty", "user.note", b"mine")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "socket"))
        result = run(lab, FileSource([source]))
    (source / "socket").unlink()
    target = tmp_path / "r"
    options = RestoreOptions(workers=1, overwrite="if-changed")
    assert set(effects(lab, result, target).values()) == {"new"}, "a target that is not there"
    restored(lab, result, target, options)
    descriptors = len(os.listdir("/proc/self/fd"))
    assert effects(lab, result, target) == {}
    assert len(os.listdir("/proc/self/fd")) == descriptors

    there = restored_below(target, source)
    os.setxattr(there / "empty", "user.note", b"yours")
    (there / "pipe").chmod(0o600)
    (there / "docs" / "hard").unlink()
    (there / "docs" / "hard").write_bytes((there / "same.bin").read_bytes())
    (there / "link").unlink()
    (there / "link").write_bytes(b"no link")
    os.utime(there / "large.bin", ns=(0, 1))
    (there / "nothing").rmdir()
    (there / "same-again.bin").rename(there / "same-elsewhere.bin")
    expected = {"empty": "mended", "pipe": "mended", "link": "replaced", "large.bin": "replaced"}
    expected |= {"nothing": "new", "same-again.bin": "new", "docs": "mended", "source": "mended"}
    expected |= {"hard": "replaced", "same.bin": "replaced"}  # the second becomes a link to the first anew
    assert effects(lab, result, target) == expected
    restored(lab, result, target, options)
    assert effects(lab, result, target) == {}
    (there / "same-elsewhere.bin").unlink()
    os.utime(there, ns=(0, source.stat().st_mtime_ns))
    assert {line.split()[-1] for line in differences(source, there).splitlines()} <= {"./"}


def test_it_is_what_the_restore_does(lab: Lab, source: Path, tmp_path: Path) -> None:
    """Over an older restore, the files foreseen as new or replaced are those that get another inode, and no others."""
    make_source(source)
    restored(lab, run(lab, FileSource([source])), tmp_path / "r")
    result = run(lab, FileSource([change_source(source)]))
    there = restored_below(tmp_path / "r", source)
    before = {path: path.lstat().st_ino for path in there.rglob("*") if path.is_file() and not path.is_symlink()}
    seen = effects(lab, result, tmp_path / "r")
    restored(lab, result, tmp_path / "r", RestoreOptions(workers=1, overwrite="if-changed"))
    written = {
        path.name
        for path in there.rglob("*")
        if path.is_file() and not path.is_symlink() and before.get(path) != path.lstat().st_ino
    }
    files = {name for name, effect in seen.items() if effect in ("new", "replaced")} - {"link"}
    assert files == written and seen["link"] == "replaced" and seen["added.txt"] == "new"
