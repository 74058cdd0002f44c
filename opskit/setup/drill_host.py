"""What `opskit init --drill-host` does: a host that restores and reads back what others back up, and nothing else.

Invariants: it is no source of snapshots (the config has no sources, and `drills.only` makes `backup` refuse whatever is
added later) and no maintainer. Whom to believe comes from the newest believed snapshot of a host that backs up; of
that config only the destinations and the policy are taken over. Its commands never are, nor destinations that name
secrets, unless a person typed the place: an intruder there could write some that run here, or that send a file of this
host to a server of his, and this host can read everything. Nothing is written to any copy. The config comes last,
whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opskit import access, gpg, log, wiring
from opskit.access import Access
from opskit.audit.event import operation
from opskit.config import load as configs
from opskit.config.entry import Entry
from opskit.config.model import Config, Keys, LocalDestination
from opskit.config.render import render
from opskit.errors import ConfigError, OpskitError, UsageError, together
from opskit.gpg import Keyring
from opskit.locations import destination_at, is_same_place
from opskit.operations import initialise as operations
from opskit.operations.initialise import Past, Recipient
from opskit.operations.rebuild import Found, find_host
from opskit.operations.session import open_copies
from opskit.repository import names
from opskit.repository.durable import create_durably, require_writable, write_durably
from opskit.repository.identity import read_repository, write_repository
from opskit.repository.recovery import kit
from opskit.repository.recovery.keyfile import KeyFile
from opskit.secrets.reference import Reference
from opskit.setup.places import require_new_file


@dataclass(frozen=True, slots=True)
class DrillWishes:
    """What was asked for. `label` names the new host, `host` whose config is looked at where several back up.

    Without `destinations` (name → place) those of that config count, as far as they are to be had here. `recipients`
    are public keys whose private halves this host will have; `new_recipient` is made, its private half in
    `recovery_key`, under `passphrase`.
    """

    label: str
    state_dir: Path
    host: str | None = None
    destinations: Mapping[str, str] = field(default_factory=dict)
    recipients: Sequence[str] = ()
    new_recipient: str | None = None
    recovery_key: Path | None = None
    passphrase: bytes | None = None


@dataclass(frozen=True, slots=True)
class DrillHost:
    """What came of it: `public` is the file with the host's public key, `recipient` that of who can restore here.

    `left_out` tells of destinations of the other config that are not to be had here, `absent` of those that are in the
    new config and could not be opened now.
    """

    config: Path
    host_key: str
    public: Path
    recipient: Path | None
    recovery_key: Path | None
    destinations: Sequence[str]
    left_out: Mapping[str, str]
    absent: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "config": str(self.config),
            "host_key": self.host_key,
            "public_key": str(self.public),
            "recipient": str(self.recipient) if self.recipient else None,
            "recovery_key": str(self.recovery_key) if self.recovery_key else None,
            "destinations": [*self.destinations],
            "left_out": dict(self.left_out),
            "absent": dict(self.absent),
        }


def judge(path: Path, wishes: DrillWishes) -> None:
    """Look at the wishes alone, before a person is asked for a passphrase; raises UsageError."""
    if path.exists():
        raise UsageError(
            f"{path} exists; a drill host is made anew", hint="name another file: --config FILE, or move it away"
        )
    if read_repository(wishes.state_dir) is not None:
        raise UsageError(f"{wishes.state_dir} holds the state of a host", hint="name another by --state-dir DIR")
    if (wishes.new_recipient is None) != (wishes.recovery_key is None):
        raise UsageError("--new-recipient and --recovery-key FILE go together: the private half is kept in that file")
    if wishes.new_recipient is not None and not (wishes.new_recipient.isprintable() and wishes.new_recipient.strip()):
        raise UsageError("--new-recipient: expected one line, such as 'Drills <mail@example.org>'")
    if wishes.recovery_key is not None:
        require_new_file(wishes.recovery_key)
    _parsed(path, {**_base(wishes), "destinations": {"draft": {"path": "/draft"}}, "keys": {"recipients": ["0" * 40]}})


def set_up(
    path: Path, location: str, key: Path, wishes: DrillWishes, *, ask: Callable[[str], bytes], passphrase: bytes | None
) -> DrillHost:
    """Make a drill host from one copy and a recovery-key file, whose passphrase is the one given, else asked for.

    Raises UsageError, NoKey, SnapshotNotFound, ConfigError, and the copies' errors where no destination can be opened.
    """
    judge(path, wishes)
    gpg.remove_stale_keyrings()
    recipients, _ = operations.read_recipients(wishes.recipients, wiring.now().timestamp())
    with (
        ExitStack() as stack,
        access.by_key_file(location, key) as opened,
        access.private_key(key, ask, passphrase, opened=opened) as decrypt,
    ):
        history = opened.history()
        found = find_host(history, opened.copies, decrypt, opened.trusted, wishes.host)
        _require_new_label(wishes.label, {each.manifest.host for each in history.snapshots})
        old = configs.parse(found.config, f"the config in {location}", Path("/"))
        places = _places(path, wishes, json.loads(found.config), opened.repository)
        draft = _parsed(path, _settings(wishes, json.loads(found.config), places.entries, old.keys))
        require_writable(path)  # while no key has been made that nothing would name
        operations.make_private_folder(wishes.state_dir)
        audit = stack.enter_context(wiring.audit_log(draft))
        stack.enter_context(operation(audit, "init.drill_host", location, redact=log.redact))
        return _make(path, wishes, draft, found, recipients, opened, places)


@dataclass(slots=True)
class _Places:
    """Destinations for the new config, as it will say them; which were left out, and which are away, and why."""

    entries: dict[str, Any]
    left_out: dict[str, str]
    absent: dict[str, str]


def _require_new_label(label: str, hosts: set[str]) -> None:
    if label in hosts:
        raise UsageError(
            f"--drill-host {label}: a host of that name backs up there",
            hint="expected a name of its own, such as drills: else its drills would count as that host's",
        )


def _base(wishes: DrillWishes) -> dict[str, Any]:
    return {"version": 1, "host": wishes.label, "state_dir": str(wishes.state_dir), "sources": {}}


def _parsed(path: Path, settings: dict[str, Any]) -> Config:
    try:
        return configs.parse(json.dumps(settings), "draft", path.absolute().parent)
    except ConfigError as error:  # lines of a draft mean nothing to a person
        raise UsageError(str(error).replace("draft:1:", "the new config, column ")) from None


def _settings(
    wishes: DrillWishes, given: Mapping[str, Any], destinations: dict[str, Any], keys: Keys
) -> dict[str, Any]:
    """The new config: of the other host's only what says where, whom to believe, and what the policy demands."""
    objectives = {name: each for name, each in (given.get("drills") or {}).items() if name.startswith("objective")}
    known = {"recipients": keys.recipients, "signers": keys.signers, "maintainers": keys.maintainers}
    taken = {name: given[name] for name in ("policy",) if given.get(name)}
    return {
        **_base(wishes), **taken,
        "destinations": destinations,
        "drills": {"only": True, **objectives},
        "keys": {**known, "retired": keys.retired},
    }  # fmt: skip


