"""The data that is backed up: made of real files of this machine, and built anew for every round.

Building and editing are seeded, so one machine gives every round the same bytes. Across machines only `tokens` and
`million` are alike: a Python installation differs from the next, which is why ratios travel better than seconds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 7
BLOCK = 1 << 20
BIG_BYTES = 1_500_000_000
GIGABYTE = 1_000_000_000
TOKENS = 20_000
MILLION = 1_000_000
PLACES = 200
"""How many places of the big file an edit overwrites, with a page each."""
PAGE = 4096


@dataclass(frozen=True)
class Extent:
    """How much a corpus holds in regular files."""

    files: int
    bytes: int


def installation() -> Path:
    """The tree that corpora are made of: the Python installation, or /usr/share where that is all of /usr."""
    prefix = Path(sys.base_prefix).resolve()
    return prefix if prefix != Path("/usr") else Path("/usr/share")


def files_below(*tops: Path) -> Iterator[Path]:
    """Regular files that can be read, in a stable order, never through a symbolic link."""
    for top in tops:
        for folder, folders, names in os.walk(top):
            folders.sort()
            for path in (Path(folder, name) for name in sorted(names)):
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path


def tree(place: Path, scale: float) -> None:
    """A Python installation: its files with their modes and times, and its links; tens of thousands of files."""
    chance, top = random.Random(SEED), installation()
    for folder, folders, names in os.walk(top):
        folders.sort()
        target = place / top.name / Path(folder).relative_to(top)
        for path in (Path(folder, name) for name in sorted([*names, *folders])):
            is_wanted = path.is_symlink() or (path.is_file() and os.access(path, os.R_OK))
            if is_wanted and chance.random() < scale:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / path.name, follow_symlinks=False)


def big(place: Path, scale: float) -> None:
    """One file of 1.5 GB, real files end to end; stands for a database dump or a disk image."""
    with (place / "dump.img").open("wb") as out:
        for path in files_below(installation(), Path("/usr/lib")):
            if out.tell() > BIG_BYTES * scale:
                break
            out.write(path.read_bytes())


def tokens(place: Path, scale: float) -> None:
    """20,000 JSON files of 1 to 4 KB, most of it random identifiers that no tool can compress below half."""
    chance = random.Random(SEED)
    for number in range(round(TOKENS * scale)):
        folder = place / "active" / f"{number % 50:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        token = {
            "version": "2.0",
            "id": f"{chance.getrandbits(256):064x}",
            "status": chance.choice(["CONFIRMED", "PENDING"]),
            "state": {"predicate": f"{chance.getrandbits(1040):0260x}"},
            "proofs": [f"{chance.getrandbits(512):0128x}" for _ in range(chance.randint(2, 20))],
        }
        (folder / f"token-{number:05d}.json").write_text(json.dumps(token, indent=1), encoding="utf-8")


def million(place: Path, scale: float) -> None:
    """A million files of some 150 bytes, a thousand to a folder."""
    chance = random.Random(SEED)
    for number in range(round(MILLION * scale)):
        folder = place / f"{number // 1000:04d}"
        if number % 1000 == 0:
            folder.mkdir()
        record = {"number": number, "id": f"{chance.getrandbits(256):064x}", "amount": chance.randrange(10**9)}
        (folder / f"{number:07d}.json").write_text(json.dumps(record), encoding="utf-8")


def gigabyte(place: Path, scale: float) -> None:
    """1 GB of real files in folders of a thousand, with the small one that is asked for among them."""
    held = 0
    for number, path in enumerate(files_below(installation(), Path("/usr/lib"), Path("/usr/share"))):
        if held > GIGABYTE * scale:
            break
        folder = place / f"{number // 1000:03d}"
        folder.mkdir(exist_ok=True)
        held += shutil.copyfile(path, folder / f"{number % 1000:03d}-{path.name}").stat().st_size
    wanted(place).parent.mkdir(exist_ok=True)
    wanted(place).write_text(f"{random.Random(SEED).getrandbits(4096):x}\n", encoding="utf-8")


def wanted(place: Path) -> Path:
    """The one small file of the `gigabyte` corpus that is restored alone."""
    return place / "005" / "wanted.txt"


BUILDERS: dict[str, Callable[[Path, float], None]] = {
    "tree": tree,
    "big": big,
    "tokens": tokens,
    "million": million,
    "gigabyte": gigabyte,
}


def build(name: str, place: Path, scale: float) -> Extent:
    """Build a corpus in the new folder `place` and read it all once, so that no tool pays for a cold page cache."""
    place.mkdir(parents=True)
    BUILDERS[name](place, scale)
    files = read = 0
    for path in files_below(place):
        files += 1
        with path.open("rb", buffering=0) as content:
            while block := content.read(BLOCK):
                read += len(block)
    return Extent(files, read)


def edit(name: str, place: Path, seed: int) -> None:
    """Change a corpus as a day's work would: 200 pages of the big file, else a line more in 1 % of the files."""
    chance = random.Random(seed)
    if name == "big":
        overwrite_pages(place / "dump.img", chance)
        return
    files = [path for path in files_below(place) if os.access(path, os.W_OK)]
    for path in chance.sample(files, max(1, len(files) // 100)):
        with path.open("ab") as content:
            content.write(chance.randbytes(64).hex().encode())


def overwrite_pages(path: Path, chance: random.Random) -> None:
    """Overwrite 4 KiB at each of 200 random places, inside the file."""
    size = path.stat().st_size
    with path.open("r+b") as content:
        for _ in range(PLACES):
            content.seek(chance.randrange(size - PAGE))
            content.write(chance.randbytes(PAGE))
