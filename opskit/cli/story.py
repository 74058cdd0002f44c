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
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opskit.errors import OpskitError
from opskit.repository.durable import write_durably

SAMPLE_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the story plays: a folder of its own, and the data it is about."""

    folder: Path
    data: Path
    say: Callable[[str], None]

    def run(self, *arguments: str, expect: int = 0) -> None:
        """Show and run an opskit command; raises OpskitError when it ends otherwise than expected."""
        self.say("")
        self.say(f"$ opskit {shlex.join(arguments)}")
        command = [sys.executable, "-m", "opskit", *arguments]
        environment = {**os.environ, "OPSKIT_CONFIG": str(self.folder / "opskit.yaml")}
        code = subprocess.run(command, env=environment, cwd=self.folder, check=False).returncode
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


def tell_story(stage: Stage) -> int:
    """Back up, damage a copy, find the damage, restore all the same, compare; returns the count of files compared."""
    folder, key = stage.folder, "recovery-key.asc"
    stage.tell("Two copies, encrypted to a key that this host does not keep.")
    stage.run(
        "--quiet", "init", "--state-dir", "state", "--source", f"data={stage.data}",
        "--destination", "disk=copies/disk", "--destination", "usb=copies/usb",
        "--new-recipient", "Recovery <recovery@example.org>", "--recovery-key", key, "--no-passphrase",
    )  # fmt: skip
    _mark_simulated(folder / "opskit.yaml")
    stage.run("backup")
    stage.tell("One bit of one copy rots.")
    damaged = damage(folder / "copies" / "disk")
    stage.say(f"# flipped a bit in {damaged.relative_to(folder)}")
    stage.tell("Anybody can find it, without a key:")
    stage.run("verify", expect=3)
    stage.tell("A restore notices too, and takes the good bytes from the other copy:")
    stage.run("restore", "latest", "--target", "restored", "--key", key)
    return compare(stage.data, folder / "restored" / str(stage.data)[1:])


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


def _mark_simulated(config: Path) -> None:
    """Say in the config that its media are pretended, so that no status ever counts them."""
    write_durably(config, config.read_bytes().replace(b"version: 1\n", b"version: 1\nsimulated: true\n", 1))