def _places(path: Path, wishes: DrillWishes, given: Mapping[str, Any], repository: str) -> _Places:
    """Where the copies are for this host; raises UsageError, StoreError where none of them can be opened."""
    theirs = dict(given["destinations"])
    wanted = {name: _entry(name, text, theirs.get(name), path) for name, text in wishes.destinations.items()} or theirs
    draft = _parsed(path, {**_base(wishes), "destinations": wanted, "keys": {"recipients": ["0" * 40]}})
    failed: dict[str, OpskitError] = {}
    for name, destination in draft.destinations.items():
        if not wishes.destinations and _names_secrets(destination):
            failed[name] = UsageError(f"it names secrets: --destination {name}={wiring.location_of(destination)}")
            continue
        try:
            _, absent = open_copies({name: wiring.store_of(destination)}, repository)
            failed |= absent
        except OpskitError as error:
            failed[name] = error
    if wishes.destinations and failed:
        raise together(failed)
    kept = {
        name for name, each in draft.destinations.items()
        if not isinstance(each, LocalDestination) and not _names_secrets(each)
    }  # fmt: skip
    left_out = {name: str(error) for name, error in failed.items() if name not in kept}
    if len(failed) == len(wanted):
        raise UsageError(
            f"no destination of that config is to be had here: {'; '.join(map(str, failed.values()))}",
            hint="say where the copies are for this host: --destination NAME=PLACE",
        )
    entries = {name: each for name, each in wanted.items() if name not in left_out}
    return _Places(entries, left_out, {name: str(failed[name]) for name in failed if name not in left_out})


