"""Keeps what drills came to: signed evidence at every copy that can be reached, and all of it on this host.

In `STATE/drills` lies, by the name of the evidence, what was signed (`.gpg`) and the whole report (`.json`, mode 0600),
which names the files that failed: those names go to no copy. It is written before the copies, so that evidence which no
copy took is not lost: the next drill puts it to them (`outstanding`). `begun.json` tells when what was begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opskit import encoding
from opskit.errors import Damaged, NoKey, OpskitError
from opskit.operations.drilling.checks import Failure
from opskit.operations.drilling.run import Outcome
from opskit.operations.marking import put_to_all
from opskit.repository import evidence as forms
from opskit.repository import names
from opskit.repository.copy import Copy
from opskit.repository.durable import write_durably
from opskit.repository.evidence import Drilled, Evidence
from opskit.repository.identity import Identity
from opskit.sources.base import printable

MAX_TEXT = 2000
_BEGUN = "begun.json"


@dataclass(slots=True)
class Details:
    """What only the host that drilled knows: the failures as (path, what), and objects at fault with the reason."""

    failures: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, str] = field(default_factory=dict)


def place(state: Path) -> Path:
    """Where a host keeps its drills."""
    return state / "drills"


def require_signer(identity: Identity) -> None:
    """Raise NoKey where nobody would believe this host's evidence."""
    if identity.host_key not in identity.signers:
        raise NoKey(
            "this host's key is not a signer's, so the evidence of its drills would not be believed",
            hint=f"add {identity.host_key} to keys.signers in the config of every host, this one included",
        )


def keep(identity: Identity, state: Path, repository: str, host: str, outcome: Outcome, now: datetime) -> Drilled:
    """Sign the evidence of a drill that ended now, and keep it on this host, durably; raises OpskitError."""
    drill = replace(outcome.drill, milliseconds=now.microsecond // 1000)
    evidence = Evidence(forms.DRILL, repository, host, now.replace(microsecond=0), drill)
    data = identity.keyring.sign(forms.encode(evidence), identity.host_key)
    digest = names.sha256(data)
    name = names.evidence(evidence.created, evidence.kind, digest)
    details = {
        "evidence": name,
        "failures": [_shown(each) for each in outcome.failures],
        "objects": {each: text[:MAX_TEXT] for each, text in outcome.bad.items()},
    }
    file = _file(state, name)
    write_durably(file.with_suffix(".json"), encoding.encode(details))
    write_durably(file, data)  # the second, so that what is put to copies later has its details
    return Drilled(name, digest, host, forms.ended_at(evidence), drill)


def _shown(failure: Failure) -> list[str]:
    path, what = failure
    return [printable(path) if path else "", what[:MAX_TEXT]]


def outstanding(state: Path, copies: Sequence[Copy]) -> dict[str, dict[str, OpskitError]]:
    """Put to the copies what this host drilled and none of them has.

    Returns by name of the evidence which destinations did not take it, with the reason.
    """
    failures = {}
    for file in sorted(place(state).glob("*.gpg")):
        name = f"evidence/{file.name}"
        data = file.read_bytes()
        is_there = any(copy.objects.get(name) == len(data) for copy in copies)  # one that was torn is not
        if not is_there and names.digest_in(name) == names.sha256(data):
            failures[name] = put_to_all(copies, name, data)
    return failures


def begin(state: Path, pair: str, now: datetime) -> None:
    """Note that a drill of a pair begins: one that gives no evidence must not keep the others waiting."""
    times = {name: round(each.timestamp() * 1000) for name, each in (begun(state) | {pair: now}).items()}
    write_durably(place(state) / _BEGUN, encoding.encode(times))


def begun(state: Path) -> dict[str, datetime]:
    """When drills were last begun here, by the name of the pair; nothing where that was lost."""
    try:
        found = encoding.decode_object((place(state) / _BEGUN).read_bytes(), what=_BEGUN)
        return {name: datetime.fromtimestamp(each / 1000, UTC) for name, each in found.items()}
    except (OSError, Damaged, TypeError, ValueError, OverflowError):
        return {}


def details_of(state: Path, name: str) -> Details | None:
    """What this host knows beside the evidence; None where it knows nothing, or what it kept is damaged."""
    try:
        value: Mapping[str, Any] = encoding.decode_object(
            _file(state, name).with_suffix(".json").read_bytes(), what="report"
        )
        failures = [(str(path), str(what)) for path, what in value["failures"]]
        return Details(failures, {str(each): str(text) for each, text in value["objects"].items()})
    except (OSError, Damaged, KeyError, TypeError, ValueError, AttributeError):
        return None


def _file(state: Path, name: str) -> Path:
    return place(state) / name.rpartition("/")[2]
