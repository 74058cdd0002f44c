"""The seam of what loads dumps of databases to look at them: what is given, what comes back.

Invariants: a loader never touches a server that was there before; what a dump does wrong is an answer, and what keeps
the loader from giving one (no server program, no way to shut it in, no room) is a SourceError. A dump is not trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Kind = Literal["postgresql", "mariadb"]

HEAD, TAIL = 512, 4096
"""Bytes of the beginning and of the end of a dump that tell whether it is whole."""
_ENDS = {
    b"-- PostgreSQL database dump": b"-- PostgreSQL database dump complete",
    b"-- PostgreSQL database cluster dump": b"-- PostgreSQL database cluster dump complete",
    b"-- MariaDB dump": b"-- Dump completed",
    b"-- MySQL dump": b"-- Dump completed",
}
"""How a dump begins, and what then stands in the last lines."""


def cut_off(head: bytes, tail: bytes) -> str:
    """Why a dump with this beginning and this end cannot be whole; "" where nothing says so.

    One that was cut off (by a full disk, where it was made) mostly loads without an error.
    """
    if not head:
        return "it is empty: look at what makes this dump, and at its exit status"
    end = next((end for begin, end in _ENDS.items() if begin + b"\n" in head or begin + b" " in head), None)
    if end is None or end in tail:
        return ""
    return f"it is cut off: its last lines lack {end.decode()!r}; look at what makes this dump, and its exit status"


@dataclass(frozen=True, slots=True)
class Script:
    """One dump, open at `descriptor` for reading; `name` is given back with what is said of it.

    A "database" is loaded into a database called `database`, made where no script of the part "create" made it; then
    each of `queries` is asked there. "server" is what belongs to no database.
    """

    name: str
    descriptor: int
    part: Literal["server", "create", "database"]
    database: str = ""
    queries: Sequence[str] = ()


@dataclass(slots=True)
class Loaded:
    """What came of it: the server's name and version, seconds of loading alone, scripts loaded, queries answered.

    `failures` are (script's name, what is wrong), of scripts and of queries.
    """

    server: str
    seconds: float = 0.0
    scripts: int = 0
    loaded: int = 0
    queries: int = 0
    answered: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


class Loader(Protocol):
    """Loads into a server that is made for it below `folder`, and gone afterwards."""

    def load(
        self, kind: Kind, scripts: Sequence[Script], folder: Path, load_seconds: float, query_seconds: float
    ) -> Loaded:
        """Load and ask; one script, one query may take so many seconds. Raises SourceError where it cannot."""
