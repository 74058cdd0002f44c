"""The part of wiring that knows rotations: the config's entries become machines, each behind the lock of its name.

Everything that a rotation needs to go on lies in the folder `rotations` of the state folder: the journal, the key of
its fingerprints, a lock for each name. A program that outlives the run that started it keeps that lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from opskit import log, rotationtargets, secretstores
from opskit.config.model import Config
from opskit.config.rotating import Consumer as ConsumerConfig
from opskit.config.rotating import Items as ItemsConfig
from opskit.config.rotating import Rotation as RotationConfig
from opskit.errors import OpskitError, RotationLocked, UsageError
from opskit.repository.durable import create_durably, write_durably
from opskit.secrets.base import SecretStore, Stage
from opskit.secrets.masking import Masker
from opskit.secrets.reference import Reference, Secret
from opskit.secrets.rotation.commands import About, Programs
from opskit.secrets.rotation.consumers import CommandConsumer, FilePlace, Place, StorePlace
from opskit.secrets.rotation.journal import Journal
from opskit.secrets.rotation.machine import Machine
from opskit.secrets.rotation.migration import Migration, Moves, Progress
from opskit.secrets.rotation.state import Fingerprints, Rotation, State
from opskit.secrets.rotation.subject import Policy, Subject, Tools

FOLDER = "rotations"
_NOT_SECRET = frozenset(("username", "access_key_id"))
"""Parts of values that may be shown, and would make logs unreadable if they were not."""
_PROGRAMS = (
    "apply", "check", "create", "disable", "delete", "list", "move", "verify", "address", "reload", "may_delete", "ca",
)  # fmt: skip
"""Keys of the config that hold an argv."""
_KEY = 32
"""Bytes of the key of the fingerprints."""
_LONG_LINE = 16
"""Characters from which a line of a secret of several lines is hidden by itself."""


@dataclass(frozen=True)
class World:
    """The environment of the programs that are called, the time in epoch seconds, and where the config lies."""

    environ: Mapping[str, str]
    now: Callable[[], float]
    config_file: Path


@dataclass(frozen=True)
class Telling:
    """What a run tells while it goes on: each step, around its act, and how far the items are."""

    around: Callable[[Rotation, str], AbstractContextManager[object]] = lambda _rotation, _step: nullcontext()
    progress: Callable[[Progress], None] = lambda _: None
    hurry: bool = False
    """No time is waited for: neither grace nor observation."""


def journal_of(config: Config) -> Journal:
    """The journal of this host, to be closed by the caller. Raises OpskitError where there was one, and it is gone."""
    path, key = _journal_path(config), _key_path(config)
    if key.exists() and not path.exists():
        raise OpskitError(
            f"the journal of rotations {path} is gone: nobody knows which are under way",
            hint="bring it back from a backup of the state folder; where there is none, look that nothing is pending "
            f"(opskit secrets list), and remove {key} to begin anew",
        )
    return Journal(path)


def require_unrotated(reference: Reference, config: Config) -> None:
    """Raise UsageError where a rotation needs the values of this secret, in whichever stage they are.

    Not while it needs an operator, who may have to set them, nor before it has made a value.
    """
    if not _journal_path(config).exists():
        return
    with closing(journal_of(config)) as journal:
        found = journal.all_latest().values()
    for each in found:
        if each.secret == str(reference) and not (each.is_over or each.is_stuck or each.state is State.PLANNED):
            raise UsageError(
                f"{reference} is being rotated ({each.name}: {each.shown}): this would lose a value that is needed",
                hint=f"first `opskit rotate undo {each.name}`, or `opskit rotate retire {each.name} --now` to its end",
            )


@contextmanager
def machine(
    name: str, config: Config, world: World, journal: Journal, telling: Telling | None = None
) -> Iterator[Machine]:
    """The machine of one entry, alone with it. Raises UsageError for an unknown name, RotationLocked."""
    entry, telling = entry_of(name, config), telling or Telling()
    with _alone(_lock(name, config), name) as lock:
        _require_one_name(name, entry, journal)
        making = _Making(config, world, journal, _prints(config, journal), telling, lock)
        tools = Tools(world.now, time.sleep, lambda: os.urandom(8).hex(), telling.around)
        yield Machine(making.subject(name, entry), journal, making.prints, tools)


def entry_of(name: str, config: Config) -> RotationConfig:
    """The entry of a name; raises UsageError where there is none."""
    found = config.rotations.get(name)
    if found is None:
        known = f"expected one of {', '.join(sorted(config.rotations))}" if config.rotations else "it names none"
        raise UsageError(f"no rotation {name!r} in the config: {known}")
    return found


def orphans(config: Config, journal: Journal) -> list[Rotation]:
    """Rotations under way that the config does not name any more: nothing goes on with them."""
    return [each for each in journal.all_latest().values() if not each.is_over and each.name not in config.rotations]


def _require_one_name(name: str, entry: RotationConfig, journal: Journal) -> None:
    for each in journal.all_latest().values():
        if not each.is_over and each.name != name and each.secret == str(entry.secret):
            raise UsageError(
                f"{entry.secret} is being rotated under the name {each.name}: {each.shown}",
                hint=f"name the entry {each.name} again, until that rotation has ended",
            )


def require_programs(name: str, config: Config, world: World) -> None:
    """Raise UsageError where a program of an entry is not there: found out while that costs nothing."""
    entry = entry_of(name, config)
    for part in (entry, getattr(entry, entry.kind), entry.items, *entry.consumers.values()):
        for key in _PROGRAMS:
            argv = getattr(part, key, None)
            if argv and shutil.which(argv[0], path=world.environ.get("PATH", os.defpath)) is None:
                raise UsageError(
                    f"{name} cannot be rotated: its {key} is no program that could be run: {argv[0]}",
                    hint="install it, make it executable, or correct the config",
                )


@dataclass(frozen=True)
class _Making:
    """What is needed to make the parts of a subject."""

    config: Config
    world: World
    journal: Journal
    prints: Fingerprints
    telling: Telling
    lock: int
    hidden: _Hidden = field(default_factory=lambda: _Hidden())

    def subject(self, name: str, entry: RotationConfig) -> Subject:
        store = self._store(entry.secret)
        grace, observe = (timedelta(0), timedelta(0)) if self.telling.hurry else (entry.grace, entry.observe)
        return Subject(
            name,
            entry.secret,
            store,
            rotationtargets.target_of(entry, self._means()),
            [self._consumer(each, found) for each, found in entry.consumers.items()],
            None if entry.items is None else self._items(entry.items),
            Policy(grace.total_seconds(), observe.total_seconds(), entry.propagation.total_seconds()),
            self._may_delete(entry),
        )

    def _means(self) -> rotationtargets.Means:
        world = self.world
        return rotationtargets.Means(self._programs(), self._resolve, world.now, world.config_file)

    def _resolve(self, reference: Reference) -> Secret:
        secret = secretstores.resolver(self.world.environ).resolve(reference)
        self.hidden.add(secret)
        return secret

    def _programs(self) -> Programs:
        return Programs(self.world.environ, self.hidden.redact, self.lock, self.hidden.add)

    def _consumer(self, name: str, entry: ConsumerConfig) -> CommandConsumer:
        places: list[Place] = [FilePlace(Path(path), _replace, text) for path, text in entry.files.items()]
        places += [StorePlace(each, self._store(each)) for each in entry.secrets]
        timeout = entry.timeout.total_seconds()
        return CommandConsumer(name, places, self._programs(), entry.reload, entry.check, timeout)

    def _items(self, entry: ItemsConfig) -> Migration:
        moves = Moves(
            entry.list, entry.move, entry.verify, entry.address, entry.env, entry.parallel, entry.attempts,
            entry.timeout.total_seconds(),
        )  # fmt: skip
        return Migration(moves, self._programs(), self.journal, self.prints, self.world.now, self.telling.progress)

    def _may_delete(self, entry: RotationConfig) -> Callable[[Secret], str | None]:
        def judge(old: Secret) -> str | None:
            if entry.may_delete is None:
                return None
            answer = self._programs().run(entry.may_delete, About(secrets=(("old", old),)), stdin=old)
            return None if answer.is_good else str(answer)

        return judge

    def _store(self, reference: Reference) -> SecretStore:
        store = secretstores.store_of(reference, self.config, self.world.environ, self.world.now)
        return _Guarded(store, lambda: secretstores.alone_with(self.config), self.hidden.add)


@dataclass(frozen=True)
class _Guarded:
    """A store whose values are never shown, and that no other command of this host writes to meanwhile."""

    inner: SecretStore
    alone: Callable[[], AbstractContextManager[None]]
    hide: Callable[[Secret], None]

    def get(self, reference: Reference, stage: Stage) -> Secret:
        secret = self.inner.get(reference, stage)
        self.hide(secret)
        return secret

    def set(self, reference: Reference, stage: Stage, secret: Secret) -> None:
        self.hide(secret)
        with self.alone():
            self.inner.set(reference, stage, secret)

    def promote(self, reference: Reference) -> None:
        with self.alone():
            self.inner.promote(reference)

    def delete(self, reference: Reference, stage: Stage) -> None:
        with self.alone():
            self.inner.delete(reference, stage)


class _Hidden:
    """What must not be shown: not as it is in messages and logs, and in no form in the words of programs."""

    def __init__(self) -> None:
        self._values = set[bytes]()

    def add(self, secret: Secret) -> None:
        """A value: whole, its parts, and its lines."""
        value = secret.reveal_bytes()
        if value in self._values:
            return
        try:
            parts = json.loads(value)
        except ValueError:
            parts = None
        self._values.add(value)
        for name, each in parts.items() if isinstance(parts, dict) else ():
            if isinstance(each, str) and name not in _NOT_SECRET:
                self._values.add(each.encode(errors="surrogatepass"))
                log.register_secret(each)
        log.register_secret(value)
        for line in value.splitlines() if b"\n" in value else ():
            if len(line) >= _LONG_LINE:
                log.register_secret(line)

    def redact(self, text: str) -> str:
        """Words of a program without values: in base64 neither, nor quoted; `curl -v` writes passwords so."""
        if not text:
            return text
        masker = Masker(self._values)
        shown = masker.feed(text.encode(errors="replace")) + masker.finish()
        return log.redact(shown.decode(errors="replace"))


def _journal_path(config: Config) -> Path:
    return config.state_dir / FOLDER / "journal.sqlite"


def _key_path(config: Config) -> Path:
    return config.state_dir / FOLDER / "fingerprints.key"


def _replace(path: Path, data: bytes) -> None:
    """A link is followed where it is root's or ours; whoever else made one may not choose what is written over."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) and status.st_uid not in {0, os.geteuid()}:
            raise OpskitError(f"{path} is a symbolic link of uid {status.st_uid}: expected a file, or a link of root")
    write_durably(path, data, like_before=True)


