"""What `opskit init` does, from wishes to a working host: the config side of it, over operations.

Invariants: the config is written last, whole or not at all; an existing one is only added to, keeping its
comments. Safe to repeat at any point where it was interrupted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opskit import access, wiring
from opskit.config import load as configs
from opskit.config.model import Config, Keys
from opskit.errors import ConfigError, UsageError
from opskit.gpg import Keyring, check_programs
from opskit.operations import initialise as operations
from opskit.operations.initialise import Made
from opskit.operations.rebuild import find_host, learn
from opskit.repository import copy as copies
from opskit.repository import names
from opskit.repository.cache import open_or_replace
from opskit.repository.durable import write_durably
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

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "config": str(self.config),
            "host": self.host,
            "host_key": self.host_key,
            "snapshots": self.snapshots,
            "packs": self.packs,
        }


def config_path(explicit: Path | None, environ: Mapping[str, str], cwd: Path, home: Path, *, is_root: bool) -> Path:
    """The config to extend, or where a new one goes: /etc for root, else below the home folder."""
    try:
        return configs.find_config(explicit, environ, cwd, home)
    except ConfigError:
        return configs.SYSTEM_CONFIG if is_root else home / ".config" / "opskit" / "opskit.yaml"


def initialise(path: Path, wishes: Wishes, passphrase: bytes | None) -> Done:
    """Carry out the wishes; raises UsageError, ConfigError, NoKey."""
    check_programs()
    text = path.read_text() if path.exists() else None
    known = configs.load(path) if text is not None else None
    _check(wishes, known)
    draft = _draft(path, wishes, known)
    draft.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    keyring = Keyring(wiring.keyring_folder(draft.state_dir))
    keyring.create()
    try:
        host = operations.host_key(keyring, draft.keys.host, draft.host)
        stores = {name: wiring.store_of(each) for name, each in draft.destinations.items()}
        about = operations.repository_of(
            draft.state_dir, stores, lambda: copies.identity(secrets.token_hex(16), wiring.now())
        )
        recipients = [operations.import_recipient(keyring, each) for each in wishes.recipients]
        if wishes.new_recipient:
            recipients.append(_make_recipient(keyring, wishes, passphrase, id_in(about), host))
        keys = _keys(draft.keys, host, recipients)
        operations.write_trusted(keyring, wiring.trusted_file(draft.state_dir), [*keys.signers, *keys.maintainers])
    finally:
        keyring.close()
    config = draft.model_copy(update={"keys": keys})
    _write(path, text, config, wishes, known)
    made = operations.make_copies(
        stores,
        lambda name: stores[name].create(),
        about,
        new_id=lambda: secrets.token_hex(16),
        now=wiring.now(),
    )
    written = wishes.recovery_key if wishes.new_recipient else None
    return Done(path, made, written, configs.warnings(configs.load(path)))


def _check(wishes: Wishes, known: Config | None) -> None:
    if wishes.new_recipient and wishes.recovery_key is None:
        raise UsageError("--new-recipient needs --recovery-key FILE: where shall the private half go?")
    if known is None and not (wishes.recipients or wishes.new_recipient):
        raise UsageError("nobody could restore: expected --recipient or --new-recipient")
    if known is None and not wishes.destinations:
        raise UsageError("there is nowhere to back up to: expected --destination NAME=PATH")
    if known is not None and (wishes.recipients or wishes.new_recipient):
        raise UsageError(
            "the config exists, and init does not change who can restore", hint="edit keys.recipients in the config"
        )
    if known is not None and wishes.state_dir not in (None, known.state_dir):
        raise UsageError(f"the config says state_dir {known.state_dir}, got --state-dir {wishes.state_dir}")


def _draft(path: Path, wishes: Wishes, known: Config | None) -> Config:
    """The config to be, checked as if it had been read from a file (without recipients yet)."""
    base: dict[str, Any] = {"version": 1, "sources": {}, "destinations": {}, "keys": {"recipients": ["0" * 40]}}
    if known is not None:
        base = known.model_dump(mode="json", exclude_unset=True)
    elif wishes.state_dir is not None:
        base["state_dir"] = str(wishes.state_dir.absolute())
    for name, place in wishes.sources.items():
        base["sources"].setdefault(name, {"paths": [str(Path(place).absolute())]})
    for name, place in wishes.destinations.items():
        if "://" in place:
            raise UsageError(f"--destination {name}: expected a folder, got {place!r}")
        base["destinations"].setdefault(name, {"path": str(Path(place).absolute())})
    return configs.parse(json.dumps(base), str(path), path.absolute().parent)


def _make_recipient(keyring: Keyring, wishes: Wishes, passphrase: bytes | None, repository: str, host: str) -> str:
    target = wishes.recovery_key
    assert target is not None and wishes.new_recipient is not None  # _check made sure

    def write(_fingerprint: str, secret: bytes) -> None:
        operations.write_recovery_key(target, operations.recovery_key(keyring, repository, host, secret))

    return operations.new_recipient(keyring, wishes.new_recipient, passphrase, write)


def _keys(keys: Keys, host: str, recipients: list[str]) -> Keys:
    return keys.model_copy(
        update={
            "host": host,
            "recipients": tuple(recipients) or keys.recipients,
            "signers": keys.signers or (host,),
            "maintainers": keys.maintainers or (host,),
        }
    )


def _write(path: Path, text: str | None, config: Config, wishes: Wishes, known: Config | None) -> None:
    if text is None or known is None:
        write_durably(path, configs.render(config).encode())
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
        write_durably(path, configs.add_entries(text, sources, destinations).encode())


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

    Raises UsageError where a config or state is in the way, NoKey, SnapshotNotFound.
    """
    if path.exists():
        raise UsageError(f"{path} exists; this host is not lost", hint="move it away first, or name another --config")
    with access.by_key_file(location, key) as opened, access.private_key(key, ask) as decrypt:
        found = find_host(opened.history(), opened.copies, decrypt, opened.trusted, host)
        old = configs.parse(found.config, f"the config in {location}", Path("/"))
        state = state_dir.absolute() if state_dir else old.state_dir
        if read_repository(state) is not None:
            raise UsageError(f"{state} holds the state of a host; this host is not lost", hint="move it away first")
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with Keyring(wiring.keyring_folder(state)) as keyring:
            keyring.create()
            keyring.import_keys(found.keys.encode())
            new = operations.host_key(keyring, None, found.host)
            keys = old.keys.model_copy(
                update={
                    "host": new,
                    "signers": (*old.keys.signers, new),
                    "maintainers": (*old.keys.maintainers, new),
                }
            )
            everyone = list(dict.fromkeys([*keys.signers, *keys.maintainers]))
            operations.write_trusted(keyring, wiring.trusted_file(state), everyone)
            if recovery_key is not None:
                known = access.read_key_file(key)
                public = keyring.export_public(everyone)
                operations.write_recovery_key(
                    recovery_key, replace(known, signers=keys.signers, maintainers=keys.maintainers, public=public)
                )
        cache = open_or_replace(state / "cache" / f"{opened.repository}.sqlite", opened.repository)
        heads = Heads(state / "heads" / f"{opened.repository}.json")
        try:
            packs = learn(cache, heads, opened.copies, found.snapshots, decrypt, opened.trusted)
        finally:
            cache.close()
        write_repository(state, opened.copies[0].store.get(names.REPOSITORY))
        config = old.model_copy(update={"keys": keys, "state_dir": state, "host": found.host})
        write_durably(path, configs.render(config).encode())
    return Rebuilt(path, found.host, new, len(found.snapshots), packs)
