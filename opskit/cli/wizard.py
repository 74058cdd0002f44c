"""Questions to a person at a terminal: the wizard of `opskit init`, and passphrases."""

from __future__ import annotations

import getpass
from pathlib import Path

from opskit.cli.context import Context
from opskit.errors import UsageError
from opskit.setup import Wishes


def ask_all(context: Context, config: Path) -> Wishes:
    """Ask for what a first `init` needs; raises UsageError where nobody is there to answer."""
    if not context.stdin.isatty():
        raise UsageError(
            "nothing to do: expected --source, --destination and --recipient or --new-recipient",
            hint="on a terminal, opskit init without arguments asks for them",
        )
    context.message(f"This makes {config}. Three questions; nothing is written before the last answer.")
    source = _ask(context, "What must not be lost (a folder)?", "/srv")
    destination = _ask(context, "Where does its first copy go (a folder on another disk)?", "/backup/opskit")
    name = _ask(context, "Who will restore (NAME <MAIL>)?", f"{getpass.getuser()} <{getpass.getuser()}@localhost>")
    recovery = _ask(context, "Where does the recovery key go (best a USB stick)?", "./recovery-key.asc")
    label = "".join(letter if letter.isalnum() else "-" for letter in Path(source).name.lower()).strip("-") or "data"
    return Wishes(
        sources={label[:32]: source},
        destinations={"disk": destination},
        new_recipient=name,
        recovery_key=Path(recovery),
    )


def _ask(context: Context, question: str, default: str) -> str:
    context.stderr.write(f"{question} [{default}] ")
    context.stderr.flush()
    answer = context.stdin.readline()
    if not answer:
        raise UsageError("the answers ended early; nothing was written")
    return answer.strip() or default


def new_passphrase(context: Context) -> bytes:
    """A new passphrase, typed twice; raises UsageError without a terminal."""
    if not context.stdin.isatty():
        raise UsageError(
            "a new recovery key needs a passphrase, and there is no terminal to ask for one",
            hint="say --no-passphrase and keep the file in a safe, or run this on a terminal",
        )
    first = getpass.getpass("passphrase for the new recovery key: ")
    if first != getpass.getpass("the same again: "):
        raise UsageError("the two passphrases differ; nothing was written")
    if not first:
        raise UsageError("an empty passphrase protects nothing", hint="say --no-passphrase if that is what you mean")
    return first.encode()
