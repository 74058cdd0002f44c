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
