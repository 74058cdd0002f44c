"""A target of commands, with one slot and with two: a folder where each accepted value is a file named by its hash."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.targets.command import Commands, CommandTarget
from tests.contracts.targets import KINDS, Lab

PROGRAM = """
import hashlib, os, sys
verb, folder, slots = sys.argv[1:4]
value = sys.stdin.buffer.read()
name = os.path.join(folder, hashlib.sha256(value).hexdigest())
if verb == "apply":
    assert open(sys.argv[4], "rb").read(), "the value that is accepted now"
    if slots == "one":
        for each in os.listdir(folder):
            os.unlink(os.path.join(folder, each))
    open(name, "w").close()
elif verb == "check":
    sys.exit(0 if os.path.exists(name) else 1)
elif slots == "two" and os.path.exists(name):
    os.unlink(name)
"""


def commands(folder: Path, slots: str) -> Commands:
    """The commands of such a folder."""
    script = folder / "target.py"
    script.write_text(PROGRAM)
    accepted = folder / "accepted"
    accepted.mkdir()
    argv = {
        verb: (sys.executable, "-S", str(script), verb, str(accepted), slots)
        for verb in ("apply", "check", "disable", "delete")
    }
    return Commands(
        (*argv["apply"], "{old}"), argv["check"], None, argv["disable"], argv["delete"], keeps_old=slots == "two"
    )


@contextmanager
def _one_slot(folder: Path) -> Iterator[Lab]:
    yield _lab(folder, "one")


@contextmanager
def _two_slots(folder: Path) -> Iterator[Lab]:
    yield _lab(folder, "two")


def _lab(folder: Path, slots: str) -> Lab:
    target = CommandTarget(commands(folder, slots), Programs(os.environ))
    (folder / "accepted" / hashlib.sha256(b"first").hexdigest()).touch()
    return Lab(target, Secret("first"))


KINDS["command-one-slot"] = _one_slot
KINDS["command-two-slots"] = _two_slots
