"""What `opskit heal` does first: mend `opskit.json` and `copy.json`, by which a copy is opened and told from others."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.config.model import Config
    from opskit.stores.base import Store


def identify(
    context: Context, config: Config, opened: Access, about: bytes, wanted: Sequence[str], *, dry_run: bool
) -> dict[str, list[str]]:
    """Mend the two objects of the destinations wanted, all if none, and open what opens then; a dry run mends nothing.

    Returns what was mended, or would be, by destination. `about` are the bytes of `opskit.json`.
    """
    from opskit import wiring
    from opskit.errors import CopyUnidentified, Damaged, OpskitError

    suspects = [name for name, error in opened.absent.items() if isinstance(error, CopyUnidentified | Damaged)]
    suspects += [copy.destination for copy in opened.copies if not copy.id]
    mended: dict[str, list[str]] = {}
    for name in suspects:
        if about and (not wanted or name in wanted):
            store = wiring.stores_of(config, [name])[name]
            try:
                mended[name] = _mended(context, config, opened, name, store, about, dry_run=dry_run)
            except OpskitError as error:
                context.warning(f"{name}: {error}")
    return {name: found for name, found in mended.items() if found}


def _mended(
    context: Context, config: Config, opened: Access, name: str, store: Store, about: bytes, *, dry_run: bool
) -> list[str]:
    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.operations.reidentify import is_ours, reidentify, wrong_identity

    wrong = wrong_identity(store, about)
    known = opened.heads.copies() if opened.heads else frozenset()
    known |= _ids_at(config, opened, name)
    if wrong and not is_ours(
        name, store, opened.verify, signers=opened.signers, repository=opened.repository, known=known
    ):
        context.warning(f"{printable(name)}: nothing there says that it is a copy of this repository: left as it is")
        return []
    if dry_run or not wrong:
        return wrong
    copy_id = _former_id(config, opened, name, store)
    done, failure = reidentify(name, store, about, copy_id or token_hex(16), wiring.now())
    if done:
        context.message(f"{printable(name)}: {' and '.join(done)} written anew")
    if not copy_id and "copy.json" in done:
        context.warning(
            f"{printable(name)} has a new copy id: it lacks what this host knows of the copy there, so it is another "
            "disk, or an older state was put back"
        )
    if failure is not None:
        context.warning(f"{printable(name)}: {printable(str(failure))}")
    _open(config, opened, name, store)
    return done


def _ids_at(config: Config, opened: Access, name: str) -> frozenset[str]:
    """The ids of the copy that `init` made at a destination, and of the one that was seen there last."""
    from opskit.operations import verified
    from opskit.operations.initialise import read_past

    past = read_past(config.state_dir)
    seen = verified.Verified(verified.place(config.state_dir, opened.repository)).copy_at(name)
    return frozenset(filter(None, (past[name].copy if name in past else "", seen)))


def _former_id(config: Config, opened: Access, name: str, store: Store) -> str:
    """The id that the copy surely had: one known of that destination whose snapshots are all there. Else ""."""
    from opskit.repository.copy import Copy
    from opskit.repository.heads import gone_back

    objects = {info.name: info.size for info in store.list("snapshots")}
    forgotten = opened.marks().forgotten()
    fitting = [
        each
        for each in sorted(_ids_at(config, opened, name))
        if not gone_back([Copy(name, store, each, opened.repository, objects)], opened.heads, forgotten=forgotten)
    ]
    taken = {copy.id for copy in opened.copies}
    return fitting[0] if len(fitting) == 1 and fitting[0] not in taken else ""


def _open(config: Config, opened: Access, name: str, store: Store) -> None:
    """Open the copy as it is now, in the order of the config, or note why that is not possible yet."""
    from opskit.operations.session import open_copies

    order = list(config.destinations)
    copies, absent = open_copies({name: store}, opened.repository)
    others = [copy for copy in opened.copies if copy.destination != name]
    opened.copies[:] = sorted([*others, *copies], key=lambda copy: order.index(copy.destination))
    opened.absent = {each: reason for each, reason in opened.absent.items() if each != name} | absent
