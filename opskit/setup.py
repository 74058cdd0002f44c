"""What `opskit init` does, from wishes to a working host: the config side of it, over operations.

Invariants: every wish is checked before anything is made. The config is written last, whole or not at all; an
existing one is only added to, keeping its comments. Safe to repeat at any point where it was interrupted.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opskit import access, log, wiring
from opskit.audit.event import operation
from opskit.config import dangers
from opskit.config import load as configs
from opskit.config.model import LABEL_PATTERN, MEANINGS, Config, Keys
from opskit.config.render import add_entries, render
from opskit.config.syntax import compose, read
from opskit.errors import ConfigError, NoKey, UsageError
from opskit.gpg import Keyring, check_programs
from opskit.locations import destination_at, is_same_place, place
from opskit.operations import initialise as operations
from opskit.operations.initialise import LOST_STATE_HINT, Made, Past, Recipient
from opskit.operations.lock import exclusive
from opskit.operations.rebuild import Found, find_host, learn
from opskit.repository import copy as copies
from opskit.repository import names
from opskit.repository.cache import open_or_replace
from opskit.repository.durable import create_durably, require_writable, write_durably
from opskit.repository.heads import Heads
from opskit.repository.identity import id_in, read_repository, write_repository


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for; all of it optional when a config exists."""

    state_dir: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    destinations: Mapping[str, str] = field(default_factory=dict)
    recipients: tuple[str, ...] = ()
    new_recipient: str | None = None
    recovery_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What `init` left behind."""

    config: Path
    made: Made
    recovery_key: Path | None
    warnings: list[str]

    @property
    def exit_code(self) -> int:
        """0, or 3 when a destination could not be reached, or that one's code when none could."""
        if self.made.failed and not (self.made.created or self.made.present):
            return next(iter(self.made.failed.values())).exit_code
        return 3 if self.made.failed else 0

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "config": str(self.config),
            "recovery_key": str(self.recovery_key) if self.recovery_key else None,
            "created": self.made.created,
            "present": self.made.present,
            "failed": {name: str(error) for name, error in self.made.failed.items()},
            "warnings": self.warnings,
        }


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What `init --from` brought back."""

    config: Path
    host: str
    host_key: str
    snapshots: int
    packs: int
    beside: Path | None = None
    """The existing config, where it could not be edited: then `config` is a new file to be compared with it."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "config": str(self.config),
            "host": self.host,
            "host_key": self.host_key,
            "snapshots": self.snapshots,
            "packs": self.packs,
            "compare_with": str(self.beside) if self.beside else None,
        }


def config_path(explicit: Path | None, environ: Mapping[str, str], cwd: Path, home: Path, *, is_root: bool) -> Path:
    """The config to extend, or where a new one goes: /etc for root, else below the home folder."""
    try:
        return configs.find_config(explicit, environ, cwd, home)
    except ConfigError:
        return configs.SYSTEM_CONFIG if is_root else home / ".config" / "opskit" / "opskit.yaml"


def state_path(home: Path, *, is_root: bool) -> Path:
    """Where a new host's state goes: /var/lib for root, else below the home folder."""
    return Path("/var/lib/opskit") if is_root else home / ".local" / "state" / "opskit"


def check(path: Path, wishes: Wishes) -> None:
    """Look at the wishes alone, before a person is asked for a passphrase; raises UsageError, ConfigError, NoKey."""
    known = configs.load(path) if path.exists() else None
    _check(wishes, known)
    _draft(path, wishes, known)


def initialise(path: Path, wishes: Wishes, passphrase: bytes | None) -> Done:
    """Carry out the wishes, alone on this state; raises UsageError, ConfigError, NoKey, RepositoryLocked."""
    check_programs()
    known = configs.load(path) if path.exists() else None
    _check(wishes, known)
    draft = _draft(path, wishes, known)
    read = operations.read_recipients(wishes.recipients, wiring.now().timestamp())
    with exclusive(wiring.lock_file(draft)), wiring.audit_log(draft) as audit:
        added = {"sources": [*wishes.sources], "destinations": [*wishes.destinations]}
        with operation(audit, "init", str(path), details=added, redact=log.redact) as event:
            done = _initialise(path, wishes, passphrase, *read)
            event.judge(done.exit_code, created=[*done.made.created], failed=[*done.made.failed])
            return done


