"""`opskit diff`: what differs between two snapshots; needs a private key, for names are encrypted like contents.

People get a line for each path as it is found. Programs get one document, so its lines are collected first: an
error must not leave half of one. Differences are no failure: the exit code is 0 with and without.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, KeyOption, PassphraseOption, RepositoryOption

if TYPE_CHECKING:
    from opskit.operations.diff import Change, Summary
    from opskit.repository.manifest import Snapshot

app = noun()

_EXPLAINED = "An id, `latest`, SOURCE@latest or a date (UTC)."


@app.command()
def diff(
    typer_context: typer.Context,
    before: Annotated[str, typer.Argument(metavar="SNAPSHOT", help=_EXPLAINED)],
    after: Annotated[str, typer.Argument(metavar="SNAPSHOT", help=_EXPLAINED)],
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Only what is at and below this path.")] = "",
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
) -> int | None:
    """Show what differs between two snapshots."""
    from opskit.cli.auditing import audited_reading
    from opskit.cli.reading import decrypting, history_of, opened_for_reading, warn_of_absent, warn_of_rejected
    from opskit.operations.choosing import choose
    from opskit.operations.diff import Summary, between
    from opskit.repository.reader import SnapshotReader

    context, below, summary = Context.of(typer_context), os.fsencode(path).strip(b"/"), Summary()
    with (
        audited_reading(context, repository, "diff", f"{before} {after}"),
        opened_for_reading(context, repository, key, destination) as opened,
    ):
        history = history_of(opened)
        warn_of_absent(context, opened)
        warn_of_rejected(context, history)
        forgotten = opened.marks().forgotten()
        chosen = [choose(history.snapshots, each, forgotten) for each in (before, after)]
        with decrypting(context, opened, key, passphrase) as decrypt:
            first, second = (SnapshotReader(each.manifest, opened.copies, decrypt, opened.trusted) for each in chosen)
            changes = map(summary.add, between(first, second, below))
            if context.json:
                _write_json(context, chosen, below, changes, summary)
            else:
                _write(context, changes, summary)
    return None


def _write(context: Context, changes: Iterator[Change], summary: Summary) -> None:
    for change in changes:
        context.write(_line(context, change))
    context.write(_in_words(summary))


def _line(context: Context, change: Change) -> str:
    from opskit.cli.render import printable

    styles = {"added": "green", "removed": "red", "changed": "yellow", "metadata": "dim"}
    node = change.after or change.before
    folder = "/" if node and node.type == "dir" else ""
    kind = context.styled(f"{change.kind:<8}", styles[change.kind])
    return f"{kind}  {printable(b'/' + change.path)}{folder}{_how(change)}"


def _how(change: Change) -> str:
    """What is different, in brackets, where the kind of change does not say all."""
    from opskit.cli.render import human_bytes

    old, new = change.before, change.after
    if old is None or new is None:
        node = new or old
        return f"  ({human_bytes(node.size)})" if node and node.type == "file" else ""
    told = []
    for field in change.fields:
        if field == "type":
            told.append(f"{old.type} → {new.type}")
        elif field == "content":
            told.append(f"{human_bytes(old.size)} → {human_bytes(new.size)}")
        elif field == "mode":
            told.append(f"mode {old.mode:04o} → {new.mode:04o}")
        elif field == "readable":
            told.append("was read, now not" if new.error else "was not read, now it is")
        else:
            told.append(field)
    return f"  ({', '.join(told)})"


def _in_words(summary: Summary) -> str:
    from opskit.cli.render import human_bytes

    added, removed, changed, metadata = summary.totals.values()
    if not any(each.entries for each in summary.totals.values()):
        return "no differences"
    return (
        f"{added.entries:,} added ({human_bytes(added.bytes_after)}), "
        f"{removed.entries:,} removed ({human_bytes(removed.bytes_before)}), "
        f"{changed.entries:,} changed ({human_bytes(changed.bytes_before)} → {human_bytes(changed.bytes_after)}), "
        f"{metadata.entries:,} in metadata only"
    )


def _write_json(
    context: Context, chosen: list[Snapshot], below: bytes, changes: Iterator[Change], summary: Summary
) -> None:
    items = [json.dumps(_as_json(change)) for change in changes]
    head = json.dumps({"snapshots": [each.id for each in chosen], "path": os.fsdecode(b"/" + below)})
    totals = {
        kind: {"entries": each.entries, "bytes_before": each.bytes_before, "bytes_after": each.bytes_after}
        for kind, each in summary.totals.items()
    }
    listed = "[" + ",".join(f"\n  {item}" for item in items) + ("\n]" if items else "]")
    context.write(f'{head[:-1]}, "summary": {json.dumps(totals)}, "changes": {listed}}}')


def _as_json(change: Change) -> dict[str, object]:
    from opskit.cli.entries import as_json

    value: dict[str, object] = {
        "path": os.fsdecode(b"/" + change.path),
        "change": change.kind,
        "fields": list(change.fields),
    }
    for name, node in (("before", change.before), ("after", change.after)):
        value[name] = None if node is None else as_json(node)
    return value
