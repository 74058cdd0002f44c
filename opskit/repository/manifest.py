"""Manifests: the signed, unencrypted JSON that makes a snapshot exist.

Invariants:
- A manifest is the only commit point: it is put after everything it needs.
- It names everything a restore needs besides a private key: runs with their key objects, index
  objects and packs, and the pack and member of the tree's root.
- Manifests of one host and source form a chain: `sequence` counts from 1 and `previous` is the
  SHA-256 of the one before, so removal, rollback and forks show.
- The snapshot id is the SHA-256 of the signed object; any unambiguous prefix names it.

What it shows without a key: host, labels, tags, times, counts, sizes, the sharing of packs, and who can
read it (as key objects do). No content hash and no file name. Signing and verifying are gpg's business,
roles the repository's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from opskit import encoding
from opskit.errors import Damaged
from opskit.repository import names

MAX_INLINE_PACKS = 512
"""Up to so many packs stand in the manifest itself; beyond, whole runs move to pack lists."""
MAX_LIST = 512
"""Names in one pack list."""
_LIST_CUT = 0x7F
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")


@dataclass(frozen=True, slots=True)
class Run:
    """What a snapshot needs of one run: its key object, index objects, packs (or lists of packs)."""

    id: str
    key: str
    indexes: Sequence[str]
    packs: Sequence[str]
    lists: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One snapshot of one source. Times are UTC; `bytes` is the sum of file sizes.

    `new_bytes` of content were stored for it, in `stored_bytes`; `alarms` are sentences about what was odd.
    `unreadable_since` says since when at the latest none of what it lacks could be read; None: that is not known.
    `recipients` are the fingerprints that this run was encrypted to, or would have been where nothing was new; none
    where whoever wrote it did not tell.
    """

    repository: str
    host: str
    source: str
    sequence: int
    previous: str | None
    started: datetime
    finished: datetime
    tags: Sequence[str]
    tree_pack: str
    tree_member: int
    runs: Sequence[Run]
    kit: dict[str, str]
    files: int
    entries: int
    bytes: int
    unreadable: int
    complete: bool
    writer: str
    new_bytes: int = 0
    stored_bytes: int = 0
    alarms: Sequence[str] = ()
    unreadable_since: datetime | None = None
    recipients: Sequence[str] = ()

    def object_names(self, key_object: Callable[[str], str] = names.key) -> Iterator[str]:
        """Every object this snapshot names directly (the packs inside pack lists come on top).

        `key_object` gives the name of the key object that counts for a hinted one, at some copy.
        """
        for run in self.runs:
            yield key_object(run.key)
            yield from (names.index(index) for index in run.indexes)
            yield from (names.packlist(each) for each in run.lists)
            yield from (names.pack(pack) for pack in run.packs)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A verified manifest with the name and id it is stored under, and who signed it."""

    name: str
    id: str
    signer: str
    manifest: Manifest


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON of a manifest."""
    return encoding.encode(
        {
            "format": 1,
            "kind": "snapshot",
            "repository": manifest.repository,
            "host": manifest.host,
            "source": manifest.source,
            "sequence": manifest.sequence,
            "previous": manifest.previous,
            "started": time_text(manifest.started),
            "finished": time_text(manifest.finished),
            "tags": list(manifest.tags),
            "tree": {"pack": manifest.tree_pack, "member": manifest.tree_member},
            "runs": [_run_value(run) for run in manifest.runs],
            "kit": manifest.kit,
            "files": manifest.files,
            "entries": manifest.entries,
            "bytes": manifest.bytes,
            "unreadable": manifest.unreadable,
            "complete": manifest.complete,
            "writer": manifest.writer,
            **({"new_bytes": manifest.new_bytes} if manifest.new_bytes else {}),
            **({"stored_bytes": manifest.stored_bytes} if manifest.stored_bytes else {}),
            **({"alarms": list(manifest.alarms)} if manifest.alarms else {}),
            **({"unreadable_since": time_text(manifest.unreadable_since)} if manifest.unreadable_since else {}),
            **({"recipients": list(manifest.recipients)} if manifest.recipients else {}),
        }
    )


