"""`opskit ls`: what is in a snapshot; needs a private key, for names are encrypted like contents."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, KeyOption, PassphraseOption, RepositoryOption, SnapshotArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opskit.repository.tree import Node

app = noun()


@app.command()
def ls(
    typer_context: typer.Context,
    snapshot: SnapshotArgument,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="All that is below, with full paths.")] = False,
    long: Annotated[bool, typer.Option("--long", "-l", help="With mode, owner, size and time (UTC).")] = False,
    null: Annotated[bool, typer.Option("--null", "-0", help="Raw names, each ended by a NUL byte.")] = False,
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
) -> int | None:
    """List a folder of a snapshot."""
    from opskit.cli.auditing import audited_reading
    from opskit.cli.reading import history_of, opened_for_reading, unlocked, warn_of_absent, warn_of_rejected
    from opskit.errors import UsageError
    from opskit.operations.browse import entries
    from opskit.operations.choosing import choose, split_path

    context = Context.of(typer_context)
    if null and (long or context.json):
        raise UsageError("--null gives bare names: expected neither --long nor --json beside it")
    what, path = split_path(snapshot)
    with (
        audited_reading(context, repository, "ls", snapshot),
        opened_for_reading(context, repository, key, destination) as opened,
    ):
        history = history_of(opened)
        warn_of_absent(context, opened)
        warn_of_rejected(context, history)
        chosen = choose(history.snapshots, what, opened.marks().forgotten())
        with unlocked(context, opened, chosen, key, passphrase) as reader:
            found = entries(reader, os.fsencode(path), recursive=recursive)
            _write(context, found, os.fsencode(path), recursive=recursive, long=long, null=null)
    return None


def _write(context: Context, found: Iterator[Node], folder: bytes, *, recursive: bool, long: bool, null: bool) -> None:
    from opskit.cli.entries import absolute, as_json, encoded, long_line, write_json_lines
    from opskit.cli.render import printable

    if context.json:
        write_json_lines(context, [encoded(as_json(node)) for node in found])
        return
    for node in found:
        name = absolute(node) if recursive else node.path.rpartition(b"/")[2]
        if null:
            context.binary_output().write(name + b"\0")
        else:
            context.write(long_line(node, printable(name)) if long else printable(name))