def _initialise(
    path: Path, wishes: Wishes, passphrase: bytes | None, recipients: list[Recipient], doubts: list[str]
) -> Done:
    known = configs.load(path) if path.exists() else None  # another init may just have made it
    text = path.read_text("utf-8-sig") if known is not None else None
    _check(wishes, known)
    draft = _draft(path, wishes, known)
    require_writable(path)  # while no key has been made that nothing would name
    stores, lacking = wiring.probed_stores(draft)
    about = operations.repository_of(
        draft.state_dir, stores, lambda: copies.identity(secrets.token_hex(16), wiring.now())
    )
    keys = _make_keys(draft, wishes, recipients, passphrase, id_in(about))
    try:
        _write(path, text, draft.but(keys=keys), wishes, known)
    except BaseException:
        if wishes.new_recipient and wishes.recovery_key is not None:
            wishes.recovery_key.unlink(missing_ok=True)  # no backup will ever be made for it
        raise
    made = operations.make_copies(
        stores,
        lambda name: wiring.prepare(stores[name]),
        about,
        state=draft.state_dir,
        again=wishes.destinations,
        new_id=lambda: secrets.token_hex(16),
        now=wiring.now(),
    )
    written = wishes.recovery_key if wishes.new_recipient else None
    warnings = [f"no snapshot will be readable by recipient {doubt}" for doubt in doubts]
    return Done(path, made, written, warnings + lacking + dangers.warnings(configs.load(path)))


def _make_keys(
    draft: Config, wishes: Wishes, recipients: list[Recipient], passphrase: bytes | None, repository: str
) -> Keys:
    """The host's key ring with all it needs, and the keys section that names it."""
    with Keyring(wiring.keyring_folder(draft.state_dir)) as keyring:
        keyring.create()
        host = operations.host_key(keyring, draft.keys.host, draft.host)
        for each in recipients:
            keyring.import_keys(each.public)
        fingerprints = [each.fingerprint for each in recipients]
        if wishes.new_recipient:
            fingerprints.append(_make_recipient(keyring, wishes, passphrase, repository, host))
        keys = _keys(draft.keys, host, fingerprints)
        operations.write_trusted(keyring, wiring.trusted_file(draft.state_dir), [*keys.signers, *keys.maintainers])
    return keys


def _check(wishes: Wishes, known: Config | None) -> None:
    if wishes.new_recipient and wishes.recovery_key is None:
        raise UsageError("--new-recipient needs --recovery-key FILE: where shall the private half go?")
    if wishes.new_recipient is not None and not (wishes.new_recipient.isprintable() and wishes.new_recipient.strip()):
        raise UsageError("--new-recipient: expected one line, such as 'Name <mail@example.org>'")
    if wishes.new_recipient and wishes.recovery_key is not None:
        _require_absent(wishes.recovery_key)
    if known is None and not (wishes.recipients or wishes.new_recipient):
        raise UsageError("nobody could restore: expected --recipient or --new-recipient")
    if known is None and not wishes.destinations:
        raise UsageError("there is nowhere to back up to: expected --destination NAME=PATH")
    if known is not None:
        _check_known(wishes, known)


def _check_known(wishes: Wishes, known: Config) -> None:
    if wishes.recipients or wishes.new_recipient:
        raise UsageError(
            "the config exists, and init does not change who can restore", hint="edit keys.recipients in the config"
        )
    if wishes.state_dir not in (None, known.state_dir):
        raise UsageError(f"the config says state_dir {known.state_dir}, got --state-dir {wishes.state_dir}")
    if known.keys.host is not None and read_repository(known.state_dir) is None:
        raise NoKey(
            f"the config names the host key {known.keys.host}, but {known.state_dir} holds no state of a host",
            hint=LOST_STATE_HINT,
        )
    for name, text in wishes.destinations.items():
        there = known.destinations.get(name)
        if there is not None and not is_same_place(there, f"--destination {name}", text):
            raise UsageError(
                f"--destination {name}: the config says {wiring.location_of(there)}, got {text}",
                hint="edit the path in the config, or choose another name",
            )