def _names_secrets(entry: Entry) -> bool:
    """Whether a secret of this host would be looked up, and used there."""
    values = [getattr(entry, name) for name in entry.known_keys()]
    return any(isinstance(each, Reference) or (isinstance(each, Entry) and _names_secrets(each)) for each in values)


def _entry(name: str, text: str, theirs: Any, path: Path) -> Any:
    """A destination that was typed; where the other config has it at that place, with all that it says of it."""
    option = f"--destination {name}"
    if theirs is not None:
        one = {"version": 1, "sources": {}, "destinations": {name: theirs}, "keys": {"recipients": ["0" * 40]}}
        if is_same_place(_parsed(path, one).destinations[name], option, text):
            return theirs
    return destination_at(option, text)


def _make(
    path: Path,
    wishes: DrillWishes,
    draft: Config,
    found: Found,
    recipients: Sequence[Recipient],
    opened: Access,
    places: _Places,
) -> DrillHost:
    """Keys, state and config, in this order; the recovery-key file goes again where the config cannot be written."""
    state, written = draft.state_dir, None
    with Keyring(wiring.keyring_folder(state)) as keyring:
        keyring.create()
        keyring.import_keys(found.keys.encode())
        host = operations.host_key(keyring, None, draft.host)
        keys = draft.keys.but(host=host, signers=tuple(dict.fromkeys((*draft.keys.signers, host))))
        everyone = [*keys.signers, *keys.maintainers]
        for each in recipients:
            keyring.import_keys(each.public)
        operations.write_trusted(keyring, wiring.trusted_file(state), everyone)
        mine = [each.fingerprint for each in recipients]
        try:
            if wishes.new_recipient is not None:
                written = wishes.recovery_key
                mine.append(_make_recipient(keyring, wishes, opened.repository, keys))
            public = state / f"{draft.host}.asc"
            write_durably(public, keyring.export_public([host]))
            recipient = state / f"{draft.host}-recipient.asc" if mine else None
            if recipient is not None:
                write_durably(recipient, keyring.export_public(mine))
            config = draft.but(keys=keys.but(recipients=tuple(dict.fromkeys((*keys.recipients, *mine)))))
            # They were made once: one whose medium is absent must not be made anew on the bare mount point.
            past = {name: Past("", wiring.now().date().isoformat()) for name in config.destinations}
            operations.write_past(state, past)
            wiring.probed_stores(config)
            write_repository(state, opened.copies[0].store.get(names.REPOSITORY))
            create_durably(path, render(config).encode())
        except BaseException:
            if written is not None:
                written.unlink(missing_ok=True)  # nobody has been told of it
            raise
    return DrillHost(
        path, host, public, recipient, written, [*config.destinations], places.left_out, places.absent
    )  # fmt: skip


def _make_recipient(keyring: Keyring, wishes: DrillWishes, repository: str, keys: Keys) -> str:
    target = wishes.recovery_key
    assert target is not None and wishes.new_recipient is not None  # `judge` made sure

    def write(_fingerprint: str, secret: bytes) -> None:
        believed = list(dict.fromkeys((*keys.signers, *keys.maintainers)))
        known = KeyFile(
            repository=repository,
            recover_sha256=names.sha256(kit()[names.RECOVER_PROGRAM]),
            signers=[*keys.signers],
            maintainers=[*keys.maintainers],
            secret=secret,
            public=keyring.export_public(believed),
        )
        operations.write_recovery_key(target, known)

    return operations.new_recipient(keyring, wishes.new_recipient, wishes.passphrase, write)
