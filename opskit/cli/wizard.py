"""Questions to a person at a terminal: the wizard of `opskit init`, and passphrases.

Invariants: nothing is written here, and whoever breaks off is told so. Each answer is judged when it is given, and
asked for again where it cannot be meant.
"""

from __future__ import annotations

import getpass
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from opskit.cli.context import Context
from opskit.cli.reading import resolved
from opskit.errors import UsageError
from opskit.locations import expanded, place
from opskit.setup import Wishes
from opskit.setup.places import require_new_file

PASSPHRASE_ATTEMPTS = 3


class Answers:
    """What a person answers; a context manager that says "nothing was written" when they break off."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_details: object) -> None:
        if kind is KeyboardInterrupt:
            self._context.diagnose("\nnothing was written")

    def ask_all(self, config: Path) -> Wishes:
        """Ask for what a first `init` needs; raises UsageError where nobody is there to answer."""
        if not self._context.stdin.isatty():
            raise UsageError(
                "nothing to do: expected --source, --destination and --recipient or --new-recipient",
                hint="on a terminal, opskit init without arguments asks for them",
            )
        self._context.message(
            f"This makes {config}. Four questions, then a passphrase; nothing is written before the last answer."
        )
        user = getpass.getuser()
        source = self._ask("What must not be lost (a folder)?", "/srv", _source)
        destination = self._ask(
            "Where does its first copy go (a folder on another disk)?",
            "/backup/opskit",
            lambda text: _destination(text, Path(source)),
        )
        name = self._ask("Who will restore (NAME <MAIL>)?", f"{user} <{user}@localhost>", _name)
        recovery = self._ask("Where does the recovery key go (best a USB stick)?", "./recovery-key.asc", _recovery)
        return Wishes(
            sources={label_of(source): source},
            destinations={"disk": destination},
            new_recipient=name,
            recovery_key=Path(recovery),
        )

    def _ask(self, question: str, default: str, judged: Callable[[str], str]) -> str:
        """The first answer that `judged` does not raise UsageError for, in the form that it returns."""
        while True:
            self._context.stderr.write(f"{question} [{default}] ")
            self._context.stderr.flush()
            answer = self._context.stdin.readline()
            if not answer:
                raise UsageError("the answers ended early; nothing was written")
            try:
                return judged(answer.strip() or default)
            except UsageError as error:
                self._context.warning(str(error))
                if error.hint:
                    self._context.hint(error.hint)

    def new_passphrase(self, reference: str | None, option: str = "--passphrase") -> bytes:
        """A new passphrase: what the reference stands for, else typed twice, and again where the two differ.

        `option` is what could have said it. Raises UsageError without a terminal, and for one that is empty;
        UnresolvedReference.
        """
        given = resolved(self._context, reference)
        if given is not None:
            return _not_empty(given)
        if not self._context.stdin.isatty():
            raise UsageError(
                "a new recovery key needs a passphrase, and there is no terminal to ask for one",
                hint=f"say {option} file:/PATH, or --no-passphrase and keep the file in a safe, or use a terminal",
            )
        for _ in range(PASSPHRASE_ATTEMPTS):
            first = _not_empty(getpass.getpass("passphrase for the new recovery key: ").encode())
            if first == getpass.getpass("the same again: ").encode():
                return first
            self._context.warning("the two passphrases differ")
        raise UsageError("no two passphrases were the same; nothing was written")


def _not_empty(passphrase: bytes) -> bytes:
    if not passphrase:
        raise UsageError(
            "an empty passphrase protects nothing; nothing was written",
            hint="say --no-passphrase if that is what you mean",
        )
    return passphrase


def label_of(path: str) -> str:
    """A name for a source, from the last part of its path: 1 to 32 of a-z, 0-9, _ and -."""
    plain = unicodedata.normalize("NFKD", Path(path).name.lower()).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9_-]+", "-", plain).strip("-")[:32] or "data"


def _source(text: str) -> str:
    path = place("the answer", text)
    if not path.exists():
        raise UsageError(f"{path} is not there")
    return str(path)


def _destination(text: str, source: Path) -> str:
    path = place("the answer", text)
    if "://" in text:
        raise UsageError(f"expected a folder, got {text!r}")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a folder")
    if Path(os.path.normpath(path)).is_relative_to(os.path.normpath(source)):
        raise UsageError(f"{path} lies inside {source}, which would back itself up; expected a folder outside it")
    return str(path)


def _name(text: str) -> str:
    if not text.isprintable():
        raise UsageError("expected one line, such as 'Name <mail@example.org>'")
    return text


def _recovery(text: str) -> str:
    path = expanded("the answer", text)
    require_new_file(path)
    return str(path)