def _require_absent(recovery_key: Path) -> None:
    if os.path.lexists(recovery_key):
        raise UsageError(
            f"the recovery-key file {recovery_key} exists; it is never overwritten",
            hint="name another file, or move it away",
        )


def _draft(path: Path, wishes: Wishes, known: Config | None) -> Config:
    """The config to be, checked as if it had been read from a file (without recipients yet)."""
    base: dict[str, Any] = {"version": 1, "sources": {}, "destinations": {}, "keys": {"recipients": ["0" * 40]}}
    if known is not None:
        base = json.loads(known.as_given())
    elif wishes.state_dir is not None:
        base["state_dir"] = str(place("--state-dir", str(wishes.state_dir)))
    for name, text in wishes.sources.items():
        _require_label("--source", name)
        base["sources"].setdefault(name, {"paths": [str(place(f"--source {name}", text))]})
    for name, text in wishes.destinations.items():
        _require_label("--destination", name)
        base["destinations"].setdefault(name, destination_at(f"--destination {name}", text))
    try:
        return configs.parse(json.dumps(base), "draft", path.absolute().parent)
    except ConfigError as error:
        # Lines and columns of the draft mean nothing to a person: the option does.
        raise UsageError("\n".join(map(_as_option, str(error).splitlines()))) from None


def _require_label(option: str, name: str) -> None:
    if not re.fullmatch(LABEL_PATTERN, name):
        raise UsageError(f"{option}: not a name, expected {MEANINGS[LABEL_PATTERN]}, got {name!r}")


def _as_option(line: str) -> str:
    text = re.sub(r"^draft:\d+:\d+: ", "", line)
    text = re.sub(r"^(source|destination)s\.([a-z0-9_-]+)\.paths?(\[0\])?: ", r"--\1 \2: ", text)
    return re.sub(r"^state_dir: ", "--state-dir: ", text)


def _make_recipient(keyring: Keyring, wishes: Wishes, passphrase: bytes | None, repository: str, host: str) -> str:
    target = wishes.recovery_key
    assert target is not None and wishes.new_recipient is not None  # _check made sure

    def write(_fingerprint: str, secret: bytes) -> None:
        operations.write_recovery_key(target, operations.recovery_key(keyring, repository, host, secret))

    return operations.new_recipient(keyring, wishes.new_recipient, passphrase, write)


def _keys(keys: Keys, host: str, recipients: list[str]) -> Keys:
    return keys.but(
        host=host,
        recipients=tuple(recipients) or keys.recipients,
        signers=keys.signers or (host,),
        maintainers=keys.maintainers or (host,),
    )


def _write(path: Path, text: str | None, config: Config, wishes: Wishes, known: Config | None) -> None:
    if text is None or known is None:
        create_durably(path, render(config).encode())
        return
    sources: dict[str, Any] = {
        name: each for name, each in config.sources.items() if name in wishes.sources and name not in known.sources
    }
    destinations = {
        name: each
        for name, each in config.destinations.items()
        if name in wishes.destinations and name not in known.destinations
    }
    if sources or destinations:
        write_durably(path, add_entries(text, sources, destinations).encode(), like_before=True)


