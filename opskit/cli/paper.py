"""`opskit keys paper`: the recovery-key file as a page to be printed, and back from what was scanned or typed.

What it writes holds a private key: a file that was named, mode 0600, never over another one, in a folder that is
there; or standard output, when no person reads it there. It deliberately starts no printer.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.errors import OpskitError
    from opskit.paper.reading import Read

STDOUT = "-"
LARGEST_SCAN = 100_000_000
"""Bytes of a picture or text: no page needs as many."""
MAX_TEXT = 2_000_000
"""Bytes of a text: the largest key file, twice."""


def paper(
    typer_context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="With --read: scanned or typed texts, or pictures; - is stdin."),
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="The recovery-key file to print.")] = None,
    read: Annotated[bool, typer.Option("--read", help="Make the recovery-key file from what was scanned.")] = False,
    output: Annotated[
        str | None, typer.Option("--output", metavar="FILE|-", help="Where it goes (mode 0600); - is stdout.")
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="html|text", help="How the page is written [html].")
    ] = None,
) -> int | None:
    """Print the recovery-key file with QR codes, or read it back from paper."""
    from opskit.errors import UsageError

    context = Context.of(typer_context)
    target = _target(context, output)
    if read:
        if key is not None or form is not None or not files:
            raise UsageError("--read takes FILES and --output: opskit keys paper --read SCAN.txt --output KEYFILE")
        return _read(context, files, target)
    if files:
        raise UsageError("FILES are for --read", hint="to print: opskit keys paper --key KEYFILE --output PAGE.html")
    if key is None:
        raise UsageError("expected --key FILE, a recovery-key file to print, or --read FILES, what was scanned of one")
    _print(context, key, target, form)
    return 0


def _target(context: Context, output: str | None) -> Path | None:
    """Where the private key goes: a file that is not there yet, or None for stdout. Raises UsageError."""
    from opskit import locations
    from opskit.errors import UsageError
    from opskit.setup.places import require_new_file

    if output is None:
        raise UsageError(
            "expected --output FILE: what is written holds a private key, and goes only where it is told to",
            hint="a folder in memory leaves no trace on a disk: --output /dev/shm/paper.html; --output - is for pipes",
        )
    if output == STDOUT:
        if context.stdout.isatty():
            raise UsageError("--output - on a terminal would leave the private key on it: expected a pipe or a file")
        return None
    path = locations.expanded("--output", output)
    require_new_file(path)
    return path


def _print(context: Context, key: Path, target: Path | None, form: str | None) -> None:
    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.errors import UsageError
    from opskit.paper.key import facts_of
    from opskit.paper.page import as_html, as_text
    from opskit.paper.sheet import divide

    if form not in (None, "html", "text"):
        raise UsageError(f"--format: expected html or text, got {form!r}")
    as_plain = form == "text" or (form is None and target is not None and target.suffix == ".txt")
    facts = facts_of(_bytes_of(key), f"{wiring.now():%Y-%m-%d}")
    _deliver(context, (as_text if as_plain else as_html)(facts), target)
    if not facts.is_protected:
        context.warning("this key has no passphrase: whoever finds the paper, or the file, can read every backup")
    if target is not None:
        _warn_of_disk(context, target)
        what = "the page" if as_plain else f"the page with {len(divide(facts.text))} codes"
        context.message(f"{what}: {printable(str(target))}")
        context.hint("print it, try one code with a phone, then remove the file (shred, on a disk)")


def _read(context: Context, files: list[str], target: Path | None) -> int:
    from opskit.cli.render import printable
    from opskit.paper.key import proven
    from opskit.paper.reading import as_mapping
    from opskit.paper.reading import read as read_texts

    found = read_texts([each for name in files for each in _texts(context, name)])
    for note in found.notes:
        context.warning(printable(note))
    if found.text is None:
        return _tell_problems(context, found)
    fingerprints = proven(found.text)
    _deliver(context, found.text, target)
    if not found.is_proven:
        context.warning("no check sum was typed: gpg takes the keys, but compare the lines above them with the paper")
    if target is not None:
        _warn_of_disk(context, target)
        if context.json:
            context.write_json({**as_mapping(found), "fingerprints": [*fingerprints], "file": str(target)})
        context.message(f"key {', '.join(fingerprints)}: {printable(str(target))}")
    return 0


def _tell_problems(context: Context, found: Read) -> int:
    from opskit.cli.render import printable
    from opskit.paper.reading import as_mapping

    if context.json:
        context.write_json(as_mapping(found))
    for problem in found.problems:
        context.warning(printable(problem))
    context.hint("scan or type what is missing, and give it together with the files you have")
    return 3


def _texts(context: Context, name: str) -> list[tuple[str, str]]:
    """The texts in a file: one, or the codes of a picture."""
    from opskit.errors import NoKey, UsageError
    from opskit.paper.codes import is_picture, texts_in

    try:
        data = sys.stdin.buffer.read(LARGEST_SCAN) if name == STDOUT else _bytes_of(Path(name))
    except NoKey as error:
        raise UsageError(str(error)) from error
    if data.startswith(b"%PDF"):
        raise UsageError(f"{name} is a PDF: expected text or a picture", hint="scan the page as PNG or JPEG")
    if not is_picture(data) and len(data) > MAX_TEXT:
        raise UsageError(f"{name} is too large for what was scanned or typed: expected at most 2 MB of text")
    if is_picture(data):
        found = texts_in(Path(name), data)
        if not found:
            context.warning(f"{name}: no QR code found in this picture: scan it sharper, 300 dpi or more")
        return [(name, text) for text in found]
    return [(name, data.decode("utf-8-sig", "replace"))]


def _bytes_of(path: Path) -> bytes:
    from opskit.errors import NoKey

    try:
        with path.open("rb") as file:
            return file.read(LARGEST_SCAN)
    except OSError as error:
        raise NoKey(f"{path} cannot be read: {(error.strerror or 'error').lower()}") from error


def _deliver(context: Context, text: str, target: Path | None) -> None:
    """Write it out; under no other name in between, and what was not written whole is removed."""
    from opskit.errors import UsageError

    if target is None:
        context.binary_output().write(text.encode())
        return
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{target} exists; it is never overwritten") from error
    except OSError as error:
        raise _not_written(target, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _not_written(target, error) from error
        raise


def _not_written(target: Path, error: OSError) -> OpskitError:
    from opskit.errors import OpskitError

    return OpskitError(f"{target} cannot be written: {(error.strerror or 'error').lower()}", hint="name another place")


def _warn_of_disk(context: Context, target: Path) -> None:
    """A warning where a private key has come to lie on the disk that holds `/`, or on none that was mounted."""
    from opskit.cli.render import printable
    from opskit.setup.places import is_on_own_disk

    if is_on_own_disk(target):
        context.warning(
            f"{printable(str(target))} lies on this host's own disk: whoever breaks in finds a private key there until "
            "it is removed, and a disk may keep it after that"
        )
