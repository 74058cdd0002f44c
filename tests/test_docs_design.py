"""docs/design.md shows the rooms that exist and the import table that is enforced.

The failure message holds the table to paste into the page, so keeping it true costs no thought.
"""

from __future__ import annotations

from pathlib import Path

from tests.test_architecture import ROOMS, Room

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs" / "design.md"
BEGIN, END = "<!-- import table: begin -->\n", "<!-- import table: end -->\n"


def row_of(room: Room) -> str:
    """A row of the table as Markdown."""
    may = ", ".join("everything" if name == "*" else f"`{name}`" for name in room.may) or "nothing"
    if room.never:
        may += ", but not " + ", ".join(f"`{name}`" for name in room.never)
    if room.isolated:
        may += "; not one another"
    return f"| `{room.name}` | {may} | {room.because} |"


def table() -> str:
    """The enforced table as Markdown."""
    head = ["| room | may import, beside itself | because |", "|---|---|---|"]
    return "\n".join([*head, *map(row_of, ROOMS)]) + "\n"


def rooms_on_disk() -> set[str]:
    """Folders (with a slash) and modules directly below opskit, the package's own two aside."""
    package = PROJECT / "opskit"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    return folders | {path.name for path in package.glob("*.py") if not path.name.startswith("__")}


def test_import_table_on_the_page_is_the_enforced_one() -> None:
    """The table in docs/design.md equals ROOMS of tests/test_architecture.py, reasons included."""
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown == table(), f"put this between the two remarks in docs/design.md:\n{table()}"


def test_every_room_is_introduced() -> None:
    """Each folder and module directly below opskit has a line in docs/design.md, and none that is gone has one."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## The rooms\n")[2].partition("\n## ")[0]
    shown = {line.split("`")[1] for line in section.splitlines() if line.startswith("| `")}
    assert shown == rooms_on_disk()