def rebuild(
    path: Path,
    location: str,
    key: Path,
    *,
    host: str | None,
    state_dir: Path | None,
    recovery_key: Path | None,
    ask: Callable[[str], bytes],
) -> Rebuilt:
    """Bring a lost host back; with `recovery_key` also write the key file anew, naming the new host key as signer.

    A config that is still there is kept, and gets the new key. Raises UsageError where a state is in the way, NoKey,
    SnapshotNotFound.
    """
    known = configs.load(path) if path.exists() else None
    text = path.read_text("utf-8-sig") if known is not None else None
    if recovery_key is not None:
        _require_absent(recovery_key)
    if known is not None:
        _require_lost(state_dir or known.state_dir)
    with ExitStack() as stack, access.by_key_file(location, key) as opened, access.private_key(key, ask) as decrypt:
        wanted = host or (known.host if known else None)
        found = find_host(opened.history(), opened.copies, decrypt, opened.trusted, wanted)
        old = known or configs.parse(found.config, f"the config in {location}", Path("/"))
        state = (state_dir or old.state_dir).absolute()
        _require_lost(state)
        operations.make_private_folder(state)
        audit = stack.enter_context(wiring.audit_log(old.but(state_dir=state, host=found.host)))
        stack.enter_context(operation(audit, "init.rebuild", location, redact=log.redact))
        keys = _new_keys(found, old.keys, state, key, recovery_key)
        cache = open_or_replace(state / "cache" / f"{opened.repository}.sqlite", opened.repository)
        heads = Heads(state / "heads" / f"{opened.repository}.json")
        try:
            packs = learn(cache, heads, opened.copies, found.snapshots, decrypt, opened.trusted)
        finally:
            cache.close()
        config = old.but(keys=keys, state_dir=state, host=found.host)
        # They were made once: one whose medium is absent must not be made anew on the bare mount point.
        operations.write_past(state, {name: Past("", wiring.now().date().isoformat()) for name in config.destinations})
        write_repository(state, opened.copies[0].store.get(names.REPOSITORY))
        wiring.probed_stores(config)
        written = _write_rebuilt(path, text, known, config)
    return Rebuilt(written, found.host, keys.host or "", len(found.snapshots), packs, None if written == path else path)


def _require_lost(state: Path) -> None:
    if read_repository(state) is not None:
        raise UsageError(f"{state} holds the state of a host; this host is not lost", hint="move it away first")


def _new_keys(found: Found, old: Keys, state: Path, key: Path, recovery_key: Path | None) -> Keys:
    """Make the host's new key beside the old public ones, and the recovery-key file that names it."""
    with Keyring(wiring.keyring_folder(state)) as keyring:
        keyring.create()
        keyring.import_keys(found.keys.encode())
        new = operations.host_key(keyring, None, found.host)
        keys = old.but(
            host=new,
            signers=tuple(dict.fromkeys((*old.signers, new))),
            maintainers=tuple(dict.fromkeys((*old.maintainers, new))),
        )
        everyone = list(dict.fromkeys([*keys.signers, *keys.maintainers]))
        operations.write_trusted(keyring, wiring.trusted_file(state), everyone)
        if recovery_key is not None:
            known = access.read_key_file(key)
            public = keyring.export_public(everyone)
            operations.write_recovery_key(
                recovery_key, replace(known, signers=keys.signers, maintainers=keys.maintainers, public=public)
            )
    return keys


def _write_rebuilt(path: Path, text: str | None, known: Config | None, config: Config) -> Path:
    """Write the config of a host that came back; where an existing one cannot be edited, beside it. Returns where."""
    if text is None or known is None:
        write_durably(path, render(config).encode())
        return path
    if (known.host, known.state_dir) == (config.host, config.state_dir):
        edited = _with_keys(text, config.keys)
        if edited is not None:
            write_durably(path, edited.encode(), like_before=True)
            return path
    beside = path.with_name(path.name + ".restored")
    write_durably(beside, render(config).encode())
    return beside


def _with_keys(text: str, keys: Keys) -> str | None:
    """A config's text with other host, signers and maintainers; None where its layout does not allow that."""
    wanted: dict[str, Any] = {"host": keys.host, "signers": [*keys.signers], "maintainers": [*keys.maintainers]}
    before = read(text).value
    expected = {**before, "keys": {**before["keys"], **wanted}}
    section = next(value for name, value in compose(text).value if name.value == "keys")  # type: ignore[union-attr]
    spots = [(name.value, value) for name, value in section.value if name.value in wanted]
    for name, node in reversed(spots):
        block = not isinstance(node.value, str) and node.value and not node.flow_style
        end = (node.value[-1] if block else node).end_mark.index
        text = text[: node.start_mark.index] + json.dumps(wanted[name]) + text[end:]
    after = read(text)
    return None if after.problems or after.value != expected else text
