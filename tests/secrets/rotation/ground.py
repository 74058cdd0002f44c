"""A ground on which small programs move files from the old value to the new one, well or badly, and count it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit.secrets.reference import Secret
from opskit.secrets.rotation.commands import Programs
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.migration import ITEM, Migration, Moves, Progress
from opskit.secrets.rotation.state import Fingerprints, Rotation

OLD, NEW = Secret("old-sentinel-value"), Secret("new-sentinel-value")
ROTATION = Rotation("1", "tokens", "gpg:///secrets.gpg#tokens", 0.0)
PATH = {"PATH": "/usr/bin:/bin"}

_LIST = 'cd "$BASE/old" && for each in * .[!.]*; do [ ! -e "./$each" ] || printf "%s\\n" "$each"; done'
_MOVE = """
item=${1#item=}
echo begun >> "$BASE/begun/$item"
how=$(cat "$BASE/how/$item" 2>/dev/null)
moves() { echo moved >> "$BASE/moved/$item"; mv "$BASE/old/$item" "$BASE/new/$item"; }
case $how in
    "") moves ;;
    refuse) echo "no room for $item" >&2; exit 1 ;;
    lie) exit 0 ;;
    fail-after) moves; exit 1 ;;
    killed-before) kill -9 $$ ;;
    killed-after) moves; kill -9 $$ ;;
    once) rm "$BASE/how/$item"; exit 7 ;;
    slow-after) moves; sleep 60 ;;
    slow-before) sleep 60; moves ;;
    adds) echo > "$BASE/old/more of $item"; moves ;;
esac
"""
_VERIFY = """
item=${1#item=}
echo asked >> "$BASE/asked/$item"
[ ! -e "$BASE/unknown/$item" ] || exit 2
[ -e "$BASE/new/$item" ] || exit 1
"""


@dataclass
class Ground:
    """A folder with items under the old value, and programs beside them."""

    base: Path
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of `Moves`."""
    progress: Callable[[Progress], None] = lambda _: None

    def __post_init__(self) -> None:
        for name in ("old", "new", "begun", "moved", "asked", "how", "unknown"):
            (self.base / name).mkdir()
        self.list, self.move, self.verify = (
            self.program(name, text) for name, text in (("list", _LIST), ("move", _MOVE), ("verify", _VERIFY))
        )
        self.journal = Journal(self.base / "journal.sqlite")
        self.journal.keep(ROTATION)

    def program(self, name: str, text: str) -> str:
        """A shell script."""
        path = self.base / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(stat.S_IRWXU)
        return str(path)

    def add(self, *items: str, how: str = "") -> None:
        """Items under the old value, and what becomes of their moves."""
        for item in items:
            (self.base / "old" / item).touch()
            if how:
                (self.base / "how" / item).write_text(how)

    def migration(self) -> Migration:
        """A new process."""
        given: dict[str, Any] = {
            "list": (self.list,), "move": (self.move, "item={item}"), "verify": (self.verify, "item={item}"),
            "attempts": 2, "timeout": 20.0, **self.changes,
        }  # fmt: skip
        programs = Programs({**PATH, "BASE": str(self.base)})
        return Migration(Moves(**given), programs, self.journal, Fingerprints(b"k" * 32), lambda: 1.0, self.progress)

    def run(self) -> str | None:
        """Move all; why not all have moved."""
        return self.migration().move(ROTATION, OLD, NEW)

    def count(self, what: str, item: str) -> int:
        """How often an item was begun, moved or asked about."""
        path = self.base / what / item
        return len(path.read_text().splitlines()) if path.exists() else 0

    def states(self) -> dict[str, tuple[str, int]]:
        """State and attempts of each item in the journal."""
        return {each.id: (each.state, each.attempts) for each in self.journal.parts(ROTATION, ITEM)}

    def note(self, item: str) -> str | None:
        """What the journal says of it."""
        part = self.journal.part(ROTATION, ITEM, item)
        assert part is not None
        return part.note

    def require_all_moved_once(self) -> None:
        """No item is under the old value, and every one was moved one time."""
        assert not list((self.base / "old").iterdir())
        items = {each.name for each in (self.base / "new").iterdir()}
        assert items == set(self.states())
        assert {self.count("moved", each) for each in items} == {1}
        assert {state for state, _ in self.states().values()} == {"done"}
