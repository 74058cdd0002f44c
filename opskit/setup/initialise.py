"""What `opskit init` does, from wishes to a working host: the config side of it, over operations.

Invariants: every wish is checked before anything is made. The config is written last, whole or not at all; an
existing one is only added to, keeping its comments. Safe to repeat at any point where it was interrupted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opskit import log, wiring
from opskit.audit.event import operation
from opskit.config import dangers
from opskit.config import load as configs
from opskit.config.model import Config, Keys
from opskit.config.render import add_entries, render
from opskit.errors import ConfigError
from opskit.gpg import Keyring, check_programs
from opskit.operations import initialise as operations
from opskit.operations.initialise import Made, Recipient
from opskit.operations.lock import exclusive
from opskit.repository import copy as copies
from opskit.repository import deleted_keys
from opskit.repository.durable import create_durably, require_writable, write_durably
from opskit.repository.identity import id_in
from opskit.setup import places
from opskit.setup.wishes import Wishes, draft_of, judge


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
    judge(wishes, known)
    draft_of(path, wishes, known)


def initialise(path: Path, wishes: Wishes, passphrase: bytes | None, keep: Path | None = None) -> Done:
    """Carry out the wishes, alone on this state; raises UsageError, ConfigError, NoKey, RepositoryLocked.

    `keep` is where the next run finds what its config says without judging it again (see `configs.load`).
    """
    check_programs()
    known = configs.load(path) if path.exists() else None
    judge(wishes, known)
    draft = draft_of(path, wishes, known)
    deleted = deleted_keys.objections(draft.state_dir)
    read = operations.read_recipients(wishes.recipients, wiring.now().timestamp(), deleted)
    added = {"sources": [*wishes.sources], "destinations": [*wishes.destinations]}
    with wiring.audit_log(draft) as audit:
        record = operation(audit, "init", str(path), details=added, redact=log.redact)
        with record as event, exclusive(wiring.lock_file(draft)):  # in this order: a refusal is recorded too
            done = _initialise(path, wishes, passphrase, *read, keep)
            event.judge(done.exit_code, created=[*done.made.created], failed=[*done.made.failed])
            return done


def _initialise(
    path: Path,
    wishes: Wishes,
    passphrase: bytes | None,
    recipients: list[Recipient],
    doubts: list[str],
    keep: Path | None,
) -> Done:
    known = configs.load(path) if path.exists() else None  # another init may just have made it
    text = path.read_text("utf-8-sig") if known is not None else None
    judge(wishes, known)
    draft = draft_of(path, wishes, known)
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
    to_make = places.folders_to_make(draft)
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
    config = configs.load(path, keep=keep)
    warnings = [f"no snapshot will be readable by recipient {doubt}" for doubt in doubts]
    lacking += wiring.shortcomings(stores, made.created)
    warnings += [*lacking, *places.misplaced(config, made.created, to_make), *places.absent_sources(config)]
    if written is not None and places.is_unmounted(written):
        warnings.append(f"the recovery key {written} lies on this host's disk: nothing is mounted there")
    return Done(path, made, written, warnings + dangers.warnings(config))


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


def _make_recipient(keyring: Keyring, wishes: Wishes, passphrase: bytes | None, repository: str, host: str) -> str:
    target = wishes.recovery_key
    assert target is not None and wishes.new_recipient is not None  # `judge` made sure

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
