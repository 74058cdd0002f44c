"""Manifests, pack lists, index objects and heads: survive, and refuse what is malformed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.errors import Damaged
from opskit.repository import index, manifest, names
from opskit.repository.heads import Head, Heads
from opskit.repository.index import Index, IndexedPack
from opskit.repository.locating import move_to_lists, objects_of, packs_of
from opskit.repository.manifest import MAX_INLINE_PACKS, MAX_LIST, Manifest, Run, Snapshot


def digest(number: object) -> str:
    return sha256(str(number).encode()).hexdigest()


RUN = Run("r1", digest("key"), [digest("index")], [digest("pack")], [])
MANIFEST = Manifest(
    repository="f" * 32, host="web", source="data", sequence=2, previous=digest(1),
    started=datetime(2026, 11, 21, 2, tzinfo=UTC), finished=datetime(2026, 11, 21, 3, tzinfo=UTC), tags=["a"],
    tree_pack=digest("pack"), tree_member=3, runs=[RUN], kit={"recover.py": digest("kit")}, files=1, entries=2, bytes=3,
    unreadable=0, complete=True, writer="opskit 1", recipients=["A" * 40],
)  # fmt: skip


def test_manifests_survive() -> None:
    """A manifest read back is the one that was written; its encoding is canonical; also one without recipients."""
    data = manifest.encode(MANIFEST)
    assert manifest.decode(data) == MANIFEST
    silent = replace(MANIFEST, recipients=[])
    assert b"recipients" not in manifest.encode(silent) and manifest.decode(manifest.encode(silent)) == silent
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"kind": "mark"}, {"host": "A/B"}, {"source": ""}, {"sequence": None}, {"previous": "abc"},
        {"started": "yesterday"}, {"started": "2026-11-21T02:00:00+00:00"}, {"finished": "20261121T020000Z"},
        {"finished": "2026-11-21T03:00:00.5Z"}, {"started": "2026-11-21T02:00:00"}, {"tree": {}},
        {"tree": {"pack": "../x", "member": 0}}, {"runs": [{}]},
        {"kit": {"a": "b"}},
        {"runs": [{"run": "r", "key": "x", "indexes": [], "packs": []}]},
        {"recipients": ["a@example.org"]}, {"recipients": ["a" * 40]}, {"recipients": 1},
    ],
)  # fmt: skip
def test_malformed_manifests(change: dict[str, object]) -> None:
    """Another format, kind, label, digest or time is Damaged."""
    with pytest.raises(Damaged):
        manifest.decode(json.dumps({**json.loads(manifest.encode(MANIFEST)), **change}).encode())


def test_complete_is_said_and_not_guessed() -> None:
    """Only the JSON value true makes a snapshot complete."""
    for value in (1, "yes", None):
        assert not manifest.decode(
            json.dumps({**json.loads(manifest.encode(MANIFEST)), "complete": value}).encode()
        ).complete


def test_pack_lists_are_shared() -> None:
    """Lists hold every name once, stay small, and a few new packs leave most lists as they were."""
    packs = [digest(number) for number in range(5000)]
    lists = manifest.pack_lists(packs)
    assert [name for each in lists for name in manifest.decode_list(each)] == sorted(packs)
    assert all(len(manifest.decode_list(each)) <= MAX_LIST for each in lists)
    later = manifest.pack_lists([*packs, *(digest(f"new {number}") for number in range(5))])
    assert len(set(later) - set(lists)) <= 10
    with pytest.raises(Damaged):
        manifest.decode_list(b"not a digest\n")


def test_large_manifests_move_to_lists() -> None:
    """Beyond the bound the packs stand in lists, which are put first; all packs and objects are found again."""
    stored: dict[str, bytes] = {}
    packs = sorted(digest(number) for number in range(MAX_INLINE_PACKS + 1))
    small, large = Run("a", digest("a"), [], packs[:MAX_INLINE_PACKS]), Run("b", digest("b"), [digest("i")], packs)
    assert move_to_lists([small], stored.__setitem__) == [small] and not stored
    (moved,) = move_to_lists([large], stored.__setitem__)
    assert not moved.packs and {f"packlists/{each}" for each in moved.lists} == set(stored)
    assert list(packs_of(moved, stored.__getitem__)) == packs
    needed = list(objects_of(replace(MANIFEST, runs=[moved]), stored.__getitem__, names.key))
    assert len(needed) == 1 + len(packs) + 1 + len(stored)
    assert needed[0].startswith("keys/") and needed[-1].startswith("packlists/")


packs = st.builds(
    IndexedPack, st.integers().map(digest), st.text(max_size=8), st.integers().map(digest), st.integers(0, 2**30),
    st.integers(0, 2**30), st.lists(st.binary(min_size=32, max_size=32), max_size=5).map(b"".join),
)  # fmt: skip


@given(st.lists(packs, max_size=5))
def test_index_objects_survive(some: list[IndexedPack]) -> None:
    """An index read back is the one that was written, ids that look like line ends included."""
    written = Index("run", digest("key"), some)
    read = index.decode(index.encode("f" * 32, written), repository="f" * 32)
    assert (read.run, read.key, list(read.packs)) == ("run", digest("key"), some)


def test_malformed_index_objects() -> None:
    """Another repository, missing or surplus ids, and rubbish are Damaged."""
    pack = IndexedPack(digest(1), "r", digest(2), 1, 1, b"\n" * 64)
    data = index.encode("a", Index("run", digest("key"), [pack]))
    for wrong in (data[:-1], data + b"x", b"", b"{}\n", data.replace(b'"chunks":2', b'"chunks":-2')):
        with pytest.raises(Damaged):
            index.decode(wrong, repository="a")
    with pytest.raises(Damaged):
        index.decode(data, repository="b")


# Heads


def snapshot(sequence: int, source: str = "data") -> Snapshot:
    name = f"snapshots/20261121T020000Z-{source}-{digest(sequence)}.gpg"
    return Snapshot(name, digest(sequence), "F" * 40, replace(MANIFEST, sequence=sequence, source=source))


def test_heads_are_per_copy_and_only_rise(tmp_path: Path) -> None:
    """Each copy has its own head of each chain; an older snapshot changes none; a file brings them back."""
    heads = Heads(tmp_path / "h" / "heads.json")
    for copy, each in (("one", snapshot(3)), ("one", snapshot(2)), ("two", snapshot(1)), ("two", snapshot(9, "other"))):
        heads.acknowledge(copy, each)
    heads.save()
    again = Heads(tmp_path / "h" / "heads.json")
    assert again.get("one", "web", "data") == Head(3, snapshot(3).name)
    assert again.get("two", "web", "data") == Head(1, snapshot(1).name)
    assert again.newest("web", "data") == Head(3, snapshot(3).name)
    assert again.get("three", "web", "data") is None and again.newest("mail", "data") is None
    assert (tmp_path / "h" / "heads.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b'{"a": {"b": [1]}}', b'{"a": {"b": ["x", "y"]}}'])
def test_damaged_heads_are_set_aside(tmp_path: Path, content: bytes) -> None:
    """A damaged file is kept under another name and said to be lost; nothing is guessed from it."""
    path = tmp_path / "heads.json"
    path.write_bytes(content)
    heads = Heads(path)
    assert heads.lost and str(path) in heads.lost and heads.newest("web", "data") is None
    assert path.with_suffix(".damaged").read_bytes() == content and not path.exists()
