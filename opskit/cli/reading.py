"""What commands that read a repository share: their options, ways in, keys, and warnings.

Two ways in: the config, or `--repository LOCATION --key FILE` without any config. A passphrase comes from a
secret reference or from the person at the terminal; where there is neither, nobody is asked. This module writes
no results.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access, Ask
    from opskit.errors import NoKey
    from opskit.repository.believing import Rejected
    from opskit.repository.copy import Copy
    from opskit.repository.evidence import Ledger
    from opskit.repository.history import History
    from opskit.repository.manifest import Snapshot
    from opskit.repository.marks import Marks
    from opskit.repository.reader import SnapshotReader
    from opskit.repository.unlocking import Decrypt

SHOWN = 10
"""Snapshots that are not believed, told one by one."""

RepositoryOption = Annotated[
    str | None,
    typer.Option("--repository", metavar="LOCATION", help="Read this copy, without any config; with --key."),
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The recovery-key file; else your own gpg.")
]
TrustOption = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The recovery-key file, for --repository.")
]
PassphraseOption = Annotated[
    str | None,
    typer.Option(
        "--passphrase",
        metavar="REFERENCE",
        help="Where the passphrase of the key, or of the backups, is: env:, file:, cred:, gpg:, vault:.",
    ),
]
DestinationOption = Annotated[
    list[str] | None,
    typer.Option("--destination", "--from", metavar="NAME", help="Read this destination only; repeatable."),
]
SnapshotArgument = Annotated[
    str,
    typer.Argument(metavar="SNAPSHOT[:PATH]", help="An id, `latest`, SOURCE@latest or a date (UTC); a path in it."),
]


@contextmanager
def opened_for_reading(
    context: Context,
    repository: str | None,
    key: Path | None,
    destinations: Sequence[str] | None = None,
    *,
    keyless: bool = False,
    is_brief: bool = False,
) -> Iterator[Access]:
    """Open the copies of the config (or those named), or with `repository` that one copy by the key file alone.

    With `keyless` the key file may be left out; signatures are not judged then. What runs that were killed left of
    private keys in memory is removed first. `is_brief`: servers of the config that do not answer are not waited for as
    long as by who stores or restores.

    Raises UsageError, ConfigError, NoKey, RepositoryNotFound, StoreError.
    """
    from opskit import gpg

    gpg.begin_check()  # answered while the rest is imported
    from opskit import access
    from opskit.cli.render import printable
    from opskit.errors import UsageError

    gpg.remove_stale_keyrings()
    if repository is None:
        with access.by_config(context.load_config(), destinations or (), is_brief=is_brief) as opened:
            for note in opened.notes:
                context.warning(printable(note))
            yield opened
        return
    if key is None and not keyless:
        raise UsageError(
            "--repository needs --key FILE, the recovery-key file: it says whose signatures to believe",
            hint="with a config, leave out --repository",
        )
    if destinations:
        raise UsageError("--repository names one copy already: expected no destination beside it")
    with access.by_key_file(repository, key) if key else access.by_location(repository) as opened:
        for note in opened.notes:
            context.message(printable(note))
        yield opened


def history_of(opened: Access) -> History:
    """All snapshots the copies show; without the cache while a backup on this host holds it."""
    from opskit.errors import CacheError

    try:
        return opened.history()
    except CacheError:
        opened.cache = None
        return opened.history()


@contextmanager
def decrypting(context: Context, opened: Access, key: Path | None, passphrase: str | None) -> Iterator[Decrypt]:
    """A private key for this block: of a key file, else the user's own gpg. `passphrase` is a secret reference.

    What that key does not open, those do that are sealed to it at the copies that were `opened`.

    No message is opened twice: a smartcard may ask for its PIN each time. Raises NoKey, UnresolvedReference.
    """
    from functools import lru_cache

    from opskit import access
    from opskit.errors import NoKey

    with access.private_key(key, asker(context), resolved(context, passphrase), opened=opened) as decrypt:

        @lru_cache(maxsize=4096)
        def plain(data: bytes) -> bytes:
            try:
                return decrypt(data)
            except NoKey as error:
                raise error if error.hint else _explained(context, key, error) from error

        yield plain


def _explained(context: Context, key: Path | None, error: NoKey) -> NoKey:
    """What is missing in terms of keys that people know: gpg names a subkey, or nothing at all."""
    from opskit.errors import NoKey, OpskitError

    said = str(error)
    if "bad passphrase" in said.lower():
        return NoKey("the passphrase is wrong", hint="try again; in the gpg-agent too it may be a wrong one")
    if key is not None:
        what = f"the private key in {key} does not open this backup" if "No secret key" in said else said
        return NoKey(
            what,
            hint="it is for other backups than these, or from before or after a rotation that this copy saw or missed: "
            "opskit keys list shows which key opens what",
        )
    advice = "say --key FILE, the recovery-key file, or put the private key into your own gpg"
    try:
        recipients: Sequence[str] = context.load_config().keys.recipients
    except OpskitError:
        recipients = ()
    if recipients and "No secret key" in said:
        said = f"your own gpg has no private key that opens this backup: expected one of {', '.join(recipients)}"
    return NoKey(said, hint=advice)


@contextmanager
def unlocked(
    context: Context, opened: Access, chosen: Snapshot, key: Path | None, passphrase: str | None
) -> Iterator[SnapshotReader]:
    """A reader of one snapshot; raises NoKey when the key at hand does not open it."""
    from opskit.repository.reader import SnapshotReader

    with decrypting(context, opened, key, passphrase) as decrypt:
        yield SnapshotReader(chosen.manifest, opened.copies, decrypt, opened.trusted)


def asker(context: Context) -> Ask:
    """Asks for a passphrase on the terminal; where there is none it raises NoKey."""

    def ask(question: str) -> bytes:
        from getpass import getpass

        from opskit.errors import NoKey
        from opskit.log import register_secret

        if not (context.stdin.isatty() and context.stderr.isatty()):
            raise NoKey(
                "the key has a passphrase, and there is no terminal to ask for it",
                hint="say where it is: --passphrase file:/PATH or --passphrase env:NAME",
            )
        answer = getpass(question, stream=context.stderr).encode()
        register_secret(answer)
        return answer

    return ask


def resolved(context: Context, reference: str | None) -> bytes | None:
    """What a secret reference stands for, hidden from all messages from now on; raises UnresolvedReference."""
    from opskit.log import register_secret
    from opskit.wiring import resolver

    if reference is None:
        return None
    value = resolver(context.environ).resolve(reference).reveal_bytes()
    register_secret(value)
    return value


def warn_of_absent(context: Context, opened: Access) -> bool:
    """Name each destination that could not be opened; True when there was any."""
    from opskit.cli.render import printable
    from opskit.errors import CopyUnidentified, Damaged

    for destination, reason in opened.absent.items():
        text = printable(str(reason))
        name = printable(destination)
        context.warning(text if text.startswith(f"{name}: ") else f"{name}: {text}")
        if isinstance(reason, Damaged | CopyUnidentified) and reason.hint:
            context.hint(printable(reason.hint))
    return bool(opened.absent)


def tell_successors(
    context: Context, copies: Sequence[Copy], trusted: Path, signers: Sequence[str], repository: str
) -> None:
    """Where something by an unknown signer was left out: which keys a known signer certified to be its successors."""
    from opskit.cli.render import printable
    from opskit.operations.successors import successors, told

    for each in successors(copies, trusted, signers, repository):
        context.warning(printable(told(each)))
        context.hint(f"is that so? ask whoever runs {printable(each.host)}, then: opskit keys trust {each.new}")


def warn_of_rejected(context: Context, found: History | Marks | Ledger | Sequence[Rejected]) -> int:
    """Name each manifest, mark or piece of evidence that was not believed.

    13 when one looks forged, 3 when one is damaged, else 0.
    """
    from opskit.cli.render import printable
    from opskit.errors import Damaged, StoreError

    code = 0
    rejected = found if isinstance(found, Sequence) else found.rejected
    ordered = sorted(rejected, key=lambda each: isinstance(each[2], Damaged | StoreError))
    for number, (destination, name, reason) in enumerate(ordered):
        is_damage = isinstance(reason, Damaged | StoreError)
        code = max(code, 3 if is_damage else 13)
        what = "cannot be read" if is_damage else "IS NOT TO BE TRUSTED and was left out"
        if number < SHOWN:
            context.warning(f"{printable(destination)}: {printable(name)} {what}: {printable(str(reason))}")
    if len(ordered) > SHOWN:
        context.warning(f"and {len(ordered) - SHOWN:,} more like these; opskit verify --json lists them all")
    if code == 13:
        context.hint(_why_untrusted(ordered))
    return code


def _why_untrusted(rejected: Sequence[Rejected]) -> str:
    """What is behind it: who is told nothing of a rotation elsewhere must not take it for an intruder's work."""
    from opskit.errors import Forged
    from opskit.repository import names
    from opskit.repository.marks import SUPERSEDE

    for _, name, reason in rejected:
        if names.kind_of_mark(name) == SUPERSEDE and isinstance(reason, Forged) and reason.hint:
            return reason.hint
    return "somebody who is not a known signer wrote there; opskit verify checks everything"
