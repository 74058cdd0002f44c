"""What `opskit init --from` does: a lost host comes back from one copy and the recovery-key file.

Invariants: a state that is there is in the way and never touched. A config that is there is kept but for its keys,
or left alone and the new one written beside it. The host gets a new key; the old private half is nowhere to be had.
The copies are written to last, when the host could do without: what fails there is left to the first backup.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opskit import access, gpg, log, wiring
from opskit.audit.event import operation
from opskit.config import load as configs
from opskit.config.model import Config, Keys
from opskit.config.render import render
from opskit.config.syntax import compose, read
from opskit.errors import OpskitError, UsageError
from opskit.gpg import Keyring
from opskit.operations import initialise as operations
from opskit.operations.initialise import Past
from opskit.operations.lock import exclusive
from opskit.operations.rebuild import Found, find_host, learn, make_ready
from opskit.operations.session import open_session
from opskit.repository import names
from opskit.repository.cache import open_or_replace
from opskit.repository.durable import write_durably
from opskit.repository.heads import Heads
from opskit.repository.identity import read_repository, write_repository
from opskit.repository.manifest import Manifest, Snapshot
from opskit.repository.reader import SnapshotReader
from opskit.repository.tree import Root
from opskit.setup.places import require_new_file


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
    unready: Sequence[str] = ()
    """Sentences: at which destinations the new host's first backup has more to store, and why."""
    strangers: Sequence[str] = ()
    """Key ids that open what this host stored, of recipients who came after its last config and are not in the new."""

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "config": str(self.config),
            "host": self.host,
            "host_key": self.host_key,
            "snapshots": self.snapshots,
            "packs": self.packs,
            "compare_with": str(self.beside) if self.beside else None,
            "unready": [*self.unready],
        }


def rebuild(
    path: Path,
    location: str,
    key: Path,
    *,
    host: str | None,
    state_dir: Path | None,
    recovery_key: Path | None,
    ask: Callable[[str], bytes],
    passphrase: bytes | None = None,
) -> Rebuilt:
    """Bring a lost host back; with `recovery_key` also write the key file anew, naming the new host key as signer.

    The key's passphrase is the one given, else it is asked for. A config that is still there is kept, and gets the new
    key. Raises UsageError where a state is in the way, NoKey, SnapshotNotFound.
    """
    known = configs.load(path) if path.exists() else None
    text = path.read_text("utf-8-sig") if known is not None else None
    if recovery_key is not None:
        require_new_file(recovery_key)
    if known is not None:
        _require_lost(state_dir or known.state_dir)
    with (
        ExitStack() as stack,
        access.by_key_file(location, key) as opened,
        access.private_key(key, ask, passphrase, opened=opened) as decrypt,
    ):
        wanted = host or (known.host if known else None)
        found = find_host(opened.history(), opened.copies, decrypt, opened.trusted, wanted)
        old = known or configs.parse(found.config, f"the config in {location}", Path("/"))
        state = (state_dir or old.state_dir).absolute()
        _require_lost(state)
        operations.make_private_folder(state)
        audit = stack.enter_context(wiring.audit_log(old.but(state_dir=state, host=found.host)))
        stack.enter_context(operation(audit, "init.rebuild", location, redact=log.redact))
        before, strangers = (old.keys, []) if known else _as_rekeyed(found, old.keys, opened, state, key)
        keys = _new_keys(found, before, state, key, recovery_key)
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

        def read_root(manifest: Manifest) -> Root:
            return SnapshotReader(manifest, opened.copies, decrypt, opened.trusted).root()

        unready = _make_ready(configs.load(written), found.snapshots, read_root)
    beside = None if written == path else path
    return Rebuilt(written, found.host, keys.host or "", len(found.snapshots), packs, beside, unready, strangers)


def _make_ready(config: Config, snapshots: Sequence[Snapshot], read_root: Callable[[Manifest], Root]) -> list[str]:
    """Store at every destination what needs the recovery key or names the new one; returns what could not be done."""
    host = wiring.host_of(config)
    try:
        with (
            exclusive(wiring.lock_file(config)),
            host.identity.keyring,
            closing(open_session(host, wiring.stores_of(config))) as session,
        ):
            make_ready(
                session, snapshots, read_root,
                config=config.as_given(), keys=wiring.public_keys_of(config, host.identity),
                workers=config.performance.workers,
            )  # fmt: skip
            failed = {copy.destination: copy.failed for copy in session.copies if copy.failed is not None}
            return [f"{name}: {reason}" for name, reason in {**session.absent, **failed}.items()]
    except OpskitError as error:
        return str(error).splitlines()


def _require_lost(state: Path) -> None:
    if read_repository(state) is not None:
        raise UsageError(f"{state} holds the state of a host; this host is not lost", hint="move it away first")


def _as_rekeyed(found: Found, old: Keys, opened: access.Access, state: Path, key: Path) -> tuple[Keys, list[str]]:
    """The keys of a config in a snapshot, with the recipients of today where its run keys were encrypted anew since.

    Also the key ids of those whose public keys are not known here.

    The host would go on writing for the old ones else, whose private keys may be stolen, or destroyed.
    """
    hint = max(found.snapshots, key=lambda each: (each.manifest.started, each.manifest.sequence)).manifest.runs[-1].key
    (copy,) = opened.copies
    opened.marks()  # the copy learns what was superseded
    name = copy.key_object(hint)
    if name == names.key(hint) or name not in copy.objects:
        return old, []
    with Keyring(wiring.keyring_folder(state)) as keyring:
        _take_in(keyring, found, key)
        known = keyring.keys()
    readers = gpg.owners(gpg.recipients_of(copy.get(name)), known)
    present = [each.fingerprint for each in known if each.fingerprint in readers]
    strangers = [each for each in readers if each not in (*present, gpg.PASSPHRASE)]
    if not present:
        return old, strangers
    kept = [each for each in old.recipients if each in present]
    gone = [each for each in (*old.retired, *old.recipients) if each not in present]
    today = {"recipients": tuple(dict.fromkeys([*kept, *present])), "retired": tuple(dict.fromkeys(gone))}
    return old.but(**today), strangers


def _take_in(keyring: Keyring, found: Found, key: Path) -> None:
    """The public keys that the snapshot has, and that of the key at hand, which may be younger than all snapshots."""
    with gpg.ephemeral_keyring(access.read_key_file(key).secret) as mine:
        own = mine.export_public([each.fingerprint for each in mine.keys() if each.has_secret])
    keyring.create()
    keyring.import_keys(found.keys.encode())
    keyring.import_keys(own)


def _new_keys(found: Found, old: Keys, state: Path, key: Path, recovery_key: Path | None) -> Keys:
    """Make the host's new key beside the old public ones, and the recovery-key file that names it."""
    with Keyring(wiring.keyring_folder(state)) as keyring:
        _take_in(keyring, found, key)
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
        edited = with_keys(text, config.keys)
        if edited is not None:
            write_durably(path, edited.encode(), like_before=True)
            return path
    beside = path.with_name(path.name + ".restored")
    write_durably(beside, render(config).encode())
    return beside


def with_keys(text: str, keys: Keys) -> str | None:
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
