"""What `opskit keys add|remove|rotate` share: opening the copies with a private key at hand, telling what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access, Held
    from opskit.config.model import Config, Keys
    from opskit.operations.rekeying.rekey import Rekeyed
    from opskit.setup.rekeying import Changed, Wish
    from opskit.setup.unused_key import Left

HolderOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="A private key that opens the backups now; else your own gpg."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]


def run(
    context: Context,
    op: str,
    target: str,
    wish: Callable[[Config, Held | None], Wish],
    key: Path | None,
    passphrase: str | None,
    *,
    dry_run: bool,
) -> int:
    """Change recipients and rekey, audited; returns the exit code."""
    from opskit.cli.auditing import judged
    from opskit.cli.copying import opened_for_copying
    from opskit.cli.reading import history_of, warn_of_absent, warn_of_rejected
    from opskit.setup.rekeying import at_hand, change

    with opened_for_copying(context, "" if dry_run else op, [target]) as (config, opened, event):
        code = 3 if warn_of_absent(context, opened) else 0
        history, marks = history_of(opened), opened.marks()
        code = max(code, warn_of_rejected(context, history), warn_of_rejected(context, marks))
        with _held(context, opened, key, passphrase) as everyone:
            held = at_hand(everyone, config.keys)
            _require_fitting(key, held, config.keys)
            wanted = wish(config, held)
            changed = change(context.find_config(), config, opened, history, marks, wanted, held, dry_run=dry_run)
        code = max(code, _tell(context, opened, changed, dry_run=dry_run))
        return judged(event, code, **_as_json(changed, opened))


@contextmanager
def _held(context: Context, opened: Access, key: Path | None, passphrase: str | None) -> Iterator[Held]:
    from opskit import access
    from opskit.cli.reading import asker, resolved

    with (
        access.held_keys(key, asker(context), resolved(context, passphrase)) as held,
        access.unsealed(held, opened) as everyone,
    ):
        yield everyone


def _require_fitting(key: Path | None, held: Held | None, keys: Keys) -> None:
    from opskit.errors import NoKey

    if key is not None and held is None:
        raise NoKey(
            f"the private key in {key} is of no recipient, present or retired: expected one of "
            f"{', '.join((*keys.recipients, *keys.retired))}",
            hint="opskit keys list shows which key opens what",
        )


def _tell(context: Context, opened: Access, changed: Changed, *, dry_run: bool) -> int:
    if context.json:
        context.write_json({"dry_run": dry_run, **_as_json(changed, opened)})
    would = "would " if dry_run else ""
    if not context.quiet and not context.json:
        _tell_recipients(context, changed, would)
        if changed.rekeyed is not None:
            _tell_rekeyed(context, opened, changed, changed.rekeyed, dry_run=dry_run)
    if changed.recovery_key is not None and not dry_run:
        context.warning(
            f"move the new recovery key {changed.recovery_key} off this host, and keep a copy on paper: "
            "without it no backup opens"
        )
    if changed.unused_key is not None:
        _warn_of_unused(context, changed.unused_key)
    code = _warn(context, changed)
    if opened.absent:
        context.hint("where a destination is absent now: opskit sync, then opskit keys rotate or opskit prune")
    return code


def _warn_of_unused(context: Context, left: Left) -> None:
    from opskit.cli.render import printable
    from opskit.setup.unused_key import Found

    file = printable(str(left.file))
    told = {
        Found.WHOLE: f"{file} is of an earlier run that ended before it changed anything: the key in it opens no "
        "backup; remove that file",
        Found.TORN: f"{file} is not whole: an earlier run seems to have ended while it wrote that recovery-key file, "
        "before it changed anything",
        Found.OTHER: f"an earlier run ended before it changed anything, and may have left a recovery-key file that is "
        f"not seen at {file} now: should one with the key {printable(left.fingerprint)} turn up, it opens no backup",
    }
    context.warning(told[left.found])


def _tell_recipients(context: Context, changed: Changed, would: str) -> None:
    for fingerprint in changed.after.recipients:
        if fingerprint not in changed.before.recipients:
            context.write(f"{fingerprint} {'would be able to' if would else 'can now'} restore")
    if changed.taken_back:
        note = f"the note that its private key was deleted {'would be' if would else 'is'} taken back"
        context.write(f"{changed.taken_back}: {note}")
    for fingerprint in changed.before.recipients:
        if fingerprint not in changed.after.recipients:
            context.write(f"{fingerprint} {would + 'be' if would else 'is'} retired")


def _tell_rekeyed(context: Context, opened: Access, changed: Changed, done: Rekeyed, *, dry_run: bool) -> None:
    from opskit.cli.render import counted, human_bytes, printable

    old = sum(len(group) for group in done.groups)
    if old:
        what = f"{counted(old, 'key object')} with {counted(done.runs, 'run key')}, {human_bytes(done.old_bytes)}"
        verb = "would be encrypted anew, into" if dry_run else "encrypted anew, into"
        context.write(f"{what} {verb} {len(done.groups):,}, at {counted(len(opened.copies), 'copy', 'copies')}")
    elif done.left or done.unread or done.contradicting:
        context.write("nothing was encrypted anew")
    elif not any(done.superseded.values()):
        who = ", ".join(changed.after.recipients)
        context.write(f"every key object is for the present recipients: nothing to do ({who})")
    for name, each in done.finished.items():
        if each.deleted:
            context.write(f"{printable(name)}: {counted(len(each.deleted), 'old key object')} deleted")
    if dry_run:
        for name, count in done.superseded.items():
            if count:
                context.write(f"{printable(name)}: {counted(count, 'superseded key object')} would be deleted")
    for name, until in done.locked_until.items():
        context.write(f"{printable(name)}: the new key objects are locked until {until:%Y-%m-%d}")


def _warn(context: Context, changed: Changed) -> int:
    from opskit.cli.render import counted, printable

    done, code = changed.rekeyed, 0
    if done is None:
        if changed.outdated:
            unusable = printable("; ".join(changed.unusable))
            why = (
                f"not every recipient can be encrypted to ({unusable})"
                if unusable
                else ("no recipient's private key is at hand")
            )
            context.warning(
                f"{why}: {counted(changed.outdated, 'key object')} stay as they are, "
                "and those who opened them do; only what is backed up from now on follows the config"
            )
            context.hint(
                "renew or remove these as well, then: opskit keys rotate --key FILE"
                if unusable
                else "to encrypt what is there anew: opskit keys rotate --key FILE"
            )
            code = 3
        return code
    for stranger in done.dropped:
        if stranger not in changed.after.retired:
            context.warning(
                f"{stranger} could open what is encrypted anew, and is not in this config: he opens it no more. "
                "If another host's config names him: opskit keys add PUBLICKEYFILE --key FILE"
            )
    for digest, who in list(done.left.items())[:5]:
        context.warning(f"key object {digest[:16]} is left as it is: only {', '.join(who)} can open it")
    if len(done.left) > 5:
        context.warning(f"{len(done.left) - 5} more like it; --json lists all")
    for digest in done.contradicting:
        context.warning(f"key object {digest[:16]} gives another key to a run than others do: IT MAY BE FORGED; left")
    for digest, reason in done.unread.items():
        context.warning(f"key object {digest[:16]} cannot be read: {printable(str(reason))}")
    for name, error in done.lacking.items():
        context.warning(f"{printable(name)}: {printable(str(error))}; nothing was deleted there")
    for name, each in done.finished.items():
        if each.failure is not None:
            context.warning(f"{printable(name)}: {printable(str(each.failure))}")
        if each.locked:
            told = printable(str(next(iter(each.locked.values()))))
            context.warning(
                f"{printable(name)}: {counted(len(each.locked), 'old key object')} cannot be deleted yet, so whoever "
                f"could open them still can there: {told}"
            )
    if done.untried and done.made:
        context.message(
            "no private key of the new recipients was at hand: try a restore with one before an old key is destroyed"
        )
    if done.lacking or any(each.failure for each in done.finished.values()):
        context.hint("when that is mended, run opskit keys rotate again: it goes on where it ended")
    return 0 if done.is_complete else 3


def _removable(left: Left | None) -> str | None:
    """The file that holds, for certain, nothing but a key that opens no backup: a program may act on it."""
    from opskit.setup.unused_key import Found

    return str(left.file) if left is not None and left.found is Found.WHOLE else None


def _as_json(changed: Changed, opened: Access) -> dict[str, object]:
    done = changed.rekeyed
    found: dict[str, object] = {
        "recipients": list(changed.after.recipients),
        "retired": list(changed.after.retired),
        "recovery_key": str(changed.recovery_key) if changed.recovery_key else None,
        "unused_key": _removable(changed.unused_key),
        "outdated": changed.outdated,
        "unusable": changed.unusable,
        "taken_back": changed.taken_back,
        "absent": sorted(opened.absent),
    }
    if done is None:
        return {**found, "rekeyed": False}
    return {
        **found,
        "rekeyed": True,
        "key_objects": sum(len(group) for group in done.groups),
        "runs": done.runs,
        "old_bytes": done.old_bytes,
        "made": len(done.made),
        "made_bytes": sum(done.made.values()),
        "left": done.left,
        "dropped": done.dropped,
        "contradicting": done.contradicting,
        "unread": {digest: str(error) for digest, error in done.unread.items()},
        "lacking": {name: str(error) for name, error in done.lacking.items()},
        "superseded": done.superseded,
        "destinations": {
            name: {
                "deleted": len(each.deleted),
                "locked": len(each.locked),
                "failure": str(each.failure) if each.failure else None,
            }
            for name, each in done.finished.items()
        },
    }


def single(values: Sequence[str]) -> str | None:
    """The only one of some values; None where there are several, or none."""
    return values[0] if len(values) == 1 else None
