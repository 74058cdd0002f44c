"""What a rotation will do, and what it does just now, in words that are true of its target.

Where a target keeps the old value beside a new one (two slots), that one is accepted until it is switched off. Where a
new value replaces it (one slot), it ends the moment the new one is applied: nothing is promised of it after that. Told
from the config alone, as what keeps a rotation from its beginning may be the target itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opskit.config.rotating import BackupKeyRotation, CommandRotation, PostgresqlRotation, TlsRotation
from opskit.secrets.rotation.state import Rotation, State
from opskit.secrets.rotation.steps import AGAIN

if TYPE_CHECKING:
    from opskit.config.rotating import Consumer
    from opskit.config.rotating import Rotation as Entry

_SPOKEN: dict[str, str] = {
    State.PLANNED: "the current value is accepted",
    State.STAGED: "make a new value and keep it, pending",
    State.APPLIED: "make the target accept it",
    State.TESTED: "log in with it",
    State.PROMOTED: "make it the current one",
    State.OLD_DISABLED: "switch the old value off",
    State.OLD_DELETED: "delete the old value",
    State.ROLLED_BACK: "go back to the old value",
    "items": "move what is held under it",
}
_REPLACING = _SPOKEN | {
    State.APPLIED: "make the target accept it instead of the old one",
    State.OLD_DISABLED: "see that all work without the old value, which was replaced",
}
"""What is said of targets with one slot."""
_REKEYING = _SPOKEN | {
    State.PLANNED: "the current key opens the backups",
    State.STAGED: "make a new key and keep it, pending",
    State.APPLIED: "encrypt the keys of all runs to it too",
    State.TESTED: "open some with it",
    State.OLD_DISABLED: "retire the old key",
    State.OLD_DELETED: "delete the old key",
    State.ROLLED_BACK: "go back to the old key",
}
"""What is said of keys of the backups."""


def keeps_old(entry: Entry) -> bool:
    """Whether the target of an entry accepts the old value beside a new one."""
    match entry:
        case CommandRotation(command=there):
            return there.keeps_old
        case PostgresqlRotation(postgresql=there):
            return len(there.users) > 1
        case TlsRotation():
            return False
        case _:
            return True


def is_told_again(step: str) -> bool:
    """Whether a step gives a consumer once more what somebody took from it."""
    return step.startswith("consumer ") and step.endswith(AGAIN)


def spoken(entry: Entry, rotation: Rotation, step: str) -> str:
    """What a step does, while it is done."""
    if step == State.PLANNED and rotation.old_print is None:
        return "there is no value to go back to"
    if is_told_again(step):
        name = step.removeprefix("consumer ").removesuffix(AGAIN)
        return f"{name} does not hold the new value any more, and is told again"
    if isinstance(entry, BackupKeyRotation):
        return _REKEYING.get(step, step)
    return _SPOKEN.get(step, step) if keeps_old(entry) else _REPLACING.get(step, step)


def steps_of(entry: Entry) -> list[str]:
    """What a rotation does, in sentences."""
    lines = [f"make a new value, keep it as pending in {entry.secret}, read it back"]
    lines += _applied(entry)
    lines += [f"tell {name}: {_consumer(each)}" for name, each in entry.consumers.items()]
    if entry.items is not None:
        lines.append(f"move every item by {entry.items.move[0]}, {entry.items.parallel} at once; prove each")
    return lines + _ended(entry)


def _applied(entry: Entry) -> list[str]:
    if isinstance(entry, BackupKeyRotation):
        return [
            "make it a recipient: encrypt the keys of all runs to it too, at every copy; open some; make it current"
        ]
    if keeps_old(entry):
        return [f"make the target ({entry.kind}) accept it, log in with it, make it current"]
    lines = [f"make the target ({entry.kind}) accept it instead of the old one, log in with it, make it current"]
    if isinstance(entry, TlsRotation):
        return [*lines, "from then on the server shows the new certificate; the old one is valid until its own end"]
    told = ", ".join(entry.consumers) or "whoever uses it"
    return [
        *lines,
        f"from then on the old value is refused: {told} will be, until told of the new one; the target may take "
        f"{entry.propagation} to accept that",
    ]


def _ended(entry: Entry) -> list[str]:
    if isinstance(entry, BackupKeyRotation):
        return [
            f"after {entry.grace}, where every copy was seen and every other host has written for the new recipient: "
            "retire the old one, who opens nothing any more",
            f"after {entry.observe} more, where nothing needs it: delete the old key",
        ]
    if keeps_old(entry):
        return [
            f"after {entry.grace}, where nothing uses it any more: switch the old value off",
            f"after {entry.observe} more: delete the old value",
        ]
    commands = entry.command if isinstance(entry, CommandRotation) else None
    disable, delete = (commands.disable, commands.delete or commands.disable) if commands else (None, None)
    disabled = f"; call {disable[0]} for the old one" if disable else ""
    deleted = f", call {delete[0]} for it" if delete else ""
    return [
        f"after {entry.grace}: see that all work with the new value; nothing is left to be switched off{disabled}",
        f"after {entry.observe} more: delete the old value from {entry.secret}{deleted}",
    ]


def _consumer(entry: Consumer) -> str:
    told = [f"write {path}" for path in entry.files] + [f"set {each}" for each in entry.secrets]
    told += [f"reload by {entry.reload[0]}"] if entry.reload else []
    return ", ".join(told + ([f"check by {entry.check[0]}"] if entry.check else [])) or "nothing to do"
