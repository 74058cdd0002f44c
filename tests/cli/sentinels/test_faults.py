"""Rotations that go wrong at one step after another, with programs that write what they know: no secret gets out."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from tests.cli.hosts import Machine
from tests.cli.sentinels.test_rotations import BAD, told

BLAB = 'cat; env | grep -a _VALUE; for each in "$@"; do cat "$each"; base64 -w0 "$each"; echo; done; } >&2'
"""Shell that writes its standard input, its variables and the files it is given to stderr, last of all in base64."""


def programs(folder: Path) -> dict[str, Any]:
    """Items, which are files, and what is asked before the old value goes; all fail while a file `fails` is there."""
    for name in ("old", "new"):
        (folder / name).mkdir()
    for number in range(3):
        (folder / "old" / f"item {number}").touch()
    blabbing = f"if test -e {folder}/fails; then {{ {BLAB}; exit 9; fi; "
    return {
        "items": {
            "address": ["sh", "-c", "sha256sum | cut -c1-16"],
            "list": ["sh", "-c", f"ls {folder}/old"],
            "move": [
                "sh",
                "-c",
                f'{blabbing} test ! -e {folder}/kills || kill -9 $PPID; mv "{folder}/old/$0" {folder}/new',
                "{item}",
                "{old}",
                "{new}",
            ],
            "verify": ["sh", "-c", f'test -e "{folder}/new/$0"', "{item}"],
            "env": {"OLD_VALUE": "old", "NEW_VALUE": "new"},
            "attempts": 1,
        },
        "may_delete": ["sh", "-c", blabbing + "true", "sh", "{old}"],
    }


def test_each_step_that_fails_shows_nothing(machine: Machine) -> None:
    """A check, the store, a move, a kill, the last question: each error is told, resumed, and tells no secret."""
    given = programs(machine.folder)
    with told(machine, {"command": "keyring"}, **given) as story:
        story.stage.given |= {"OLD_VALUE", "NEW_VALUE"}
        badly = machine.folder / "target" / "creates-badly"
        story.stage.private.append(badly)
        badly.touch()
        story.rotate("run", "command", codes=BAD)
        story.stage.secrets.add("value that was made, and not taken", badly.read_bytes())
        badly.unlink()
        story.rotate("undo", "command", codes=range(4))
        broken, fails, kills = (machine.folder / name for name in ("broken", "fails", "kills"))
        broken.touch()
        story.rotate("run", "command", codes=BAD)
        story.rotate("status", "--json", codes=BAD)
        broken.unlink()
        story.rotate("resume", "command", codes=BAD)
        fails.touch()
        story.rotate("run", "command", "--json", codes=BAD)
        story.rotate("status", "command", "--items", codes=BAD)
        store = story.places["keyring"]
        store.fails()
        story.rotate("resume", "command", codes=BAD)
        store.works()
        fails.unlink()
        kills.touch()
        story.rotate("resume", "command", codes=(-signal.SIGKILL,))
        kills.unlink()
        fails.touch()
        story.rotate("resume", "command", codes=BAD)
        fails.unlink()
        story.rotate("resume", "command")
        fails.touch()
        story.rotate("retire", "command", "--now", codes=BAD)
        store.fails()
        story.rotate("retire", "command", "--now", "--json", codes=BAD)
        store.works()
        fails.unlink()
        story.rotate("retire", "command", "--now")
        assert len(list((machine.folder / "new").iterdir())) == 3
        assert story.leaks() == []
        assert story.stage.strays() == []
        assert story.stage.places_of(b"ended with status 9") >= {"stderr", "audit", "journal"}