def decode(payload: bytes) -> Manifest:
    """Parse a manifest's payload; raises Damaged. The signature was checked before."""
    value = encoding.decode_object(payload, what="manifest")
    if value.get("format") != 1 or value.get("kind") != "snapshot":
        raise Damaged(
            f"expected a manifest of format 1, got format {value.get('format')!r} kind {value.get('kind')!r}",
            hint="a newer opskit wrote this; upgrade",
        )
    try:
        return _manifest(value)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"malformed manifest: {error}") from error


def _manifest(value: dict[str, Any]) -> Manifest:
    previous = value["previous"]
    return Manifest(
        repository=str(value["repository"]),
        host=check_label(value["host"]),
        source=check_label(value["source"]),
        sequence=int(value["sequence"]),
        previous=None if previous is None else check_digest(previous),
        started=time_of(value["started"]),
        finished=time_of(value["finished"]),
        tags=[str(tag) for tag in value["tags"]],
        tree_pack=check_digest(value["tree"]["pack"]),
        tree_member=int(value["tree"]["member"]),
        runs=[_run(run) for run in value["runs"]],
        kit={str(name): check_digest(digest) for name, digest in value["kit"].items()},
        files=int(value["files"]),
        entries=int(value["entries"]),
        bytes=int(value["bytes"]),
        unreadable=int(value["unreadable"]),
        complete=value["complete"] is True,
        writer=str(value["writer"]),
        new_bytes=int(value.get("new_bytes", 0)),
        stored_bytes=int(value.get("stored_bytes", 0)),
        alarms=tuple(str(text) for text in value.get("alarms", ())),
        unreadable_since=time_of(value["unreadable_since"]) if "unreadable_since" in value else None,
        recipients=[check_fingerprint(each) for each in value.get("recipients", ())],
    )


def _run(value: dict[str, Any]) -> Run:
    return Run(
        id=str(value["run"]),
        key=check_digest(value["key"]),
        indexes=[check_digest(name) for name in value["indexes"]],
        packs=[check_digest(name) for name in value["packs"]],
        lists=[check_digest(name) for name in value.get("lists", ())],
    )


def _run_value(run: Run) -> dict[str, object]:
    value: dict[str, object] = {
        "run": run.id,
        "key": run.key,
        "indexes": list(run.indexes),
        "packs": list(run.packs),
    }
    if run.lists:
        value["lists"] = list(run.lists)
    return value


def pack_lists(packs: Sequence[str]) -> list[bytes]:
    """Cut sorted pack names into lists whose borders depend on the names, so later manifests share most of them."""
    lists: list[bytes] = []
    current: list[str] = []
    for pack in sorted(packs):
        current.append(pack)
        if len(current) == MAX_LIST or int(pack[-4:], 16) & _LIST_CUT == 0:
            lists.append(_encode_list(current))
            current = []
    if current:
        lists.append(_encode_list(current))
    return lists


def _encode_list(packs: Sequence[str]) -> bytes:
    return "".join(f"{pack}\n" for pack in packs).encode()


def decode_list(data: bytes) -> list[str]:
    """The pack names in a pack list; raises Damaged."""
    try:
        return [check_digest(line) for line in data.decode("ascii").splitlines()]
    except ValueError as error:
        raise Damaged(f"malformed pack list: {error}") from error


def check_digest(text: object) -> str:
    """The text itself if it is 64 lower-case hex digits, else ValueError."""
    if not isinstance(text, str) or not _DIGEST.fullmatch(text):
        raise ValueError(f"expected 64 hex digits, got {str(text)[:80]!r}")
    return text


def check_fingerprint(text: object) -> str:
    """The text itself if it is the fingerprint of an OpenPGP key, else ValueError."""
    if not isinstance(text, str) or not _FINGERPRINT.fullmatch(text):
        raise ValueError(f"expected the upper-case hex digits of a fingerprint, got {str(text)[:80]!r}")
    return text


def check_label(text: object) -> str:
    """The text itself if it is a label, else ValueError."""
    if not isinstance(text, str) or not names.LABEL.fullmatch(text):
        raise ValueError(f"expected a label of [a-z0-9_-], got {str(text)[:80]!r}")
    return text


def time_text(time: datetime) -> str:
    """A time as signed objects carry it: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_of(text: str) -> datetime:
    """The time that `time_text` wrote; ValueError for any other text."""
    time = datetime.fromisoformat(text)  # a tenth of strptime's time, but it takes other forms too
    if time_text(time) != text:
        raise ValueError(f"expected a time like 2026-11-21T02:00:00Z, got {text!r}")
    return time
