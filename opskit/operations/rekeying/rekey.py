"""Rekey: open every key object that another set of recipients should open, and encrypt its run keys to that set.

Order of writes, at each copy: new key objects, then the mark that supersedes the old ones; both are read back; only
then the old ones are deleted there (module `finish`). A copy that did not take every new object gets no mark and loses
nothing. Killed anywhere, a run leaves every run key readable as before or as after; repeated, it does what is left.

Invariants:
- A new key object is made anew, never one that was found: so nothing made earlier can come to stand in for it, and no
  two hosts can each delete what the other relies on.
- Before it leaves this machine its recipients are exactly those wanted, as its packets say, and whoever of them has a
  private key at hand has opened it and found the very same run keys.
- What this key does not open, what contradicts something else and what cannot be read is left alone, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from opskit import encoding
from opskit.errors import Damaged, NoKey, OpskitError, StoreError, UnresolvedReference, together
from opskit.gpg import PASSPHRASE, decrypt_with_passphrase, owners, recipients_of
from opskit.log import logger
from opskit.operations.keyobjects import Readers, readers_of, seal, wanted_readers
from opskit.operations.locking import extend_lock_of
from opskit.operations.marking import publish
from opskit.operations.rekeying import merging
from opskit.operations.rekeying.finish import Finished, finish, superseded_at
from opskit.operations.rekeying.survey import KeyObject, Survey
from opskit.operations.session import LISTING_IS_GOOD_FOR
from opskit.repository import consent, deleted_keys, names
from opskit.repository.copy import Copy
from opskit.repository.identity import Identity
from opskit.repository.marks import SUPERSEDE, Mark, Marked, Marks
from opskit.repository.threads import end
from opskit.repository.unlocking import Decrypt

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Private keys at hand: `key_ids` tell what they open, `decrypt` opens it; each of `consents` signs for one key.

    `opens_new` are those of recipients who are to be, to try what was made for them.
    """

    key_ids: frozenset[str]
    decrypt: Decrypt
    consents: Sequence[Callable[[bytes], bytes]]
    opens_new: Sequence[Decrypt] = ()

    def require_consent(self) -> None:
        """Raise NoKey where nobody at hand can agree that key objects are superseded."""
        if not self.consents:
            raise NoKey(
                "no recipient's private key is at hand that can sign: expected one, for the consent",
                hint="give another recipient's key, or one with a part that signs: gpg --quick-add-key",
            )


@dataclass(frozen=True, slots=True)
class Author:
    """Who signs the mark, for which repository, by which clocks; `boottime` goes on while the machine sleeps."""

    identity: Identity
    repository: str
    host: str
    now: Callable[[], datetime]
    boottime: Callable[[], float]


@dataclass(slots=True)
class Rekeyed:
    """What was found and done. `groups` are the old objects that became one new one each, or would.

    `left` are objects that no private key at hand opens, with whose they are; `contradicting` ones that give different
    keys to one run; `lacking` the destinations that did not take everything, with reasons; `untried`: what was made
    could be opened by nobody here.
    """

    groups: list[list[str]] = field(default_factory=list)
    runs: int = 0
    old_bytes: int = 0
    made: dict[str, int] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)
    unread: dict[str, OpskitError] = field(default_factory=dict)
    contradicting: list[str] = field(default_factory=list)
    lacking: dict[str, OpskitError] = field(default_factory=dict)
    finished: dict[str, Finished] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)
    mark: str = ""
    untried: bool = False
    locked_until: dict[str, datetime] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    """Who opens some of the old objects and none of the new ones: fingerprints, or key ids that are nobody's here."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do at the copies at hand."""
        ended = all(each.failure is None and not each.locked for each in self.finished.values())
        return ended and not (self.left or self.unread or self.contradicting or self.lacking)


def rekey(
    copies: Sequence[Copy],
    found: Survey,
    marks: Marks,
    holder: Holder,
    author: Author,
    *,
    workers: int = 2,
    dry_run: bool = False,
    most: int = merging.RUNS_A_KEY_OBJECT,
) -> Rekeyed:
    """Encrypt what `found` holds to `author.identity.recipients`, at every one of the copies.

    Raises NoKey where a recipient cannot be encrypted to, or this host's key is no maintainer's, and the first copy's
    error where none takes what was made.
    """
    work = _Rekeying(copies, found, marks, holder, author, most)
    work.open(workers)
    if work.result.groups:
        holder.require_consent()
    if not dry_run:
        work.make()
        work.finish()
    return work.result


