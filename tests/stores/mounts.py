"""Real file systems for tests: made in an image, mounted, and gone again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

MEBIBYTE = 1024 * 1024


class FileSystem(NamedTuple):
    """How to make one: the program and its arguments (none for tmpfs), and the image size in bytes."""

    make: tuple[str, ...]
    size: int


FILE_SYSTEMS = {
    "ext4": FileSystem(("mkfs.ext4", "-q", "-F"), 64 * MEBIBYTE),
    "ext2": FileSystem(("mkfs.ext2", "-q", "-F"), 64 * MEBIBYTE),
    "xfs": FileSystem(("mkfs.xfs", "-q", "-f"), 320 * MEBIBYTE),
    "vfat": FileSystem(("mkfs.vfat",), 64 * MEBIBYTE),
    "tmpfs": FileSystem((), 64 * MEBIBYTE),
}


@contextmanager
def mounted(kind: str, folder: Path, *, size: int | None = None) -> Iterator[Path]:
    """A fresh file system of that kind, mounted at `folder`/mnt-`kind`; skips by name where this machine cannot.

    Its image, where it has one, is `folder`/`kind`.img; the default size in bytes is the least that will do.
    """
    _require(kind)
    recipe = FILE_SYSTEMS[kind]
    place, size = folder / f"mnt-{kind}", size or recipe.size
    if not recipe.make:
        with _mounted(kind, ("-o", f"size={size}", "opskit-test"), place):
            yield place
        return
    with _image(folder / f"{kind}.img") as image:
        os.truncate(image, size)
        subprocess.run([*recipe.make, str(image)], check=True, capture_output=True)
        with _mounted(kind, ("-o", "loop", str(image)), place):
            yield place


@contextmanager
def after_power_cut(kind: str, folder: Path) -> Iterator[Path]:
    """What `mounted(kind, folder)` would hold had the power failed now: a copy of its image, mounted.

    What was not fsynced is still in the memory of the mounted one and so not in the copy.
    """
    place = folder / "mnt-cut"
    with _image(folder / f"{kind}-cut.img") as image:
        subprocess.run(["cp", "--sparse=always", str(folder / f"{kind}.img"), str(image)], check=True)
        # Two of one UUID are mounted now, which xfs would refuse.
        with _mounted(kind, ("-o", "loop,nouuid" if kind == "xfs" else "loop", str(image)), place):
            yield place


@contextmanager
def _image(path: Path) -> Iterator[Path]:
    """An empty file, gone afterwards: pytest keeps temporary folders, and these are large."""
    path.touch()
    try:
        yield path
    finally:
        path.unlink()


@contextmanager
def _mounted(kind: str, options: tuple[str, ...], place: Path) -> Iterator[None]:
    place.mkdir()
    answer = subprocess.run(["mount", "-t", kind, *options, str(place)], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"{kind}: this machine may not mount it: {answer.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily where busy: a failing test must not leave a mount behind, nor hide its own failure.
        if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def _require(kind: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"{kind}: only root may mount")
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"{kind}: this kernel has no {kind} (/proc/filesystems)")
    make = FILE_SYSTEMS[kind].make
    if make and shutil.which(make[0]) is None:
        pytest.skip(f"{kind}: {make[0]} is not installed")