def _prints(config: Config, journal: Journal) -> Fingerprints:
    """With the key of this host, which is made once."""
    path = _key_path(config)
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        if any(not each.is_over for each in journal.all_latest().values()):
            raise OpskitError(
                f"{path} is gone: without it the values of the rotations under way cannot be told apart",
                hint="bring it back from a backup of the state folder",
            ) from None
        create_durably(path, os.urandom(_KEY))
        key = path.read_bytes()
    except OSError as error:
        raise OpskitError(f"cannot read {path}: {(error.strerror or 'error').lower()}") from error
    if len(key) != _KEY:
        raise OpskitError(f"{path} is damaged: expected {_KEY} bytes, got {len(key)}")
    return Fingerprints(key)


def is_at_work(name: str, config: Config) -> bool:
    """Whether a run, or a program that one has started, is at work on that rotation now."""
    try:
        descriptor = os.open(_lock(name, config), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(name: str, config: Config) -> Path:
    return config.state_dir / FOLDER / f"{name}.lock"


@contextmanager
def _alone(path: Path, name: str) -> Iterator[int]:
    """The lock of a name, as a descriptor for programs to inherit; raises RotationLocked."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OpskitError(f"cannot lock {path}: {(error.strerror or 'error').lower()}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RotationLocked(
                f"{name} is being rotated: another run is at work, or a program that one started before it was killed",
                hint=f"wait until it has ended; `fuser -v {path}` shows who it is",
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)