class _Rekeying:
    def __init__(
        self, copies: Sequence[Copy], found: Survey, marks: Marks, holder: Holder, author: Author, most: int
    ) -> None:
        self._copies, self._found, self._marks = copies, found, marks
        self._holder, self._author, self._most = holder, author, most
        self._identity = author.identity
        self._keys = self._identity.keyring.keys()
        self._wanted = wanted_readers(self._identity.recipients, passphrase=self._identity.passphrase is not None)
        self._opened: dict[str, dict[str, str]] = {}
        self.result = Rekeyed(unread=dict(found.unread))

    def open(self, workers: int) -> None:
        """Open what the private key at hand opens, and see what goes together."""
        current = {digest for digest, each in self._found.objects.items() if self._is_current(each)}
        openable = [each for each in self._found.objects.values() if self._holder.key_ids.intersection(each.key_ids)]
        if len(openable) == 1:  # which is not opened without need
            current -= self._with_another_passphrase(current)
        if len(openable) > 1 or any(each.digest not in current for each in openable):
            self._open(openable, workers)
        vouched = {digest for digest, each in self._found.objects.items() if each.is_vouched}
        wrong = merging.contradicted(self._opened, vouched)
        for digest in wrong:
            del self._opened[digest]
        result = self.result
        result.contradicting = sorted(wrong)
        grouped = {digest for group in merging.to_make(self._opened, current, vouched, self._most) for digest in group}
        current -= self._with_another_passphrase(current - grouped)
        result.groups = merging.to_make(self._opened, current, vouched, self._most)
        opened = {who for group in result.groups for digest in group for who in self._owners(digest)}
        result.dropped = sorted(opened - {*self._wanted, PASSPHRASE})
        result.runs = merging.of_runs(self._opened, result.groups)
        result.old_bytes = sum(len(self._found.objects[digest].data) for group in result.groups for digest in group)
        result.left |= {
            digest: self._owners(digest)
            for digest in self._found.objects
            if digest not in current and digest not in self._opened and digest not in wrong
        }
        result.superseded = {copy.destination: len(superseded_at(copy, self._marks)) for copy in self._copies}

    def _owners(self, digest: str) -> list[str]:
        return owners(self._found.objects[digest].key_ids, self._keys)

    def _is_current(self, each: KeyObject) -> bool:
        return sorted(self._owners(each.digest)) == self._wanted

    def _with_another_passphrase(self, current: Collection[str]) -> set[str]:
        """Those of these objects that the passphrase of the config does not open, where it can be had.

        Packets tell that a passphrase opens an object, not which. Each trial takes a quarter of a second; what will be
        merged needs none, for it is made anew with the passphrase of today anyway.
        """
        if self._identity.passphrase is None:
            return set()
        try:
            passphrase = self._identity.passphrase()
        except UnresolvedReference:
            return set()
        found = set()
        for digest in current:
            try:
                decrypt_with_passphrase(self._found.objects[digest].data, passphrase)
            except (NoKey, Damaged):
                found.add(digest)
        return found

    def _open(self, objects: Sequence[KeyObject], workers: int) -> None:
        first, *others = objects
        self._note(first, self._decrypted(first))  # alone: it may ask for a passphrase
        threads = ThreadPoolExecutor(workers, thread_name_prefix="open-keys")
        tasks = [threads.submit(self._decrypted, each) for each in others]
        try:
            for each, task in zip(others, tasks, strict=True):
                self._note(each, task.result())
        except BaseException as error:
            end(threads, tasks, error)
            raise
        end(threads, (), None)

    def _decrypted(self, each: KeyObject) -> dict[str, str] | OpskitError:
        try:
            return _run_keys(self._holder.decrypt(each.data))
        except (NoKey, Damaged) as error:
            return error

    def _note(self, each: KeyObject, opened: dict[str, str] | OpskitError) -> None:
        if not isinstance(opened, OpskitError):
            self._opened[each.digest] = opened
        elif not isinstance(opened, NoKey):
            self.result.unread[each.digest] = opened

    def make(self) -> None:
        """Make the new key objects and the mark, and put them to the copies."""
        if not self.result.groups:
            return
        readers = self._readers()
        made = {group[0]: self._made(merging.merged(self._opened, group), readers) for group in self.result.groups}
        begun = self._author.boottime()
        supersedes = {names.sha256(made[group[0]]): sorted(group) for group in self.result.groups}
        for data in made.values():
            self.result.made[names.sha256(data)] = len(data)
        took = [copy for copy in self._copies if self._put(copy, made.values())]
        if not took:
            raise together(self.result.lacking)
        created = self._author.now().replace(microsecond=0)
        said = consent.words(self._author.repository, created, supersedes)
        consents = [sign(said) for sign in self._holder.consents]
        mark = Mark(
            SUPERSEDE, self._author.repository, self._author.host, created,
            reason="rekey", supersedes=supersedes, consents=consents,
        )  # fmt: skip
        if self._author.boottime() - begun > LISTING_IS_GOOD_FOR:
            raise StoreError(
                "too much time passed since the new key objects were put: a prune elsewhere may have condemned them",
                hint="nothing was superseded; run this again",
            )
        consent.require_consent(consents, said, self._identity.agreed)  # else no host would follow the mark
        name, failures = publish(self._identity, took, mark)
        self.result.lacking |= failures
        self.result.mark = name
        self._marks.marks.append(Marked(name, names.digest_in(name) or "", self._identity.host_key, mark))
        self._marks.succession.add(supersedes)
        self._lock(took, [*map(names.key, supersedes), name])

    def _readers(self) -> Readers:
        """Whoever is to open the new objects, all of them; raises NoKey."""
        readers = readers_of(self._identity, self._author.now().timestamp())
        if readers.rejected:
            raise NoKey(
                f"not every recipient can be encrypted to: {'; '.join(readers.rejected)}",
                hint=deleted_keys.hint(
                    readers.rejected,
                    "renew that key (gpg --quick-set-expire) and import it, or remove it: opskit keys remove",
                ),
            )
        return readers

    def _made(self, run_keys: Mapping[str, str], readers: Readers) -> bytes:
        """A new key object, tried before anybody relies on it; raises Damaged where it is not what it should be."""
        message = seal(self._identity, run_keys, readers)
        if sorted(owners(recipients_of(message), self._keys)) != self._wanted:
            raise Damaged("expected a key object for every recipient and nobody else, gpg made another one")
        ways = [*self._holder.opens_new]
        if self._holder.key_ids.intersection(recipients_of(message)):
            ways.append(self._holder.decrypt)
        if any(_run_keys(decrypt(message)) != run_keys for decrypt in ways):
            raise Damaged("expected a new key object to open to the run keys that went in, got others")
        self.result.untried |= not ways
        return message

    def _put(self, copy: Copy, made: Iterable[bytes]) -> bool:
        try:
            for data in made:
                copy.put(names.key(names.sha256(data)), data)
                copy.get(names.key(names.sha256(data)))
        except OpskitError as error:
            self.result.lacking[copy.destination] = error
            return False
        return True

    def _lock(self, copies: Sequence[Copy], wanted: Sequence[str]) -> None:
        for copy in copies:
            try:
                until = extend_lock_of(copy, wanted, self._author.now())
            except StoreError as error:
                self.result.lacking[copy.destination] = error
                continue
            if until is not None:
                self.result.locked_until[copy.destination] = until

    def finish(self) -> None:
        """Delete what is superseded, where it can be done without."""
        ready = [copy for copy in self._copies if copy.destination not in self.result.lacking]
        self.result.finished = finish(ready, self._marks)


def _run_keys(plaintext: bytes) -> dict[str, str]:
    """What a key object says; raises Damaged."""
    value = encoding.decode_object(plaintext, what="key object")
    if not value or not all(isinstance(key, str) for key in value.values()):
        raise Damaged("expected run ids and run keys in a key object, got something else")
    return {str(run): str(key) for run, key in value.items()}
