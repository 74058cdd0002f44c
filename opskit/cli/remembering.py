"""Notes in this host's state what was read back of the copies, and what came of it; `opskit status` shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opskit.cli.context import Context

if TYPE_CHECKING:
    from opskit.access import Access
    from opskit.operations.verify import CopyReport
    from opskit.repository.copy import Copy
    from opskit.repository.verification import Verification


def remember(context: Context, opened: Access, reports: Mapping[str, CopyReport]) -> Mapping[str, Verification]:
    """Note in this host's state what was read and what came of it, for `opskit status`; a failure is told, no more.

    Gives what was noted, by copy id.
    """
    from opskit.cli.reading import history_of
    from opskit.cli.render import printable
    from opskit.errors import OpskitError
    from opskit.operations import verified
    from opskit.wiring import now

    noted: dict[str, Verification] = {}
    try:
        memory = verified.Verified(verified.place(context.load_config().state_dir, opened.repository))
        if memory.lost:
            context.warning(printable(memory.lost))
        history = history_of(opened)
        for copy_id, copies in _by_id(opened.copies).items():
            read = [copy for copy in copies if copy.destination in reports]
            before = memory.get(copy_id)
            found = [verified.verification_of(each, reports[each.destination], history, now(), before) for each in read]
            known = [each for each in found if each is not None]  # the others were not read to their end
            worst = next((each for each in known if not each.is_good), known[-1] if known else None)
            if worst is not None and (len(known) == len(copies) or not worst.is_good):
                memory.record(copy_id, worst)
                noted[copy_id] = worst
            for copy in read:
                memory.seen(copy.destination, copy_id)
            if read and len(copies) > 1:
                _warn_of_twins(context, copies)
        memory.save()
    except (OSError, OpskitError) as error:
        context.warning(printable(f"this verify cannot be remembered: {error}"))
    return noted


def publish(context: Context, opened: Access, found: Mapping[str, Verification]) -> int:
    """Sign what was found and put it to every copy at hand; 3 where one did not take it. Raises NoKey, OpskitError."""
    from dataclasses import replace

    from opskit import wiring
    from opskit.cli.render import printable
    from opskit.operations.drilling.records import require_signer
    from opskit.operations.marking import put_to_all
    from opskit.repository import evidence as forms
    from opskit.repository import names

    if not found:  # nothing was read to its end
        return 3
    config = context.load_config()
    identity, stores, created = (
        wiring.identity_of(config),
        wiring.stores_of(config),
        wiring.now().replace(microsecond=0),
    )
    require_signer(identity)
    said = forms.Evidence(forms.VERIFICATION, opened.repository, config.host, created, verifications=found)
    with identity.keyring:
        data = identity.keyring.sign(forms.encode(said), identity.host_key)
    name = names.evidence(created, said.kind, names.sha256(data))
    failures = put_to_all([replace(copy, store=stores[copy.destination]) for copy in opened.copies], name, data)
    for destination, reason in failures.items():
        context.warning(printable(f"{destination} did not take the evidence: {reason}"))
    return 3 if failures else 0


def _by_id(copies: Sequence[Copy]) -> Mapping[str, list[Copy]]:
    """The copies that have an id, by it. Where several share one, what is good of one must not hide what is bad."""
    found: dict[str, list[Copy]] = {}
    for copy in copies:
        if copy.id:
            found.setdefault(copy.id, []).append(copy)
    return found


def _warn_of_twins(context: Context, copies: Sequence[Copy]) -> None:
    from opskit.cli.render import printable

    named = [printable(copy.destination) for copy in copies]
    context.warning(
        f"{' and '.join(named)} have one copy id (one was made from the other, past opskit): they count as one copy, "
        "and a rollback of one is not told from a rollback of the other"
    )
    context.hint(f"move copy.json away at {named[-1]}, then: opskit heal --destination {named[-1]}")
