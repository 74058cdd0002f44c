"""A lab whose run keys are encrypted to other recipients, and what must hold then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from opskit.errors import NoKey
from opskit.gpg import Keyring
from opskit.operations.rekeying.merging import RUNS_A_KEY_OBJECT
from opskit.operations.rekeying.rekey import Author, Holder, Rekeyed, rekey
from opskit.operations.rekeying.survey import survey
from opskit.operations.session import open_copies
from opskit.operations.sync import Synced, sync
from opskit.operations.verify import CopyReport
from opskit.operations.verify import verify as verify_copies
from opskit.repository.copy import Copy
from opskit.repository.history import History, load_history
from opskit.repository.marks import Marks, load_marks
from opskit.repository.reader import SnapshotReader
from opskit.stores.base import Store
from tests.repositories import HOST, REPOSITORY, Keys, Lab


@dataclass(frozen=True)
class Cast:
    """Two recipients, of whom one or both count."""

    keys: Keys

    def having(self, *numbers: int) -> Keys:
        """The keys where those recipients count and the others are retired."""
        prints = self.keys.recipient_keys
        return replace(
            self.keys,
            recipients=[self.keys.recipients[number] for number in numbers],
            recipient_keys=[prints[number] for number in numbers],
            retired=[each for number, each in enumerate(prints) if number not in numbers],
        )

    def holder(self, number: int) -> Holder:
        """Who holds one recipient's private key."""
        return holder(self.keys.recipients[number])

    def reader(self, number: int) -> Keyring:
        """That recipient's key ring."""
        return self.keys.recipients[number]


def holder(keyring: Keyring) -> Holder:
    """Who holds the private key in a ring."""
    (mine,) = (key for key in keyring.keys() if key.has_secret)
    return Holder(
        frozenset(mine.key_ids), lambda data: keyring.decrypt(data).payload,
        [lambda data: keyring.sign(data, mine.fingerprint)],
    )  # fmt: skip


def copies_of(lab: Lab, stores: Mapping[str, Store] | None = None) -> list[Copy]:
    """The copies, knowing what was superseded."""
    copies, absent = open_copies(lab.stores if stores is None else stores, REPOSITORY)
    assert not absent
    marks_of(lab, copies)
    return copies


def marks_of(lab: Lab, copies: list[Copy]) -> Marks:
    return load_marks(
        copies, lab.keys.believe,
        maintainers=[lab.keys.host_key], repository=REPOSITORY, agreed=lab.keys.identity().agreed,
    )  # fmt: skip


def history_of(lab: Lab, copies: list[Copy]) -> History:
    return load_history(
        copies, lab.keys.believe,
        signers=[lab.keys.host_key], repository=REPOSITORY,
    )  # fmt: skip


def rotate(
    lab: Lab,
    by: Holder,
    stores: Mapping[str, Store] | None = None,
    *,
    dry_run: bool = False,
    most: int = RUNS_A_KEY_OBJECT,
) -> Rekeyed:
    """Encrypt all run keys at these stores (default: all) to the lab's recipients."""
    copies, _ = open_copies(lab.stores if stores is None else stores, REPOSITORY)
    marks = marks_of(lab, copies)
    found = survey(copies, history_of(lab, copies).snapshots, marks, workers=1)
    author = Author(lab.keys.identity(), REPOSITORY, HOST, lab.now, lab.boottime)
    return rekey(copies, found, marks, by, author, workers=1, dry_run=dry_run, most=most)


def sync_all(lab: Lab, stores: Mapping[str, Store] | None = None) -> dict[str, Synced]:
    """Bring each of these stores what it lacks."""
    copies = copies_of(lab, stores)
    marks, history = marks_of(lab, copies), history_of(lab, copies)
    return {
        copy.destination: sync(
            copy, copies, history.snapshots, before=[each.name for each in marks.marks],
            forgotten=marks.forgotten(), condemned=marks.condemned_by().keys(), workers=1,
        )
        for copy in copies
    }  # fmt: skip


def verify_all(lab: Lab, stores: Mapping[str, Store] | None = None) -> dict[str, CopyReport]:
    """Read these stores back."""
    copies = copies_of(lab, stores)
    marks = marks_of(lab, copies)
    return verify_copies(
        copies, lab.keys.believe,
        signers=[lab.keys.host_key], repository=REPOSITORY, rejected=marks.rejected, workers=1,
    )  # fmt: skip


def opens(lab: Lab, keyring: Keyring, store: Store) -> dict[str, bool]:
    """For each snapshot at a store, whether a private key gives all its run keys, and those open its root."""
    copies, _ = open_copies({"only": store}, REPOSITORY)
    found = {}
    for snapshot in history_of(lab, copies).snapshots:
        try:
            SnapshotReader(snapshot.manifest, copies, lambda data: _read(keyring, data), lab.keys.trusted).root()
            found[snapshot.id] = True
        except NoKey:
            found[snapshot.id] = False
    return found


def _read(keyring: Keyring, data: bytes) -> bytes:
    """What a key object says to the holder of a ring; raises NoKey. The same bytes are asked about once."""
    asked = keyring.home, data
    if asked not in _READ:
        try:
            _READ[asked] = keyring.decrypt(data).payload
        except NoKey as error:
            _READ[asked] = error
    found = _READ[asked]
    if isinstance(found, NoKey):
        raise found
    return found


_READ: dict[tuple[Path | None, bytes], bytes | NoKey] = {}


def key_names(store: Store) -> set[str]:
    """The key objects at a store."""
    return {info.name for info in store.list("keys")}
