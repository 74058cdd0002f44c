"""`opskit mount`: look into snapshots as into a folder, without a restore; read-only, until somebody ends it.

It stays in the foreground. For one snapshot the private key is gone before the folder appears; where all are shown,
it stays in memory until the end, for each is opened when somebody looks into it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context
from opskit.cli.options import noun
from opskit.cli.reading import DestinationOption, KeyOption, PassphraseOption, RepositoryOption

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.operations.mounting.packs import OpenPacks
    from opskit.operations.mounting.view import View
    from opskit.repository.history import History

app = noun()


@app.command()
def mount(
    typer_context: typer.Context,
    mountpoint: Annotated[Path, typer.Argument(metavar="MOUNTPOINT", help="An empty folder.")],
    snapshot: Annotated[
        str | None,
        typer.Argument(metavar="[SNAPSHOT[:PATH]]", help="One snapshot, or a folder of it; default: all of them."),
    ] = None,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Let other users in, as far as permissions let them.")
    ] = False,
    key: KeyOption = None,
    passphrase: PassphraseOption = None,
    destination: DestinationOption = None,
    repository: RepositoryOption = None,
) -> int | None:
    """Show snapshots as a read-only folder, until Ctrl-C or umount."""
    from opskit.cli.auditing import audited_reading, judged
    from opskit.cli.reading import history_of, opened_for_reading, warn_of_absent, warn_of_rejected

    context, point = Context.of(typer_context), mountpoint.absolute()
    _check(context, point, by_config=repository is None, allow_other=allow_other)
    with (
        audited_reading(context, repository, "mount", snapshot or "all", at=str(point)) as event,
        opened_for_reading(context, repository, key, destination) as opened,
    ):
        history = history_of(opened)
        warn_of_absent(context, opened)
        doubt = 3 if warn_of_rejected(context, history) == 13 else 0
        mounted = _Mounted(context, point, allow_other=allow_other)
        if snapshot is None:
            mounted.show_all(opened, history, key, passphrase)
        else:
            mounted.show_one(opened, history, snapshot, key, passphrase)
        return judged(event, 3 if mounted.complaints else doubt, unreadable=mounted.complaints)


def _check(context: Context, point: Path, *, by_config: bool, allow_other: bool) -> None:
    """Whether something can be mounted there, and does not stand in the way of a backup."""
    from opskit import fuse
    from opskit.cli.render import printable
    from opskit.config.model import LocalDestination, PathsSource
    from opskit.errors import UsageError

    fuse.check(point, allow_other=allow_other)
    if not by_config:
        return
    config = context.load_config()
    for name, destination in config.destinations.items():
        if isinstance(destination, LocalDestination) and point.is_relative_to(destination.path):
            raise UsageError(f"{printable(str(point))} lies where destination {name} is: expected another folder")
    for name, source in config.sources.items():
        if isinstance(source, PathsSource) and any(point.is_relative_to(path) for path in source.paths):
            context.warning(f"{printable(str(point))} lies in source {name}: a backup meanwhile would take it in")


class _Mounted:
    """One mount: what is shown, and what could not be."""

    def __init__(self, context: Context, point: Path, *, allow_other: bool) -> None:
        self._context, self._point, self._allow_other = context, point, allow_other
        self.complaints = 0

    def show_one(self, opened: Access, history: History, what: str, key: Path | None, passphrase: str | None) -> None:
        """One snapshot, or a folder of it."""
        from opskit.cli.reading import unlocked
        from opskit.operations.choosing import choose, split_path
        from opskit.operations.mounting.view import SnapshotView

        name, path = split_path(what)
        chosen = choose(history.snapshots, name, opened.marks().forgotten())
        with unlocked(self._context, opened, chosen, key, passphrase) as reader:
            pass  # the run keys are all it takes from here on
        packs = self._packs()
        try:
            view = SnapshotView(chosen, reader, packs, os.fsencode(path))
            self._serve(view, f"snapshot {chosen.id[:8]} ({chosen.manifest.started:%Y-%m-%d %H:%M} UTC)")
        finally:
            packs.close()

    def show_all(self, opened: Access, history: History, key: Path | None, passphrase: str | None) -> None:
        """All snapshots that are not forgotten."""
        from opskit.cli.reading import decrypting
        from opskit.cli.render import counted
        from opskit.errors import SnapshotNotFound
        from opskit.operations.mounting.view import RepositoryView
        from opskit.repository.reader import SnapshotReader

        packs = self._packs()
        try:
            with decrypting(self._context, opened, key, passphrase) as decrypt:
                view = RepositoryView(
                    history.snapshots,
                    opened.marks().forgotten(),
                    lambda chosen: SnapshotReader(chosen.manifest, opened.copies, decrypt, opened.trusted),
                    packs,
                )
                newest = view.newest()
                if newest is None:
                    raise SnapshotNotFound("there is no snapshot", hint="opskit snapshots lists them")
                view.look_into(newest)  # whoever has no key hears it now, and a passphrase is asked for here
                self._serve(view, counted(view.count, "snapshot"))
        finally:
            packs.close()

    def _packs(self) -> OpenPacks:
        from opskit.operations.mounting.packs import OpenPacks

        return OpenPacks()

    def _serve(self, view: View, what: str) -> None:
        from opskit import fuse

        fuse.serve(
            view, self._point, allow_other=self._allow_other, ready=lambda: self._ready(what), tell=self._complain
        )

    def _ready(self, what: str) -> None:
        from opskit.cli.render import printable

        place = printable(str(self._point))
        self._context.message(f"{what} at {place}, read-only; to end: Ctrl-C, or fusermount3 -u {place}")

    def _complain(self, text: str) -> None:
        from opskit.cli.render import printable

        self.complaints += 1
        self._context.warning(printable(text))
