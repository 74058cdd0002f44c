"""What `opskit heal` does first: mend `opskit.json` and `copy.json`, by which a copy is opened and told from others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, NamedTuple

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.config.model import Config
    from opskit.stores.base import Store


class Identified(NamedTuple):
    """The objects that were mended, or would be, by destination, and what somebody has to look into.

    `new_ids` are destinations whose copy got another id than it had: whether an older state was put back there cannot
    be seen from now on. `left` are those where something is wrong and was left as it is.
    """

    mended: dict[str, list[str]]
    new_ids: list[str]
    left: list[str]

    @property
    def code(self) -> int:
        """3 where somebody has to look."""
        return 3 if self.new_ids or self.left else 0

    def details(self) -> dict[str, object]:
        """For the audit log: nothing where nothing was wrong."""
        told = {"identities": self.mended, "new_ids": self.new_ids, "not_identified": self.left}
        return {name: found for name, found in told.items() if found}


def identify(
    context: Context, config: Config, opened: Access, about: bytes, wanted: Sequence[str], *, dry_run: bool
) -> Identified:
    """Mend the two objects of the destinations wanted, all if none, and open what opens then; a dry run mends nothing.

    `about` are the bytes of `opskit.json`.
    """
    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.errors import CopyUnidentified, Damaged, OpskitError

    suspects = [name for name, error in opened.absent.items() if isinstance(error, CopyUnidentified | Damaged)]
    suspects += [copy.destination for copy in opened.copies if not copy.id]
    found = Identified({}, [], [])
    for name in suspects:
        if about and (not wanted or name in wanted):
            store = wiring.stores_of(config, [name])[name]
            try:
                _identify(context, config, opened, name, store, about, found, dry_run=dry_run)
            except OpskitError as error:
                context.warning(printable(f"{name}: {error}"))
                found.left.append(name)
    return found


def _identify(
    context: Context,
    config: Config,
    opened: Access,
    name: str,
    store: Store,
    about: bytes,
    found: Identified,
    *,
    dry_run: bool,
) -> None:
    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.operations.reidentify import is_ours, reidentify, wrong_identity
    from opskit.repository import names

    wrong = wrong_identity(store, about)
    if not wrong:
        return
    known = opened.heads.copies() if opened.heads else frozenset()
    known |= _ids_at(config, opened, name)
    if not is_ours(
        name, store, opened.verify, signers=opened.signers, repository=opened.repository, known=known, wrong=wrong
    ):
        context.warning(f"{printable(name)}: nothing there says that it is a copy of this repository: left as it is")
        found.left.append(name)
        return
    copy_id = _former_id(config, opened, name, store)
    done, failure = wrong, None
    if not dry_run:
        done, failure = reidentify(name, store, about, copy_id or token_hex(16), wiring.now())
    if done:
        found.mended[name] = done
    if names.COPY in done and not copy_id:
        found.new_ids.append(name)
        context.warning(
            f"{printable(name)} {'would get' if dry_run else 'has'} a new copy id: it lacks what this host knows of "
            "the copy there, or nothing is known of it; so it is another disk, or an older state was put back"
        )
    if dry_run:
        return
    if done:
        context.message(f"{printable(name)}: {' and '.join(done)} written anew")
    if failure is not None:
        context.warning(f"{printable(name)}: {printable(str(failure))}")
        found.left.append(name)
    _open(config, opened, name, store)


def _ids_at(config: Config, opened: Access, name: str) -> frozenset[str]:
    """The ids of the copy that `init` made at a destination, and of the one that was seen there last."""
    from opskit.operations import verified
    from opskit.operations.initialise import read_past

    past = read_past(config.state_dir)
    seen = None
    with suppress(OSError):  # a memory that cannot be read knows of none
        seen = verified.Verified(verified.place(config.state_dir, opened.repository)).copy_at(name)
    return frozenset(filter(None, (past[name].copy if name in past else "", seen)))


def _former_id(config: Config, opened: Access, name: str, store: Store) -> str:
    """The id that the copy surely had: one known of that destination whose snapshots are all there. Else "".

    An id that acknowledged nothing yet says nothing of a copy with snapshots.
    """
    from opskit.repository.copy import Copy
    from opskit.repository.heads import gone_back

    objects = {info.name: info.size for info in store.list("snapshots")}
    forgotten = opened.marks().forgotten()
    fitting = [
        each
        for each in sorted(_ids_at(config, opened, name))
        if (opened.heads is None or opened.lost_heads or not objects or opened.heads.chains(each))
        and not gone_back([Copy(name, store, each, opened.repository, objects)], opened.heads, forgotten=forgotten)
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
