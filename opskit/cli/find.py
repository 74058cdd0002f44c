"""`opskit find`: in which snapshots a file is; needs a private key, for names are encrypted like contents."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, KeyOption, PassphraseOption, RepositoryOption

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.repository.manifest import Snapshot
    from opskit.repository.tree import Node
    from opskit.repository.unlocking import Decrypt

app = noun()


@app.command()
def find(
    typer_context: typer.Context,
    patterns: Annotated[
        list[str], typer.Argument(metavar="PATTERN...", help="Shell patterns, for a name or a whole path.")
    ],
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="NAME", help="In this source only; repeatable.")
    ] = None,
    everywhere: Annotated[bool, typer.Option("--all", help="In all snapshots, not only the newest of each.")] = False,
    ignore_case: Annotated[bool, typer.Option("--ignore-case", "-i", help="Capitals and small letters alike.")] = False,
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
) -> int | None:
    """Find files in snapshots by name."""
    from opskit.cli.auditing import audited_reading, judged
    from opskit.cli.reading import decrypting, history_of, opened_for_reading, warn_of_absent, warn_of_rejected
    from opskit.operations.browse import matcher, newest_of_each

    context = Context.of(typer_context)
    matches = matcher([os.fsencode(pattern) for pattern in patterns], ignore_case=ignore_case)
    with (
        audited_reading(context, repository, "find", " ".join(patterns)) as event,
        opened_for_reading(context, repository, key, destination) as opened,
    ):
        history = history_of(opened)
        warn_of_absent(context, opened)
        warn_of_rejected(context, history)
        snapshots = _of_sources(history.snapshots, source or ())
        forgotten = opened.marks().forgotten()
        current = [each for each in snapshots if each.id not in forgotten]
        chosen = snapshots if everywhere else newest_of_each(current)
        with decrypting(context, opened, key, passphrase) as decrypt:
            code = judged(event, _search(context, opened, chosen, decrypt, matches))
    if code == 3 and len(chosen) < len(snapshots):
        context.hint("--all looks into older snapshots too")
    return code


def _of_sources(snapshots: Sequence[Snapshot], sources: Sequence[str]) -> Sequence[Snapshot]:
    from opskit.errors import SnapshotNotFound

    for name in sources or (None,):
        if not any(name in (None, each.manifest.source) for each in snapshots):
            what = "there is no snapshot yet" if name is None else f"no snapshot of a source {name!r}"
            raise SnapshotNotFound(what, hint="opskit snapshots lists them; opskit backup makes one")
    return [each for each in snapshots if not sources or each.manifest.source in sources]


def _search(
    context: Context,
    opened: Access,
    snapshots: Sequence[Snapshot],
    decrypt: Decrypt,
    matches: Callable[[bytes], bool],
) -> int:
    """Show what matches; a snapshot that cannot be read is told and does not hide the others."""
    from opskit.cli.entries import write_json_lines
    from opskit.errors import Damaged, StoreError
    from opskit.repository.reader import SnapshotReader

    lines: list[str] = []
    count = failed = 0
    for snapshot in snapshots:
        try:
            reader = SnapshotReader(snapshot.manifest, opened.copies, decrypt, opened.trusted)
            for node in reader.nodes(reader.root()):
                if matches(node.path):
                    count += 1
                    _show(context, snapshot, node, lines)
        except (Damaged, StoreError) as error:
            failed += 1
            context.warning(f"snapshot {snapshot.id[:8]} could not be read to its end: {_text(error)}")
    if context.json:
        write_json_lines(context, lines)
    if not count:
        context.message("nothing found")
    return 3 if failed or not count else 0


def _text(error: Exception) -> str:
    from opskit.cli.render import printable

    return printable(str(error))


def _show(context: Context, snapshot: Snapshot, node: Node, lines: list[str]) -> None:
    from opskit.cli.entries import absolute, as_json, encoded
    from opskit.cli.render import human_bytes, printable

    manifest = snapshot.manifest
    if context.json:
        about = {"snapshot": snapshot.id, "source": manifest.source, "host": manifest.host}
        lines.append(encoded({**about, "time": f"{manifest.started:%Y-%m-%dT%H:%M:%SZ}", **as_json(node)}))
        return
    size = human_bytes(node.size) if node.type == "file" else node.type
    context.write(f"{snapshot.id[:8]}  {manifest.started:%Y-%m-%d %H:%M}  {size:>9}  {printable(absolute(node))}")
