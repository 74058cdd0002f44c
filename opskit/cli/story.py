"""The story of `opskit demo`: real commands on a throwaway folder, each shown before it runs.

Every step is the command a person would type, run as its own process; what it answers is the real answer. The
folder, with its throwaway keys, is removed at the end. Only the damage is done here, by hand.
"""

from __future__ import annotations

import filecmp
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from opskit.config.syntax import read
from opskit.errors import OpskitError
from opskit.repository.durable import write_durably

SAMPLE_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays: a folder of its own, and the data it is about."""

    folder: Path
    data: Path
    say: Callable[[str], None]
    output: TextIO | None = None
    """Where the commands write what they answer; None: where this process does."""

    def run(self, *arguments: str, expect: int = 0) -> None:
        """Show and run an opskit command; raises OpskitError when it ends otherwise than expected."""
        self.say("")
        self.say(f"$ opskit {shlex.join(arguments)}")
        command = [sys.executable, "-m", "opskit", *arguments]
        # What is kept of configs goes with this one's folder: nobody reads it again.
        own = {"OPSKIT_CONFIG": str(self.folder / "opskit.yaml"), "XDG_CACHE_HOME": str(self.folder / "cache")}
        environment = {**os.environ, **own}
        code = subprocess.run(command, env=environment, cwd=self.folder, stdout=self.output, check=False).returncode
        if code != expect:
            raise OpskitError(f"the demonstration failed: expected exit code {expect}, got {code}")

    def tell(self, text: str) -> None:
        """A sentence between commands."""
        self.say("")
        self.say(f"# {text}")


def make_tokens(folder: Path) -> None:
    """Sample data: small JSON files of the kind that exists once."""
    chance = random.Random()
    folder.mkdir(parents=True)
    for number in range(SAMPLE_TOKENS):
        token = {"version": "2.0", "id": f"{chance.getrandbits(256):064x}", "status": "CONFIRMED"}
        (folder / f"token-{number:04d}.txf").write_text(json.dumps(token, indent=1))


COPIES: dict[str, dict[str, object]] = {
    "disk": {"medium": "disk"},
    "usb": {"medium": "usb"},
    "far": {"medium": "object-storage", "offsite": True},
}
"""What the copies pretend to be."""


def tell_story(stage: Stage) -> int:
    """Back up, damage a copy and heal it, lose another, fill it again and drill it, restore; returns how many files."""
    folder, key = stage.folder, "recovery-key.asc"
    (folder / "copies").mkdir()
    stage.tell("Three copies, encrypted to a key that this host does not keep.")
    stage.run(
        "--quiet", "init", "--state-dir", "state", "--source", f"data={stage.data}",
        *(word for name in COPIES for word in ("--destination", f"{name}=copies/{name}")),
        "--new-recipient", "Recovery <recovery@example.org>", "--recovery-key", key, "--no-passphrase",
    )  # fmt: skip
    _simulate(folder / "opskit.yaml")
    stage.run("backup")
    _rot(stage)
    _lose(stage, key)
    stage.tell("What was done, in a log that shows when it was tampered with:")
    stage.run("audit", "tail")
    stage.tell("The way back, with the key from the safe:")
    stage.run("restore", "latest", "--target", "restored", "--key", key)
    return compare(stage.data, folder / "restored" / str(stage.data)[1:])


def _rot(stage: Stage) -> None:
    stage.tell("One bit of one copy rots.")
    damaged = damage(stage.folder / "copies" / "disk")
    stage.say(f"# flipped a bit in {damaged.relative_to(stage.folder)}")
    stage.tell("Anybody can find it, and mend it from another copy, without a key:")
    stage.run("verify", expect=3)
    stage.run("heal", "--destination", "disk")


def _lose(stage: Stage, key: str) -> None:
    stage.tell(
        "One copy is lost, the only one elsewhere: two disks in one house are no 3-2-1. An empty one replaces it."
    )
    shutil.rmtree(stage.folder / "copies" / "far")
    stage.say("# rm -r copies/far")
    stage.run("status", expect=3)
    stage.run("--quiet", "init", "--destination", "far=copies/far")
    stage.run("sync", "far")
    stage.run("--quiet", "verify")
    stage.tell("Whether the new copy restores, it has to show: from it alone, into a folder that is wiped afterwards.")
    stage.run("drill", "run", "--from", "far", "--key", key)
    stage.run("status")


def damage(copy: Path) -> Path:
    """Flip one bit in the middle of a copy's largest pack."""
    largest = max((copy / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)
    return largest


def compare(original: Path, restored: Path) -> int:
    """Count the files that are equal byte for byte; raises OpskitError at the first that is not."""
    names = [original] if original.is_file() else sorted(each for each in original.rglob("*") if _is_plain(each))
    for path in names:
        twin = restored if path == original else restored / path.relative_to(original)
        if not (_is_plain(twin) and filecmp.cmp(path, twin, shallow=False)):
            raise OpskitError(f"the demonstration failed: {path} was not restored as it was")
    return len(names)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _simulate(config: Path) -> None:
    """Say in the config that its media are pretended, so that no status takes them for real, and which they are."""
    value = dict(read(config.read_text()).value)
    value["simulated"] = True
    value["destinations"] = {name: {**each, **COPIES[name]} for name, each in value["destinations"].items()}
    write_durably(config, json.dumps(value, indent=1).encode())  # JSON is YAML too
